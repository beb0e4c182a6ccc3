//! What needs `unsafe`.

#![allow(unsafe_code)]

use std::io;

/// Whether this process ignores a signal, by its number.
///
/// # Errors
/// When there is no such signal.
pub(crate) fn is_ignored(signal: i32) -> io::Result<bool> {
    // SAFETY: an action is plain data that zeros are valid for.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: changes nothing; the one place that it writes to is `action`.
    match unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) } {
        0 => Ok(action.sa_sigaction == libc::SIG_IGN),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has names of hosts looked up in files and in DNS alone. The modules for more are made for the C library of the host, and this program has its
/// own inside, if it was built so. To be called before one is looked up.
pub(crate) fn look_up_names_alone() {
    #[cfg(target_feature = "crt-static")]
    {
        unsafe extern "C" {
            fn __nss_configure_lookup(database: *const std::ffi::c_char, services: *const std::ffi::c_char) -> i32;
        }
        // SAFETY: glibc's, declared as in its <nss.h>; both strings live as long as the program, and nobody looks names up yet.
        unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    }
}

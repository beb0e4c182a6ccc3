//! Extended attributes that users give to files (`user.*`). All others are the system's, which has its own for a copy.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

/// The longest list of names, and the longest value, that the kernel has (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX` of `<linux/limits.h>`).
const LONGEST: usize = 64 * 1024;

/// Gives `to` the attributes of `from`. Where one of the two file systems has none there is nothing to keep.
///
/// # Errors
/// What the system says.
pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    if unless_unsupported(rustix::fs::flistxattr_query(from))?.unwrap_or_default() == 0 {
        return Ok(());
    }
    let (mut names, mut value) = (vec![0; LONGEST], vec![0; LONGEST]);
    let length = rustix::fs::flistxattr(from, &mut names[..])?;
    for name in names[..length].split_inclusive(|&byte| byte == 0).filter(|name| name.starts_with(b"user.")) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let length = match rustix::fs::fgetxattr(from, name, &mut value[..]) {
            // It was taken away meanwhile.
            Err(Errno::NODATA) => continue,
            other => other?,
        };
        unless_unsupported(rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()))?;
    }
    Ok(())
}

/// The file at a name, if it has any attributes and may be read: what to [`copy`] them from.
pub(crate) fn holder(directory: &OwnedFd, name: &CStr) -> Option<OwnedFd> {
    let path = [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
    if rustix::fs::llistxattr_query(path).unwrap_or_default() == 0 {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(directory.as_fd(), name, flags, Mode::empty()).ok()
}

fn unless_unsupported<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
        Err(error) => Err(error),
    }
}

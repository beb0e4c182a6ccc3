//! Files without a name: nobody else can reach them, and they are gone with whoever holds them.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::{FileError, Root};

/// Makes a file without a name on the root's file system.
///
/// # Errors
/// [`FileError`]: what the system says.
pub fn unnamed(root: &Root, operation: &'static str) -> Result<File, FileError> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    let made = match rustix::fs::openat(root.directory(), ".", flags, Mode::from_raw_mode(0o600)) {
        // A file system, or a kernel, that cannot.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => made_and_unlinked(root),
        other => other.map(File::from),
    };
    made.map_err(|error| FileError::new(operation, root.name().as_bytes(), error))
}

fn made_and_unlinked(root: &Root) -> Result<File, Errno> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!(".hearth-{}-{:x}.unnamed", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(root.directory(), &name, flags, Mode::from_raw_mode(0o600))?;
    rustix::fs::unlinkat(root.directory(), &name, AtFlags::empty())?;
    Ok(file.into())
}

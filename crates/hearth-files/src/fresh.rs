//! A file that is being made, and gets its name when it is whole.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::root::Name;

/// A file without a name where the file system can make one, else with a temporary one that goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) file: File,
    directory: OwnedFd,
    temporary: Option<Name>,
}

impl Fresh {
    /// Makes a file in `directory` that nobody else may open.
    pub(crate) fn new(directory: OwnedFd) -> Result<Self, Errno> {
        let mode = Mode::from_raw_mode(0o600);
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(&directory, c".", flags | OFlags::TMPFILE, mode) {
            Ok(file) => Ok(Self { file: file.into(), directory, temporary: None }),
            // A file system, or a kernel, that cannot.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                let name = temporary_name();
                let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let file = rustix::fs::openat(&directory, &name, flags, mode)?;
                Ok(Self { file: file.into(), directory, temporary: Some(name) })
            }
            Err(error) => Err(error),
        }
    }

    /// Gives it its name, which nothing must bear unless it is to be replaced.
    pub(crate) fn put(mut self, name: &Name, replace: bool) -> Result<(), Errno> {
        if self.temporary.is_none() {
            match self.link(name) {
                Err(Errno::EXIST) if replace => {
                    let temporary = temporary_name();
                    self.link(&temporary)?;
                    self.temporary = Some(temporary);
                }
                other => return other,
            }
        }
        if let Some(temporary) = &self.temporary {
            rename(&self.directory, temporary, &self.directory, name, replace)?;
            self.temporary = None;
        }
        Ok(())
    }

    fn link(&self, name: &Name) -> Result<(), Errno> {
        let file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, file, &self.directory, name, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
        }
    }
}

/// Renames; unless `replace`, only to a name that nothing bears.
pub(crate) fn rename(
    from_directory: &OwnedFd,
    from: &Name,
    to_directory: &OwnedFd,
    to: &Name,
    replace: bool,
) -> Result<(), Errno> {
    if replace {
        return rustix::fs::renameat(from_directory, from, to_directory, to);
    }
    match rustix::fs::renameat_with(from_directory, from, to_directory, to, RenameFlags::NOREPLACE) {
        // A file system that knows no flags: then what comes in between is lost.
        Err(Errno::INVAL | Errno::NOSYS) if !is_there(to_directory, to)? => {
            rustix::fs::renameat(from_directory, from, to_directory, to)
        }
        Err(Errno::INVAL | Errno::NOSYS) if is_there(to_directory, to)? => Err(Errno::EXIST),
        other => other,
    }
}

/// Whether anything bears a name.
pub(crate) fn is_there(directory: &OwnedFd, name: &Name) -> Result<bool, Errno> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A name that nothing else has.
pub(crate) fn temporary_name() -> Name {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!(".hearth-{}-{number:x}", std::process::id());
    Name::new(name).expect("no NUL in it")
}

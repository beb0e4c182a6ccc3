//! The content of one file: opened to read, or replaced as a whole.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use hearth_protocol::files::FileKind;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::entry::{describe, kind};
use crate::error::{FileError, Reason};
use crate::root::{Name, Root};

/// The permissions of a new file.
const NEW: u32 = 0o644;

/// Opens a regular file to read, and tells its size. Waits for no FIFO, and opens no device.
///
/// # Errors
/// [`FileError`]: not there, outside, or no regular file.
pub fn open_file(root: &Root, path: &[u8]) -> Result<(File, u64), FileError> {
    let fail = |error: Errno| FileError::new("read", path, error);
    // Looked at before it is opened: to open a device can do something.
    let found = root.open_at("read", path, OFlags::PATH)?;
    let stat = rustix::fs::fstat(&found).map_err(fail)?;
    if kind(&stat) != FileKind::File {
        let reason = Reason::WrongKind { found: describe(kind(&stat)), wanted: "a regular file" };
        return Err(FileError::new("read", path, reason));
    }
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
    let file = rustix::fs::open(link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    Ok((file.into(), stat.st_size.unsigned_abs()))
}

/// New content for a file, which takes its place when it is committed, and is gone when it is dropped before.
#[derive(Debug)]
pub struct Replacement {
    file: File,
    directory: OwnedFd,
    name: Name,
    path: Vec<u8>,
    temporary: Name,
    committed: bool,
}

impl Replacement {
    /// Begins to replace, or to make, the file at `path`. Missing directories are made. What is replaced keeps mode and owner; what is new
    /// has `mode`, 0644 by default, and belongs to the root's owner.
    ///
    /// # Errors
    /// [`FileError`]: outside, or something else than a regular file is there.
    pub fn begin(root: &Root, path: &[u8], mode: Option<u32>) -> Result<Self, FileError> {
        let fail = |error: Errno| FileError::new("write", path, error);
        let (directory, name) = root.make_parent("write", path)?;
        let old = match rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if kind(&stat) == FileKind::File => Some(stat),
            Ok(stat) => {
                let reason = Reason::WrongKind { found: describe(kind(&stat)), wanted: "a regular file" };
                return Err(FileError::new("write", path, reason));
            }
            Err(Errno::NOENT) => None,
            Err(error) => return Err(fail(error)),
        };
        let temporary = temporary_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, &temporary, flags, Mode::from_raw_mode(0o600)).map_err(fail)?;
        let replacement = Self { file: file.into(), directory, name, path: path.to_vec(), temporary, committed: false };
        replacement.dress(root, old.as_ref(), mode).map_err(fail)?;
        Ok(replacement)
    }

    fn dress(&self, root: &Root, old: Option<&rustix::fs::Stat>, mode: Option<u32>) -> Result<(), Errno> {
        match old {
            Some(old) if rustix::process::geteuid().is_root() => {
                rustix::fs::fchown(&self.file, Some(Uid::from_raw(old.st_uid)), Some(Gid::from_raw(old.st_gid)))?;
            }
            Some(_) => {}
            None => root.give_away(&self.directory, &self.temporary)?,
        }
        let mode = old.map_or(mode.unwrap_or(NEW), |old| old.st_mode) & 0o7777;
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(mode))
    }

    /// Appends to the new content.
    ///
    /// # Errors
    /// [`FileError`]: the disk is full, or fails. The old content is untouched.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all(bytes).map_err(|error| FileError::new("write", &self.path, error))
    }

    /// Puts the new content in the place of the old.
    ///
    /// # Errors
    /// [`FileError`]; the old content is untouched.
    pub fn commit(mut self) -> Result<(), FileError> {
        rustix::fs::renameat(&self.directory, &self.temporary, &self.directory, &self.name)
            .map_err(|error| FileError::new("write", &self.path, error))?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.committed {
            let _ = rustix::fs::unlinkat(&self.directory, &self.temporary, AtFlags::empty());
        }
    }
}

/// A name that nothing else has.
fn temporary_name() -> Name {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!(".hearth-{}-{number:x}", std::process::id());
    Name::new(name).expect("no NUL in it")
}

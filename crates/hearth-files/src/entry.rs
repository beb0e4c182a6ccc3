//! What is at a path.

use hearth_protocol::RawString;
use hearth_protocol::files::{FileEntry, FileKind};
use rustix::fs::{FileType, OFlags, Stat};

use crate::error::FileError;
use crate::root::Root;

/// Describes what is at `path`: a symbolic link itself, not what it points to.
///
/// # Errors
/// [`FileError`]: nothing there, or outside.
pub fn stat(root: &Root, path: &[u8]) -> Result<FileEntry, FileError> {
    let found = root.open_at("stat", path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let fail = |error: rustix::io::Errno| FileError::new("stat", path, error);
    let stat = rustix::fs::fstat(&found).map_err(fail)?;
    let target = match kind(&stat) {
        FileKind::Symlink => {
            let target = rustix::fs::readlinkat(&found, c"", Vec::new()).map_err(fail)?;
            Some(RawString::from(target.into_bytes()))
        }
        _ => None,
    };
    Ok(entry(root.relative("stat", path)?, &stat, target))
}

/// The kind of what was looked at.
pub(crate) fn kind(stat: &Stat) -> FileKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::BlockDevice | FileType::CharacterDevice => FileKind::Device,
        FileType::RegularFile | FileType::Unknown => FileKind::File,
    }
}

/// How an error names a kind.
pub(crate) fn describe(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "a regular file",
        FileKind::Directory => "a directory",
        FileKind::Symlink => "a symbolic link",
        FileKind::Fifo => "a named pipe",
        FileKind::Socket => "a socket",
        FileKind::Device => "a device",
    }
}

pub(crate) fn entry(path: &[u8], stat: &Stat, target: Option<RawString>) -> FileEntry {
    FileEntry {
        path: path.into(),
        kind: kind(stat),
        size: stat.st_size.unsigned_abs(),
        mode: stat.st_mode & 0o7777,
        modified_ns: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64),
        target,
    }
}

//! What is at a path.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

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
    Ok(entry(tidy(root.relative("stat", path)?), &stat, target))
}

/// Looks at what was found under a name, and at what it says if it is a symbolic link.
pub(crate) fn look_at(directory: BorrowedFd<'_>, name: &CStr) -> Result<(Stat, Option<RawString>), rustix::io::Errno> {
    let stat = rustix::fs::statat(directory, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    let target = match kind(&stat) {
        // One that vanished meanwhile says nothing.
        FileKind::Symlink => rustix::fs::readlinkat(directory, name, Vec::new()).ok(),
        _ => None,
    };
    Ok((stat, target.map(|target| target.into_bytes().into())))
}

/// The kind of what was looked at.
pub(crate) fn kind(stat: &Stat) -> FileKind {
    kind_of(FileType::from_raw_mode(stat.st_mode))
}

/// The kind in words of the wire.
pub(crate) fn kind_of(kind: FileType) -> FileKind {
    match kind {
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

pub(crate) fn entry(path: Vec<u8>, stat: &Stat, target: Option<RawString>) -> FileEntry {
    FileEntry {
        path: path.into(),
        kind: kind(stat),
        size: stat.st_size.unsigned_abs(),
        allocated: stat.st_blocks.unsigned_abs().saturating_mul(512),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        links: stat.st_nlink,
        modified_ns: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64),
        target,
        unreadable: None,
    }
}

/// A relative path without its empty parts and those that are a dot.
pub(crate) fn tidy(relative: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = relative.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    parts.join(&b'/')
}

/// What is at `path`, seen from `base`.
pub(crate) fn join(base: &[u8], path: &[u8]) -> Vec<u8> {
    match (base, path) {
        (b"", path) => path.to_vec(),
        (base, b"") => base.to_vec(),
        (base, path) => [base, b"/", path].concat(),
    }
}

//! Directories opened and read without following a link, for both ways.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom};
use rustix::io::Errno;

/// How a directory is opened that is read, or whose times are set.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How a directory is opened that is only a place.
pub(crate) const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// What a directory's entries are read into, in bytes.
const ENTRIES: usize = 32 * 1024;
/// The most of a path that the kernel takes at a time, in bytes.
const PIECE: usize = 4000;

/// Opens the directory at a clean path beneath `base`, [`DIRECTORY`] or [`PLACE`]: through no symbolic link and into no other file
/// system. Empty is `base` itself.
pub(crate) fn open(base: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let step = |base: BorrowedFd<'_>, path: &[u8], flags| loop {
        match rustix::fs::openat2(base, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    };
    let mut rest = if path.is_empty() { b".".as_slice() } else { path };
    let mut at: Option<OwnedFd> = None;
    // A tree may be deeper than the kernel takes a path at once.
    while rest.len() > PIECE {
        let slash = rest[..PIECE].iter().rposition(|&byte| byte == b'/').ok_or(Errno::NAMETOOLONG)?;
        at = Some(step(at.as_ref().map_or(base, AsFd::as_fd), &rest[..slash], PLACE)?);
        rest = &rest[slash + 1..];
    }
    step(at.as_ref().map_or(base, AsFd::as_fd), rest, flags)
}

/// Calls with every entry of a directory that is open for reading, from its beginning. The order is the file system's.
pub(super) fn each(directory: BorrowedFd<'_>, mut each: impl FnMut(&CStr, FileType)) -> Result<(), Errno> {
    rustix::fs::seek(directory, SeekFrom::Start(0))?;
    let mut buffer = vec![MaybeUninit::uninit(); ENTRIES];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            each(entry.file_name(), entry.file_type());
        }
    }
    Ok(())
}

/// The names in a directory that is open for reading, in their order as bytes. What it takes grows with the directory.
pub(crate) fn names(directory: BorrowedFd<'_>) -> Result<Vec<(CString, FileType)>, Errno> {
    let mut names = Vec::new();
    each(directory, |name, kind| names.push((name.to_owned(), kind)))?;
    names.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(names)
}

/// Whether nothing is in a directory that is open for reading.
pub(super) fn is_empty(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut count = 0;
    each(directory, |_, _| count += 1).map(|()| count == 0)
}

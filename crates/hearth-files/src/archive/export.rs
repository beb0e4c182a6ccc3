//! An archive goes out.
//!
//! Members come in a fixed order: of each directory first itself, then what is in it that is no directory, then the directories, each
//! lot in the order of the names' bytes. At most one directory is open at a time, however deep the tree.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hearth_protocol::archive::{Compression, Exported};
use hearth_protocol::files::FileKind;
use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::codec::Sink;
use super::pax::Timestamp;
use super::sparse::{self, Segment};
use super::staging::is_staging;
use super::walk::{self, DIRECTORY, PLACE};
use super::writer::{Entry, Writer};
use super::{ArchiveError, path};
use crate::entry::{describe, kind};
use crate::error::{FileError, Reason};
use crate::root::Root;

/// How many files with several names are remembered until their other names have come. Beyond, each name becomes a file of its own.
const LINKS: usize = 1 << 20;
const OPERATION: &str = "export";

/// Writes what is at a path as a tar archive: a directory's children, or one file or link under its name. Where another file system is
/// mounted its tree ends.
///
/// Sparse files stay sparse, hard links stay links; FIFOs are members, sockets and devices are left out. Nothing that happens to the
/// tree meanwhile makes the archive unsound.
///
/// # Errors
/// [`ArchiveError::File`] when there is nothing at the path, or something cannot be read; [`ArchiveError::Transfer`].
pub fn export(
    root: &Root,
    path: &[u8],
    mut output: impl Write,
    compression: Compression,
) -> Result<Exported, ArchiveError> {
    export_pieces(root, path, |piece| output.write_all(&piece), compression)
}

/// As [`export`], for whoever can take large pieces of bytes for his own, which spares a copy.
///
/// # Errors
/// As [`export`].
pub fn export_pieces(
    root: &Root,
    path: &[u8],
    output: impl FnMut(Vec<u8>) -> io::Result<()>,
    compression: Compression,
) -> Result<Exported, ArchiveError> {
    let (source, kind) = Source::find(root, path)?;
    let mut export = Export::begin(output, compression, kind)?;
    match source {
        Source::Directory(base) => export.tree(base.as_fd())?,
        Source::Single(directory, name) => {
            export.entry(directory.as_fd(), &name, (name.to_bytes(), FileType::Unknown))?;
        }
    }
    export.finish()
}

/// As [`export_pieces`], under another name: a directory is a member of that name, with its children below it; anything else is one member
/// of that name.
///
/// # Errors
/// As [`export`].
pub fn export_named(
    root: &Root,
    path: &[u8],
    name: &[u8],
    output: impl FnMut(Vec<u8>) -> io::Result<()>,
    compression: Compression,
) -> Result<Exported, ArchiveError> {
    let (source, kind) = Source::find(root, path)?;
    let mut export = Export::begin(output, compression, kind)?;
    match source {
        Source::Directory(base) => {
            export.prefix = name.to_vec();
            export.tree(base.as_fd())?;
        }
        Source::Single(directory, own) => {
            export.entry(directory.as_fd(), &own, (name, FileType::Unknown))?;
        }
    }
    export.finish()
}

/// As [`export_pieces`], of a directory only what is named: its `only`, paths from there. A directory that is named is a member without what
/// is in it. What is not there, or only through a symbolic link, is counted as skipped.
///
/// # Errors
/// As [`export`]; [`ArchiveError::Member`] for a path that leads outside.
pub fn export_only(
    root: &Root,
    path: &[u8],
    only: impl IntoIterator<Item = Vec<u8>>,
    output: impl FnMut(Vec<u8>) -> io::Result<()>,
    compression: Compression,
) -> Result<Exported, ArchiveError> {
    let base = root.open_at(OPERATION, path, DIRECTORY)?;
    let mut export = Export::begin(output, compression, FileKind::Directory)?;
    // Those that are named one after the other are mostly of one directory.
    let mut open: Option<(Vec<u8>, OwnedFd)> = None;
    let mut clean = Vec::new();
    for named in only {
        path::clean(&named, &mut clean).map_err(|rule| ArchiveError::member(&named, rule))?;
        let (parent, name) = path::split(&clean);
        if open.as_ref().is_none_or(|(path, _)| path != parent) {
            match walk::open(base.as_fd(), parent, DIRECTORY) {
                Ok(directory) => open = Some((parent.to_vec(), directory)),
                Err(error) => {
                    export.skip(&clean, error)?;
                    continue;
                }
            }
        }
        let (Some((_, directory)), Ok(name)) = (&open, CString::new(name)) else { continue };
        if export.entry(directory.as_fd(), &name, (&clean, FileType::Unknown))? {
            match walk::open(base.as_fd(), &clean, DIRECTORY).and_then(rustix::fs::fstat) {
                Ok(stat) => export.directory(&clean, &stat)?,
                Err(error) => export.skip(&clean, error)?,
            }
        }
    }
    export.finish()
}

enum Source {
    Directory(OwnedFd),
    Single(OwnedFd, CString),
}

impl Source {
    fn find(root: &Root, path: &[u8]) -> Result<(Self, FileKind), ArchiveError> {
        let found = root.open_at(OPERATION, path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let fail = |error: Errno| ArchiveError::system(OPERATION, path, error);
        match kind(&rustix::fs::fstat(&found).map_err(fail)?) {
            FileKind::Directory => {
                let directory = rustix::fs::openat(&found, c".", DIRECTORY, Mode::empty()).map_err(fail)?;
                Ok((Self::Directory(directory), FileKind::Directory))
            }
            kind @ (FileKind::Socket | FileKind::Device) => {
                let reason = Reason::WrongKind { found: describe(kind), wanted: "a file, a directory or a link" };
                Err(FileError::new(OPERATION, path, reason).into())
            }
            kind => {
                let (directory, name) = root.parent(OPERATION, path)?;
                Ok((Self::Single(directory, name), kind))
            }
        }
    }
}

struct Export<S: Sink> {
    writer: Writer<S>,
    exported: Exported,
    /// What stands before all paths, if anything does.
    prefix: Vec<u8>,
    /// Files with more names than have come so far: where the first one is, and how many are missing.
    links: HashMap<(u64, u64), (Vec<u8>, u64)>,
}

impl<S: Sink> Export<S> {
    fn begin(output: S, compression: Compression, kind: FileKind) -> Result<Self, ArchiveError> {
        let writer = Writer::new(output, compression).map_err(ArchiveError::Transfer)?;
        let exported = Exported { kind, members: 0, bytes: 0, skipped: 0, changed: 0 };
        Ok(Self { writer, exported, prefix: Vec::new(), links: HashMap::new() })
    }

    fn finish(self) -> Result<Exported, ArchiveError> {
        self.writer.finish().map_err(ArchiveError::Transfer)?;
        Ok(self.exported)
    }

    /// What is written for a path.
    fn named<'a>(&self, path: &'a [u8]) -> Cow<'a, [u8]> {
        if self.prefix.is_empty() { path.into() } else { [&self.prefix, b"/".as_slice(), path].concat().into() }
    }

    /// Writes all that is in a directory.
    fn tree(&mut self, base: BorrowedFd<'_>) -> Result<(), ArchiveError> {
        let mut waiting = vec![Vec::new()];
        while let Some(path) = waiting.pop() {
            let opened = walk::open(base, &path, DIRECTORY).and_then(|directory| {
                let (stat, names) = (rustix::fs::fstat(&directory)?, walk::names(directory.as_fd())?);
                Ok((directory, stat, names))
            });
            let (directory, stat, names) = match opened {
                Ok(opened) => opened,
                Err(Errno::XDEV) => {
                    self.mount_point(base, &path)?;
                    continue;
                }
                Err(error) => {
                    self.skip(&path, error)?;
                    continue;
                }
            };
            if !(path.is_empty() && self.prefix.is_empty()) {
                self.directory(&path, &stat)?;
            }
            let mut below = Vec::new();
            for (name, kind) in names {
                let child = path::join(&path, name.to_bytes());
                if self.entry(directory.as_fd(), &name, (&child, kind))? {
                    below.push(child);
                }
            }
            waiting.extend(below.into_iter().rev());
        }
        Ok(())
    }

    fn directory(&mut self, path: &[u8], stat: &Stat) -> Result<(), ArchiveError> {
        let slash = if path.is_empty() { b"".as_slice() } else { b"/" };
        self.header(&[path, slash].concat(), b'5', stat, b"")
    }

    /// Writes a directory where another file system begins; what is in that is not part of this tree.
    fn mount_point(&mut self, base: BorrowedFd<'_>, path: &[u8]) -> Result<(), ArchiveError> {
        let (parent, name) = path::split(path);
        let found = walk::open(base, parent, PLACE)
            .and_then(|parent| rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW));
        self.exported.skipped += 1;
        match found {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => self.directory(path, &stat),
            _ => Ok(()),
        }
    }

    /// Writes an entry of a directory, or tells that it is one itself.
    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        (path, kind): (&[u8], FileType),
    ) -> Result<bool, ArchiveError> {
        let written = match kind {
            FileType::Directory if is_staging(name.to_bytes()) => {
                self.exported.skipped += 1;
                return Ok(false);
            }
            FileType::Directory => return Ok(true),
            // What a directory calls a file is one, or has vanished: opening tells, and no look before it is needed.
            FileType::RegularFile => self.file(directory, name, path),
            _ => match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => match self::kind(&stat) {
                    FileKind::Directory => return self.entry(directory, name, (path, FileType::Directory)),
                    FileKind::File => self.file(directory, name, path),
                    _ => self.special(directory, name, (path, &stat)),
                },
                Err(error) => Err(Trouble::System(error)),
            },
        };
        match written {
            Ok(()) => Ok(false),
            Err(Trouble::System(error)) => self.skip(path, error).map(|()| false),
            Err(Trouble::Archive(error)) => Err(error),
        }
    }

    /// Writes what has no data: a symbolic link or a FIFO.
    fn special(&mut self, directory: BorrowedFd<'_>, name: &CStr, (path, stat): (&[u8], &Stat)) -> Result<(), Trouble> {
        match kind(stat) {
            FileKind::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
                if !self.link(path, stat)? {
                    self.header(path, b'2', stat, target.to_bytes())?;
                }
            }
            FileKind::Fifo => {
                if !self.link(path, stat)? {
                    self.header(path, b'6', stat, b"")?;
                }
            }
            _ => self.exported.skipped += 1,
        }
        Ok(())
    }

    fn file(&mut self, directory: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<(), Trouble> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            // Something else has taken its name.
            return Err(Errno::NOENT.into());
        }
        if self.link(path, &stat)? {
            return Ok(());
        }
        let length = stat.st_size.unsigned_abs();
        if stat.st_blocks.unsigned_abs().saturating_mul(512) < length {
            let segments = sparse::segments(file.as_fd(), length);
            let is_whole = matches!(segments[..], [Segment { offset: 0, length: all }] if all == length);
            if !is_whole {
                return self.sparse(file.as_fd(), (path, &stat), &segments);
            }
        }
        self.sized_header(path, (b'0', length), &stat, b"")?;
        let whole = Segment { offset: 0, length };
        let is_changed = self.data(file.as_fd(), path, whole, true)?;
        self.writer.end_member().map_err(ArchiveError::Transfer)?;
        self.exported.changed += u64::from(is_changed);
        Ok(())
    }

    fn sparse(
        &mut self,
        file: BorrowedFd<'_>,
        (path, stat): (&[u8], &Stat),
        segments: &[Segment],
    ) -> Result<(), Trouble> {
        let length = stat.st_size.unsigned_abs();
        let size = segments.iter().map(|segment| segment.length).sum();
        let named = self.named(path);
        let entry = Entry { size, ..entry(&named, b'S', stat, b"") };
        self.writer.sparse_header(&entry, length, segments).map_err(ArchiveError::Transfer)?;
        self.exported.members += 1;
        let mut is_changed = false;
        for &segment in segments {
            is_changed |= self.data(file, path, segment, false)?;
        }
        self.writer.end_member().map_err(ArchiveError::Transfer)?;
        self.exported.changed += u64::from(is_changed);
        Ok(())
    }

    /// Writes a piece of a file, filled with zeros where the file ends before it, and tells whether it does; or, for a piece that is all
    /// of the file, whether more than that came.
    fn data(
        &mut self,
        file: BorrowedFd<'_>,
        path: &[u8],
        piece: Segment,
        is_whole: bool,
    ) -> Result<bool, ArchiveError> {
        self.exported.bytes += piece.length;
        // Whether more could have come: a read that fills all the room tells nothing of what is behind it.
        let (mut done, mut had_room) = (0, false);
        while done < piece.length {
            let (left, at) = (piece.length - done, piece.offset + done);
            let read = self.writer.data(left, |buffer| match is_whole {
                // As much as there is room for: what comes beyond the file's length tells for nothing that it has grown.
                true => {
                    let room = buffer.capacity() - buffer.len();
                    rustix::io::pread(file, spare_capacity(buffer), at).inspect(|&count| had_room = count < room)
                }
                false => read_exactly(file, buffer, left, at),
            });
            let count = match read.map_err(ArchiveError::Transfer)? {
                Err(Errno::INTR) => continue,
                read => read.map_err(|error| failed(path, error))? as u64,
            };
            if count == 0 {
                self.writer.zeros(left).map_err(ArchiveError::Transfer)?;
                return Ok(true);
            }
            if count > left {
                return Ok(true);
            }
            done += count;
        }
        Ok(is_whole && !had_room && has_more(file, piece.length).map_err(|error| failed(path, error))?)
    }

    /// Writes a further name of a file whose first name is in the archive, and remembers a first one.
    fn link(&mut self, path: &[u8], stat: &Stat) -> Result<bool, ArchiveError> {
        let (file, has_room) = ((stat.st_dev, stat.st_ino), self.links.len() < LINKS);
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        match self.links.get_mut(&file) {
            Some((first, missing)) => {
                let first = first.clone();
                *missing -= 1;
                if *missing == 0 {
                    self.links.remove(&file);
                }
                self.header(path, b'1', stat, &first).map(|()| true)
            }
            None if has_room => {
                self.links.insert(file, (self.named(path).into_owned(), stat.st_nlink - 1));
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn header(&mut self, path: &[u8], kind: u8, stat: &Stat, link: &[u8]) -> Result<(), ArchiveError> {
        self.sized_header(path, (kind, 0), stat, link)
    }

    fn sized_header(
        &mut self,
        path: &[u8],
        (kind, size): (u8, u64),
        stat: &Stat,
        link: &[u8],
    ) -> Result<(), ArchiveError> {
        let named = self.named(path);
        let entry = Entry { size, ..entry(&named, kind, stat, link) };
        self.writer.header(&entry).map_err(ArchiveError::Transfer)?;
        self.exported.members += 1;
        Ok(())
    }

    /// Passes over what has vanished, or is on another file system. Anything else that cannot be read ends the export: an archive that lacks it would not say so.
    fn skip(&mut self, path: &[u8], error: Errno) -> Result<(), ArchiveError> {
        match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::STALE | Errno::INVAL | Errno::XDEV => {
                self.exported.skipped += 1;
                Ok(())
            }
            error => Err(failed(path, error)),
        }
    }
}

fn entry<'a>(path: &'a [u8], kind: u8, stat: &Stat, link: &'a [u8]) -> Entry<'a> {
    let modified = Timestamp { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 };
    let mode = stat.st_mode & 0o7777;
    Entry { path, kind, mode, uid: stat.st_uid, gid: stat.st_gid, size: 0, modified, link }
}

/// Appends some of a piece of a file to a buffer, and nothing of what is behind the piece: that may be a large hole.
fn read_exactly(file: BorrowedFd<'_>, buffer: &mut Vec<u8>, piece: u64, at: u64) -> Result<usize, Errno> {
    let (start, room) = (buffer.len(), buffer.capacity() - buffer.len());
    buffer.resize(start + room.min(usize::try_from(piece).unwrap_or(usize::MAX)), 0);
    let read = rustix::io::pread(file, &mut buffer[start..], at);
    buffer.truncate(start + read.unwrap_or(0));
    read
}

/// Whether a file is longer than it was.
fn has_more(file: BorrowedFd<'_>, length: u64) -> Result<bool, Errno> {
    loop {
        match rustix::io::pread(file, &mut [0_u8; 1], length) {
            Err(Errno::INTR) => {}
            read => return read.map(|count| count > 0),
        }
    }
}

fn failed(path: &[u8], error: Errno) -> ArchiveError {
    ArchiveError::system(OPERATION, path, error)
}

/// Why an entry was not written.
enum Trouble {
    /// The system refused to open or show it: nothing of it is in the archive yet.
    System(Errno),
    /// The archive cannot go on.
    Archive(ArchiveError),
}

impl From<Errno> for Trouble {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

impl From<ArchiveError> for Trouble {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

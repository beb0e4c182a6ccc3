//! Copying files and trees: made aside, and put in their place when they are whole.

pub(crate) mod data;

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use hearth_protocol::ErrorCode;
use hearth_protocol::files::FileKind;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid,
};
use rustix::io::Errno;

use crate::attributes;
use crate::change::into_itself;
use crate::content::open_again;
use crate::entry::kind;
use crate::error::{FileError, Reason};
use crate::fresh::{is_there, rename, temporary_name};
use crate::remove::{Removal, Wanted, discard, remove};
use crate::root::{Name, Owner, Root};
use crate::walk::{DIRECTORY, Step, Walk, identity};

/// The most files with several names that are remembered by one copy; names beyond become files of their own.
const LINKS: usize = 100_000;
/// How a directory is opened that is only a place to make things in.
const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What a copy has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of content, holes left out.
    pub bytes: u64,
    /// Sockets and devices, which a copy leaves out.
    pub skipped: u64,
}

/// Copies what `path` names, a symbolic link itself, a directory with all that is in it. Keeps modes (but set-user and set-group of files), times, links
/// among what is copied, holes, and `user.*` attributes where both file systems have them; the copy belongs to the root's owner. Directories that are missing on the way are made.
///
/// # Errors
/// [`FileError`], and nothing is left of the copy: not there, outside, something is in its place: with `replace`, a file gives way to a file
/// and an empty directory to a directory.
pub fn copy(root: &Root, path: &[u8], to: &[u8], replace: bool, wanted: Wanted<'_>) -> Result<Copied, FileError> {
    transfer(root, (path, to), replace, Keep::Content, wanted)
}

/// Moves by copying and removing, for what [`crate::rename_to`] could not. Keeps everything but extended attributes other than `user.*`.
///
/// # Errors
/// As [`copy`]. When only the removal failed both are there, one in part.
pub fn carry(root: &Root, path: &[u8], to: &[u8], replace: bool, wanted: Wanted<'_>) -> Result<(), FileError> {
    transfer(root, (path, to), replace, Keep::Everything, wanted)?;
    let removed = remove(root, path, Removal { recursive: true, missing_ok: true }, &|| true);
    removed.map(drop).map_err(FileError::half_done)
}

/// How much of a file its copy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// What a copy has.
    Content,
    /// Owners, all of its mode, devices: it is to be the file itself, elsewhere.
    Everything,
}

fn transfer(
    root: &Root,
    (path, to): (&[u8], &[u8]),
    replace: bool,
    keep: Keep,
    wanted: Wanted<'_>,
) -> Result<Copied, FileError> {
    let operation = if keep == Keep::Content { "copy" } else { "move" };
    let from_error = |error: Errno| FileError::new(operation, path, error);
    let to_error = |error: Errno| FileError::new("copy to", to, error);
    let (from_directory, from) = root.parent(operation, path)?;
    let stat = rustix::fs::statat(&from_directory, &from, AtFlags::SYMLINK_NOFOLLOW).map_err(from_error)?;
    let (directory, name) = root.make_parent("copy to", to)?;
    if !replace && is_there(&directory, &name).map_err(to_error)? {
        return Err(to_error(Errno::EXIST));
    }
    if kind(&stat) == FileKind::Directory && is_within(&directory, (stat.st_dev, stat.st_ino)).map_err(to_error)? {
        return Err(into_itself(operation, path));
    }
    let scratch = Scratch { directory, name: Some(temporary_name()) };
    let mut copier = Copier { owner: root.owner(), keep, wanted, copied: Copied::default(), links: HashMap::new() };
    let made =
        copier.copy_top(&from_directory, &from, &scratch).map_err(|reason| FileError::new(operation, path, reason))?;
    if !made {
        let reason = Reason::WrongKind { found: crate::entry::describe(kind(&stat)), wanted: "something to copy" };
        return Err(FileError::new(operation, path, reason));
    }
    scratch.put(&name, replace).map_err(to_error)?;
    Ok(copier.copied)
}

/// Whether a directory is the one of this number, or somewhere in it.
fn is_within(directory: &OwnedFd, number: (u64, u64)) -> Result<bool, Errno> {
    let mut at = identity(directory)?;
    let mut above = rustix::fs::openat(directory, c".", PLACE, Mode::empty())?;
    loop {
        if at == number {
            return Ok(true);
        }
        above = rustix::fs::openat(&above, c"..", PLACE, Mode::empty())?;
        // The uppermost is above itself.
        match identity(&above)? {
            same if same == at => return Ok(false),
            next => at = next,
        }
    }
}

/// Where a copy is made: under a name of its own, and gone unless it is put in its place.
struct Scratch {
    directory: OwnedFd,
    name: Option<Name>,
}

impl Scratch {
    fn put(mut self, name: &Name, replace: bool) -> Result<(), Errno> {
        let temporary = self.name.take().expect("it is put once");
        let put = rename(&self.directory, &temporary, &self.directory, name, replace);
        if put.is_err() {
            self.name = Some(temporary);
        }
        put
    }

    fn name(&self) -> &Name {
        self.name.as_ref().expect("it is not put yet")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            discard(&self.directory, name);
        }
    }
}

struct Copier<'a> {
    owner: Option<Owner>,
    keep: Keep,
    wanted: Wanted<'a>,
    copied: Copied,
    /// Where the copies of files with several names are, from the top.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// A place that something is copied to.
#[derive(Clone, Copy)]
struct Target<'a> {
    directory: BorrowedFd<'a>,
    name: &'a CStr,
}

impl Copier<'_> {
    /// Copies what is at a name, and all that is in it; false for what is no thing to copy.
    fn copy_top(&mut self, directory: &OwnedFd, name: &Name, scratch: &Scratch) -> Result<bool, Reason> {
        let target = Target { directory: scratch.directory.as_fd(), name: scratch.name() };
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if kind(&stat) != FileKind::Directory {
            return self.copy_one(directory.as_fd(), name, target);
        }
        let from = rustix::fs::openat(directory, name, DIRECTORY, Mode::empty())?;
        rustix::fs::mkdirat(target.directory, target.name, Mode::from_raw_mode(0o700))?;
        self.copied.entries += 1;
        let top = rustix::fs::openat(target.directory, target.name, PLACE, Mode::empty())?;
        copy_attributes(directory.as_fd(), name, target)?;
        self.copy_below(from, top)?;
        self.dress(target, &stat)?;
        Ok(true)
    }

    /// Copies all that is in a directory. The copies' directories stay closed to others until they are whole.
    fn copy_below(&mut self, from: OwnedFd, top: OwnedFd) -> Result<(), Reason> {
        let mut walk = Walk::new(from);
        let mut places = Places::new(top);
        loop {
            if !(self.wanted)() {
                return Err(given_up());
            }
            match walk.step()? {
                Step::Found(FileType::Directory) => {
                    match walk.enter() {
                        Err(Errno::NOENT) => continue,
                        other => other?,
                    }
                    rustix::fs::mkdirat(places.innermost(), walk.name(), Mode::from_raw_mode(0o700))?;
                    places.enter(walk.name())?;
                    self.copied.entries += 1;
                }
                Step::Found(_) => self.copy_found(&walk, &places)?,
                Step::Left => {
                    places.leave()?;
                    // It was a directory when it was entered; who has replaced it meanwhile gets what is left.
                    if let Ok(stat) = rustix::fs::statat(walk.directory(), walk.name(), AtFlags::SYMLINK_NOFOLLOW)
                        && kind(&stat) == FileKind::Directory
                    {
                        let target = Target { directory: places.innermost(), name: walk.name() };
                        copy_attributes(walk.directory(), walk.name(), target)?;
                        self.dress(target, &stat)?;
                    }
                }
                Step::Reading => {}
                Step::Lost => return Err(moved_away()),
                Step::End => return Ok(()),
            }
        }
    }

    fn copy_found(&mut self, walk: &Walk, places: &Places) -> Result<(), Reason> {
        let stat = match rustix::fs::statat(walk.directory(), walk.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        let target = Target { directory: places.innermost(), name: walk.name() };
        let several = stat.st_nlink > 1 && kind(&stat) != FileKind::Directory;
        let number = (stat.st_dev, stat.st_ino);
        if several && let Some(path) = self.links.get(&number) {
            places.link(path, target)?;
            self.copied.entries += 1;
            return Ok(());
        }
        match self.copy_one(walk.directory(), walk.name(), target) {
            Err(Reason::System(error)) if Errno::from_io_error(&error) == Some(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        if several && self.links.len() < LINKS {
            self.links.insert(number, walk.path().to_vec());
        }
        Ok(())
    }

    /// Copies what is no directory; false for what a copy leaves out.
    fn copy_one(&mut self, from: BorrowedFd<'_>, name: &CStr, target: Target<'_>) -> Result<bool, Reason> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(from, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&found)?;
        match kind(&stat) {
            FileKind::File => self.copy_file(&found, &stat, target)?,
            FileKind::Symlink => {
                let text = rustix::fs::readlinkat(&found, c"", Vec::new())?;
                rustix::fs::symlinkat(&text, target.directory, target.name)?;
            }
            FileKind::Fifo => self.make_node(&stat, target)?,
            FileKind::Socket | FileKind::Device if self.keep == Keep::Everything => self.make_node(&stat, target)?,
            FileKind::Socket | FileKind::Device => {
                self.copied.skipped += 1;
                return Ok(false);
            }
            FileKind::Directory => return Err(Errno::ISDIR.into()),
        }
        self.dress(target, &stat)?;
        self.copied.entries += 1;
        Ok(true)
    }

    fn copy_file(&mut self, found: &OwnedFd, stat: &Stat, target: Target<'_>) -> Result<(), Reason> {
        let from = open_again(found, OFlags::RDONLY)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(target.directory, target.name, flags, Mode::from_raw_mode(0o600))?;
        attributes::copy(from.as_fd(), to.as_fd())?;
        let copied = data::copy(&from, &to.into(), stat.st_size.unsigned_abs(), self.wanted)?;
        self.copied.bytes += copied.ok_or_else(given_up)?;
        Ok(())
    }

    fn make_node(&self, stat: &Stat, target: Target<'_>) -> Result<(), Errno> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        rustix::fs::mknodat(target.directory, target.name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)
    }

    /// Gives a copy its owner, permissions and times, in this order.
    fn dress(&self, target: Target<'_>, stat: &Stat) -> Result<(), Errno> {
        let owner = match self.keep {
            Keep::Everything => Some(Owner { uid: stat.st_uid, gid: stat.st_gid }),
            Keep::Content => self.owner,
        };
        if let Some(Owner { uid, gid }) = owner.filter(|_| rustix::process::geteuid().is_root()) {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(target.directory, target.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if kind(stat) != FileKind::Symlink {
            let kept = match (self.keep, kind(stat)) {
                (Keep::Everything, _) | (_, FileKind::Directory) => 0o7777,
                _ => 0o1777,
            };
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(target.directory, target.name, flags, Mode::empty())?;
            crate::change::set_mode(&made, stat.st_mode & kept)?;
        }
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let last_modification = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
        let times = Timestamps { last_access, last_modification };
        rustix::fs::utimensat(target.directory, target.name, &times, AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// Gives a copied directory the attributes of its original, before its permissions may forbid that.
fn copy_attributes(from: BorrowedFd<'_>, name: &CStr, target: Target<'_>) -> Result<(), Errno> {
    let from = match rustix::fs::openat(from, name, DIRECTORY, Mode::empty()) {
        // It has gone, or may not be read any more, meanwhile.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Ok(()),
        other => other?,
    };
    let to = rustix::fs::openat(target.directory, target.name, DIRECTORY, Mode::empty())?;
    attributes::copy(from.as_fd(), to.as_fd())
}

fn given_up() -> Reason {
    Reason::Rule { code: ErrorCode::Cancelled, message: "it was given up half-way, and nothing is left of it".into() }
}

fn moved_away() -> Reason {
    Reason::Rule { code: ErrorCode::Io, message: "a directory in it was moved away meanwhile".into() }
}

/// The directories of a copy that are not whole yet, outermost first. As in a walk, few are open; the others are found again through
/// `..`: nobody but root can have moved them, since nobody else may enter them.
struct Places {
    top: OwnedFd,
    open: Vec<OwnedFd>,
    depth: usize,
}

impl Places {
    /// The most that are open, beside the outermost.
    const OPEN: usize = 32;

    fn new(top: OwnedFd) -> Self {
        Self { top, open: Vec::new(), depth: 0 }
    }

    fn innermost(&self) -> BorrowedFd<'_> {
        self.open.last().unwrap_or(&self.top).as_fd()
    }

    fn enter(&mut self, name: &CStr) -> Result<(), Errno> {
        let directory = rustix::fs::openat(self.innermost(), name, PLACE, Mode::empty())?;
        self.depth += 1;
        if self.open.len() == Self::OPEN {
            self.open.remove(0);
        }
        self.open.push(directory);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Errno> {
        self.depth -= 1;
        let left = self.open.pop().expect("the innermost is open");
        if self.open.is_empty() && self.depth > 0 {
            self.open.push(rustix::fs::openat(&left, c"..", PLACE, Mode::empty())?);
        }
        Ok(())
    }

    /// Gives a file that was copied already another name.
    fn link(&self, path: &[u8], target: Target<'_>) -> Result<(), Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(&self.top, path, flags, Mode::empty(), resolve)?;
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, link, target.directory, target.name, AtFlags::SYMLINK_FOLLOW)
    }
}

#[cfg(test)]
mod tests;

//! A change of many files that happens whole or not at all.
//!
//! What is to be new is made in a directory beside the workspace's own ([`Staging`]), and only when all of it is there does anything move:
//! what has to go is moved out, what is new is moved in, an old one being exchanged for the new. Every step is noted, and
//! a failure takes them back, the last first. What was moved out goes with the staging directory.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Stat, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use super::error::HistoryError;
use super::order::split;
use super::record::Moment;
use crate::archive::staging::Staging;
use crate::archive::walk::{self, DIRECTORY, PLACE};
use crate::error::FileError;
use crate::root::{Owner, Root};

/// What something bears beside its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dress {
    /// `None` for a symbolic link.
    pub(super) mode: Option<u32>,
    pub(super) owner: Option<Owner>,
    pub(super) modified: Option<Moment>,
}

/// What is no part of the workspace any more. Dropping it removes it, which may take longer than all the rest.
#[derive(Debug)]
pub struct Leftovers(Staging);

impl Leftovers {
    /// Moves it out of the workspace, if that is possible; else removes it.
    pub(super) fn move_to(mut self, home: &Path) -> Option<Self> {
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let home = rustix::fs::open(home, flags, Mode::empty()).ok()?;
        self.0.move_to(home).ok().map(|()| self)
    }
}

/// Something that is ready to be put in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ready {
    /// Under this number in the staging directory.
    Staged(u64),
    /// Another name of the file that is at this path by then.
    LinkTo(Vec<u8>),
}

/// What is to happen. The order of each list is that in which it happens.
pub(super) struct Plan<'a> {
    root: &'a Root,
    top: OwnedFd,
    staging: Staging,
    spots: Places,
    is_root: bool,
    next: u64,
    /// Files, or directories with all that is in them.
    pub(super) removals: Vec<Vec<u8>>,
    /// Whether a directory goes when the last thing in it has been removed.
    pub(super) prunes: bool,
    pub(super) puts: Vec<(Vec<u8>, Ready)>,
    /// Of what is there then.
    pub(super) dressings: Vec<(Vec<u8>, Dress)>,
}

/// A step that was taken.
enum Done {
    Removed(Vec<u8>, u64),
    Made(Vec<u8>),
    Unmade(Vec<u8>, Box<Stat>),
    Placed(Vec<u8>, u64),
    Exchanged(Vec<u8>, u64),
    Dressed(Vec<u8>, Dress),
}

type Step<T> = Result<T, (Vec<u8>, Errno)>;

impl<'a> Plan<'a> {
    pub(super) fn new(root: &'a Root) -> Result<Self, HistoryError> {
        let fail = |error: Errno| FileError::new("change", root.name().as_bytes(), error);
        let top = rustix::fs::openat(root.directory(), c".", DIRECTORY, Mode::empty()).map_err(fail)?;
        let staging = Staging::make(root, top.as_fd()).map_err(|error| match error {
            crate::archive::ArchiveError::File(error) => HistoryError::File(error),
            other => HistoryError::Store { operation: "make a place for changes", source: io::Error::other(other) },
        })?;
        Ok(Self {
            root,
            top,
            staging,
            spots: Places::default(),
            is_root: rustix::process::geteuid().is_root(),
            next: 0,
            removals: Vec::new(),
            prunes: false,
            puts: Vec::new(),
            dressings: Vec::new(),
        })
    }

    /// The workspace's uppermost directory.
    pub(super) fn top(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }

    /// A number that nothing in the staging directory bears.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The directory and the name of a path from the staging directory.
    fn spot(&mut self, path: &[u8]) -> Result<(BorrowedFd<'_>, CString), Errno> {
        self.spots.parent(self.staging.directory(), path)
    }

    /// Makes an empty file that nobody else can reach.
    pub(super) fn file(&mut self) -> Result<(u64, File), Errno> {
        let number = self.number();
        self.file_at(staged(number).as_bytes()).map(|file| (number, file))
    }

    /// As [`Self::file`], at a path from the staging directory.
    pub(super) fn file_at(&mut self, path: &[u8]) -> Result<File, Errno> {
        let (directory, name) = self.spot(path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, &name, flags, Mode::from_raw_mode(0o600));
        file.map(File::from)
    }

    /// Opens again what [`Self::file`] made.
    pub(super) fn reopen(&self, number: u64) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.staging.directory(), staged(number), flags, Mode::empty()).map(File::from)
    }

    pub(super) fn symlink(&mut self, target: &[u8]) -> Result<u64, Errno> {
        let number = self.number();
        self.symlink_at(staged(number).as_bytes(), target).map(|()| number)
    }

    /// As [`Self::symlink`], at a path from the staging directory.
    pub(super) fn symlink_at(&mut self, path: &[u8], target: &[u8]) -> Result<(), Errno> {
        let (directory, name) = self.spot(path)?;
        rustix::fs::symlinkat(target, directory, &name)
    }

    /// Makes a directory at a path from the staging directory.
    pub(super) fn directory_at(&mut self, path: &[u8]) -> Result<(), Errno> {
        let (directory, name) = self.spot(path)?;
        rustix::fs::mkdirat(directory, &name, Mode::RWXU)
    }

    /// Makes a FIFO at a path from the staging directory.
    pub(super) fn fifo_at(&mut self, path: &[u8]) -> Result<(), Errno> {
        let (directory, name) = self.spot(path)?;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(directory, &name, kind, Mode::from_raw_mode(0o600), 0)
    }

    /// Gives what was made its owner, permissions and time.
    pub(super) fn dress(&self, number: u64, dress: &Dress) -> Result<(), Errno> {
        set(self.staging.directory(), &staged(number), dress)
    }

    /// As [`Self::dress`], of a file that is open.
    pub(super) fn dress_file(&self, file: &File, dress: &Dress) -> Result<(), Errno> {
        if let Some(Owner { uid, gid }) = dress.owner.filter(|_| self.is_root) {
            rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        if let Some(mode) = dress.mode {
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
        }
        dress.modified.map_or(Ok(()), |modified| rustix::fs::futimens(file, &times(modified)))
    }

    /// As [`Self::dress`], of what is at a path from the staging directory.
    pub(super) fn dress_at(&mut self, path: &[u8], dress: &Dress) -> Result<(), Errno> {
        let (directory, name) = self.spot(path)?;
        set(directory, &name, dress)
    }

    /// Does all of it. What was in the way is left over.
    pub(super) fn carry_out(mut self) -> Result<Leftovers, HistoryError> {
        let mut done = Vec::new();
        let carried = self.steps(&mut done);
        let carried = carried.map_err(|(path, error)| {
            let error = FileError::new("change", &path, error);
            let undone = done.iter().rev().map(|step| self.take_back(step));
            match undone.filter_map(Result::err).reduce(|first, _| first) {
                None => error.into(),
                Some(undo) => HistoryError::Unsettled { error: Box::new(error), undo: undo.into() },
            }
        });
        carried.map(|()| Leftovers(self.staging))
    }

    fn steps(&mut self, done: &mut Vec<Done>) -> Step<()> {
        let mut places = Places::default();
        for path in std::mem::take(&mut self.removals) {
            self.remove(&mut places, &path, done).map_err(|error| (path.clone(), error))?;
        }
        self.prune(done)?;
        for (path, ready) in std::mem::take(&mut self.puts) {
            self.make_parents(&mut places, &path, done)?;
            self.put(&mut places, &path, &ready, done).map_err(|error| (path.clone(), error))?;
        }
        for (path, dress) in std::mem::take(&mut self.dressings) {
            self.redress(&mut places, &path, &dress, done).map_err(|error| (path.clone(), error))?;
        }
        Ok(())
    }

    /// Moves something out. What is not there needs not go.
    fn remove(&mut self, places: &mut Places, path: &[u8], done: &mut Vec<Done>) -> Result<(), Errno> {
        let number = self.number();
        let aside = staged(number);
        let (parent, name) = match places.parent(self.top.as_fd(), path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            found => found?,
        };
        match rustix::fs::renameat(parent, &name, self.staging.directory(), &aside) {
            Ok(()) => {
                places.forget();
                done.push(Done::Removed(path.to_vec(), number));
            }
            Err(Errno::NOENT) => {}
            // A directory out of the lower layer of an overlay cannot be moved; what is in it can.
            Err(Errno::XDEV) => {
                let directory = rustix::fs::openat(parent, &name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
                for (name, _) in walk::names(directory.as_fd())? {
                    self.remove(places, &[path, b"/", name.to_bytes()].concat(), done)?;
                }
                self.unmake(places, path, done)?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn unmake(&self, places: &mut Places, path: &[u8], done: &mut Vec<Done>) -> Result<(), Errno> {
        let (parent, name) = places.parent(self.top.as_fd(), path)?;
        let stat = rustix::fs::statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR)?;
        places.forget();
        done.push(Done::Unmade(path.to_vec(), Box::new(stat)));
        Ok(())
    }

    fn make(&self, places: &mut Places, path: &[u8], done: &mut Vec<Done>) -> Result<(), Errno> {
        let (parent, name) = places.parent(self.top.as_fd(), path)?;
        rustix::fs::mkdirat(parent, &name, Mode::RWXU)?;
        done.push(Done::Made(path.to_vec()));
        let dress = Dress { mode: Some(0o755), owner: self.root.owner(), modified: None };
        set(parent, &name, &dress)
    }

    /// Makes the directories that are missing above a path.
    fn make_parents(&self, places: &mut Places, path: &[u8], done: &mut Vec<Done>) -> Step<()> {
        let mut missing = Vec::new();
        let mut above = split(path).0;
        while !above.is_empty() {
            match places.open(self.top.as_fd(), above) {
                Ok(_) => break,
                Err(Errno::NOENT) => missing.push(above),
                Err(error) => return Err((above.to_vec(), error)),
            }
            above = split(above).0;
        }
        missing.iter().rev().try_for_each(|path| self.make(places, path, done).map_err(|error| (path.to_vec(), error)))
    }

    fn put(&mut self, places: &mut Places, path: &[u8], ready: &Ready, done: &mut Vec<Done>) -> Result<(), Errno> {
        let number = match ready {
            Ready::Staged(number) => *number,
            Ready::LinkTo(other) => {
                let number = self.number();
                let name = staged(number);
                let (parent, other) = places.parent(self.top.as_fd(), other)?;
                let file = rustix::fs::openat(
                    parent,
                    &other,
                    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                let link = format!("/proc/self/fd/{}", file.as_raw_fd());
                rustix::fs::linkat(CWD, link, self.staging.directory(), name, AtFlags::SYMLINK_FOLLOW)?;
                number
            }
        };
        let (parent, name) = places.parent(self.top.as_fd(), path)?;
        let (from, staged) = (self.staging.directory(), staged(number));
        match rename_new((from, &staged), (parent, &name)) {
            Ok(()) => done.push(Done::Placed(path.to_vec(), number)),
            Err(Errno::EXIST) => {
                let there = rustix::fs::statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                if rustix::fs::FileType::from_raw_mode(there.st_mode).is_dir() {
                    return Err(Errno::ISDIR);
                }
                exchange((from, &staged), (parent, &name))?;
                done.push(Done::Exchanged(path.to_vec(), number));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Removes the directories that have become empty, unless something comes into them.
    fn prune(&self, done: &mut Vec<Done>) -> Step<()> {
        if !self.prunes {
            return Ok(());
        }
        let mut needed = BTreeSet::new();
        for (path, _) in &self.puts {
            let mut above = split(path).0;
            while !above.is_empty() && needed.insert(above) {
                above = split(above).0;
            }
        }
        let emptied: Vec<Vec<u8>> = done
            .iter()
            .filter_map(|step| match step {
                Done::Removed(path, _) => Some(split(path).0.to_vec()),
                _ => None,
            })
            .collect();
        for mut directory in emptied.iter().map(Vec::as_slice) {
            while !directory.is_empty() && !needed.contains(directory) {
                match self.unmake(&mut Places::default(), directory, done) {
                    Ok(()) => directory = split(directory).0,
                    Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT | Errno::NOTDIR | Errno::BUSY) => break,
                    Err(error) => return Err((directory.to_vec(), error)),
                }
            }
        }
        Ok(())
    }

    fn redress(&self, places: &mut Places, path: &[u8], dress: &Dress, done: &mut Vec<Done>) -> Result<(), Errno> {
        let (parent, name) = places.parent(self.top.as_fd(), path)?;
        let stat = match rustix::fs::statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            stat => stat?,
        };
        done.push(Done::Dressed(path.to_vec(), dress_of(&stat)));
        set(parent, &name, dress)
    }

    fn take_back(&self, step: &Done) -> Result<(), Errno> {
        let (Done::Removed(path, _)
        | Done::Made(path)
        | Done::Unmade(path, _)
        | Done::Placed(path, _)
        | Done::Exchanged(path, _)
        | Done::Dressed(path, _)) = step;
        let mut places = Places::default();
        let (parent, name) = places.parent(self.top.as_fd(), path)?;
        let aside = self.staging.directory();
        match step {
            Done::Removed(_, number) => rustix::fs::renameat(aside, staged(*number), parent, &name),
            Done::Made(_) => rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR),
            Done::Unmade(_, stat) => {
                rustix::fs::mkdirat(parent, &name, Mode::RWXU)?;
                set(parent, &name, &dress_of(stat))
            }
            Done::Placed(_, number) => rustix::fs::renameat(parent, &name, aside, staged(*number)),
            Done::Exchanged(_, number) => exchange((aside, &staged(*number)), (parent, &name)),
            Done::Dressed(_, dress) => set(parent, &name, dress),
        }
    }
}

fn staged(number: u64) -> CString {
    CString::new(number.to_string()).expect("a number holds no NUL")
}

/// The directories of a workspace, the one that was asked for last open.
#[derive(Default)]
pub(super) struct Places {
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl Places {
    /// Opens a directory, through no link.
    pub(super) fn open(&mut self, top: BorrowedFd<'_>, path: &[u8]) -> Result<BorrowedFd<'_>, Errno> {
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            self.last = Some((path.to_vec(), walk::open(top, path, PLACE)?));
        }
        Ok(self.last.as_ref().expect("it was just opened").1.as_fd())
    }

    /// Opens the directory of a path, and names what is in it.
    pub(super) fn parent(&mut self, top: BorrowedFd<'_>, path: &[u8]) -> Result<(BorrowedFd<'_>, CString), Errno> {
        let (directory, name) = split(path);
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        Ok((self.open(top, directory)?, name))
    }

    fn forget(&mut self) {
        self.last = None;
    }
}

fn dress_of(stat: &Stat) -> Dress {
    let is_link = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink();
    Dress {
        mode: (!is_link).then_some(stat.st_mode & 0o7777),
        owner: Some(Owner { uid: stat.st_uid, gid: stat.st_gid }),
        modified: Some(Moment { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 }),
    }
}

/// Gives something its owner, permissions and time, in this order; the thing itself, not what a link points to.
fn set(directory: BorrowedFd<'_>, name: &CStr, dress: &Dress) -> Result<(), Errno> {
    if let Some(Owner { uid, gid }) = dress.owner.filter(|_| rustix::process::geteuid().is_root()) {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if let Some(mode) = dress.mode {
        let place =
            rustix::fs::openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        crate::change::set_mode(&place, mode)?;
    }
    let Some(modified) = dress.modified else { return Ok(()) };
    rustix::fs::utimensat(directory, name, &times(modified), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(modified: Moment) -> Timestamps {
    let last_access = rustix::fs::Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    Timestamps { last_access, last_modification: modified.timespec() }
}

/// Moves something to where nothing is.
fn rename_new(from: (BorrowedFd<'_>, &CStr), to: (BorrowedFd<'_>, &CStr)) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE) {
        // Some file systems cannot do it without a look before.
        Err(Errno::INVAL | Errno::NOSYS) => match rustix::fs::statat(to.0, to.1, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => rustix::fs::renameat(from.0, from.1, to.0, to.1),
            found => found.and(Err(Errno::EXIST)),
        },
        renamed => renamed,
    }
}

/// Exchanges two things; in steps where the file system does not know how.
fn exchange(staged: (BorrowedFd<'_>, &CStr), there: (BorrowedFd<'_>, &CStr)) -> Result<(), Errno> {
    match rustix::fs::renameat_with(staged.0, staged.1, there.0, there.1, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS) => {}
        exchanged => return exchanged,
    }
    let aside = c"exchanged";
    rustix::fs::renameat(there.0, there.1, staged.0, aside)?;
    if let Err(error) = rustix::fs::renameat(staged.0, staged.1, there.0, there.1) {
        return rustix::fs::renameat(staged.0, aside, there.0, there.1).and(Err(error));
    }
    rustix::fs::renameat(staged.0, aside, staged.0, staged.1)
}

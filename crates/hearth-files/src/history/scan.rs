//! A walk through the workspace beside a checkpoint's entries, which come in the same order.
//!
//! A directory of which `stat` says what it said when the checkpoint was taken holds the names that it held then: it is not read, and what the
//! checkpoint has in it is looked for one by one. One that has changed is read; if it turns out to hold the same names, that is remembered.

use std::cmp::Ordering;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use hearth_protocol::files::FileKind;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::error::HistoryError;
use super::foresight::Foresight;
use super::order::{is_beneath, order};
use super::packs::Fetching;
use super::record::{Content, Entry, Moment, Stamp};
use super::store::{Entries, History};
use crate::archive::is_staging;
use crate::entry::kind_of;
use crate::error::{FileError, Reason};
use crate::remove::Wanted;
use crate::root::Root;
use crate::walk::{DIRECTORY, Step, Walk};

/// What is in the workspace now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) kind: FileKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u32,
    /// With the inode's number it tells a file from all others; alone it says nothing, since an overlay has several.
    pub(super) device: u64,
    pub(super) stamp: Stamp,
    /// Something is mounted here, which is no part of the workspace.
    is_mount: bool,
}

impl Found {
    /// What it has in common with its other names alone.
    pub(super) fn identity(&self) -> (u64, u64) {
        (self.device, self.stamp.inode)
    }
}

/// What there is, or was, at a path.
#[derive(Debug)]
pub(super) enum Met {
    Gone(Entry),
    New(Found),
    Both(Entry, Found),
}

/// The walk. A directory is entered by the step behind the one that met it, unless [`Scan::pass`] says otherwise.
pub(super) struct Scan {
    walk: Walk,
    entries: Option<Entries>,
    ahead: Option<Entry>,
    /// For the path of the next.
    room: Vec<u8>,
    /// Where the last entry that was read is, and how many were read with it.
    place: u64,
    number: u64,
    foresight: Option<Foresight>,
    /// What was found and not yet met.
    found: Option<Found>,
    to_enter: Option<Open>,
    /// The directories that the walk is in, but for the first.
    open: Vec<Open>,
    /// Directories that hold the names that they held, with what `stat` says of them now.
    pub(super) unchanged: Vec<(u64, Option<Stamp>)>,
    /// Whether mount points are met, as directories with nothing in them.
    meets_mounts: bool,
    /// What is in here is no part of the workspace, or cannot be seen.
    hidden: Option<Vec<u8>>,
    /// What was left out.
    pub(super) skipped: u64,
    steps: u64,
}

impl Scan {
    /// Begins beside the entries of a checkpoint.
    pub(super) fn beside(root: &Root, history: &History, name: &str) -> Result<Self, HistoryError> {
        let (header, entries) = history.entries(name)?;
        let (_, others) = history.entries(name)?;
        let foresight = Foresight::begin(root.directory(), others, header.entries);
        Self::begin(root, Some(entries), foresight)
    }

    /// Begins beside nothing: everything is new.
    pub(super) fn alone(root: &Root) -> Result<Self, HistoryError> {
        Self::begin(root, None, None)
    }

    fn begin(root: &Root, entries: Option<Entries>, foresight: Option<Foresight>) -> Result<Self, HistoryError> {
        let top = rustix::fs::openat(root.directory(), c".", DIRECTORY, Mode::empty());
        let top = top.map_err(|error| FileError::new("look through", root.name().as_bytes(), error))?;
        Ok(Self {
            walk: Walk::new(top),
            entries,
            ahead: None,
            room: Vec::new(),
            place: 0,
            number: 0,
            foresight,
            found: None,
            to_enter: None,
            open: Vec::new(),
            unchanged: Vec::new(),
            meets_mounts: false,
            hidden: None,
            skipped: 0,
            steps: 0,
        })
    }

    /// Has mount points met, too.
    pub(super) fn with_mounts(self) -> Self {
        Self { meets_mounts: true, ..self }
    }

    /// Goes to the next path at which something is or was; `None` at the end.
    pub(super) fn next(&mut self, wanted: Wanted<'_>) -> Result<Option<Met>, HistoryError> {
        self.enter()?;
        self.look(wanted)?;
        self.read_ahead()?;
        let order = match (&self.ahead, &self.found) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(entry), Some(_)) => order(&entry.path, self.walk.path()),
        };
        let entry = if order.is_le() { self.ahead.take() } else { None };
        let found = if order.is_ge() { self.found.take() } else { None };
        self.note(entry.as_ref(), found.as_ref());
        Ok(match (entry, found) {
            (Some(entry), Some(found)) => Some(Met::Both(entry, found)),
            (Some(entry), None) => Some(Met::Gone(entry)),
            (None, found) => found.map(Met::New),
        })
    }

    /// Prepares to enter what was met, and remembers whether the directory it is in still holds what it held.
    fn note(&mut self, entry: Option<&Entry>, found: Option<&Found>) {
        let kinds = (entry.map(|entry| entry.kind), found.map(|found| found.kind));
        if kinds.0 != kinds.1
            && let Some(open) = self.open.last_mut()
        {
            open.holds_the_same = false;
        }
        self.to_enter = found.filter(|found| found.kind == FileKind::Directory && !found.is_mount).map(|found| {
            let entry = entry.filter(|entry| entry.kind == FileKind::Directory);
            Open {
                path: self.walk.path().len(),
                place: entry.map(|_| self.place),
                stamp: Some(found.stamp).filter(|stamp| stamp.is_settled(Moment::tick())),
                is_known: entry.is_some_and(|entry| entry.stamp == Some(found.stamp)),
                holds_the_same: true,
            }
        });
    }

    /// Takes back an entry that nobody needs, for the next to use its room.
    pub(super) fn take_back(&mut self, entry: Entry) {
        self.room = entry.path;
    }

    /// What `stat` says of a directory that was just met, if from now on a change of the names in it shows there.
    pub(super) fn stamp(&self, found: &Found) -> Option<Stamp> {
        let is_known = self.to_enter.as_ref().is_some_and(|open| open.is_known);
        let settled = self.to_enter.as_ref().and_then(|open| open.stamp);
        if is_known { Some(found.stamp) } else { settled }
    }

    /// Leaves out what is in the directory that was just met.
    pub(super) fn pass(&mut self) {
        self.to_enter = None;
    }

    /// The path of what was just met, unless it is gone.
    pub(super) fn path(&self) -> &[u8] {
        self.walk.path()
    }

    /// Where the entry that was just met is in the checkpoint.
    pub(super) fn place(&self) -> u64 {
        self.place
    }

    /// Opens the file that was just met; `None` when it is gone, is none by now, or may not be read.
    pub(super) fn open(&mut self) -> Result<Option<(File, Stamp)>, HistoryError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(self.walk.directory(), self.walk.name(), flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::ACCESS | Errno::PERM) => {
                self.skipped += 1;
                return Ok(None);
            }
            opened => opened.map_err(|error| self.failed(error))?,
        };
        let stat = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
        let stat = stat.map_err(|error| self.failed(error))?;
        let is_file = FileType::from_raw_mode(stat.stx_mode.into()).is_file();
        Ok(is_file.then(|| (File::from(file), Stamp::of(&stat))))
    }

    /// What the link says that was just met; `None` when it is gone.
    pub(super) fn target(&self) -> Option<Vec<u8>> {
        let target = rustix::fs::readlinkat(self.walk.directory(), self.walk.name(), Vec::new());
        target.ok().map(std::ffi::CString::into_bytes)
    }

    pub(super) fn failed(&self, error: impl Into<Reason>) -> HistoryError {
        FileError::new("read", self.walk.path(), error).into()
    }

    fn enter(&mut self) -> Result<(), HistoryError> {
        if let Some(open) = self.to_enter.take() {
            let entered = if open.is_known { self.walk.enter_known() } else { self.walk.enter() };
            match entered {
                Ok(()) => self.open.push(open),
                // Gone, or something else by now: then nothing is in it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(Errno::ACCESS | Errno::PERM) => self.hide(),
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    fn hide(&mut self) {
        self.skipped += 1;
        let path = self.walk.path();
        if self.ahead.as_ref().is_some_and(|entry| is_hidden(&entry.path, path)) {
            self.ahead = None;
        }
        self.hidden = Some(path.to_vec());
    }

    /// Walks to the next thing that counts.
    fn look(&mut self, wanted: Wanted<'_>) -> Result<(), HistoryError> {
        while self.found.is_none() {
            if self.open.last().is_some_and(|open| open.is_known) && self.look_for_known()? {
                // Where nothing was found its entry tells so, unless that is hidden.
                match self.ahead {
                    Some(_) => return Ok(()),
                    None => continue,
                }
            }
            self.steps += 1;
            if self.steps.is_multiple_of(256) && !wanted() {
                return Err(HistoryError::Cancelled);
            }
            match self.walk.step() {
                Ok(Step::Found(_)) => self.found = self.stat()?,
                Ok(Step::Left) => self.leave()?,
                Ok(Step::Reading) => {}
                Ok(Step::Lost) => {
                    let message = "a directory was moved away meanwhile: ask again".to_owned();
                    let code = hearth_protocol::ErrorCode::Io;
                    return Err(self.failed(Reason::Rule { code, message }));
                }
                Ok(Step::End) => return Ok(()),
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    /// Looks for what the checkpoint has next in a directory that holds what it held; false when that was all.
    fn look_for_known(&mut self) -> Result<bool, HistoryError> {
        self.read_ahead()?;
        let (Some(open), Some(entry)) = (self.open.last(), &self.ahead) else { return Ok(false) };
        let directory = &self.walk.path()[..open.path];
        if !is_beneath(&entry.path, directory) {
            return Ok(false);
        }
        let name = &entry.path[open.path + 1..];
        // What was in a directory that could not be entered is gone with it.
        if memchr::memchr(b'/', name).is_none() {
            self.walk.step_to(name);
            let seen = self.foresight.as_mut().and_then(|foresight| foresight.at(self.number - 1));
            self.found = match seen.filter(|found| !found.is_mount) {
                Some(found) => Some(found),
                None => self.stat()?,
            };
        }
        Ok(true)
    }

    /// A directory was left. Unless it holds other names than it held it need not be read the next time.
    fn leave(&mut self) -> Result<(), HistoryError> {
        self.read_ahead()?;
        let Some(Open { path, place, stamp, is_known, holds_the_same }) = self.open.pop() else { return Ok(()) };
        let directory = &self.walk.path()[..path.min(self.walk.path().len())];
        let is_missing_some = self.ahead.as_ref().is_some_and(|entry| is_beneath(&entry.path, directory));
        if let Some(place) = place
            && !is_known
            && holds_the_same
            && !is_missing_some
            && stamp.is_some()
        {
            self.unchanged.push((place, stamp));
        }
        Ok(())
    }

    fn stat(&mut self) -> Result<Option<Found>, HistoryError> {
        let (directory, name) = (self.walk.directory(), self.walk.name());
        if self.walk.depth() == 1 && is_staging(name.to_bytes()) {
            return Ok(None);
        }
        let found = match look_at(directory, name) {
            Err(Errno::NOENT) => return Ok(None),
            found => found.map_err(|error| self.failed(error))?,
        };
        if found.is_mount {
            self.hide();
            if !self.meets_mounts {
                return Ok(None);
            }
        }
        Ok(Some(found))
    }

    fn read_ahead(&mut self) -> Result<(), HistoryError> {
        let Some(entries) = &mut self.entries else { return Ok(()) };
        while self.ahead.is_none() {
            let Some(entry) =
                entries.next_in(std::mem::take(&mut self.room)).map_err(HistoryError::store("read the checkpoint"))?
            else {
                self.entries = None;
                return Ok(());
            };
            self.place = entries.place();
            self.number += 1;
            let hidden = self.hidden.as_deref();
            if !hidden.is_some_and(|hidden| is_hidden(&entry.path, hidden)) {
                self.ahead = Some(entry);
            }
        }
        Ok(())
    }
}

/// Looks at what is at a name.
pub(super) fn look_at(directory: BorrowedFd<'_>, name: &CStr) -> Result<Found, Errno> {
    let stat = rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
    Ok(Found {
        kind: kind_of(FileType::from_raw_mode(stat.stx_mode.into())),
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        links: stat.stx_nlink,
        device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        stamp: Stamp::of(&stat),
        is_mount: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}

fn is_hidden(path: &[u8], hidden: &[u8]) -> bool {
    path == hidden || is_beneath(path, hidden)
}

/// A directory that the walk is in.
#[derive(Debug, Clone, Copy)]
struct Open {
    /// The length of its path.
    path: usize,
    /// Where its entry is, if it has one.
    place: Option<u64>,
    /// What `stat` said before it was read, if that may be relied on.
    stamp: Option<Stamp>,
    /// Whether it is not read.
    is_known: bool,
    holds_the_same: bool,
}

/// Whether a file still is what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    Same,
    /// It is, as reading it has shown: this is what `stat` says now, if that may be relied on.
    Read(Option<Stamp>),
    Different,
}

/// Compares the contents of what is and was one kind of thing.
pub(super) fn compare(
    scan: &mut Scan,
    fetching: &mut Fetching<'_>,
    entry: &Entry,
    found: &Found,
) -> Result<Compared, HistoryError> {
    if entry.stamp == Some(found.stamp) || !matches!(entry.kind, FileKind::File | FileKind::Symlink) {
        return Ok(Compared::Same);
    }
    let tick = Moment::tick();
    let settled = |stamp: Stamp| Some(stamp).filter(|stamp| stamp.is_settled(tick));
    if entry.kind == FileKind::Symlink {
        let same = scan.target().is_none_or(|target| entry.content == Content::Target(target));
        return Ok(if same { Compared::Read(settled(found.stamp)) } else { Compared::Different });
    }
    if entry.size != found.stamp.size {
        return Ok(Compared::Different);
    }
    // What cannot be read, or was not when the checkpoint was taken, is held to be the same.
    let is_kept = entry.size == 0 || entry.content != Content::None;
    let Some((file, stamp)) = (if is_kept { scan.open()? } else { None }) else { return Ok(Compared::Same) };
    let same = fetching.is_same(entry, &file).map_err(|error: io::Error| scan.failed(error))?;
    Ok(if same { Compared::Read(settled(stamp)) } else { Compared::Different })
}

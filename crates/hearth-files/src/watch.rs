//! Watching a directory, or a whole tree, for what changes in it.
//!
//! The kernel watches single directories (inotify). A [`Watcher`] makes a tree of them: a directory that appears is watched and then looked
//! into, in this order, so that what was made in it before is reported and nothing is missed; some of it may be reported twice.
//!
//! ```text
//!            read() ──> events ──> new directories? ── look() ──> events, watches ──┐
//!              ^                                                                    │
//!              └────────────────────────────── until nothing is left to look into ──┘
//! ```
//!
//! Neither step blocks, and both are short. While there is something to look into nothing is read: the kernel keeps the events, and says so
//! when they become too many; then everything is looked at again before the overflow is reported.

mod events;
mod nodes;

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use hearth_protocol::files::{FileEvent, FileKind};
use hearth_protocol::{ErrorCode, RawString};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::entry::{join, kind, tidy};
use crate::error::{FileError, Reason};
use crate::root::Root;
use crate::walk::{DIRECTORY, Step, Walk, identity};

use nodes::{Nodes, Watched};

/// The most directories that one watcher watches.
const MOST: usize = 65_536;
/// Steps of one look.
const STEPS: usize = 512;

const MASK: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);

/// A watched place.
#[derive(Debug)]
pub struct Watcher {
    inotify: OwnedFd,
    place: Place,
    /// The path of the uppermost directory that is watched, as the client has it.
    path: Vec<u8>,
    /// The one name in it that is of interest, where no directory is watched but a file.
    only: Option<Vec<u8>>,
    recursive: bool,
    nodes: Nodes,
    top: Watched,
    /// A thing that has left its name, before it is known whether it has another.
    half: Option<Half>,
    /// Directories to look into.
    pending: VecDeque<(Watched, CString)>,
    look: Option<Look>,
    /// Whether an overflow is to be reported when everything was looked at again.
    overflowed: bool,
    gone: bool,
}

/// Where a watched directory is. It is not held open: the kernel tells that a directory is gone when nobody has it any more.
#[derive(Debug)]
struct Place {
    root: PathBuf,
    name: String,
    path: Vec<u8>,
    identity: (u64, u64),
}

impl Place {
    /// Opens it to be read, if it still is the same.
    fn open(&self) -> Result<OwnedFd, Reason> {
        let root = Root::open(&self.root, &self.name, None).map_err(|error| error.reason)?;
        let opened = root.open_at("watch", &self.path, DIRECTORY.difference(OFlags::NOFOLLOW));
        let directory = opened.map_err(|error| error.reason)?;
        if identity(&directory)? == self.identity { Ok(directory) } else { Err(Errno::NOENT.into()) }
    }
}

/// The first half of a renaming.
#[derive(Debug)]
struct Half {
    cookie: u32,
    directory: Watched,
    name: CString,
    is_directory: bool,
}

/// A tree that is being looked into.
#[derive(Debug)]
struct Look {
    walk: Walk,
    /// The watched directories that the walk is in.
    inside: Vec<Watched>,
    /// Whether what is found is new.
    new: bool,
}

impl Watcher {
    /// Starts to watch the directory at `path`, or the name of the file there. What is in a directory is only watched once [`Self::look`] says that
    /// there is no more to look into.
    ///
    /// # Errors
    /// [`FileError`]: not there, outside; [`ErrorCode::Busy`] when the system has no more watches.
    pub fn start(root: &Root, path: &[u8], recursive: bool) -> Result<Self, FileError> {
        let fail = |error: Errno| FileError::new("watch", path, error);
        let found = root.open_at("watch", path, OFlags::PATH)?;
        let is_directory = kind(&rustix::fs::fstat(&found).map_err(fail)?) == FileKind::Directory;
        let (base, only) = if is_directory {
            (found, None)
        } else {
            let (parent, name) = root.follow("watch", path, false)?;
            (parent, Some(name.into_bytes()))
        };
        let mut shown = tidy(root.relative("watch", path)?);
        if only.is_some() {
            shown.truncate(shown.iter().rposition(|&byte| byte == b'/').unwrap_or(0));
        }
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|error| FileError::new("watch", path, no_more(error)))?;
        let place = Place {
            root: root.path().to_owned(),
            name: root.name().to_owned(),
            path: path.to_vec(),
            identity: identity(&base).map_err(fail)?,
        };
        let mut watcher = Self {
            inotify,
            place,
            path: shown,
            recursive: recursive && is_directory,
            only,
            nodes: Nodes::default(),
            top: Watched(0),
            half: None,
            pending: VecDeque::new(),
            look: None,
            overflowed: false,
            gone: false,
        };
        let begun = watcher.watch(base.as_fd()).and_then(|top| {
            watcher.top = top;
            drop(base);
            watcher.look_at_all()
        });
        begun.map_err(|reason| FileError::new("watch", path, reason))?;
        Ok(watcher)
    }

    /// Is to look into everything that is there already.
    fn look_at_all(&mut self) -> Result<(), Reason> {
        // The directory of a watched file is not where the client's path leads.
        if self.only.is_some() {
            return Ok(());
        }
        let directory = self.place.open()?;
        if self.recursive {
            self.nodes = Nodes::default();
            self.pending.clear();
            self.look = Some(Look { walk: Walk::new(directory), inside: vec![self.top], new: false });
        }
        Ok(())
    }

    /// Watches a directory that is open.
    fn watch(&self, directory: BorrowedFd<'_>) -> Result<Watched, Reason> {
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        inotify::add_watch(&self.inotify, path, MASK).map(Watched).map_err(no_more)
    }

    /// Watches a directory that was found in another.
    fn watch_in(&mut self, directory: BorrowedFd<'_>, above: Watched, name: &CStr) -> Result<Watched, Reason> {
        if self.nodes.len() >= MOST {
            let message = format!("there are more than {MOST} directories to watch");
            return Err(Reason::Rule { code: ErrorCode::Busy, message });
        }
        let watched = self.watch(directory)?;
        self.nodes.insert(watched, above, name);
        Ok(watched)
    }

    /// The descriptor that becomes readable when there are events.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// How many directories are watched.
    pub fn directories(&self) -> u64 {
        self.nodes.len() as u64 + 1
    }

    /// Whether the place itself is gone: there will be no more events.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether there is something to look into before the next read.
    pub fn has_to_look(&self) -> bool {
        self.look.is_some() || !self.pending.is_empty() || self.overflowed
    }

    /// Whether a thing has left its name, and the next event will tell whether it has another. It comes at once; when it does not,
    /// [`Self::settle`] takes the thing for removed.
    pub fn is_half_renamed(&self) -> bool {
        self.half.is_some()
    }

    /// Looks into new directories for a short while, and reports what is in them.
    ///
    /// # Errors
    /// [`FileError`]: a disk failed, or [`ErrorCode::Busy`] when there are more directories than can be watched.
    pub fn look(&mut self) -> Result<Vec<FileEvent>, FileError> {
        let mut events = Vec::new();
        for _ in 0..STEPS {
            let Some(look) = self.look.take() else {
                if !self.look_further(&mut events).map_err(|reason| self.failed(reason))? {
                    break;
                }
                continue;
            };
            self.look = self.step(look, &mut events).map_err(|reason| self.failed(reason))?;
        }
        Ok(events)
    }

    /// Takes up the next directory to look into; false when there is none.
    fn look_further(&mut self, events: &mut Vec<FileEvent>) -> Result<bool, Reason> {
        let Some((above, name)) = self.pending.pop_front() else {
            if std::mem::take(&mut self.overflowed) {
                events.push(FileEvent::Overflow {});
            }
            return Ok(false);
        };
        let Some(path) = self.nodes.path(self.top, above).map(|path| join(&path, name.to_bytes())) else {
            return Ok(true);
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        // What cannot be opened is gone, or cannot be looked into.
        let Ok(base) = self.place.open() else { return Ok(true) };
        let Ok(directory) = rustix::fs::openat2(base, &path, DIRECTORY, Mode::empty(), resolve) else {
            return Ok(true);
        };
        let watched = self.watch_in(directory.as_fd(), above, &name)?;
        self.look = Some(Look { walk: Walk::new(directory), inside: vec![watched], new: true });
        Ok(true)
    }

    /// Goes on looking; `None` at the end.
    fn step(&mut self, mut look: Look, events: &mut Vec<FileEvent>) -> Result<Option<Look>, Reason> {
        match look.walk.step() {
            Ok(Step::Found(hint)) => self.found(&mut look, hint, events)?,
            Ok(Step::Left | Step::Lost) => look.inside.truncate(look.walk.depth()),
            Ok(Step::Reading) => {}
            Ok(Step::End) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        Ok(Some(look))
    }

    fn found(&mut self, look: &mut Look, hint: FileType, events: &mut Vec<FileEvent>) -> Result<(), Reason> {
        let directory = hint == FileType::Directory || (hint == FileType::Unknown && is_directory(&look.walk));
        let above = *look.inside.last().expect("a walk that goes on is in a directory");
        let name = look.walk.name().to_owned();
        if look.new
            && let Some(path) = self.shown(above, Some(&name))
        {
            events.push(FileEvent::Created { path, directory });
        }
        if directory && self.recursive && look.walk.enter().is_ok() {
            let watched = self.watch_in(look.walk.directory(), above, &name)?;
            look.inside.push(watched);
        }
        Ok(())
    }

    /// The path of something as the client has it; `None` for what is no longer watched, or of no interest.
    fn shown(&self, directory: Watched, name: Option<&CStr>) -> Option<RawString> {
        let name = name.map_or(b"".as_slice(), CStr::to_bytes);
        if self.only.as_ref().is_some_and(|only| name != only.as_slice()) {
            return None;
        }
        Some(self.path_of(directory, name)?.into())
    }

    fn path_of(&self, directory: Watched, name: &[u8]) -> Option<Vec<u8>> {
        Some(join(&self.path, &join(&self.nodes.path(self.top, directory)?, name)))
    }

    fn failed(&self, reason: impl Into<Reason>) -> FileError {
        FileError::new("watch", &self.path, reason).half_done()
    }
}

fn is_directory(walk: &Walk) -> bool {
    let stat = rustix::fs::statat(walk.directory(), walk.name(), AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| kind(&stat) == FileKind::Directory)
}

/// The reason that the system gives no more of what it has few of.
fn no_more(error: Errno) -> Reason {
    let what = match error {
        Errno::NOSPC => "the system watches as many directories as it may (fs.inotify.max_user_watches)",
        Errno::MFILE => "the system has as many watchers as it may (fs.inotify.max_user_instances)",
        other => return other.into(),
    };
    Reason::Rule { code: ErrorCode::Busy, message: what.into() }
}

#[cfg(test)]
mod tests;

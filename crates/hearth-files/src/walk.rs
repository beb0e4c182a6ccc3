//! Walking a tree by descriptors: through no symbolic link, to any depth, in an order that can be taken up again.
//!
//! A [`Walk`] is a stack of directories. It goes forward by [`Walk::step`], and into what it has just found by [`Walk::enter`]: whoever
//! walks decides where. What must stay true, whatever the tree:
//!
//! - At most [`OPEN`] directories are open. One that was closed is found again through `..` of the one left, and proven by its number.
//! - Names are handed out in the order of their bytes, so that a path says how far the walk has come. A directory with more than [`NAMES`]
//!   is read as often as it takes to hand them out in portions; names kept for directories further up are read again when they grow over [`KEPT`].
//! - A step is short, however large the directory.

mod names;

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use names::Names;

/// The most directories of one walk that are open.
const OPEN: usize = 32;
/// The most names of one directory that are kept, nearly.
const NAMES: usize = 64 * 1024;
/// The most bytes of names that are kept, nearly.
const KEPT: usize = 8 * 1024 * 1024;
/// The longest path that is walked to, in bytes.
const LONGEST: usize = 64 * 1024;
/// What is read of a directory in one step, in bytes.
const PIECE: usize = 32 * 1024;

/// How a directory is opened to be read.
pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// What a step has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something in [`Walk::directory`], of this kind where the file system says so.
    Found(FileType),
    /// A directory is being read.
    Reading,
    /// The end of a directory, which [`Walk::name`] and [`Walk::directory`] now name from above.
    Left,
    /// Directories were moved away under the walk. It goes on with what is left above them.
    Lost,
    /// The end.
    End,
}

/// A walk through a directory and what is in it.
#[derive(Debug)]
pub(crate) struct Walk {
    levels: Vec<Level>,
    /// From the first directory to what was found last.
    path: Vec<u8>,
    name: CString,
    /// The uppermost level, but for the first, that is open.
    first_open: usize,
    kept: usize,
    buffer: Vec<MaybeUninit<u8>>,
}

#[derive(Debug)]
struct Level {
    directory: Option<OwnedFd>,
    /// Device and number, for a directory that was closed.
    identity: (u64, u64),
    /// The length of its own path.
    path: usize,
    names: Names,
}

impl Walk {
    /// Begins in a directory that is open for reading.
    pub(crate) fn new(directory: OwnedFd) -> Self {
        let mut walk = Self {
            levels: Vec::new(),
            path: Vec::new(),
            name: CString::default(),
            first_open: 1,
            kept: 0,
            buffer: vec![MaybeUninit::uninit(); PIECE],
        };
        walk.push(directory);
        walk
    }

    /// The directory that holds what was found, or the one that was entered.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        let top = self.levels.last().or(self.levels.first()).and_then(|level| level.directory.as_ref());
        top.expect("the innermost directory of a walk that has not ended is open").as_fd()
    }

    /// The name of what was found.
    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// The path of what was found, from the first directory.
    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// How many directories the walk is in: 1 for what is found in the first.
    pub(crate) fn depth(&self) -> usize {
        self.levels.len()
    }

    /// Goes to the next thing.
    ///
    /// # Errors
    /// A directory cannot be read on. The walk may go on: that directory is then at its end.
    pub(crate) fn step(&mut self) -> Result<Step, Errno> {
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(Step::End) };
            if level.names.is_reading() {
                let read = self.read_names();
                match read {
                    Ok(true) => continue,
                    Ok(false) => return Ok(Step::Reading),
                    // It was removed.
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error),
                }
            }
            if let Some((name, kind)) = level.names.pop() {
                self.path.truncate(level.path);
                if level.path > 0 {
                    self.path.push(b'/');
                }
                self.path.extend_from_slice(name.to_bytes());
                self.name = name;
                return Ok(Step::Found(kind));
            }
            if level.names.has_more() {
                self.kept -= level.names.size();
                level.names.read_again(last_name(&self.path, level.path));
                continue;
            }
            return Ok(self.leave());
        }
    }

    /// Reads a piece of the innermost directory; true when that was the last.
    fn read_names(&mut self) -> Result<bool, Errno> {
        let level = self.levels.last_mut().expect("somebody has looked");
        let directory = level.directory.as_ref().expect("the innermost directory is open");
        let before = level.names.size();
        let whole = read_piece(directory, &mut level.names, &mut self.buffer);
        if whole != Ok(false) {
            level.names.finish(NAMES);
        }
        self.kept = self.kept + level.names.size() - before;
        whole
    }

    /// Goes into what was found, which must be a directory and no link to one.
    ///
    /// # Errors
    /// What the system says; `NAMETOOLONG` for one that is too deep. The walk then goes on beside it.
    pub(crate) fn enter(&mut self) -> Result<(), Errno> {
        if self.path.len() > LONGEST {
            return Err(Errno::NAMETOOLONG);
        }
        let directory = rustix::fs::openat(self.directory(), &self.name, DIRECTORY, Mode::empty())?;
        self.close_one_far_up()?;
        self.forget_names_far_up();
        self.push(directory);
        Ok(())
    }

    /// As [`Self::enter`], but without reading what is in it: [`Self::step_to`] goes to what is known to be there.
    ///
    /// # Errors
    /// As [`Self::enter`].
    pub(crate) fn enter_known(&mut self) -> Result<(), Errno> {
        self.enter()?;
        self.levels.last_mut().expect("it was just entered").names.finish(0);
        Ok(())
    }

    /// Goes to something in a directory that was entered as known.
    pub(crate) fn step_to(&mut self, name: &[u8]) {
        let start = self.levels.last().map_or(0, |level| level.path);
        self.path.truncate(start);
        if start > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        self.name = CString::new(name).expect("a name that was the system's once holds no NUL");
    }

    /// Goes to where an earlier walk was: behind `path`, and into it if it is a directory and not deeper than `depth`. What is gone
    /// meanwhile is passed over.
    pub(crate) fn resume(&mut self, path: &[u8], depth: usize) {
        for name in path.split(|&byte| byte == b'/') {
            let Ok(c_name) = CString::new(name) else { return };
            let level = self.levels.last_mut().expect("a walk begins in a directory");
            level.names.read_again(name);
            if level.path > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            self.name = c_name;
            if self.levels.len() >= depth || self.enter().is_err() {
                return;
            }
        }
    }

    fn push(&mut self, directory: OwnedFd) {
        let level =
            Level { directory: Some(directory), identity: (0, 0), path: self.path.len(), names: Names::default() };
        self.levels.push(level);
    }

    /// Keeps the number of open directories in its bound. The first stays open: from there everything can be found again.
    fn close_one_far_up(&mut self) -> Result<(), Errno> {
        if self.levels.len() - self.first_open + 1 >= OPEN
            && let Some(level) = self.levels.get_mut(self.first_open)
            && let Some(directory) = &level.directory
        {
            level.identity = identity(directory)?;
            level.directory = None;
            self.first_open += 1;
        }
        Ok(())
    }

    fn forget_names_far_up(&mut self) {
        if self.kept <= KEPT {
            return;
        }
        let ends: Vec<usize> = self.levels.iter().skip(1).map(|level| level.path).chain([self.path.len()]).collect();
        for (level, end) in self.levels.iter_mut().zip(ends) {
            if self.kept <= KEPT {
                return;
            }
            if level.names.size() > 0 {
                self.kept -= level.names.size();
                level.names.read_again(last_name(&self.path[..end], level.path));
            }
        }
    }

    fn leave(&mut self) -> Step {
        let Some(left) = self.levels.pop() else { return Step::End };
        self.kept -= left.names.size();
        self.path.truncate(left.path);
        let Some(parent) = self.levels.last_mut() else { return Step::End };
        self.name = CString::new(last_name(&self.path, parent.path)).expect("a name of the system's holds no NUL");
        if parent.directory.is_none() {
            let above = left.directory.as_ref().and_then(|directory| reopen(directory, c"..", parent.identity));
            match above {
                Some(directory) => {
                    parent.directory = Some(directory);
                    self.first_open = self.levels.len() - 1;
                }
                None => return self.find_again(),
            }
        }
        self.first_open = self.first_open.min(self.levels.len()).max(1);
        Step::Left
    }

    /// Goes down from the first directory again, as far as the directories are those that were there.
    fn find_again(&mut self) -> Step {
        let mut found = 0;
        let mut directory: Option<OwnedFd> = None;
        for index in 1..self.levels.len() {
            let (start, end) = (self.levels[index - 1].path, self.levels[index].path);
            let name = CString::new(last_name(&self.path[..end], start)).expect("a name of the system's holds no NUL");
            let above = directory.as_ref().map_or_else(|| self.first(), AsFd::as_fd);
            match reopen(above, &name, self.levels[index].identity) {
                Some(next) => (directory, found) = (Some(next), index),
                None => break,
            }
        }
        let whole = found + 1 == self.levels.len();
        let end = self.levels.get(found + 1).map_or(self.path.len(), |level| level.path);
        self.levels.truncate(found + 1);
        self.kept = self.levels.iter().map(|level| level.names.size()).sum();
        self.path.truncate(end);
        if let Some(directory) = directory {
            self.levels[found].directory = Some(directory);
        }
        self.first_open = found.max(1);
        self.name = CString::new(last_name(&self.path, self.levels[found].path)).unwrap_or_default();
        if whole { Step::Left } else { Step::Lost }
    }

    fn first(&self) -> BorrowedFd<'_> {
        self.levels[0].directory.as_ref().expect("the first directory stays open").as_fd()
    }
}

/// The last name of a path that begins behind its first `start` bytes.
fn last_name(path: &[u8], start: usize) -> &[u8] {
    let name = &path[start.min(path.len())..];
    name.strip_prefix(b"/").unwrap_or(name)
}

/// Opens a directory again, if it is still the same.
fn reopen(from: impl AsFd, name: &CStr, expected: (u64, u64)) -> Option<OwnedFd> {
    let directory = rustix::fs::openat(from, name, DIRECTORY, Mode::empty()).ok()?;
    (identity(&directory) == Ok(expected)).then_some(directory)
}

/// The device and the number of what is open: together nothing else has them while it exists.
pub(crate) fn identity(file: impl AsFd) -> Result<(u64, u64), Errno> {
    rustix::fs::fstat(file).map(|stat| (stat.st_dev, stat.st_ino))
}

/// Takes one piece of a directory in; true at its end.
fn read_piece(directory: &OwnedFd, names: &mut Names, buffer: &mut [MaybeUninit<u8>]) -> Result<bool, Errno> {
    if names.is_to_rewind() {
        rustix::fs::seek(directory, SeekFrom::Start(0))?;
    }
    let mut entries = RawDir::new(directory, buffer);
    loop {
        match entries.next() {
            None => return Ok(true),
            Some(Err(Errno::INTR)) => {}
            Some(Err(error)) => return Err(error),
            Some(Ok(entry)) => names.take_in(entry.file_name(), entry.file_type(), NAMES),
        }
        if entries.is_buffer_empty() {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests;

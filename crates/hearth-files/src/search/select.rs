//! Which files of a tree are searched.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use hearth_protocol::ErrorCode;
use hearth_protocol::files::Search;
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use ignore::overrides::{Override, OverrideBuilder};
use rustix::fs::{FileType, Mode, OFlags};

use crate::entry::join;
use crate::error::{FileError, Reason};
use crate::root::Root;
use crate::walk::DIRECTORY;

/// The files that say what is not of interest; the later has the last word.
const RULES: [&CStr; 2] = [c".gitignore", c".ignore"];
/// The largest of them that is heeded, in bytes.
const LARGEST: u64 = 256 * 1024;
/// The most lines of them that hold at a time: each takes memory once it is compiled.
const LINES: usize = 10_000;

/// The choice of files, and the rules of the directories that a walk is in.
pub(super) struct Selection {
    hidden: bool,
    ignored: bool,
    globs: Override,
    /// The searched directory as a path of the root, with a slash before it.
    base: Vec<u8>,
    /// Of the directories above the searched one, from the uppermost.
    above: Vec<Rules>,
    /// Of the directories that the walk is in.
    levels: Vec<Rules>,
    lines: usize,
}

/// What one directory's files say.
struct Rules {
    rules: Option<Gitignore>,
    lines: usize,
}

impl Selection {
    /// Reads what is asked, and the rules above the directory at `base`.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] for a glob that is none.
    pub(super) fn new(root: &Root, search: &Search, base: &[u8]) -> Result<Self, FileError> {
        let fail = |error: ignore::Error| {
            let reason = Reason::Rule { code: ErrorCode::InvalidField, message: format!("globs: {error}") };
            FileError::new("search", search.path.as_bytes(), reason)
        };
        let base = [b"/", base].concat();
        let mut globs = OverrideBuilder::new(OsStr::from_bytes(&base));
        for glob in &search.globs {
            globs.add(glob).map_err(fail)?;
        }
        let globs = globs.build().map_err(fail)?;
        let (hidden, ignored) = (search.hidden, search.ignored);
        let mut selection = Self { hidden, ignored, globs, base, above: Vec::new(), levels: Vec::new(), lines: 0 };
        selection.read_above(root);
        Ok(selection)
    }

    fn read_above(&mut self, root: &Root) {
        let base = self.base[1..].to_vec();
        // A path that goes back is of directories that are not above.
        if self.ignored || base.is_empty() || base.split(|&byte| byte == b'/').any(|part| part == b"..") {
            return;
        }
        let ends = base.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        for end in std::iter::once(0).chain(ends) {
            let directory = root.open_at("search", &base[..end], DIRECTORY.difference(OFlags::NOFOLLOW));
            if let Ok(directory) = directory {
                let rules = self.read(std::os::fd::AsFd::as_fd(&directory), &[b"/", &base[..end]].concat());
                self.above.push(rules);
            }
        }
    }

    /// Takes in the rules of a directory that the walk has entered.
    pub(super) fn enter(&mut self, directory: BorrowedFd<'_>, path: &[u8]) {
        let rules =
            if self.ignored { Rules { rules: None, lines: 0 } } else { self.read(directory, &self.path_of(path)) };
        self.levels.push(rules);
    }

    /// Forgets the rules of directories that the walk is no longer in.
    pub(super) fn leave(&mut self, depth: usize) {
        for left in self.levels.drain(depth.min(self.levels.len())..) {
            self.lines -= left.lines;
        }
    }

    /// Whether to search a file, or to look into a directory.
    pub(super) fn wants(&self, name: &CStr, path: &[u8], is_directory: bool) -> bool {
        if !self.hidden && name.to_bytes().starts_with(b".") {
            return false;
        }
        let path = self.path_of(path);
        let path = OsStr::from_bytes(&path);
        if self.globs.matched(path, is_directory).is_ignore() {
            return false;
        }
        let rules = self.above.iter().chain(&self.levels).rev().filter_map(|level| level.rules.as_ref());
        for rules in rules {
            match rules.matched(path, is_directory) {
                Match::None => {}
                Match::Ignore(_) => return false,
                Match::Whitelist(_) => return true,
            }
        }
        true
    }

    fn path_of(&self, path: &[u8]) -> Vec<u8> {
        if self.base == b"/" { [b"/", path].concat() } else { join(&self.base, path) }
    }

    fn read(&mut self, directory: BorrowedFd<'_>, path: &[u8]) -> Rules {
        let mut builder = GitignoreBuilder::new(PathBuf::from(OsStr::from_bytes(path)));
        let mut lines = 0;
        for name in RULES {
            for line in read_small(directory, name).unwrap_or_default().lines() {
                if self.lines + lines < LINES && builder.add_line(None, line).is_ok() {
                    lines += 1;
                }
            }
        }
        self.lines += lines;
        // What cannot be compiled says nothing.
        Rules { rules: if lines > 0 { builder.build().ok() } else { None }, lines }
    }
}

/// The text of a file in a directory, if it is a regular one and not too large.
fn read_small(directory: BorrowedFd<'_>, name: &CStr) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let stat = rustix::fs::statat(directory, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_size.unsigned_abs() > LARGEST {
        return None;
    }
    let file: File = rustix::fs::openat(directory, name, flags, Mode::empty()).ok()?.into();
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

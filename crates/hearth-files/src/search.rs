//! Searching the files of a tree for a regular expression.
//!
//! The expressions and the rules of `.gitignore` are those of ripgrep's libraries; walking and reading are ours, by descriptors and within
//! bounds: of matches, of what is sent of a line, of time, and of memory whatever the length of lines.

mod lines;
mod marks;
mod pattern;
mod select;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hearth_protocol::files::{Enough, FileKind, Line, Search};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::content::open_again;
use crate::entry::{join, kind, tidy};
use crate::error::FileError;
use crate::remove::Wanted;
use crate::root::Root;
use crate::walk::{Step, Walk};

use lines::{Bounds, Scanner, Stop};
use select::Selection;

/// What a search has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Searched {
    /// Lines with a match.
    pub matches: u64,
    /// Files that were searched.
    pub files: u64,
    /// Files that were left out for being binary, or could not be read.
    pub skipped: u64,
    /// Bytes that were searched.
    pub bytes: u64,
    /// Why it ended before its end.
    pub enough: Option<Enough>,
}

/// Searches, and hands each line to `found`, whose failure ends it. Files come in the order of their names; nothing but regular files is opened,
/// and no symbolic link followed but one that `search` names itself.
///
/// # Errors
/// [`FileError`]: not there, outside, a pattern or a glob that is none.
pub fn search(
    root: &Root,
    search: &Search,
    found: &mut dyn FnMut(Line) -> io::Result<()>,
    wanted: Wanted<'_>,
) -> Result<Searched, FileError> {
    let path = search.path.as_bytes();
    let fail = |error: Errno| FileError::new("search", path, error);
    let pattern = pattern::compile(search).map_err(|reason| FileError::new("search", path, reason))?;
    let place = root.open_at("search", path, OFlags::PATH)?;
    let base = tidy(root.relative("search", path)?);
    let deadline = Instant::now() + Duration::from_millis(search.timeout_ms.unwrap_or(Search::TIMEOUT_MS));
    let hurry = || !wanted() || Instant::now() >= deadline;
    let mut searcher = Searcher {
        scanner: Scanner::new(pattern, Bounds::of(search)),
        left: search.limit.unwrap_or(Search::MATCHES),
        per_file: search.limit_per_file.unwrap_or(u64::MAX),
        found,
        hurry: &hurry,
        searched: Searched::default(),
        failure: None,
    };
    match kind(&rustix::fs::fstat(&place).map_err(fail)?) {
        FileKind::Directory => {
            let selection = Selection::new(root, search, &base)?;
            let directory = open_again(&place, OFlags::RDONLY | OFlags::DIRECTORY).map_err(fail)?;
            searcher.search_tree(directory.into(), &base, selection);
        }
        FileKind::File => _ = searcher.search_file(&place, &base),
        other => {
            let reason = crate::Reason::WrongKind { found: crate::entry::describe(other), wanted: "a regular file" };
            return Err(FileError::new("search", path, reason));
        }
    }
    match searcher.failure {
        Some(error) => Err(FileError::new("send what was found in", path, error)),
        None => Ok(searcher.searched),
    }
}

struct Searcher<'a> {
    scanner: Scanner,
    left: u64,
    per_file: u64,
    found: &'a mut dyn FnMut(Line) -> io::Result<()>,
    /// Whether there is no more time, or nobody who wants to know.
    hurry: &'a dyn Fn() -> bool,
    searched: Searched,
    failure: Option<io::Error>,
}

impl Searcher<'_> {
    fn search_tree(&mut self, directory: OwnedFd, base: &[u8], mut selection: Selection) {
        let mut walk = Walk::new(directory);
        selection.enter(walk.directory(), b"");
        loop {
            if (self.hurry)() {
                self.searched.enough = Some(Enough::Time);
                return;
            }
            match walk.step() {
                Ok(Step::Found(hint)) => {
                    if self.search_found(&mut walk, hint, base, &mut selection).is_break() {
                        return;
                    }
                }
                Ok(Step::Reading) => {}
                Ok(Step::Left | Step::Lost) => selection.leave(walk.depth()),
                Ok(Step::End) => return,
                // The rest of one directory.
                Err(_) => self.searched.skipped += 1,
            }
        }
    }

    fn search_found(
        &mut self,
        walk: &mut Walk,
        hint: FileType,
        base: &[u8],
        selection: &mut Selection,
    ) -> std::ops::ControlFlow<()> {
        let go_on = std::ops::ControlFlow::Continue(());
        if !matches!(hint, FileType::Directory | FileType::RegularFile | FileType::Unknown) {
            return go_on;
        }
        if hint == FileType::Directory {
            if selection.wants(walk.name(), walk.path(), true) && walk.enter().is_ok() {
                selection.enter(walk.directory(), walk.path());
            }
            return go_on;
        }
        if !selection.wants(walk.name(), walk.path(), false) {
            return go_on;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(place) = rustix::fs::openat(walk.directory(), walk.name(), flags, rustix::fs::Mode::empty()) else {
            return go_on;
        };
        match rustix::fs::fstat(&place).map(|stat| kind(&stat)) {
            Ok(FileKind::File) => self.search_file(&place, &join(base, walk.path())),
            // A file system that does not tell kinds.
            Ok(FileKind::Directory) if hint == FileType::Unknown => {
                if walk.enter().is_ok() {
                    selection.enter(walk.directory(), walk.path());
                }
                go_on
            }
            _ => go_on,
        }
    }

    /// Searches one file; breaks when it was the last.
    fn search_file(&mut self, place: &OwnedFd, path: &[u8]) -> std::ops::ControlFlow<()> {
        let go_on = std::ops::ControlFlow::Continue(());
        let Ok(mut file): Result<File, Errno> = open_again(place, OFlags::RDONLY) else {
            self.searched.skipped += 1;
            return go_on;
        };
        let limit = self.left.min(self.per_file);
        let found = &mut *self.found;
        let mut send = |line: lines::Found<'_>| {
            found(Line {
                path: path.into(),
                line: line.number,
                text: line.text.into(),
                spans: line.spans.to_vec(),
                cut: line.cut,
            })
        };
        let scanned = match marks::pass_mark(&mut file) {
            Ok(Some(mut text)) => self.scanner.scan(&mut text, limit, &mut send, self.hurry),
            // One that cannot be read says so again.
            Ok(None) | Err(_) => self.scanner.scan(&mut file, limit, &mut send, self.hurry),
        };
        self.searched.bytes += scanned.bytes;
        self.searched.matches += scanned.matches;
        self.left -= scanned.matches;
        match scanned.stop {
            Stop::Failed(error) => {
                self.failure = Some(error);
                return std::ops::ControlFlow::Break(());
            }
            Stop::Unreadable | Stop::Binary if scanned.matches == 0 => self.searched.skipped += 1,
            Stop::Hurry => self.searched.enough = Some(Enough::Time),
            _ => self.searched.files += 1,
        }
        if self.left == 0 {
            self.searched.enough = Some(Enough::Matches);
        }
        if self.searched.enough.is_some() { std::ops::ControlFlow::Break(()) } else { go_on }
    }
}

#[cfg(test)]
mod tests;

//! What the types of requests about files do not say.

use super::{Chmod, Create, FileRoot, Mkdir, Remove, Symlink, Watch};
use super::{FileRequest, List, Place, Read, Search, TextEdit, Transfer, Write};
use crate::{ErrorCode, Fault, RawString, limits};

/// Permissions: everything of a mode but the kind.
const PERMISSIONS: u32 = 0o7777;

impl FileRequest {
    /// Checks what types alone do not.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] naming the field and the rule.
    pub fn validate(&self) -> Result<(), Fault> {
        match self {
            Self::List(list) => validate_list(list),
            Self::Write(Write { mode, .. }) | Self::Mkdir(Mkdir { mode, .. }) => permissions("mode", *mode),
            Self::Chmod(Chmod { mode, directory_mode, recursive, .. }) => {
                permissions("mode", Some(*mode))?;
                permissions("directory_mode", *directory_mode)?;
                rule(*recursive || directory_mode.is_none(), || "directory_mode needs recursive".into())
            }
            Self::Symlink(link) => rule(!link.target.as_bytes().is_empty(), || "target must not be empty".into()),
            Self::Search(search) => validate_search(search),
            _ => Ok(()),
        }
    }
}

fn rule(holds: bool, broken: impl FnOnce() -> String) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(Fault::never_started(ErrorCode::InvalidField, broken())) }
}

fn permissions(field: &str, mode: Option<u32>) -> Result<(), Fault> {
    rule(mode.is_none_or(|mode| mode <= PERMISSIONS), || format!("{field} must be 0 to {PERMISSIONS} (octal 7777)"))
}

fn validate_list(list: &List) -> Result<(), Fault> {
    rule(list.depth != Some(0), || "depth must be at least 1".into())?;
    rule(list.recursive || list.depth.is_none(), || "depth needs recursive".into())?;
    rule(list.limit != Some(0), || "limit must be at least 1".into())
}

fn validate_search(search: &Search) -> Result<(), Fault> {
    let within = |field: &str, number: Option<u64>, most: u64| {
        rule(number.is_none_or(|number| (1..=most).contains(&number)), || format!("{field} must be 1 to {most}"))
    };
    rule(!search.pattern.is_empty(), || "pattern must not be empty".into())?;
    within("limit", search.limit, Search::MOST_MATCHES)?;
    within("limit_per_file", search.limit_per_file, Search::MOST_MATCHES)?;
    within("line_bytes", search.line_bytes.map(u64::from), Search::LONGEST_LINE.into())?;
    within("timeout_ms", search.timeout_ms, limits::TIMEOUT_MS)?;
    rule(search.before.max(search.after) <= Search::CONTEXT, || {
        format!("before and after must be at most {}", Search::CONTEXT)
    })?;
    rule(search.globs.len() <= Search::GLOBS, || {
        format!("globs has {} entries, over the limit of {}", search.globs.len(), Search::GLOBS)
    })
}

impl TextEdit {
    /// Replaces `old`, which must be there exactly once.
    pub fn once(old: impl Into<RawString>, new: impl Into<RawString>) -> Self {
        Self { old: old.into(), new: new.into(), count: None, all: false }
    }

    /// Checks what types alone do not.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] naming the field and the rule.
    pub fn validate(&self) -> Result<(), Fault> {
        rule(!self.old.as_bytes().is_empty(), || "old must not be empty".into())?;
        rule(self.count != Some(0), || "count must be at least 1".into())?;
        rule(!self.all || self.count.is_none(), || "count and all exclude each other".into())
    }
}

impl List {
    /// Lists one directory whole.
    pub fn new(place: impl Into<Place>) -> Self {
        let Place { root, path } = place.into();
        Self { root, path, recursive: false, depth: None, limit: None, after: None }
    }
}

impl Read {
    /// Reads a file whole.
    pub fn new(place: impl Into<Place>) -> Self {
        let Place { root, path } = place.into();
        Self { root, path, offset: 0, length: None, at_most: None }
    }
}

impl Write {
    /// Writes a file, new or not.
    pub fn new(place: impl Into<Place>) -> Self {
        let Place { root, path } = place.into();
        Self { root, path, mode: None, create: Create::Any, append: false }
    }
}

impl Mkdir {
    /// Makes one directory, which must be new.
    pub fn new(place: impl Into<Place>) -> Self {
        let Place { root, path } = place.into();
        Self { root, path, parents: false, mode: None }
    }
}

impl Transfer {
    /// From one path of a root to another, where nothing must be.
    pub fn new(place: impl Into<Place>, to: impl Into<RawString>) -> Self {
        let Place { root, path } = place.into();
        Self { root, path, to: to.into(), replace: false }
    }
}

impl Remove {
    /// Removes a file, a link or an empty directory.
    pub fn new(place: impl Into<Place>) -> Self {
        let Place { root, path } = place.into();
        Self { root, path, recursive: false, missing_ok: false }
    }
}

impl Symlink {
    /// Makes a link where nothing is.
    pub fn new(place: impl Into<Place>, target: impl Into<RawString>) -> Self {
        let Place { root, path } = place.into();
        Self { root, path, target: target.into(), replace: false }
    }
}

impl Chmod {
    /// Changes one file's or directory's permissions.
    pub fn new(place: impl Into<Place>, mode: u32) -> Self {
        let Place { root, path } = place.into();
        Self { root, path, mode, recursive: false, directory_mode: None }
    }
}

impl Watch {
    /// Watches one file or directory.
    pub fn new(place: impl Into<Place>) -> Self {
        let Place { root, path } = place.into();
        Self { root, path, recursive: false }
    }
}

impl From<FileRoot> for Place {
    fn from(root: FileRoot) -> Self {
        Self { root, path: RawString::default() }
    }
}

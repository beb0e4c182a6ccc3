//! Requests about files: group `file`.
//!
//! Whatever may be long is a stream: a file's bytes either way, and, as one JSON value a line, entries of a list ([`FileRow`]),
//! matches ([`Line`]) and events ([`FileEvent`]) as `data`, edits ([`TextEdit`]) as `stdin`.

mod result;
mod rules;
mod search;

use serde::{Deserialize, Serialize};

use crate::RawString;

pub use result::{FileEntry, FileEvent, FileKind, FileResult, FileRow};
pub use search::{Case, Enough, Line, Search};

/// Which directory a path is beneath, and cannot leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FileRoot {
    /// The workspace: relative paths, and absolute ones that begin with `/workspace`.
    #[default]
    Workspace,
    /// The default user's home.
    Home,
    /// The whole file system: nothing is outside.
    System,
}

impl FileRoot {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A place in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Beneath which root.
    #[serde(default, skip_serializing_if = "FileRoot::is_default")]
    pub root: FileRoot,
    /// The path: relative to the root, or absolute and inside it.
    pub path: RawString,
}

impl Place {
    /// A path beneath any root.
    pub fn new(root: FileRoot, path: impl Into<RawString>) -> Self {
        Self { root, path: path.into() }
    }
}

impl<T: Into<Vec<u8>>> From<T> for Place {
    fn from(path: T) -> Self {
        Self { root: FileRoot::Workspace, path: path.into().into() }
    }
}

/// What may be asked about files.
///
/// Operations work on what is *named*: a symbolic link at the end of a path is itself moved, copied, removed and described. Reading,
/// writing, editing, listing, searching, watching and changing permissions go through it, as long as it stays in the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum FileRequest {
    /// Describes what is at a path. Result: [`FileResult::Entry`].
    Stat(Place),
    /// Lists a directory, as `data`: a [`FileRow`] a line. Result: [`FileResult::Listed`].
    List(List),
    /// Reads a regular file, as `data`. Result: [`FileResult::Read`].
    Read(Read),
    /// Writes a file from the `stdin` stream, whole or not at all: only the end of the stream commits. Result: [`FileResult::Entry`].
    Write(Write),
    /// Replaces texts in a file, all or none: `stdin` carries a [`TextEdit`] a line, done one after the other. Result: [`FileResult::Edited`].
    Edit(Place),
    /// Makes a directory. Result: [`FileResult::Entry`].
    Mkdir(Mkdir),
    /// Renames; where that cannot be done at once (to another file system, or out of an image's lower layer), copies and removes. Result:
    /// [`FileResult::Entry`].
    Move(Transfer),
    /// Copies, a directory with all that is in it. Result: [`FileResult::Copied`].
    Copy(Transfer),
    /// Removes. Result: [`FileResult::Removed`].
    Remove(Remove),
    /// Makes a symbolic link. Result: [`FileResult::Entry`].
    Symlink(Symlink),
    /// Changes permissions. Result: [`FileResult::Changed`].
    Chmod(Chmod),
    /// Searches files for a regular expression, as `data`: a [`Line`] a line. Result: [`FileResult::Searched`].
    Search(Search),
    /// Reports what changes, as `data`: a [`FileEvent`] a line, [`FileEvent::Started`] first, until it is cancelled or the place itself is
    /// gone. Result: [`FileResult::Done`].
    Watch(Watch),
}

/// A directory to list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Beneath which root.
    #[serde(default, skip_serializing_if = "FileRoot::is_default")]
    pub root: FileRoot,
    /// Which directory.
    pub path: RawString,
    /// Whether to list what is in the directories in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recursive: bool,
    /// How many levels of a recursive list, from 1; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    /// The most entries; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Goes on behind an earlier list: its [`FileResult::Listed::next`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<RawString>,
}

/// A file to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// Beneath which root.
    #[serde(default, skip_serializing_if = "FileRoot::is_default")]
    pub root: FileRoot,
    /// Which file.
    pub path: RawString,
    /// The first byte wanted. Past the end there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: u64,
    /// The most bytes wanted; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Refuses a file that has more bytes to send than this, before any is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<u64>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// Beneath which root.
    #[serde(default, skip_serializing_if = "FileRoot::is_default")]
    pub root: FileRoot,
    /// Which file. Missing directories on the way are made.
    pub path: RawString,
    /// The permissions of a new file; 0644 by default. One that is replaced keeps its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Whether it may, or must, be there.
    #[serde(default, skip_serializing_if = "Create::is_default")]
    pub create: Create,
    /// Adds to what is there instead of replacing it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub append: bool,
}

/// Whether what is written may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Create {
    /// It may.
    #[default]
    Any,
    /// It must not.
    New,
    /// It must.
    Existing,
}

impl Create {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A text to replace in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TextEdit {
    /// The text, exactly, at least a byte.
    pub old: RawString,
    /// What takes its place.
    pub new: RawString,
    /// How often it must be there, without overlaps; once by default. Any other number changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Replaces it wherever it is, at least once, whatever the number.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// A directory to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Mkdir {
    /// Beneath which root.
    #[serde(default, skip_serializing_if = "FileRoot::is_default")]
    pub root: FileRoot,
    /// Which directory.
    pub path: RawString,
    /// Makes the missing ones on the way as well, and takes one that is there already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parents: bool,
    /// Its permissions; 0755 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// Something to move or to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Beneath which root, both.
    #[serde(default, skip_serializing_if = "FileRoot::is_default")]
    pub root: FileRoot,
    /// What.
    pub path: RawString,
    /// Its new path, last name included. Missing directories on the way are made.
    pub to: RawString,
    /// Whether it may take the place of something: a file of a file, a directory of an empty directory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
}

/// Something to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Beneath which root, which itself cannot be removed.
    #[serde(default, skip_serializing_if = "FileRoot::is_default")]
    pub root: FileRoot,
    /// What.
    pub path: RawString,
    /// Removes a directory with all that is in it; else it must be empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recursive: bool,
    /// Takes it for done when there is nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub missing_ok: bool,
}

/// A symbolic link to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Symlink {
    /// Beneath which root.
    #[serde(default, skip_serializing_if = "FileRoot::is_default")]
    pub root: FileRoot,
    /// Where. Missing directories on the way are made.
    pub path: RawString,
    /// What it says: anything, also what leads out of the root. Nothing here then goes through it.
    pub target: RawString,
    /// Whether it may take the place of a file or a link.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
}

/// Permissions to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Chmod {
    /// Beneath which root.
    #[serde(default, skip_serializing_if = "FileRoot::is_default")]
    pub root: FileRoot,
    /// Of what.
    pub path: RawString,
    /// The permissions: the lowest twelve bits of a mode, in decimal as everything in JSON.
    pub mode: u32,
    /// Changes everything in a directory too, and goes through no link there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recursive: bool,
    /// The permissions of directories in a recursive change; `mode` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory_mode: Option<u32>,
}

/// Something to watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// Beneath which root.
    #[serde(default, skip_serializing_if = "FileRoot::is_default")]
    pub root: FileRoot,
    /// Which file or directory.
    pub path: RawString,
    /// Whether to watch the directories in it, those to come included.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recursive: bool,
}

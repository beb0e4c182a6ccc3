//! Requests about files: group `file`.

use serde::{Deserialize, Serialize};

use crate::RawString;

/// Which directory a path is beneath, and cannot leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
pub struct Place {
    /// Beneath which root.
    #[serde(default, skip_serializing_if = "FileRoot::is_default")]
    pub root: FileRoot,
    /// The path: relative to the root, or absolute and inside it.
    pub path: RawString,
}

impl<T: Into<Vec<u8>>> From<T> for Place {
    fn from(path: T) -> Self {
        Self { root: FileRoot::Workspace, path: path.into().into() }
    }
}

/// What may be asked about files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum FileRequest {
    /// Describes what is at a path; a symbolic link itself, not what it points to. Result: [`FileResult::Entry`].
    Stat(Place),
    /// Reads a regular file as the `data` stream. Result: [`FileResult::Read`].
    Read {
        /// Which file.
        #[serde(flatten)]
        place: Place,
        /// The first byte wanted.
        #[serde(default)]
        offset: u64,
        /// The most bytes wanted; all by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        length: Option<u64>,
    },
    /// Writes a file from the `stdin` stream, whole or not at all: only the end of the stream commits. Result: [`FileResult::Entry`].
    Write {
        /// Which file.
        #[serde(flatten)]
        place: Place,
        /// The permissions of a new file; 0644 by default. One that is replaced keeps its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
    },
}

/// What comes of a request about files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileResult {
    /// It is done.
    Done {},
    /// What is there.
    Entry(FileEntry),
    /// The wanted bytes were sent.
    Read {
        /// The size of the whole file when it was opened.
        size: u64,
    },
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Where, relative to the root of the request.
    pub path: RawString,
    /// What.
    pub kind: FileKind,
    /// The length in bytes, holes included; of a link the length of its target.
    pub size: u64,
    /// Permissions, the lowest twelve bits.
    pub mode: u32,
    /// Nanoseconds since 1970 of the last change of its content.
    pub modified_ns: i64,
    /// What a symbolic link says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<RawString>,
}

/// What a directory can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A block or character device.
    Device,
}

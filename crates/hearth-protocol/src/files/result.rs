//! What requests about files are answered with.

use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};

use super::search::Enough;
use crate::{ErrorCode, RawString};

/// What comes of a request about files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileResult {
    /// It is done.
    Done {},
    /// What is there, or is there now.
    Entry(FileEntry),
    /// The entries were sent.
    Listed {
        /// How many.
        entries: u64,
        /// Where to go on, if the limit was reached and there may be more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<RawString>,
    },
    /// The wanted bytes were sent.
    Read {
        /// The size of the whole file when it was opened.
        size: u64,
    },
    /// The texts were replaced.
    Edited {
        /// How many.
        replaced: u64,
        /// The file now.
        entry: FileEntry,
    },
    /// It was copied.
    Copied {
        /// Files, directories and links that were made.
        entries: u64,
        /// Bytes that were copied, holes left out.
        bytes: u64,
        /// Sockets and devices, which were left out.
        skipped: u64,
    },
    /// It is removed.
    Removed {
        /// Files, directories and links that were.
        entries: u64,
    },
    /// Permissions were changed.
    Changed {
        /// Of how many files and directories.
        entries: u64,
    },
    /// The lines were sent.
    Searched {
        /// Lines with a match.
        matches: u64,
        /// Files that were searched.
        files: u64,
        /// Files that were left out for being binary, or could not be read.
        skipped: u64,
        /// Bytes that were searched.
        bytes: u64,
        /// Why the search ended before its end, if it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        enough: Option<Enough>,
    },
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FileEntry {
    /// Where, relative to the root of the request.
    pub path: RawString,
    /// What.
    pub kind: FileKind,
    /// The length in bytes, holes included; of a link the length of its target.
    pub size: u64,
    /// What it takes on the disk, in bytes.
    pub allocated: u64,
    /// Permissions, the lowest twelve bits.
    pub mode: u32,
    /// The number of its owner.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
    /// How many names it has.
    pub links: u64,
    /// Nanoseconds since 1970 of the last change of its content.
    pub modified_ns: i64,
    /// What a symbolic link says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<RawString>,
    /// Why a list does not say what is in this directory although it was to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<ErrorCode>,
}

/// An entry as the record of a list: its fields in their order, without their names, which would be half of it. Read as a [`FileEntry`].
#[derive(Debug, Clone, Copy)]
pub struct FileRow<'a>(pub &'a FileEntry);

impl Serialize for FileRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let FileEntry { path, kind, size, allocated, mode, uid, gid, links, modified_ns, target, unreadable } = self.0;
        let mut row = serializer.serialize_seq(None)?;
        row.serialize_element(path)?;
        row.serialize_element(kind)?;
        row.serialize_element(size)?;
        row.serialize_element(allocated)?;
        row.serialize_element(mode)?;
        row.serialize_element(uid)?;
        row.serialize_element(gid)?;
        row.serialize_element(links)?;
        row.serialize_element(modified_ns)?;
        if target.is_some() || unreadable.is_some() {
            row.serialize_element(target)?;
        }
        if unreadable.is_some() {
            row.serialize_element(unreadable)?;
        }
        row.end()
    }
}

/// What a directory can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// What has happened in a place that is watched. Paths are relative to the root of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum FileEvent {
    /// From here on nothing is missed. The first event.
    Started {
        /// How many directories are watched.
        directories: u64,
    },
    /// Something is new. What was in a new directory before it was watched is reported like this too, and perhaps twice.
    Created {
        /// Where.
        path: RawString,
        /// Whether it is a directory.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        directory: bool,
    },
    /// A file's content has changed, and may go on to do so.
    Modified {
        /// Which.
        path: RawString,
    },
    /// A file that was open for writing was closed.
    Written {
        /// Which.
        path: RawString,
    },
    /// Permissions, owner, times or the number of names have changed.
    Attributes {
        /// Of what.
        path: RawString,
        /// Whether it is a directory.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        directory: bool,
    },
    /// Something is gone, or was moved out of what is watched.
    Removed {
        /// What.
        path: RawString,
        /// Whether it was a directory.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        directory: bool,
    },
    /// Something has another name, and perhaps took another thing's place.
    Renamed {
        /// Its old path.
        from: RawString,
        /// Its path.
        path: RawString,
        /// Whether it is a directory.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        directory: bool,
    },
    /// Events were lost: more happened than was read. What is of interest should be looked at again. Watching goes on.
    Overflow {},
}

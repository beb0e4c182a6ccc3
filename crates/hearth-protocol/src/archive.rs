//! Requests to move directory trees as tar archives: group `archive`.

use serde::{Deserialize, Serialize};

use crate::files::{FileKind, FileRoot};
use crate::{ErrorCode, Fault, RawString};

/// What may be asked about archives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ArchiveRequest {
    /// Unpacks the archive that comes as `stdin`, all of it or nothing. Result: [`ArchiveResult::Imported`].
    Import(Import),
    /// Sends what is at a path as an archive, as `data`. Result: [`ArchiveResult::Exported`].
    Export(Export),
    /// As [`Self::Export`], of a directory only what is named. The names come as `stdin`: paths from that directory, a NUL behind each, at most
    /// [`crate::limits::SELECTION`] bytes. A directory that is named is a member without what is in it; what is not there is counted as skipped.
    ExportOnly(Export),
}

/// An archive to unpack: tar, plain or compressed with gzip, zstd, bzip2 or xz, as its first bytes say.
///
/// Files, directories, symbolic links (whatever they say), hard links and FIFOs keep modes and times; they belong to the workspace's owner.
/// A file or link that is there is replaced; a directory that is there is entered. Whatever leads outside the destination, goes through
/// a symbolic link, or is a device, fails it all with [`ErrorCode::BadArchive`], and so does damage, or a stream that ends too early.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// Beneath which root.
    #[serde(default, skip_serializing_if = "is_default")]
    pub root: FileRoot,
    /// The directory to unpack it in. Made where it is missing, with those above it.
    pub path: RawString,
    /// The most bytes that it may have without compression: a bound on what a small one can become.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
}

/// Something to send as an archive: a directory's children, or one file, link or FIFO under its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Beneath which root.
    #[serde(default, skip_serializing_if = "is_default")]
    pub root: FileRoot,
    /// What. A symbolic link is sent itself.
    pub path: RawString,
    /// How it is compressed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compression: Compression,
}

/// How an archive is compressed, quickly rather than small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// As `gzip` does.
    Gzip,
    /// As `zstd` does.
    Zstd,
}

/// What comes of a request about archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveResult {
    /// It is unpacked.
    Imported(Imported),
    /// It was sent, all of it.
    Exported(Exported),
}

/// An archive that was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Imported {
    /// How many members it has.
    pub members: u64,
    /// How many bytes of data its files have, holes not counted.
    pub bytes: u64,
}

/// An archive that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// Of what: a directory has a member for everything in it; anything else is one member.
    pub kind: FileKind,
    /// How many members it has.
    pub members: u64,
    /// How many bytes of data its files have, holes not counted.
    pub bytes: u64,
    /// How many entries are not in it: sockets, devices, what vanished meanwhile, and what is mounted on a directory.
    #[serde(default)]
    pub skipped: u64,
    /// How many files changed their size while they were read; they are cut, or filled with zeros, to the size that they had before.
    #[serde(default)]
    pub changed: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl ArchiveRequest {
    /// Checks what types alone do not.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] naming the field and the rule.
    pub fn validate(&self) -> Result<(), Fault> {
        match self {
            Self::Import(Import { limit_bytes: Some(0), .. }) => {
                Err(Fault::never_started(ErrorCode::InvalidField, "limit_bytes must not be 0"))
            }
            Self::Import(_) | Self::Export(_) | Self::ExportOnly(_) => Ok(()),
        }
    }
}

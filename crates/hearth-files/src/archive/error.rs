//! Why an archive was not unpacked or made.

use std::io;

use hearth_protocol::{ErrorCode, Fault};

use crate::error::{FileError, Reason};

/// An archive that was not unpacked, or not made. Nothing has changed, unless it is [`ArchiveError::Unsettled`].
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The destination, or what was to be exported, is not fit for it, or the system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A member that may not, or cannot, be unpacked.
    #[error("archive member {}: {rule}", String::from_utf8_lossy(member))]
    Member {
        /// Its path, as the archive has it.
        member: Vec<u8>,
        /// The rule that it breaks.
        rule: Rule,
    },
    /// The archive ends before its end.
    #[error("the archive is cut off: it ends after {position} bytes, {inside}")]
    CutOff {
        /// Where, in bytes of the archive as it is without compression.
        position: u64,
        /// In what.
        inside: &'static str,
    },
    /// These bytes are no archive, or no longer.
    #[error("the archive is damaged at byte {position}: {damage}")]
    Damaged {
        /// Where, in bytes of the archive as it is without compression.
        position: u64,
        /// What is wrong there.
        damage: String,
    },
    /// It is larger than whoever sent it said it may be.
    #[error("the archive is larger than {limit} bytes, which the request allows")]
    TooLarge {
        /// The limit in bytes, of the archive as it is without compression.
        limit: u64,
    },
    /// It has more members than any archive may.
    #[error("the archive has more than {limit} members")]
    TooManyMembers {
        /// The limit.
        limit: u64,
    },
    /// The archive could not be received or sent to its end.
    #[error("the archive's transfer ended early")]
    Transfer(#[source] io::Error),
    /// It failed while what had been unpacked was being put in place, and so did taking that back.
    #[error("{error}; putting back what was there failed too: {undo}")]
    Unsettled {
        /// What failed first.
        error: Box<Self>,
        /// What failed then.
        undo: io::Error,
    },
}

/// What a member of an archive must not be, or ran into.
#[derive(Debug, thiserror::Error)]
pub enum Rule {
    /// It has no name.
    #[error("its path is empty")]
    Empty,
    /// It bears the name of the destination itself, and is no directory.
    #[error("it would take the destination's own place")]
    Destination,
    /// It begins with a slash.
    #[error("its path is absolute")]
    Absolute,
    /// It goes through `..`.
    #[error("its path goes through '..'")]
    Climbs,
    /// Its path, or a link's target, holds a NUL byte.
    #[error("its path or target holds a NUL byte")]
    Nul,
    /// A name in its path has more than 255 bytes, or all of it more than 4095.
    #[error("a name in its path has more than 255 bytes, or the whole path, or its target, more than 4095")]
    TooLong,
    /// A part of its path is a symbolic link, in the archive or in the destination.
    #[error("its path goes through the symbolic link {}", String::from_utf8_lossy(link))]
    ThroughSymlink {
        /// The link.
        link: Vec<u8>,
    },
    /// It is, or needs, a directory where something else is.
    #[error("{} would have to be a directory, and is {found}", String::from_utf8_lossy(path))]
    NoDirectory {
        /// Where.
        path: Vec<u8>,
        /// What is there.
        found: &'static str,
    },
    /// It is none of those that there may be.
    #[error("it was not asked for")]
    Unasked,
    /// It is no directory, where a directory is.
    #[error("it would replace a directory")]
    OverDirectory,
    /// A hard link to something outside the destination.
    #[error("it is a hard link to {}, which is outside the destination", String::from_utf8_lossy(target))]
    LinkOutside {
        /// To what.
        target: Vec<u8>,
    },
    /// A hard link to what is neither before it in the archive nor in the destination, or to a directory.
    #[error(
        "it is a hard link to {}, which is no file before it in the archive or in the destination",
        String::from_utf8_lossy(target)
    )]
    LinkNowhere {
        /// To what.
        target: Vec<u8>,
    },
    /// A symbolic link to nothing at all.
    #[error("it is a symbolic link without a target")]
    NoTarget,
    /// A device, or a kind of member that nobody unpacks.
    #[error("it is {kind}, which is not unpacked")]
    Unsupported {
        /// What it is.
        kind: String,
    },
    /// It would have to move into another file system than the destination's.
    #[error("it lies on another file system than the destination")]
    OtherFileSystem,
    /// The system refused.
    #[error("cannot {operation}: {}", crate::error::plainly(.error))]
    System {
        /// What was tried.
        operation: &'static str,
        /// How it was refused.
        error: io::Error,
    },
}

impl Rule {
    /// Builds a mapper of the system's refusals.
    pub(super) fn system<E: Into<io::Error>>(operation: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::System { operation, error: error.into() }
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::TooLong => ErrorCode::NameTooLong,
            Self::NoDirectory { .. } => ErrorCode::NotADirectory,
            Self::OverDirectory => ErrorCode::IsADirectory,
            Self::System { error, .. } => crate::error::code_of(error),
            Self::OtherFileSystem => ErrorCode::Io,
            _ => ErrorCode::BadArchive,
        }
    }
}

impl ArchiveError {
    /// The code for programs.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::File(error) => error.code(),
            Self::Member { rule, .. } => rule.code(),
            Self::CutOff { .. } | Self::Damaged { .. } => ErrorCode::BadArchive,
            Self::TooLarge { .. } | Self::TooManyMembers { .. } => ErrorCode::TooLarge,
            Self::Transfer(_) => ErrorCode::Cancelled,
            Self::Unsettled { error, .. } => error.code(),
        }
    }

    pub(super) fn member(member: &[u8], rule: Rule) -> Self {
        Self::Member { member: member.to_vec(), rule }
    }

    pub(super) fn system(operation: &'static str, path: &[u8], error: impl Into<Reason>) -> Self {
        Self::File(FileError::new(operation, path, error))
    }
}

impl From<ArchiveError> for Fault {
    fn from(error: ArchiveError) -> Self {
        let (code, message) = (error.code(), error.to_string());
        match error {
            ArchiveError::Unsettled { .. } => Self::failed(code, message),
            _ => Self::never_started(code, message),
        }
    }
}

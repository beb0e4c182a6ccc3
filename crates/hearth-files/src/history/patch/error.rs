//! Why a patch was not applied.

use std::io;

use hearth_protocol::{ErrorCode, Fault};

use crate::error::FileError;
use crate::history::HistoryError;

/// A patch that was not applied. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// It is no patch, or says what cannot be.
    #[error("line {line} of the patch: {reason}")]
    Malformed {
        /// Where.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// It does not fit what is there.
    #[error("{}{}: {reason}", String::from_utf8_lossy(path), Hunk(*hunk))]
    Conflict {
        /// Which file.
        path: Vec<u8>,
        /// Which of its hunks, from 1 on, and the line of the patch where that begins.
        hunk: Option<(usize, u64)>,
        /// Why not.
        reason: String,
    },
    /// A path that leads out, or through a symbolic link.
    #[error("{}: the path {reason}", String::from_utf8_lossy(path))]
    Outside {
        /// The path, as the patch has it.
        path: Vec<u8>,
        /// Why it is refused.
        reason: &'static str,
    },
    /// It, or a file that it is about, is larger than is worked on.
    #[error("{what} has more than {limit} bytes")]
    TooLarge {
        /// What.
        what: String,
        /// The most.
        limit: u64,
    },
    /// It came to an early end.
    #[error("the patch could not be read: {0}")]
    Transfer(io::Error),
    /// What is there could not be looked at, or worked on.
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// The place of a hunk, behind its file.
struct Hunk(Option<(usize, u64)>);

impl std::fmt::Display for Hunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some((number, line)) => write!(f, ": hunk {number} (line {line} of the patch)"),
            None => Ok(()),
        }
    }
}

impl PatchError {
    /// The code for programs.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Malformed { .. } => ErrorCode::BadPatch,
            Self::Conflict { .. } => ErrorCode::PatchConflict,
            Self::Outside { .. } => ErrorCode::OutsideRoot,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::Transfer(_) => ErrorCode::Cancelled,
            Self::History(error) => error.code(),
        }
    }

    pub(super) fn malformed(line: u64, reason: impl Into<String>) -> Self {
        Self::Malformed { line, reason: reason.into() }
    }

    pub(super) fn conflict(path: &[u8], reason: impl Into<String>) -> Self {
        Self::Conflict { path: path.to_vec(), hunk: None, reason: reason.into() }
    }
}

impl From<FileError> for PatchError {
    fn from(error: FileError) -> Self {
        Self::History(error.into())
    }
}

impl From<PatchError> for Fault {
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::History(error) => error.into(),
            error => Self::never_started(error.code(), error.to_string()),
        }
    }
}

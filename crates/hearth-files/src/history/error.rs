//! What goes wrong with the workspace's history, and how the wire says it.

use std::io;

use hearth_protocol::{ErrorCode, Fault};

use crate::error::FileError;

/// Something about the workspace's history that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The workspace, or something in it, did not allow it.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no such checkpoint.
    #[error("there is no checkpoint {name:?}")]
    UnknownCheckpoint {
        /// Its name.
        name: String,
    },
    /// There are as many checkpoints as there may be.
    #[error("there are {limit} checkpoints, which is the most there may be: remove one")]
    TooManyCheckpoints {
        /// The most.
        limit: usize,
    },
    /// The place where history is kept failed.
    #[error("cannot {operation}: {}", crate::error::plainly(.source))]
    Store {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The way to whoever asked broke off.
    #[error("the diff could not be handed over: {0}")]
    Transfer(io::Error),
    /// It was given up.
    #[error("it was given up half-way, and has changed nothing")]
    Cancelled,
    /// It failed, and what it had done until then could not be taken back.
    #[error("{error}; and what was done could not be taken back: {}", crate::error::plainly(.undo))]
    Unsettled {
        /// Why it failed.
        error: Box<FileError>,
        /// Why it could not be taken back.
        undo: io::Error,
    },
}

impl HistoryError {
    /// The code for programs.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::File(error) => error.code(),
            Self::UnknownCheckpoint { .. } => ErrorCode::UnknownName,
            Self::TooManyCheckpoints { .. } => ErrorCode::Busy,
            Self::Store { source, .. } => crate::error::code_of(source),
            Self::Transfer(_) | Self::Cancelled => ErrorCode::Cancelled,
            Self::Unsettled { error, .. } => error.code(),
        }
    }

    /// Builds a mapper for failures of the store's own files.
    pub(super) fn store<E: Into<io::Error>>(operation: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::Store { operation, source: source.into() }
    }
}

impl From<HistoryError> for Fault {
    fn from(error: HistoryError) -> Self {
        let (code, message) = (error.code(), error.to_string());
        match error {
            HistoryError::File(error) => error.into(),
            HistoryError::Unsettled { .. } => Self::failed(code, message),
            _ => Self::never_started(code, message),
        }
    }
}

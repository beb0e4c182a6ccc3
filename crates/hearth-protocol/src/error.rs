//! What goes wrong on the wire, and what the agent answers when a request does.

use serde::{Deserialize, Serialize};

use crate::limits;

/// Names the reason a request failed. Stable: clients match on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line was not a JSON object with an `id` and a `type`.
    MalformedRequest,
    /// The `type` is not one this agent knows.
    UnknownRequest,
    /// A field is missing, of the wrong type, unknown or out of range; the message names it.
    InvalidField,
    /// A line was longer than [`crate::limits::HEADER`].
    HeaderTooLong,
    /// Host and agent share no protocol version.
    UnsupportedVersion,
    /// The request id is still in use by an earlier request of this session.
    DuplicateRequest,
    /// The user to run as is not in the guest's `/etc/passwd`.
    UnknownUser,
    /// The working directory is missing or cannot be entered.
    WorkingDirectory,
    /// There is no such command.
    CommandNotFound,
    /// The command is there but may not be executed.
    CommandNotExecutable,
    /// The guest refused to start a process: out of memory, processes or descriptors.
    SpawnFailed,
    /// No process has this id, or it was forgotten since.
    UnknownProcess,
    /// The process has exited already.
    NotRunning,
    /// The process has no terminal to resize.
    NotATerminal,
    /// The agent is at a limit of its own; try again after something ended.
    Busy,
    /// A path leaves its root, as it is written or through a symbolic link.
    OutsideRoot,
    /// There is nothing at a path.
    NotFound,
    /// Something is at a path, or bears a name, that was to be new.
    AlreadyExists,
    /// A path, or a part of it, is not a directory.
    NotADirectory,
    /// A path is a directory, where that will not do.
    IsADirectory,
    /// A path is no regular file, where nothing else will do.
    NotARegularFile,
    /// A directory is not empty.
    NotEmpty,
    /// A name has more than 255 bytes, or a path more than 4095.
    NameTooLong,
    /// The disk, or a quota, is full.
    NoSpace,
    /// The guest's system does not allow it.
    PermissionDenied,
    /// What was sent is larger than a limit that the message names.
    TooLarge,
    /// What was sent is no archive, is damaged or cut off, or holds a member that may not be unpacked. Nothing was changed.
    BadArchive,
    /// What was sent is no patch.
    BadPatch,
    /// A patch does not fit the files. Nothing was changed.
    PatchConflict,
    /// Nothing bears the name: no shell, service, kernel, checkpoint or secret.
    UnknownName,
    /// What the request needs is not in the guest: an interpreter, a tool, a way out to the network.
    Unavailable,
    /// What was connected to refused, or did not answer in time.
    ConnectionFailed,
    /// The time that the request allowed has passed.
    TimedOut,
    /// It was given up before its end, because the host wanted no more of it, or the session has lost the lane of its streams.
    Cancelled,
    /// The operating system refused; the message says what.
    Io,
    /// The agent broke a rule of its own. A bug: please report it.
    Internal,
    /// A code that this end does not know, from a newer peer.
    #[serde(other)]
    Unknown,
}

/// Tells whether an operation that ended in an error may have had an effect, which decides whether a retry is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing has happened; sending the request again is safe.
    NeverStarted,
    /// The answer was lost: it may have run, in part or whole.
    MayHaveRun,
    /// It ran, and failed.
    Failed,
}

/// The agent's answer to a request that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The reason, for programs.
    pub code: ErrorCode,
    /// The reason, for people: what failed, where, and the rule it broke.
    pub message: String,
    /// Whether a retry is safe.
    pub outcome: Outcome,
}

impl Fault {
    /// Builds the fault of a request that was refused before it changed anything. A message over [`limits::MESSAGE`] is cut.
    pub fn never_started(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: shortened(message.into()), outcome: Outcome::NeverStarted }
    }

    /// Builds the fault of a request that ran and failed. A message over [`limits::MESSAGE`] is cut.
    pub fn failed(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: shortened(message.into()), outcome: Outcome::Failed }
    }
}

/// Cuts a message that repeats too much of what it is about: a fault must fit a line, however JSON escapes it.
fn shortened(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(limits::MESSAGE) {
        message.truncate(end);
        message.push('…');
    }
    message
}

/// Why a lane can no longer be read: the framing is lost, or the peer broke a bound. The connection must be dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No newline within the bound.
    #[error("a line is longer than {limit} bytes")]
    LineTooLong {
        /// The bound in bytes.
        limit: usize,
    },
    /// A chunk header that is not one.
    #[error("a chunk header cannot be read: {reason}")]
    BadChunkHeader {
        /// What the JSON parser said.
        reason: String,
    },
    /// A payload beyond the bound.
    #[error("a payload of {announced} bytes is announced, over the limit of {limit}")]
    PayloadTooLong {
        /// What the header announced.
        announced: u64,
        /// The bound in bytes.
        limit: usize,
    },
}

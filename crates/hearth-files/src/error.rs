//! What goes wrong with a path, and how the wire says it.

use std::io;

use hearth_protocol::{ErrorCode, Fault, Outcome};
use rustix::io::Errno;

/// An operation on a path that did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}: {reason}", String::from_utf8_lossy(path))]
pub struct FileError {
    /// What was tried, in a word or two: `read`, `make a directory at`.
    pub operation: &'static str,
    /// On what, as the client named it.
    pub path: Vec<u8>,
    /// Why not.
    pub reason: Reason,
    /// Whether a retry is safe.
    pub outcome: Outcome,
}

/// Why an operation on a path did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The path, or a symbolic link on its way, leads out of its root.
    #[error("the path leaves {root}, or goes through a symbolic link that does")]
    Outside {
        /// The root's name.
        root: String,
    },
    /// Something of this name is there, and is not what the operation works on.
    #[error("it is {found}, not {wanted}")]
    WrongKind {
        /// What is there.
        found: &'static str,
        /// What would have been needed.
        wanted: &'static str,
    },
    /// A rule of the request's own.
    #[error("{message}")]
    Rule {
        /// The code to answer with.
        code: ErrorCode,
        /// The rule.
        message: String,
    },
    /// The system refused.
    #[error("{}", plainly(.0))]
    System(#[source] io::Error),
}

impl FileError {
    /// Builds the error of an operation that changed nothing.
    pub fn new(operation: &'static str, path: &[u8], reason: impl Into<Reason>) -> Self {
        Self { operation, path: path.to_vec(), reason: reason.into(), outcome: Outcome::NeverStarted }
    }

    /// Says that part of it may have been done.
    pub fn half_done(self) -> Self {
        Self { outcome: Outcome::Failed, ..self }
    }

    /// The code for programs.
    pub fn code(&self) -> ErrorCode {
        match &self.reason {
            Reason::Outside { .. } => ErrorCode::OutsideRoot,
            Reason::WrongKind { found: "a directory", .. } => ErrorCode::IsADirectory,
            Reason::WrongKind { wanted: "a directory", .. } => ErrorCode::NotADirectory,
            Reason::WrongKind { .. } => ErrorCode::NotARegularFile,
            Reason::Rule { code, .. } => *code,
            Reason::System(error) => code_of(error),
        }
    }
}

/// The code for what the system says.
pub(crate) fn code_of(error: &io::Error) -> ErrorCode {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => ErrorCode::NotFound,
        Some(Errno::EXIST) => ErrorCode::AlreadyExists,
        Some(Errno::NOTDIR) => ErrorCode::NotADirectory,
        Some(Errno::ISDIR) => ErrorCode::IsADirectory,
        Some(Errno::NOTEMPTY) => ErrorCode::NotEmpty,
        Some(Errno::NAMETOOLONG) => ErrorCode::NameTooLong,
        Some(Errno::NOSPC | Errno::DQUOT) => ErrorCode::NoSpace,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => ErrorCode::PermissionDenied,
        _ => ErrorCode::Io,
    }
}

/// What the system says, in words.
pub(crate) fn plainly(error: &io::Error) -> String {
    Errno::from_io_error(error).map_or_else(|| error.to_string(), |errno| plain(errno).to_owned())
}

impl From<FileError> for Fault {
    fn from(error: FileError) -> Self {
        let (code, message) = (error.code(), error.to_string());
        match error.outcome {
            Outcome::NeverStarted => Self::never_started(code, message),
            _ => Self::failed(code, message),
        }
    }
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<Errno> for Reason {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// The commonest refusals in words; the others say their number.
fn plain(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT => "there is no such file or directory",
        Errno::EXIST => "something of this name is there already",
        Errno::NOTDIR => "a part of the path is not a directory",
        Errno::ISDIR => "it is a directory",
        Errno::NOTEMPTY => "the directory is not empty",
        Errno::NAMETOOLONG => "a name has more than 255 bytes, or the path more than 4095",
        Errno::NOSPC => "the disk is full",
        Errno::DQUOT => "the quota is used up",
        Errno::ACCESS | Errno::PERM => "permission denied",
        Errno::ROFS => "the file system is read-only",
        Errno::LOOP => "too many symbolic links",
        Errno::MFILE | Errno::NFILE => "too many open files",
        Errno::NOMEM => "out of memory",
        Errno::XDEV => "it is on another file system",
        Errno::BUSY => "it is in use",
        Errno::TXTBSY => "it is being executed",
        Errno::IO => "the disk failed",
        Errno::INVAL => "the system takes it for invalid",
        Errno::CANCELED => "it was cancelled",
        _ => "the system refused",
    }
}

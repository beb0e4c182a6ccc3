//! Why something asked of many sandboxes is refused.

use std::io;
use std::net::SocketAddr;

use hearth_protocol::Fault;

use super::{Labels, Refused, SandboxName};
use crate::EngineError;

/// Why the fleet does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The engine could not do it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A name that cannot be one.
    #[error(
        "the name {name:?}: must be 1 to {} letters, digits, '_', '.' or '-', begin with a letter or digit, and not with \"sb-\"",
        SandboxName::LONGEST
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// Another sandbox has the name.
    #[error("the name {name:?} is that of {holder}")]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        holder: String,
    },
    /// More labels than a sandbox can have.
    #[error("{count} labels: must be at most {}", Labels::MOST)]
    Labels {
        /// How many were given.
        count: usize,
    },
    /// A label that breaks the rules.
    #[error(
        "the label {key:?}: its key must be 1 to 63 letters, digits, '_', '.', '-' or '/', its value at most 255 bytes without control characters"
    )]
    Label {
        /// Its key.
        key: String,
    },
    /// A lifetime that cannot be.
    #[error("a lifetime of {seconds} s: must be 1 to {most}")]
    Lifetime {
        /// What was given, in seconds.
        seconds: u64,
        /// The longest, in seconds.
        most: u64,
    },
    /// A time for programs to end that cannot be.
    #[error("{seconds} s for programs to end: must be at most {most}")]
    Grace {
        /// What was given, in seconds.
        seconds: u64,
        /// The longest, in seconds.
        most: u64,
    },
    /// A time without use that cannot be.
    #[error("idle after {seconds} s: must be 1 to {most}")]
    IdleTime {
        /// What was given, in seconds.
        seconds: u64,
        /// The longest, in seconds.
        most: u64,
    },
    /// One that is booted cannot be paused.
    #[error("a sandbox that is booted, not restored from a template, cannot be paused when it is idle")]
    IdleBoot,
    /// A port of a guest's that cannot be one.
    #[error("{}", source.message)]
    Dial {
        /// What is wrong with it.
        source: Fault,
    },
    /// An address of this host's cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A sandbox has as many ports published as it may have.
    #[error("{limit} ports are published, and may be no more")]
    TooManyPorts {
        /// The limit.
        limit: usize,
    },
    /// No such port of this host's is published.
    #[error("port {port} is not published")]
    UnknownPort {
        /// Which.
        port: u16,
    },
    /// No sandbox is meant.
    #[error("there is no sandbox {reference:?}")]
    Unknown {
        /// What was given.
        reference: String,
    },
    /// More than one sandbox is meant.
    #[error("{reference:?} is the beginning of {count} sandboxes' ids")]
    Ambiguous {
        /// What was given.
        reference: String,
        /// How many.
        count: usize,
    },
    /// The sandbox is in another state than this needs.
    #[error("the sandbox {sandbox} does not allow it")]
    WrongState {
        /// Which.
        sandbox: String,
        /// Its state.
        source: Refused,
    },
    /// It was removed while it was waited for.
    #[error("the sandbox {sandbox} was removed meanwhile")]
    Removed {
        /// Which.
        sandbox: String,
    },
    /// Hearth is ending, and makes nothing new.
    #[error("hearth is ending")]
    Ending,
}

impl FleetError {
    /// What to do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Engine(error) => return error.hint(),
            Self::NameTaken { .. } => "choose another name, or remove that sandbox: hearth rm".to_owned(),
            Self::Unknown { .. } => "hearth ls shows the sandboxes there are".to_owned(),
            Self::Ambiguous { .. } => "give more of the id, or its name".to_owned(),
            Self::WrongState { source, .. } => match source.state {
                super::State::Failed => {
                    "its machine has ended: hearth start boots it again if it has a disk, hearth rm removes it"
                        .to_owned()
                }
                super::State::Stopped => "hearth start boots it again".to_owned(),
                super::State::Paused => "hearth resume, or the next request, lets it go on".to_owned(),
                _ => return None,
            },
            _ => return None,
        })
    }
}

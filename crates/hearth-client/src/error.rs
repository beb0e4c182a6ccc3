//! What goes wrong between a client and the daemon.

use std::io;
use std::path::PathBuf;

use hearth_api::ErrorBody;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error("no daemon listens at {}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be connected to.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket is another user's. Nothing was sent.
    #[error("{} is served by user {found}, not by user {expected}", path.display())]
    WrongPeer {
        /// The socket.
        path: PathBuf,
        /// Who serves it.
        found: u32,
        /// Who should.
        expected: u32,
    },
    /// This names no host.
    #[error("{url:?} names no host: {what}")]
    InvalidHost {
        /// What was to name one.
        url: String,
        /// What is wrong with it.
        what: String,
    },
    /// This can be no key.
    #[error("an API key is letters and digits, and this one has others")]
    InvalidKey,
    /// This can be no certificate's fingerprint.
    #[error("{text:?} is no fingerprint: that is sha256: and 64 hex digits")]
    InvalidFingerprint {
        /// What was to be one.
        text: String,
    },
    /// The authorities' certificates cannot be read.
    #[error("cannot read the authorities' certificates in {}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The host cannot be reached, or does not prove who it is. Nothing was asked of it.
    #[error("cannot connect to {url}")]
    Unreachable {
        /// The host.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// The daemon says no.
    #[error("{}", body.message)]
    Refused {
        /// Why.
        body: Box<ErrorBody>,
    },
    /// The connection broke before the whole answer was there: what was asked may have been done.
    #[error("the connection broke")]
    Lost {
        /// How.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon ended the connection: what was asked may have been done.
    #[error("the daemon hung up")]
    HungUp,
    /// The daemon's answer is none that belongs to the question.
    #[error("the daemon's answer cannot be read: {what}")]
    BadAnswer {
        /// What is wrong with it.
        what: String,
    },
}

impl From<ErrorBody> for ClientError {
    fn from(body: ErrorBody) -> Self {
        Self::Refused { body: Box::new(body) }
    }
}

impl From<hyper::Error> for ClientError {
    fn from(source: hyper::Error) -> Self {
        Self::Lost { source: Box::new(source) }
    }
}

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
    /// The daemon says no.
    #[error("{}", body.message)]
    Refused {
        /// Why.
        body: Box<ErrorBody>,
    },
    /// The connection broke before the whole answer was there: what was asked may have been done.
    #[error("the connection to the daemon broke")]
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

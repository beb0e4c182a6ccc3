//! What goes wrong at the host's end, and whether the operation may have had an effect.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::{CreditError, Fault, FrameError, Lane, Outcome, RequestId, StreamName};

use crate::endpoint::SOCKET_PATH_LIMIT;

/// Why there is no channel. Nothing was asked of the guest.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The path does not fit a socket address.
    #[error(
        "the socket path {path:?} has {length} bytes, over the limit of {SOCKET_PATH_LIMIT}; use a shorter directory"
    )]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// The operating system could not connect, or the peer hung up before the session began.
    #[error("cannot connect to {endpoint}")]
    Dial {
        /// Where.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// There was no connection in time.
    #[error("no connection to {endpoint} within {after:?}")]
    TimedOut {
        /// Where.
        endpoint: String,
        /// The bound.
        after: Duration,
    },
    /// The socket is served by somebody else. No byte was sent.
    #[error("the socket {path:?} is served by user {found_uid}, not by user {expected_uid}")]
    WrongPeer {
        /// The socket.
        path: PathBuf,
        /// Who should serve it.
        expected_uid: u32,
        /// Who does.
        found_uid: u32,
    },
    /// The vsock proxy did not open the port.
    #[error("{endpoint} did not open the port: it answered \"{answer}\"")]
    PortRefused {
        /// Where.
        endpoint: String,
        /// Its answer, escaped.
        answer: String,
    },
    /// The kernel gave no random bytes to name the session by.
    #[error("cannot draw random bytes")]
    Random {
        /// Why.
        source: io::Error,
    },
    /// The connection broke before the agent answered.
    #[error("the connection broke before the agent answered")]
    Greet {
        /// Why.
        source: io::Error,
    },
    /// The peer hung up before the agent answered.
    #[error("the peer hung up before the agent answered")]
    HungUp,
    /// The agent did not answer in time: it is not there, or not yet.
    #[error("the agent did not answer within {after:?}")]
    NoAnswer {
        /// The bound.
        after: Duration,
    },
    /// The agent refused the session, such as for want of a common version.
    #[error("the agent refused the session")]
    Refused {
        /// Its reason.
        source: Fault,
    },
    /// The agent chose a version that was not offered.
    #[error("the agent chose protocol {version}, which was not offered")]
    UnknownVersion {
        /// What it chose.
        version: u32,
    },
    /// The agent answered for the other lane.
    #[error("the agent answered for the {found:?} lane on the {expected:?} lane")]
    WrongLane {
        /// The lane greeted.
        expected: Lane,
        /// The lane answered for.
        found: Lane,
    },
}

/// Why an operation on a channel failed.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// There is no channel.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The agent refused, or the operation failed in the guest.
    #[error("the agent answered with an error")]
    Fault {
        /// Its answer, its message escaped and cut.
        source: Fault,
    },
    /// No answer in time. The channel stays open; an answer that comes later is dropped.
    #[error("no answer within {after:?}")]
    TimedOut {
        /// The bound.
        after: Duration,
        /// Whether the request had been sent.
        outcome: Outcome,
    },
    /// The guest takes nothing in.
    #[error("write queue full, guest agent not draining for {after:?}")]
    QueueFull {
        /// How long was waited for room.
        after: Duration,
    },
    /// The channel ended before the answer.
    #[error("the channel has ended")]
    Ended {
        /// Why it ended.
        source: Arc<Ended>,
        /// Whether the request had been sent.
        outcome: Outcome,
    },
    /// The request does not fit a line.
    #[error("the request is too large")]
    TooLarge {
        /// By how much.
        source: FrameError,
    },
    /// The agent's answer was of a kind that does not belong to the request.
    #[error("the agent answered a {asked} request with {answered}")]
    UnexpectedReply {
        /// What was asked.
        asked: &'static str,
        /// The kind of the answer.
        answered: &'static str,
    },
    /// What was to be sent cannot be read to its end. The operation was given up.
    #[error("what was to be sent cannot be read")]
    Source {
        /// Why.
        source: io::Error,
    },
    /// The process takes no more input: it has ended, or is no longer followed.
    #[error("the process takes no more input")]
    StdinClosed,
}

impl ChannelError {
    /// Tells whether the operation may have had an effect, and so whether doing it again is safe.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Connect(_) | Self::QueueFull { .. } | Self::TooLarge { .. } => Outcome::NeverStarted,
            Self::Fault { source } => source.outcome,
            Self::TimedOut { outcome, .. } | Self::Ended { outcome, .. } => *outcome,
            Self::UnexpectedReply { .. } => Outcome::MayHaveRun,
            Self::StdinClosed | Self::Source { .. } => Outcome::Failed,
        }
    }
}

/// Why a channel is over. Every operation under way gets it, and every later one.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// This end closed it.
    #[error("it was closed")]
    Closed,
    /// The peer hung up.
    #[error("the peer hung up on the {} lane", name(*lane))]
    HungUp {
        /// Where.
        lane: Lane,
    },
    /// Reading failed.
    #[error("the {} lane cannot be read", name(*lane))]
    Read {
        /// Where.
        lane: Lane,
        /// Why.
        source: io::Error,
    },
    /// Writing failed.
    #[error("the {} lane cannot be written", name(*lane))]
    Write {
        /// Where.
        lane: Lane,
        /// Why.
        source: io::Error,
    },
    /// The agent did not greet on the bulk lane.
    #[error("the bulk lane cannot be greeted")]
    Bulk {
        /// Why.
        source: ConnectError,
    },
    /// The agent broke a rule of the protocol.
    #[error("the agent broke the protocol on the {} lane", name(*lane))]
    Violation {
        /// Where.
        lane: Lane,
        /// Which rule.
        source: Violation,
    },
}

fn name(lane: Lane) -> &'static str {
    match lane {
        Lane::Control => "control",
        Lane::Bulk => "bulk",
    }
}

/// A rule that the agent broke. Text from the guest is escaped and cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The framing is lost.
    #[error("the framing is lost")]
    Framing {
        /// How.
        source: FrameError,
    },
    /// A control line that is not a reply.
    #[error("a line is not a reply: {reason}")]
    NotAReply {
        /// What the parser said.
        reason: String,
    },
    /// The agent could not read one of our lines.
    #[error("the agent could not read a request: {message}")]
    Unaddressed {
        /// What it said.
        message: String,
    },
    /// The agent began a session within the session.
    #[error("a second hello")]
    SecondHello,
    /// An answer to a request that was never made.
    #[error("request {} was never made", id.0)]
    NeverAsked {
        /// Which.
        id: RequestId,
    },
    /// A reply or a chunk that its request cannot have, or not now.
    #[error("{what} does not belong to request {}", id.0)]
    OutOfPlace {
        /// Which request.
        id: RequestId,
        /// What came.
        what: &'static str,
    },
    /// The rules of credit.
    #[error("credit for {stream:?} of request {}", id.0)]
    Credit {
        /// Which request.
        id: RequestId,
        /// Which of its streams.
        stream: StreamName,
        /// How.
        source: CreditError,
    },
    /// Output that starts before what came already.
    #[error("{stream:?} of request {} goes back to byte {at}", id.0)]
    Backwards {
        /// Which request.
        id: RequestId,
        /// Which of its streams.
        stream: StreamName,
        /// Where to.
        at: u64,
    },
    /// Too many holes in output that nobody has taken yet.
    #[error("the output of request {} has too many gaps", id.0)]
    Gaps {
        /// Which request.
        id: RequestId,
    },
    /// Far more for forgotten requests than can have been on its way.
    #[error("too much for requests that are over")]
    Late,
}

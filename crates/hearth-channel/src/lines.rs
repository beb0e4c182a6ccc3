//! The client of the *execution channel* dialect: one JSON object a line in both directions, `op_id` echoed in every answer.
//!
//! For callers that talk to a guest (or to the agent's dialect listener) the way the execution channel's host end does: over TCP, over
//! the Unix socket of a virtio-serial port, or over a pair of those, one for commands and one for events. Transport, peer check and
//! writer are the native channel's. What must stay true:
//!
//! - one connection attempt, no hidden retry; a timeout leaves the connection open; the end of the stream, or a line that cannot be
//!   one, drops it, so that the next connect starts clean;
//! - an answer is told from what an earlier session left behind by its `op_id`: every request goes out with one, and messages
//!   that carry no `op_id` of this connection are dropped;
//! - there is no background reader, so a consumer that stops makes the guest wait instead of filling memory. One consumer reads at a
//!   time; commands can be sent meanwhile.

mod link;

use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::{FrameError, Outcome};
use serde_json::Value;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{self, Instant};

use crate::endpoint::Endpoint;
use crate::error::ConnectError;
use link::{Lines, Link};

/// The longest line read, in bytes.
pub const LINE_LIMIT: usize = 16 * 1024 * 1024;
/// The longest line a guest reads, in bytes.
pub const REQUEST_LIMIT: usize = 16_000_000;
/// How long [`LineChannel::stream_events`] is to be given where nothing else is known.
pub const EVENTS_TIMEOUT: Duration = Duration::from_secs(300);

/// Where the guest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineEndpoints {
    /// One stream for both directions.
    One(Endpoint),
    /// A stream for each direction, with flow control of its own.
    Dual {
        /// Host to guest. What the guest says here is discarded.
        command: Endpoint,
        /// Guest to host.
        event: Endpoint,
    },
}

/// The bounds on waiting for the writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineOptions {
    /// For room in a full write queue.
    pub queue_timeout: Duration,
    /// For what is queued to be written when the channel is closed.
    pub close_timeout: Duration,
}

impl Default for LineOptions {
    fn default() -> Self {
        Self { queue_timeout: Duration::from_secs(5), close_timeout: Duration::from_secs(5) }
    }
}

/// Why an operation on a [`LineChannel`] failed. Text from the guest is escaped and cut.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The channel was never connected, was closed, or was dropped after an error.
    #[error("the channel is not connected")]
    NotConnected,
    /// No answer, or no end of the answers, in time. The connection stays open.
    #[error("no answer within {after:?}")]
    TimedOut {
        /// The bound.
        after: Duration,
        /// Whether the request had been queued.
        outcome: Outcome,
    },
    /// The guest takes nothing in.
    #[error("write queue full, guest agent not draining for {after:?}")]
    QueueFull {
        /// How long was waited for room.
        after: Duration,
    },
    /// Writing failed earlier, or the peer closed the command port. The connection is dropped.
    #[error("the writer has stopped: the connection is broken")]
    WriterStopped,
    /// The peer hung up. The connection is dropped.
    #[error("the peer hung up")]
    HungUp,
    /// Reading failed. The connection is dropped.
    #[error("the connection cannot be read")]
    Read {
        /// Why.
        source: std::io::Error,
    },
    /// The guest sent a line over the limit. The connection is dropped.
    #[error("the guest's line is too long")]
    LineTooLong {
        /// By how much.
        source: FrameError,
    },
    /// The guest sent a line that is no message. The connection is dropped.
    #[error("the guest's line is not a message: {reason}")]
    NotAMessage {
        /// Why not.
        reason: String,
    },
    /// The request is not a JSON object.
    #[error("a request must be a JSON object")]
    NotAnObject,
    /// The request is over the limit of the guest.
    #[error("the request has {length} bytes, over the limit of {REQUEST_LIMIT}")]
    RequestTooLong {
        /// Its length.
        length: usize,
    },
}

impl LineError {
    /// Tells whether the request may have had an effect.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::TimedOut { outcome, .. } => *outcome,
            Self::HungUp | Self::Read { .. } | Self::LineTooLong { .. } | Self::NotAMessage { .. } => {
                Outcome::MayHaveRun
            }
            _ => Outcome::NeverStarted,
        }
    }

    fn breaks(&self) -> bool {
        matches!(
            self,
            Self::WriterStopped
                | Self::HungUp
                | Self::Read { .. }
                | Self::LineTooLong { .. }
                | Self::NotAMessage { .. }
        )
    }
}

/// A connection in the execution channel's dialect, to be connected, closed and connected again at will.
///
/// All methods take `&self`: a command can be sent while events are read.
#[derive(Debug)]
pub struct LineChannel {
    endpoints: LineEndpoints,
    options: LineOptions,
    link: Mutex<Option<Arc<Link>>>,
}

/// Closes, connects, and hands the channel on for use: for one-off commands such as health checks, which must see nothing of an earlier
/// session. Not for streams under way: they end.
///
/// # Errors
/// As [`LineChannel::connect`].
pub async fn reconnecting_channel(channel: &LineChannel, timeout: Duration) -> Result<&LineChannel, LineError> {
    channel.close().await;
    channel.connect(timeout).await?;
    Ok(channel)
}

impl LineChannel {
    /// Makes a channel that is not connected.
    pub fn new(endpoints: LineEndpoints, options: LineOptions) -> Self {
        Self { endpoints, options, link: Mutex::default() }
    }

    /// Connects, once, unless it is connected. Two ports are connected in parallel.
    ///
    /// # Errors
    /// [`LineError::Connect`].
    pub async fn connect(&self, timeout: Duration) -> Result<(), LineError> {
        let mut link = self.link.lock().await;
        if link.is_none() {
            *link = Some(Arc::new(self.open(timeout).await?));
        }
        Ok(())
    }

    async fn open(&self, timeout: Duration) -> Result<Link, ConnectError> {
        let patience = self.options.queue_timeout;
        match &self.endpoints {
            LineEndpoints::One(endpoint) => {
                let connection = endpoint.connect(timeout).await?;
                Link::new(connection.read, connection.write, None, patience)
            }
            LineEndpoints::Dual { command, event } => {
                let (command, event) = tokio::try_join!(command.connect(timeout), event.connect(timeout))?;
                let unused = Some((command.read, event.write));
                Link::new(event.read, command.write, unused, patience)
            }
        }
    }

    /// Tells whether there is a connection, as far as is known.
    pub async fn is_connected(&self) -> bool {
        self.link.lock().await.is_some()
    }

    /// Sends a request and waits for its one answer.
    ///
    /// A request without an `op_id` is given one, which its answer echoes.
    ///
    /// # Errors
    /// Any [`LineError`]; after [`LineError::TimedOut`] the connection is still there and a late answer is dropped.
    pub async fn send_request(&self, request: &Value, timeout: Duration) -> Result<Value, LineError> {
        let mut messages = self.stream_messages(request, timeout).await?;
        messages.next().await?.ok_or(LineError::HungUp)
    }

    /// Sends a request without waiting for any answer, which [`Self::stream_events`] then sees. Returns its `op_id`.
    ///
    /// # Errors
    /// Those of sending.
    pub async fn send_command(&self, request: &Value) -> Result<Value, LineError> {
        let link = self.linked().await?;
        self.checked(&link, link.send(request).await).await
    }

    /// Sends a request and hands out its answers until one of type `complete` or `error`, all within `timeout`.
    ///
    /// # Errors
    /// Those of sending; reading fails later, message by message.
    pub async fn stream_messages(&self, request: &Value, timeout: Duration) -> Result<Messages<'_>, LineError> {
        let deadline = Instant::now() + timeout;
        let late = |outcome| LineError::TimedOut { after: timeout, outcome };
        let op_id = time::timeout_at(deadline, self.send_command(request));
        let op_id = op_id.await.unwrap_or_else(|_| Err(late(Outcome::NeverStarted)))?;
        self.messages(Some(op_id), timeout, deadline).await
    }

    /// Hands out what comes for any request of this connection until a message of type `complete` or `error`, all within
    /// `timeout`.
    ///
    /// # Errors
    /// [`LineError::NotConnected`], or [`LineError::TimedOut`] while somebody else reads.
    pub async fn stream_events(&self, timeout: Duration) -> Result<Messages<'_>, LineError> {
        self.messages(None, timeout, Instant::now() + timeout).await
    }

    async fn messages(
        &self,
        op_id: Option<Value>,
        after: Duration,
        deadline: Instant,
    ) -> Result<Messages<'_>, LineError> {
        let link = self.linked().await?;
        match time::timeout_at(deadline, link.lines.clone().lock_owned()).await {
            Ok(lines) => Ok(Messages { channel: self, link, lines, op_id, after, deadline, ended: false }),
            Err(_) => Err(LineError::TimedOut { after, outcome: Outcome::MayHaveRun }),
        }
    }

    async fn linked(&self) -> Result<Arc<Link>, LineError> {
        self.link.lock().await.clone().ok_or(LineError::NotConnected)
    }

    /// Drops the connection if `result` says that it is broken.
    async fn checked<T>(&self, broken: &Arc<Link>, result: Result<T, LineError>) -> Result<T, LineError> {
        if result.as_ref().is_err_and(LineError::breaks) {
            self.link.lock().await.take_if(|link| Arc::ptr_eq(link, broken));
        }
        result
    }

    /// Sends what is queued, for a bounded time, and hangs up.
    pub async fn close(&self) {
        if let Some(link) = self.link.lock().await.take() {
            link.close(self.options.close_timeout).await;
        }
    }
}

/// Answers as they come.
#[derive(Debug)]
pub struct Messages<'a> {
    channel: &'a LineChannel,
    link: Arc<Link>,
    lines: OwnedMutexGuard<Lines>,
    op_id: Option<Value>,
    after: Duration,
    deadline: Instant,
    ended: bool,
}

impl Messages<'_> {
    /// Waits for the next message; `None` behind one of type `complete` or `error`. Cancel-safe.
    ///
    /// # Errors
    /// [`LineError::TimedOut`], after which the connection is still there, or an error that dropped it.
    pub async fn next(&mut self) -> Result<Option<Value>, LineError> {
        if self.ended {
            return Ok(None);
        }
        let wanted = |op_id: &Value| match &self.op_id {
            Some(wanted) => op_id == wanted,
            None => self.link.owns(op_id),
        };
        let message = match time::timeout_at(self.deadline, self.lines.message(wanted)).await {
            Ok(message) => self.channel.checked(&self.link, message).await?,
            Err(_) => return Err(LineError::TimedOut { after: self.after, outcome: Outcome::MayHaveRun }),
        };
        self.ended = matches!(message.get("type").and_then(Value::as_str), Some("complete" | "error"));
        Ok(Some(message))
    }
}

//! QMP, QEMU's control socket: commands with answers, and events.
//!
//! Two tasks own the two directions of the connection, so that an answer is read however slowly QEMU reads. Every
//! wait is bounded, every line is bounded, and whatever the peer sends ends in a typed error at worst: a QEMU that its guest has
//! taken over is the peer.

mod wire;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;

use wire::Incoming;
pub use wire::{MAX_LINE, QmpEvent};

/// How long a command may take unless the caller says otherwise. QEMU answers in under a millisecond; a busy host may
/// keep it waiting for seconds.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a new QEMU may take to say its first word; it loads fifty libraries on a host that may be busy.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);
/// Events kept for a subscriber that is slow; it is told how many it missed.
const EVENT_BACKLOG: usize = 64;
/// Commands that may wait for the socket.
const COMMAND_BACKLOG: usize = 16;

/// A connection to one QEMU's control socket. Clones share it.
#[derive(Clone, Debug)]
pub struct Qmp {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    outgoing: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
    next_id: AtomicU64,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[derive(Debug)]
struct Outgoing {
    line: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

type Answer = Result<Value, Refusal>;

/// A command's error answer.
#[derive(Debug)]
struct Refusal {
    class: String,
    description: String,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    events: broadcast::Sender<QmpEvent>,
}

#[derive(Debug, Default)]
struct Waiting {
    answers: HashMap<u64, oneshot::Sender<Answer>>,
    closed: Option<CloseReason>,
}

impl Shared {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // Nothing that holds the lock can leave the table half-changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, id: u64) -> Result<oneshot::Receiver<Answer>, CloseReason> {
        let mut waiting = self.waiting();
        if let Some(reason) = &waiting.closed {
            return Err(reason.clone());
        }
        let (sender, receiver) = oneshot::channel();
        waiting.answers.insert(id, sender);
        Ok(receiver)
    }

    fn settle(&self, id: u64, answer: Answer) {
        // An answer to a command that was given up, or never sent, has no one to go to.
        if let Some(sender) = self.waiting().answers.remove(&id) {
            drop(sender.send(answer));
        }
    }

    fn close(&self, reason: CloseReason) {
        let mut waiting = self.waiting();
        waiting.closed.get_or_insert(reason);
        waiting.answers.clear();
    }

    fn close_reason(&self) -> CloseReason {
        self.waiting().closed.clone().unwrap_or(CloseReason::EndOfFile)
    }
}

/// Takes a command off the table when its caller gives up.
struct Registration<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.shared.waiting().answers.remove(&self.id);
    }
}

impl Qmp {
    /// Reads the greeting and leaves negotiation mode. The peer must have been checked already.
    ///
    /// # Errors
    /// When the greeting does not come within 30 s or is something else, and when QEMU refuses.
    pub async fn open(stream: UnixStream) -> Result<Self, QmpError> {
        let (read, write) = stream.into_split();
        let mut reader = BufReader::new(read);
        tokio::time::timeout(GREETING_TIMEOUT, greeting(&mut reader)).await.map_err(|_| QmpError::NoGreeting)??;
        let qmp = Self::start(reader, write);
        qmp.execute("qmp_capabilities", None).await?;
        Ok(qmp)
    }

    /// Goes on with a connection of a QEMU that was checkpointed, which was negotiated then.
    pub(crate) fn resume(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        Self::start(BufReader::new(read), write)
    }

    fn start(reader: BufReader<OwnedReadHalf>, writer: OwnedWriteHalf) -> Self {
        let (outgoing, commands) = mpsc::channel(COMMAND_BACKLOG);
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let shared = Arc::new(Shared { waiting: Mutex::default(), events });
        let tasks =
            [tokio::spawn(read_all(reader, shared.clone())), tokio::spawn(write_all(writer, commands, shared.clone()))];
        Self { inner: Arc::new(Inner { outgoing, shared, next_id: AtomicU64::new(1), tasks }) }
    }

    /// Runs a command and returns its answer, waiting for at most [`DEFAULT_TIMEOUT`].
    ///
    /// # Errors
    /// [`QmpError::Refused`] for QEMU's own error, [`QmpError::TimedOut`], after which the command may still run, and
    /// [`QmpError::Closed`] when the connection has ended.
    pub async fn execute(&self, command: &str, arguments: Option<Value>) -> Result<Value, QmpError> {
        self.execute_within(command, arguments, DEFAULT_TIMEOUT).await
    }

    /// Runs a command as [`Qmp::execute`] does, with a limit of the caller's.
    ///
    /// # Errors
    /// Those of [`Qmp::execute`].
    pub async fn execute_within(
        &self,
        command: &str,
        arguments: Option<Value>,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        self.send(command, arguments, None, limit).await
    }

    /// Passes a descriptor to QEMU under a name, for `migrate`, `migrate-incoming` and their kind (`fd:NAME`).
    ///
    /// # Errors
    /// Those of [`Qmp::execute`].
    pub async fn pass_fd(&self, name: &str, descriptor: OwnedFd) -> Result<(), QmpError> {
        self.send("getfd", Some(json!({ "fdname": name })), Some(descriptor), DEFAULT_TIMEOUT).await.map(drop)
    }

    /// Gives QEMU a descriptor in a set of its own and returns the set's number, for paths like `/dev/fdset/3`.
    ///
    /// # Errors
    /// Those of [`Qmp::execute`].
    pub async fn add_fd(&self, descriptor: OwnedFd) -> Result<u64, QmpError> {
        let answer = self.send("add-fd", None, Some(descriptor), DEFAULT_TIMEOUT).await?;
        answer["fdset-id"].as_u64().ok_or_else(|| QmpError::Answer { command: "add-fd".into() })
    }

    /// Subscribes to events from now on. A subscriber that falls 64 behind is told how many it missed.
    pub fn events(&self) -> broadcast::Receiver<QmpEvent> {
        self.inner.shared.events.subscribe()
    }

    async fn send(
        &self,
        command: &str,
        arguments: Option<Value>,
        descriptor: Option<OwnedFd>,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let shared = &*self.inner.shared;
        let closed = |reason| QmpError::Closed { command: command.to_owned(), reason };
        let answer = shared.register(id).map_err(closed)?;
        let _registration = Registration { shared, id };
        let message = Outgoing { line: wire::command_line(id, command, arguments.as_ref()), descriptor };
        let exchange = async {
            self.inner.outgoing.send(message).await.map_err(|_| closed(shared.close_reason()))?;
            answer.await.map_err(|_| closed(shared.close_reason()))
        };
        let answer = tokio::time::timeout(limit, exchange)
            .await
            .map_err(|_| QmpError::TimedOut { command: command.to_owned(), limit })??;
        answer.map_err(|Refusal { class, description }| QmpError::Refused {
            command: command.to_owned(),
            class,
            description,
        })
    }
}

async fn greeting(reader: &mut BufReader<OwnedReadHalf>) -> Result<(), QmpError> {
    let mut line = Vec::new();
    read_line(reader, &mut line).await.map_err(|reason| QmpError::Closed { command: "greeting".into(), reason })?;
    match wire::parse(&line) {
        Ok(Incoming::Greeting) => Ok(()),
        _ => Err(QmpError::BadGreeting),
    }
}

async fn read_all(mut reader: BufReader<OwnedReadHalf>, shared: Arc<Shared>) {
    let mut line = Vec::new();
    let reason = loop {
        line.clear();
        if let Err(reason) = read_line(&mut reader, &mut line).await {
            break reason;
        }
        match wire::parse(&line) {
            Ok(Incoming::Return { id, value }) => shared.settle(id, Ok(value)),
            Ok(Incoming::Failure { id, class, description }) => shared.settle(id, Err(Refusal { class, description })),
            // Without a subscriber an event is not kept.
            Ok(Incoming::Event(event)) => drop(shared.events.send(event)),
            Ok(Incoming::Greeting | Incoming::Other) => {}
            Err(wire::Malformed(excerpt)) => break CloseReason::Malformed { excerpt },
        }
    };
    shared.close(reason);
}

/// Reads one line without its end, and never holds more than [`MAX_LINE`] of it.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> Result<(), CloseReason> {
    loop {
        let chunk = reader.fill_buf().await.map_err(|error| CloseReason::Io { kind: error.kind() })?;
        if chunk.is_empty() {
            return Err(CloseReason::EndOfFile);
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(chunk.len());
        if line.len() + taken > MAX_LINE {
            return Err(CloseReason::LineTooLong);
        }
        line.extend_from_slice(&chunk[..taken]);
        reader.consume(end.map_or(taken, |end| end + 1));
        if end.is_some() {
            return Ok(());
        }
    }
}

async fn write_all(writer: OwnedWriteHalf, mut commands: mpsc::Receiver<Outgoing>, shared: Arc<Shared>) {
    while let Some(Outgoing { line, descriptor }) = commands.recv().await {
        if let Err(error) = write_message(writer.as_ref(), &line, descriptor.as_ref().map(AsFd::as_fd)).await {
            return shared.close(CloseReason::Io { kind: error.kind() });
        }
    }
}

async fn write_message(stream: &UnixStream, line: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut descriptor = descriptor;
    let mut rest = line;
    while !rest.is_empty() {
        let sent = stream.async_io(Interest::WRITABLE, || send_once(stream, rest, descriptor)).await?;
        // It travels with the first byte.
        descriptor = None;
        rest = &rest[sent..];
    }
    Ok(())
}

fn send_once(stream: &UnixStream, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|fd| [fd]);
    if let Some(descriptors) = &descriptors {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(stream, &[io::IoSlice::new(bytes)], &mut control, flags)?)
}

/// Why a connection to QEMU's control socket ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// QEMU closed it, as it does when it exits.
    #[error("QEMU closed the connection")]
    EndOfFile,
    /// A line without end.
    #[error("a line of more than {MAX_LINE} bytes came")]
    LineTooLong,
    /// Something that is no QMP.
    #[error("a line that is not QMP came: {excerpt}")]
    Malformed {
        /// Its beginning, escaped.
        excerpt: String,
    },
    /// The socket failed.
    #[error("the socket failed: {kind}")]
    Io {
        /// How.
        kind: io::ErrorKind,
    },
}

/// A control command that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// No greeting came in time.
    #[error("QEMU did not greet within {} s", GREETING_TIMEOUT.as_secs())]
    NoGreeting,
    /// The peer greeted as something else.
    #[error("the peer does not speak QMP")]
    BadGreeting,
    /// QEMU answered with an error.
    #[error("QEMU refused {command} ({class}): {description}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's class of error.
        class: String,
        /// QEMU's words, escaped and bounded.
        description: String,
    },
    /// No answer came in time; the command may still take effect.
    #[error("QEMU did not answer {command} within {limit:?}")]
    TimedOut {
        /// The command.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// The answer lacks what it should hold.
    #[error("QEMU's answer to {command} makes no sense")]
    Answer {
        /// The command.
        command: String,
    },
    /// The connection ended first.
    #[error("the control connection ended before {command} was answered: {reason}")]
    Closed {
        /// The command.
        command: String,
        /// Why it ended.
        reason: CloseReason,
    },
}

#[cfg(test)]
mod tests;

//! A started or attached process as its user holds it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::{
    ChunkHeader, ExitStatus, Outcome, OutputTotals, ProcessId, PtySize, RequestBody, Signal, SignalScope, StreamName,
    encode_line, limits,
};
use tokio::time;

use crate::channel::done;
use crate::error::ChannelError;
use crate::follower::{Follower, Next, Start, Started};
use crate::inbox::{Last, Taken};
use crate::session::Session;
use crate::writer::Message;

/// What a followed process does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It wrote.
    Output {
        /// Where: [`StreamName::Stdout`] or [`StreamName::Stderr`].
        stream: StreamName,
        /// The position of the first byte in the whole stream. Where it is beyond the end of what came before, the bytes
        /// between were dropped in the guest.
        at: u64,
        /// What, at least one byte.
        bytes: Bytes,
    },
    /// It ended, and all its output that was kept has been handed over. The last event.
    Exit {
        /// How.
        status: ExitStatus,
        /// Where its streams end. Beyond the end of what came: the last bytes were dropped in the guest.
        output: OutputTotals,
    },
}

/// A process that was started through this channel, or attached to.
///
/// All methods take `&self`, so that one task can read while others write, signal and resize. Dropping it detaches: the
/// process goes on, and its output is kept by the agent.
pub struct Process {
    following: Following,
    started: Started,
    takes_input: AtomicBool,
    request_timeout: Duration,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("id", &self.started.process)
            .field("pid", &self.started.pid)
            .finish_non_exhaustive()
    }
}

impl Process {
    pub(crate) fn new(following: Following, started: Started, takes_input: bool, request_timeout: Duration) -> Self {
        Self { following, started, takes_input: takes_input.into(), request_timeout }
    }

    /// The process's name in the agent.
    pub fn id(&self) -> ProcessId {
        self.started.process
    }

    /// The process's number in the guest.
    pub fn pid(&self) -> u32 {
        self.started.pid
    }

    /// Waits for what the process does next; `None` after its exit, after a detach, or at once when it is not followed.
    ///
    /// Taking output is what allows the agent to send more of it. Cancel-safe. Each event is had once, by whoever asks first.
    ///
    /// # Errors
    /// [`ChannelError::Ended`] when the channel ended before the exit, after all that had come; [`ChannelError::Fault`] when the agent
    /// gave up following.
    pub async fn next_event(&self) -> Result<Option<Event>, ChannelError> {
        loop {
            return Ok(match self.following.next().await? {
                Some(Taken::Output { stream, at, bytes }) => Some(Event::Output { stream, at, bytes }),
                Some(Taken::Last(Last::Exit(status), output)) => Some(Event::Exit { status, output }),
                // A process tells the ends of its streams with its exit.
                Some(Taken::End(_)) => continue,
                // The follower lets no operation's end through to a process.
                Some(Taken::Last(Last::Finished(_), _)) | None => None,
            });
        }
    }

    /// Hands out the writer of the process's input, once; `None` later, or when input was not asked for.
    pub fn stdin(&self) -> Option<Stdin> {
        let available = self.takes_input.swap(false, Ordering::AcqRel);
        available.then(|| self.following.stdin())
    }

    /// Sends a signal to the process, to all it has started, or to the job in the foreground of its terminal.
    ///
    /// # Errors
    /// Any [`ChannelError`] of a request.
    pub async fn signal(&self, signal: Signal, scope: SignalScope) -> Result<(), ChannelError> {
        let body = RequestBody::Signal { process: self.id().into(), signal, scope };
        done("signal", self.following.session.ask(body, self.request_timeout).await?)
    }

    /// Changes the size of the process's terminal.
    ///
    /// # Errors
    /// Any [`ChannelError`] of a request.
    pub async fn resize(&self, size: PtySize) -> Result<(), ChannelError> {
        let body = RequestBody::Resize { process: self.id().into(), size };
        done("resize", self.following.session.ask(body, self.request_timeout).await?)
    }

    /// Stops following and waits until the agent has confirmed it. The process goes on. Output not taken is dropped here; the agent
    /// still has it.
    ///
    /// # Errors
    /// [`ChannelError::TimedOut`] or [`ChannelError::Ended`]; the process is no longer followed either way.
    pub async fn detach(self) -> Result<(), ChannelError> {
        let Following { session, follower, .. } = &self.following;
        if follower.is_over() {
            return Ok(());
        }
        self.following.owe_detach();
        let after = self.request_timeout;
        let confirmed = time::timeout(after, self.following.over()).await;
        confirmed.map_err(|_| ChannelError::TimedOut { after, outcome: Outcome::MayHaveRun })?;
        if session.ended().is_some() { Err(session.cut_off(true)) } else { Ok(()) }
    }
}

/// A request whose streams this end follows, started or about to be. Dropping it detaches, without waiting.
pub(crate) struct Following {
    pub(crate) session: Arc<Session>,
    pub(crate) follower: Arc<Follower>,
    /// Whether the agent may know of it.
    pub(crate) asked: bool,
}

impl Following {
    pub(crate) fn new(session: Arc<Session>, follower: Arc<Follower>) -> Self {
        Self { session, follower, asked: false }
    }

    /// Tells whether it failed, without taking anything of what it sent.
    pub(crate) fn outcome(&self) -> Result<(), ChannelError> {
        match self.follower.failure() {
            Some(Next::Fault(source)) => Err(ChannelError::Fault { source }),
            Some(Next::Lost) => Err(self.session.cut_off(self.follower.begun.get())),
            _ => Ok(()),
        }
    }

    /// Waits for the agent's first reply.
    pub(crate) async fn started(&self) -> Result<Started, ChannelError> {
        loop {
            let changed = self.follower.changed.notified();
            match self.follower.start() {
                Start::Started(started) => return Ok(started),
                Start::Fault(source) => return Err(ChannelError::Fault { source }),
                Start::Lost => return Err(self.session.cut_off(self.follower.begun.get())),
                Start::Wait => changed.await,
            }
        }
    }

    /// Waits for what comes next. Cancel-safe.
    pub(crate) async fn next(&self) -> Result<Option<Taken>, ChannelError> {
        loop {
            let changed = self.follower.changed.notified();
            match self.follower.take() {
                Next::Taken(taken, grant) => {
                    if let Some(grant) = grant {
                        self.session.control.owed.credit(self.follower.id, grant.stream, grant.bytes);
                    }
                    return Ok(Some(taken));
                }
                Next::End => return Ok(None),
                Next::Fault(source) => return Err(ChannelError::Fault { source }),
                Next::Lost => return Err(self.session.cut_off(true)),
                Next::Wait => changed.await,
            }
        }
    }

    pub(crate) fn stdin(&self) -> Stdin {
        Stdin {
            session: self.session.clone(),
            follower: self.follower.clone(),
            at: 0,
            largest: limits::CHUNK,
            ends_with_drop: true,
        }
    }

    /// Detaches, behind the input of a process: on the other lane that would be overtaken.
    fn owe_detach(&self) {
        match self.follower.sent_to_process() {
            None => self.session.control.owed.detach(self.follower.id),
            Some(at) => self.session.bulk.owed.detach_behind_input(self.follower.id, at),
        }
    }

    async fn over(&self) {
        loop {
            let changed = self.follower.changed.notified();
            if self.follower.is_over() {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if self.follower.abandon() {
            self.session.forget(self.follower.id);
            if self.asked {
                self.owe_detach();
            }
        }
    }
}

/// The writer of a process's input. Dropping it closes the input.
pub struct Stdin {
    session: Arc<Session>,
    follower: Arc<Follower>,
    at: u64,
    /// The most that is sent in one chunk, in bytes.
    largest: usize,
    ends_with_drop: bool,
}

impl fmt::Debug for Stdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stdin").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Stdin {
    /// Sends all of `data`, waiting for credit as often as needed: as long as the process does not read, this waits.
    ///
    /// Not cancel-safe: a part may have been sent. [`Self::position`] tells how much.
    ///
    /// # Errors
    /// [`ChannelError::StdinClosed`] when the process ended or is no longer followed, [`ChannelError::QueueFull`] when the guest takes
    /// nothing in although it granted credit, [`ChannelError::Ended`].
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), ChannelError> {
        while !data.is_empty() {
            self.credit().await?;
            let permit = self.session.bulk.reserve().await.map_err(|error| self.session.unsent(error))?;
            let wanted = data.len().min(self.largest) as u64;
            let taken = self.follower.take_input_credit(wanted);
            let payload = data.split_to(taken as usize);
            permit.send(self.chunk(payload));
            self.at += taken;
        }
        Ok(())
    }

    /// The number of bytes sent so far.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Ends the input, behind all that was written. Dropping does the same.
    pub fn close(self) {}

    /// Makes it one whose end must be said, by [`Self::end`]: dropping it is no end.
    pub fn without_end(mut self) -> Self {
        self.ends_with_drop = false;
        self
    }

    /// Makes it one of an upload, without an end as well.
    pub(crate) fn for_upload(mut self) -> Self {
        self.largest = limits::UPLOAD_CHUNK;
        self.without_end()
    }

    /// Ends the input of one made by [`Self::without_end`].
    pub fn end(mut self) {
        self.ends_with_drop = true;
    }

    /// Waits until something may be sent.
    pub(crate) async fn credit(&self) -> Result<(), ChannelError> {
        loop {
            let changed = self.follower.changed.notified();
            match self.follower.input_credit() {
                Some(0) => changed.await,
                Some(_) => return Ok(()),
                None if self.session.ended().is_some() => return Err(self.session.cut_off(true)),
                None => return Err(ChannelError::StdinClosed),
            }
        }
    }

    fn chunk(&self, payload: Bytes) -> Message {
        let header = ChunkHeader {
            id: self.follower.id,
            stream: StreamName::Stdin,
            at: self.at,
            end: false,
            detach: false,
            last: None,
            payload: Some(payload.len() as u64),
        };
        let mut line = Vec::new();
        encode_line(&header, &mut line).expect("a chunk header has a few dozen bytes");
        Message::new(line).with_payload(payload)
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        if self.ends_with_drop && self.follower.input_credit().is_some() {
            self.follower.end_input();
            self.session.bulk.owed.end_of_input(self.follower.id, self.at);
        }
    }
}

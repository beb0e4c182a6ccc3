//! The state that the reader, the consumer and the input writer of one followed process, or of one operation, share.
//!
//! ```text
//! Starting ── Started ──> Following ── Exit and all output, Done, an error ──> Over
//!     └───────── an error, or not attached ────────────────────────────────────┘
//! ```
//! The reader moves it along; a lost channel or a dropped [`crate::Process`] ends it from outside.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hearth_protocol::{ChunkHeader, Fault, OutputTotals, ProcessId, ReplyBody, RequestId, SendWindow, StreamName};
use tokio::sync::Notify;

use crate::error::Violation;
use crate::inbox::{Grant, Inbox, Last, Taken};
use crate::writer::Begun;

/// A started process's names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Started {
    pub(crate) process: ProcessId,
    pub(crate) pid: u32,
}

/// Why nothing more will come.
#[derive(Debug, Clone)]
enum Over {
    /// The exit and all output have come, or the agent confirmed the detach.
    Complete,
    /// The agent gave up on it.
    Failed(Fault),
    /// The channel ended.
    Lost,
}

/// What a consumer finds.
#[derive(Debug)]
pub(crate) enum Next {
    Taken(Taken, Option<Grant>),
    End,
    Fault(Fault),
    Lost,
    /// Nothing yet.
    Wait,
}

/// What came of a start.
pub(crate) enum Start {
    Started(Started),
    Fault(Fault),
    Lost,
    Wait,
}

#[derive(Debug)]
struct State {
    inbox: Inbox,
    started: Option<Started>,
    input: SendWindow,
    /// How much input was sent; `None` as long as none was, nor the end of it.
    sent: Option<u64>,
    over: Option<Over>,
    exit_taken: bool,
}

/// What a request with streams is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A process that is only started: its first reply is the last.
    Unattached,
    /// A process whose streams and exit are to come.
    Attached,
    /// An operation: streams, and one reply at the end.
    Operation,
}

#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) id: RequestId,
    pub(crate) begun: Begun,
    kind: Kind,
    state: Mutex<State>,
    /// Wakes whoever waits for any change of the state.
    pub(crate) changed: Notify,
}

impl Follower {
    pub(crate) fn new(id: RequestId, kind: Kind, from: OutputTotals) -> Self {
        let state = State {
            inbox: Inbox::new(id, from),
            started: None,
            // An operation says when it is there to take its input: the lanes may overtake each other.
            input: if kind == Kind::Operation { SendWindow::closed() } else { SendWindow::default() },
            sent: None,
            over: None,
            exit_taken: false,
        };
        Self { id, begun: Begun::default(), kind, state: Mutex::new(state), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a reply; `true` when nothing more is to come.
    pub(crate) fn reply(&self, body: ReplyBody) -> Result<bool, Violation> {
        let mut state = self.lock();
        self.apply(&mut state, body)?;
        Ok(self.settle(state))
    }

    fn apply(&self, state: &mut State, body: ReplyBody) -> Result<(), Violation> {
        let id = self.id;
        let running = state.started.is_some() || self.kind == Kind::Operation;
        match (body, running) {
            (ReplyBody::Error(fault), _) => state.over = Some(Over::Failed(fault)),
            (ReplyBody::Done {}, _) => state.over = Some(Over::Complete),
            (ReplyBody::Started { process, pid }, false) => {
                state.started = Some(Started { process, pid });
                state.over = (self.kind == Kind::Unattached).then_some(Over::Complete);
            }
            (ReplyBody::Exit { status, output }, true) if self.kind == Kind::Attached => {
                state.inbox.last(Last::Exit(status), output)?;
            }
            (ReplyBody::Finished { result, output }, true) if self.kind == Kind::Operation => {
                state.inbox.last(Last::Finished(Box::new(result)), output)?;
            }
            (ReplyBody::Credit { stream: StreamName::Stdin, bytes }, true) => {
                let granted = state.input.grant(bytes);
                granted.map_err(|source| Violation::Credit { id, stream: StreamName::Stdin, source })?;
            }
            (other, _) => return Err(Violation::OutOfPlace { id, what: crate::session::kind(&other) }),
        }
        Ok(())
    }

    /// Takes in a chunk; `true` when nothing more is to come.
    pub(crate) fn chunk(&self, mut header: ChunkHeader, payload: &Bytes) -> Result<bool, Violation> {
        let mut state = self.lock();
        if self.kind == Kind::Unattached || header.detach {
            return Err(Violation::OutOfPlace { id: self.id, what: "a chunk" });
        }
        let last = header.last.take();
        state.inbox.chunk(&header, payload)?;
        match last.map(|last| *last) {
            None => {}
            Some(last @ ReplyBody::Finished { .. }) => self.apply(&mut state, last)?,
            Some(_) => return Err(Violation::OutOfPlace { id: self.id, what: "a reply behind a chunk" }),
        }
        Ok(self.settle(state))
    }

    fn settle(&self, mut state: MutexGuard<'_, State>) -> bool {
        if state.over.is_none() && state.inbox.complete() {
            state.over = Some(Over::Complete);
        }
        let over = state.over.is_some();
        drop(state);
        self.changed.notify_waiters();
        over
    }

    /// Ends it because the channel has ended. What has come can still be taken.
    pub(crate) fn lose(&self) {
        self.lock().over.get_or_insert(Over::Lost);
        self.changed.notify_waiters();
    }

    /// Ends it because nobody wants more; `true` if the agent may still be following.
    pub(crate) fn abandon(&self) -> bool {
        let mut state = self.lock();
        state.inbox.clear();
        // An error may be about something the request did on the way, such as input that was not wanted.
        let failed_later =
            matches!(state.over, Some(Over::Failed(_))) && state.started.is_some() && self.kind == Kind::Attached;
        let was_open = state.over.is_none() || failed_later;
        state.over.get_or_insert(Over::Complete);
        drop(state);
        self.changed.notify_waiters();
        was_open
    }

    pub(crate) fn start(&self) -> Start {
        let state = self.lock();
        match (state.started, &state.over) {
            (Some(started), _) => Start::Started(started),
            (None, Some(Over::Failed(fault))) => Start::Fault(fault.clone()),
            (None, Some(_)) => Start::Lost,
            (None, None) => Start::Wait,
        }
    }

    /// Why it is over, if that is a failure.
    pub(crate) fn failure(&self) -> Option<Next> {
        match &self.lock().over {
            Some(Over::Failed(fault)) => Some(Next::Fault(fault.clone())),
            Some(Over::Lost) => Some(Next::Lost),
            Some(Over::Complete) | None => None,
        }
    }

    /// Takes what is next for the consumer.
    pub(crate) fn take(&self) -> Next {
        let mut state = self.lock();
        if state.exit_taken {
            return Next::End;
        }
        if let Some((taken, grant)) = state.inbox.take() {
            state.exit_taken = matches!(taken, Taken::Last(..));
            return Next::Taken(taken, grant);
        }
        match &state.over {
            None => Next::Wait,
            Some(Over::Complete) => Next::End,
            Some(Over::Failed(fault)) => Next::Fault(fault.clone()),
            Some(Over::Lost) => Next::Lost,
        }
    }

    /// Whether nothing more will come that is worth waiting for.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.lock();
        state.over.is_some() || state.inbox.has_last()
    }

    /// Tells how many bytes of input may be sent; `None` when input is no longer taken.
    pub(crate) fn input_credit(&self) -> Option<u64> {
        let state = self.lock();
        (state.over.is_none() && !state.inbox.has_last()).then(|| state.input.available())
    }

    /// Uses up credit for input.
    pub(crate) fn take_input_credit(&self, wanted: u64) -> u64 {
        let mut state = self.lock();
        let taken = state.input.take(wanted);
        *state.sent.get_or_insert(0) += taken;
        taken
    }

    /// Notes that the end of the input is on its way.
    pub(crate) fn end_input(&self) {
        self.lock().sent.get_or_insert(0);
    }

    /// How much input a process was sent, if it was sent any, or the end of it.
    pub(crate) fn sent_to_process(&self) -> Option<u64> {
        self.lock().sent.filter(|_| self.kind == Kind::Attached)
    }
}

//! Who waits for what: the requests under way, and the end of them all.
//!
//! Callers open slots, the readers fill them. The lock is held for map operations only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::{
    ChunkHeader, Lane, Outcome, OutputTotals, Reply, ReplyBody, Request, RequestBody, RequestId, encode_line, limits,
};
use tokio::sync::{oneshot, watch};
use tokio::time::{self, Instant};

use crate::error::{ChannelError, Ended, Violation};
use crate::follower::{Follower, Kind};
use crate::text::tame;
use crate::writer::{Begun, Message, Queue, SendError};

/// What a forgotten request may still receive: three windows and the chunks that end its streams.
const LATE_CHUNKS: u64 = 3 * limits::WINDOW + 3;
/// The replies a forgotten request may still receive: one, but for a process with input.
const LATE_REPLIES: u64 = 64;

enum Slot {
    Reply(oneshot::Sender<ReplyBody>),
    Process(Arc<Follower>),
}

/// What may still come for requests that are over.
#[derive(Default)]
struct Late {
    chunks: u64,
    replies: u64,
}

struct Slots {
    next: u64,
    open: HashMap<RequestId, Slot>,
    late: Late,
}

impl Slots {
    fn forget(&mut self, id: RequestId) -> Option<Slot> {
        let slot = self.open.remove(&id)?;
        self.late.replies = self.late.replies.saturating_add(LATE_REPLIES);
        if matches!(slot, Slot::Process(_)) {
            self.late.chunks = self.late.chunks.saturating_add(LATE_CHUNKS);
        }
        Some(slot)
    }

    /// Accepts what came for a request that is over, if it can have been on its way.
    fn late(&mut self, id: RequestId, cost: impl Fn(&mut Late) -> Option<()>) -> Result<(), Violation> {
        if id.0 >= self.next {
            return Err(Violation::NeverAsked { id });
        }
        cost(&mut self.late).ok_or(Violation::Late)
    }
}

pub(crate) struct Session {
    pub(crate) control: Queue,
    pub(crate) bulk: Queue,
    slots: Mutex<Slots>,
    ended: watch::Sender<Option<Arc<Ended>>>,
}

impl Session {
    pub(crate) fn new(control: Queue, bulk: Queue) -> Self {
        let slots = Slots { next: 1, open: HashMap::new(), late: Late::default() };
        Self { control, bulk, slots: Mutex::new(slots), ended: watch::Sender::new(None) }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next request, if no request is under way and nothing can come for an earlier one.
    pub(crate) fn quiet(&self) -> Option<u64> {
        let slots = self.lock();
        let is_quiet = slots.open.is_empty() && slots.late.chunks == 0 && slots.late.replies == 0;
        is_quiet.then_some(slots.next)
    }

    /// Ends the session, once: the first reason counts. Everybody who waits is told.
    pub(crate) fn end(&self, reason: Ended) {
        let first = self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert_with(|| Arc::new(reason));
            first
        });
        if first {
            let open = std::mem::take(&mut self.lock().open);
            for slot in open.into_values() {
                if let Slot::Process(follower) = slot {
                    follower.lose();
                }
            }
        }
    }

    pub(crate) fn end_by(&self, lane: Lane, violation: Violation) {
        self.end(Ended::Violation { lane, source: violation });
    }

    /// Why the session is over, if it is.
    pub(crate) fn ended(&self) -> Option<Arc<Ended>> {
        self.ended.borrow().clone()
    }

    /// Waits for the end.
    pub(crate) async fn closed(&self) -> Arc<Ended> {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|ended| ended.clone()) {
            Ok(Some(reason)) => reason,
            _ => Arc::new(Ended::Closed),
        }
    }

    /// The error of an operation that the end of the session cut off.
    pub(crate) fn cut_off(&self, begun: bool) -> ChannelError {
        let outcome = if begun { Outcome::MayHaveRun } else { Outcome::NeverStarted };
        ChannelError::Ended { source: self.ended().unwrap_or_else(|| Arc::new(Ended::Closed)), outcome }
    }

    fn open(&self, slot: impl FnOnce(RequestId) -> Slot) -> Result<RequestId, ChannelError> {
        let mut slots = self.lock();
        // Under the lock: `end` empties the slots after it has set its reason, so none is left behind.
        if self.ended().is_some() {
            return Err(self.cut_off(false));
        }
        let id = RequestId(slots.next);
        slots.next += 1;
        slots.open.insert(id, slot(id));
        Ok(id)
    }

    /// Forgets a request; what still comes for it is dropped.
    pub(crate) fn forget(&self, id: RequestId) {
        self.lock().forget(id);
    }

    /// Asks, and waits for the one reply.
    pub(crate) async fn ask(self: &Arc<Self>, body: RequestBody, timeout: Duration) -> Result<ReplyBody, ChannelError> {
        let (sender, answer) = oneshot::channel();
        let begun = Begun::default();
        let id = self.open(|_| Slot::Reply(sender))?;
        let _forget = Forget { session: self, id };
        let deadline = Instant::now() + timeout;
        self.send_request(Request { id, body }, begun.clone(), deadline, timeout).await?;
        match time::timeout_at(deadline, answer).await {
            Ok(Ok(ReplyBody::Error(source))) => Err(ChannelError::Fault { source }),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(self.cut_off(begun.get())),
            Err(_) => Err(ChannelError::TimedOut { after: timeout, outcome: Outcome::MayHaveRun }),
        }
    }

    /// Opens the slot of a process to follow, or only to start, or of an operation.
    pub(crate) fn follow(&self, kind: Kind, from: OutputTotals) -> Result<Arc<Follower>, ChannelError> {
        let mut opened = None;
        self.open(|id| {
            let follower = Arc::new(Follower::new(id, kind, from));
            opened = Some(follower.clone());
            Slot::Process(follower)
        })?;
        opened.ok_or_else(|| self.cut_off(false))
    }

    /// Queues a request.
    pub(crate) async fn send_request(
        &self,
        request: Request,
        begun: Begun,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<(), ChannelError> {
        let mut line = Vec::new();
        encode_line(&request, &mut line).map_err(|source| ChannelError::TooLarge { source })?;
        match time::timeout_at(deadline, self.control.send(Message::new(line).with_begun(begun))).await {
            Ok(sent) => sent.map_err(|error| self.unsent(error)),
            Err(_) => Err(ChannelError::TimedOut { after: timeout, outcome: Outcome::NeverStarted }),
        }
    }

    /// The error of a message that was not queued.
    pub(crate) fn unsent(&self, error: SendError) -> ChannelError {
        match error {
            SendError::Full { after } => ChannelError::QueueFull { after },
            SendError::Stopped => self.cut_off(false),
        }
    }

    /// Hands a reply to whoever waits for it.
    pub(crate) fn reply(&self, Reply { id, mut body }: Reply) -> Result<(), Violation> {
        if let ReplyBody::Error(fault) = &mut body {
            fault.message = tame(&fault.message);
        }
        let Some(id) = id else { return Err(unaddressed(body)) };
        let mut slots = self.lock();
        match slots.open.get(&id) {
            None => slots.late(id, |late| late.replies.checked_sub(1).map(|left| late.replies = left)),
            Some(Slot::Process(follower)) => {
                let follower = follower.clone();
                drop(slots);
                let over = follower.reply(body)?;
                self.forget_if(over, id);
                Ok(())
            }
            Some(Slot::Reply(_)) => {
                // It is the last reply, so the slot goes without any allowance for late ones.
                if let Some(Slot::Reply(waiter)) = slots.open.remove(&id) {
                    let _ = waiter.send(body);
                }
                Ok(())
            }
        }
    }

    /// Hands a chunk to the process it belongs to.
    pub(crate) fn chunk(&self, header: ChunkHeader, payload: &Bytes) -> Result<(), Violation> {
        let (id, cost) = (header.id, (payload.len() as u64).max(1));
        let mut slots = self.lock();
        match slots.open.get(&id) {
            None => slots.late(id, |late| late.chunks.checked_sub(cost).map(|left| late.chunks = left)),
            Some(Slot::Reply(_)) => Err(Violation::OutOfPlace { id, what: "a chunk" }),
            Some(Slot::Process(follower)) => {
                let follower = follower.clone();
                drop(slots);
                let over = follower.chunk(header, payload)?;
                self.forget_if(over, id);
                Ok(())
            }
        }
    }

    fn forget_if(&self, over: bool, id: RequestId) {
        if over {
            self.forget(id);
        }
    }
}

/// Forgets a request when its caller stops waiting, for whatever reason.
struct Forget<'a> {
    session: &'a Session,
    id: RequestId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.session.forget(self.id);
    }
}

fn unaddressed(body: ReplyBody) -> Violation {
    let message = if let ReplyBody::Error(fault) = body { fault.message } else { kind(&body).to_owned() };
    Violation::Unaddressed { message }
}

/// The name of a reply's kind.
pub(crate) fn kind(body: &ReplyBody) -> &'static str {
    match body {
        ReplyBody::Pong {} => "pong",
        ReplyBody::Info(_) => "info",
        ReplyBody::Done {} => "done",
        ReplyBody::Started { .. } => "started",
        ReplyBody::Exit { .. } => "exit",
        ReplyBody::Processes { .. } => "processes",
        ReplyBody::Credit { .. } => "credit",
        ReplyBody::Finished { .. } => "finished",
        ReplyBody::Error(_) => "error",
    }
}

//! What must be sent although nobody waits for it: credit for output that was taken, detaches and ends of input of what was
//! dropped.
//!
//! It cannot go through the bounded queue, because taking output and `Drop` must not wait. It needs no bound of its own: there is
//! at most one entry a kind and stream, and credit adds up in it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hearth_protocol::{ChunkHeader, Request, RequestBody, RequestId, StreamName, encode_line};
use tokio::sync::Notify;

use crate::writer::Message;

/// Kinds of debt, in the order in which those of one request are paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Debt {
    Credit(StreamName),
    EndOfInput,
    /// By the lane of the input, behind it.
    DetachBehindInput,
    Detach,
}

/// The debts of one lane; its writer pays them after all that was queued before.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    debts: Mutex<BTreeMap<(RequestId, Debt), u64>>,
    pub(crate) incurred: Notify,
}

impl Owed {
    /// Allows `bytes` more of an output stream.
    pub(crate) fn credit(&self, id: RequestId, stream: StreamName, bytes: u64) {
        *self.lock().entry((id, Debt::Credit(stream))).or_default() += bytes;
        self.incurred.notify_one();
    }

    /// Stops following, behind byte `at` of a process's input and the end of it.
    pub(crate) fn detach_behind_input(&self, id: RequestId, at: u64) {
        self.lock().insert((id, Debt::DetachBehindInput), at);
        self.incurred.notify_one();
    }

    /// Stops following.
    pub(crate) fn detach(&self, id: RequestId) {
        let mut debts = self.lock();
        debts.retain(|(other, _), _| *other != id);
        debts.insert((id, Debt::Detach), 0);
        drop(debts);
        self.incurred.notify_one();
    }

    /// Ends a process's input behind its byte `at`.
    pub(crate) fn end_of_input(&self, id: RequestId, at: u64) {
        self.lock().insert((id, Debt::EndOfInput), at);
        self.incurred.notify_one();
    }

    /// Takes all debts, as the messages that pay them.
    pub(crate) fn take(&self) -> Vec<Message> {
        std::mem::take(&mut *self.lock()).into_iter().map(|((id, debt), amount)| payment(id, debt, amount)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(RequestId, Debt), u64>> {
        self.debts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn payment(id: RequestId, debt: Debt, amount: u64) -> Message {
    let mut line = Vec::new();
    match debt {
        Debt::Credit(stream) => {
            encode_line(&Request { id, body: RequestBody::Credit { stream, bytes: amount } }, &mut line)
        }
        Debt::Detach => encode_line(&Request { id, body: RequestBody::Detach {} }, &mut line),
        Debt::EndOfInput => encode_line(&ChunkHeader { end: true, ..input(id, amount) }, &mut line),
        Debt::DetachBehindInput => encode_line(&ChunkHeader { detach: true, ..input(id, amount) }, &mut line),
    }
    .expect("these lines have a few dozen bytes");
    Message::new(line)
}

/// A chunk without bytes.
fn input(id: RequestId, at: u64) -> ChunkHeader {
    ChunkHeader { id, stream: StreamName::Stdin, at, end: false, detach: false, last: None, payload: None }
}

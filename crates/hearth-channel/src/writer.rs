//! One lane's writer: a bounded queue, and the task that drains it.
//!
//! Callers fail fast when the guest stops draining; the reader is never involved. The task alone touches the write half.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc};
use tokio::time;

use crate::connection::WriteHalf;
use crate::owed::Owed;

/// The messages that may wait for one lane.
pub(crate) const QUEUE: usize = 100;
/// The buffers given to one write call.
const SLICES: usize = 16;

/// Tells whether the first byte of a message may have left.
#[derive(Debug, Clone, Default)]
pub(crate) struct Begun(Arc<AtomicBool>);

impl Begun {
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What is written in one piece.
#[derive(Debug)]
pub(crate) struct Message {
    head: Bytes,
    payload: Bytes,
    begun: Begun,
}

impl Message {
    pub(crate) fn new(head: impl Into<Bytes>) -> Self {
        Self { head: head.into(), payload: Bytes::new(), begun: Begun::default() }
    }

    pub(crate) fn with_payload(self, payload: Bytes) -> Self {
        Self { payload, ..self }
    }

    pub(crate) fn with_begun(self, begun: Begun) -> Self {
        Self { begun, ..self }
    }

    fn remaining(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    fn advance(&mut self, bytes: usize) {
        let of_head = bytes.min(self.head.len());
        self.head.advance(of_head);
        self.payload.advance(bytes - of_head);
    }
}

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendError {
    /// There was no room in time.
    Full { after: Duration },
    /// The writer is gone.
    Stopped,
}

/// The callers' end of a lane's writer.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    sender: mpsc::Sender<Message>,
    closing: Arc<Notify>,
    pub(crate) owed: Arc<Owed>,
    patience: Duration,
}

impl Queue {
    /// Waits for room, at most as long as the queue's patience.
    pub(crate) async fn reserve(&self) -> Result<mpsc::Permit<'_, Message>, SendError> {
        match time::timeout(self.patience, self.sender.reserve()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(SendError::Stopped),
            Err(_) => Err(SendError::Full { after: self.patience }),
        }
    }

    pub(crate) async fn send(&self, message: Message) -> Result<(), SendError> {
        self.reserve().await.map(|permit| permit.send(message))
    }

    /// Refuses further messages; the writer stops once it has written those it has.
    pub(crate) fn close(&self) {
        self.closing.notify_one();
    }
}

/// The task's end.
pub(crate) struct Writer {
    io: WriteHalf,
    receiver: mpsc::Receiver<Message>,
    closing: Arc<Notify>,
    owed: Arc<Owed>,
    pending: VecDeque<Message>,
}

/// Makes a lane's queue, whose senders wait at most `patience` for room, and its writer, which is to be run in a task.
pub(crate) fn writer(io: WriteHalf, patience: Duration) -> (Queue, Writer) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (closing, owed) = (Arc::new(Notify::new()), Arc::new(Owed::default()));
    let queue = Queue { sender, closing: closing.clone(), owed: owed.clone(), patience };
    (queue, Writer { io, receiver, closing, owed, pending: VecDeque::new() })
}

impl Writer {
    /// Writes until the queue is closed and empty, or until writing fails. The stream stays open until the writer is dropped.
    pub(crate) async fn run(&mut self) -> io::Result<()> {
        loop {
            let more = self.wait().await;
            self.gather();
            while !self.pending.is_empty() {
                self.write_some().await?;
            }
            if !more {
                return self.io.flush().await;
            }
        }
    }

    /// Waits for something to write; `false` once there will be nothing any more.
    async fn wait(&mut self) -> bool {
        loop {
            tokio::select! {
                biased;
                message = self.receiver.recv() => {
                    self.pending.extend(message);
                    return !self.pending.is_empty();
                }
                () = self.owed.incurred.notified() => return true,
                () = self.closing.notified() => self.receiver.close(),
            }
        }
    }

    /// Takes all there is. Debts are taken before the queue is emptied but come after it: a debt may be about a queued message.
    fn gather(&mut self) {
        let debts = self.owed.take();
        for _ in 0..self.receiver.len() {
            self.pending.extend(self.receiver.try_recv().ok());
        }
        self.pending.extend(debts);
    }

    async fn write_some(&mut self) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut used = 0;
        for message in self.pending.iter().take(SLICES / 2) {
            message.begun.set();
            for part in [&message.head, &message.payload] {
                slices[used] = IoSlice::new(part);
                used += 1;
            }
        }
        let written = self.io.write_vectored(&slices[..used]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.drop_written(written);
        Ok(())
    }

    fn drop_written(&mut self, mut written: usize) {
        while let Some(front) = self.pending.front_mut() {
            let step = written.min(front.remaining());
            front.advance(step);
            written -= step;
            if front.remaining() > 0 {
                return;
            }
            self.pending.pop_front();
        }
    }
}

//! A follower: sends a process's output to one request, as far as credit allows, and then its end.

use std::cell::RefCell;
use std::rc::Rc;

use hearth_protocol::{ChunkHeader, Delivery, ReplyBody, RequestId, SendWindow, StreamName, encode_line};
use tokio::sync::{Notify, mpsc};

use super::{Outgoing, send_reply};
use crate::process::{Cursor, OUTPUT_PIECE, Process};

/// What the host allows a request's two output streams.
#[derive(Default)]
pub(crate) struct Credits {
    stdout: Credit,
    stderr: Credit,
    data: Credit,
}

#[derive(Default)]
pub(super) struct Credit {
    window: RefCell<SendWindow>,
    granted: Notify,
}

impl Credits {
    /// Adds to a stream's credit.
    pub(crate) fn grant(&self, stream: StreamName, bytes: u64) -> Result<(), String> {
        let credit = self.of(stream).ok_or("stdin goes to the guest: its credit is the agent's to give")?;
        credit.window.borrow_mut().grant(bytes).map_err(|error| error.to_string())?;
        credit.granted.notify_waiters();
        Ok(())
    }

    /// The credit of a stream that goes to the host.
    pub(super) fn of(&self, stream: StreamName) -> Option<&Credit> {
        match stream {
            StreamName::Stdin => None,
            StreamName::Stdout => Some(&self.stdout),
            StreamName::Stderr => Some(&self.stderr),
            StreamName::Data => Some(&self.data),
        }
    }
}

impl Credit {
    /// Takes up to `wanted` bytes, at least one, waiting for a grant where there is none.
    pub(super) async fn take(&self, wanted: u64) -> u64 {
        loop {
            let granted = self.granted.notified();
            let taken = self.window.borrow_mut().take(wanted);
            if taken > 0 {
                return taken;
            }
            granted.await;
        }
    }
}

/// Places in both output streams of a process, and the credit to read on.
pub(crate) struct Follower {
    stdout: Cursor,
    stderr: Cursor,
    credits: Rc<Credits>,
}

impl Follower {
    /// Stands a follower at the two positions. From here on a lossless one holds the process back.
    pub(crate) fn new(process: &Process, from: (u64, u64), delivery: Delivery) -> Self {
        let lossless = delivery == Delivery::Lossless;
        Self {
            stdout: process.stdout.cursor(from.0, lossless),
            stderr: process.stderr.cursor(from.1, lossless),
            credits: Rc::default(),
        }
    }

    /// What the host's grants go to.
    pub(crate) fn credits(&self) -> Rc<Credits> {
        Rc::clone(&self.credits)
    }

    /// Sends both streams and the end of the process, each as soon as it is known, until all are sent.
    pub(crate) async fn run(
        self,
        id: RequestId,
        process: &Process,
        control: &mpsc::Sender<Outgoing>,
        bulk: &mpsc::Sender<Outgoing>,
    ) {
        let end = async {
            let (status, output) = process.wait().await;
            send_reply(control, Some(id), ReplyBody::Exit { status, output }).await;
        };
        tokio::join!(
            send_stream(id, StreamName::Stdout, &self.stdout, &self.credits.stdout, bulk),
            send_stream(id, StreamName::Stderr, &self.stderr, &self.credits.stderr, bulk),
            end,
        );
    }
}

async fn send_stream(
    id: RequestId,
    stream: StreamName,
    cursor: &Cursor,
    credit: &Credit,
    bulk: &mpsc::Sender<Outgoing>,
) {
    loop {
        let (changed, granted) = (cursor.output().changed.notified(), credit.granted.notified());
        // Behind the end may be what children still write.
        let end = cursor.output().end().unwrap_or(u64::MAX);
        if cursor.position() >= end {
            return;
        }
        let allowed = credit.window.borrow().available().min(OUTPUT_PIECE as u64) as usize;
        let until_end =
            |at: u64, bytes: &[u8]| bytes.len().min(usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX));
        let encode = |at, bytes: &[u8]| encode(id, stream, at, &bytes[..until_end(at, bytes)]);
        let chunk = if allowed == 0 { None } else { cursor.read(allowed, encode) };
        match chunk {
            // All up to the end is gone.
            Some((_, 0)) => return,
            Some((chunk, length)) => {
                credit.window.borrow_mut().take(length);
                if bulk.send(Outgoing::Bytes(chunk)).await.is_err() {
                    return;
                }
            }
            None => {
                tokio::select! { () = changed => {}, () = granted => {} }
            }
        }
    }
}

pub(super) fn encode(id: RequestId, stream: StreamName, at: u64, bytes: &[u8]) -> (Vec<u8>, u64) {
    let length = bytes.len() as u64;
    let mut chunk = Vec::with_capacity(128 + bytes.len());
    encode_line(&header(id, stream, at, length), &mut chunk).expect("a chunk header is short");
    chunk.extend_from_slice(bytes);
    (chunk, length)
}

/// The line before a payload of `length` bytes.
pub(super) fn header(id: RequestId, stream: StreamName, at: u64, length: u64) -> ChunkHeader {
    ChunkHeader { id, stream, at, end: false, detach: false, last: None, payload: Some(length) }
}

//! Operations: requests that are answered once, at their end, with streams on the way.
//!
//! An operation is a task of its session. What may take long, or block, runs on a worker thread, which shares nothing with the agent
//! but its two streams; what it makes it must make so that being cut off at any of its reads and writes leaves nothing behind.
//!
//! ```text
//! host ── stdin chunks ──> Intake ──> Upload (Read)  ─┐
//!                                                     │ worker
//! host <── data chunks ── Outlet <── Download (Write) ┘
//! ```
//!
//! A detach, or the end of the session, drops the task: the worker's next read or write fails.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use hearth_protocol::{
    ChunkHeader, ErrorCode, Fault, Finished, OutputTotals, ReplyBody, RequestId, StreamName, encode_line,
};
use tokio::sync::{Notify, mpsc, oneshot};

use super::Outgoing;
use super::follow::{Credits, header};
use crate::process::{Cursor, Input, Intake, OUTPUT_PIECE};
use crate::sys;

/// The pieces that may wait between a worker and its session, each way.
const PIECES: usize = 8;
/// How long the agent's thread leaves the only processor to a worker that was given all there is. Else it would read the lane as its bytes come
/// in, page by page, and wake up for each.
const TURN: Duration = Duration::from_millis(2);
/// What a worker gathers before it hands it on, in bytes.
const PIECE: usize = 4 * OUTPUT_PIECE;

/// The streams of one operation.
pub(crate) struct Streams {
    pub(crate) input: Intake,
    pub(crate) output: Outlet,
}

/// The ways to the host: `stdout`, `stderr` and `data`.
#[derive(Clone)]
pub(crate) struct Outlet {
    sink: Sink,
    sent: Rc<Progress>,
}

/// What has been sent of an operation's output.
#[derive(Default)]
struct Progress {
    totals: Cell<OutputTotals>,
    /// The end of `data` so far, which waits for what comes behind it.
    held: RefCell<Bytes>,
}

/// Where an operation's output goes.
#[derive(Clone)]
enum Sink {
    /// To a request's streams on the bulk lane of a session.
    Lane { id: RequestId, credits: Rc<Credits>, bulk: mpsc::Sender<Outgoing> },
    /// To a dialect, which asked for the operation inside the agent.
    Local(mpsc::Sender<(StreamName, Bytes)>),
}

impl Streams {
    pub(super) fn new(id: RequestId, input: Intake, credits: Rc<Credits>, bulk: mpsc::Sender<Outgoing>) -> Self {
        let sink = Sink::Lane { id, credits, bulk };
        Self { input, output: Outlet { sink, sent: Rc::default() } }
    }

    /// Makes the streams of an operation that a dialect asks for: what it is to read, and what it writes.
    pub(crate) fn local() -> (Self, Input, mpsc::Receiver<(StreamName, Bytes)>) {
        let (input, intake) = Input::taken_in(|| ());
        let (sender, receiver) = mpsc::channel(PIECES);
        let output = Outlet { sink: Sink::Local(sender), sent: Rc::default() };
        (Self { input: intake, output }, input, receiver)
    }

    /// Runs `work` on a worker thread, with the operation's input to read and its `data` to write.
    ///
    /// # Errors
    /// What `work` fails with; [`ErrorCode::Internal`] when it panics.
    pub(crate) async fn on_worker<T: Send + 'static>(
        self,
        work: impl FnOnce(&mut Upload, &mut Download) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let Self { input, output } = self;
        let (upload_sender, upload) = mpsc::channel(PIECES);
        let (download, mut download_receiver) = mpsc::channel(PIECES);
        let (wanted, first_read) = oneshot::channel();
        let (waits, turn) = std::sync::mpsc::sync_channel(1);
        let worker = tokio::task::spawn_blocking(move || {
            let mut upload = Upload { wanted: Some(wanted), queue: upload, waits, piece: Bytes::new(), ended: false };
            let mut download = Download { queue: download, buffer: Vec::new() };
            // What is left of the output comes with the result: one word wakes the agent for both.
            work(&mut upload, &mut download).map(|result| (result, download.buffer))
        });
        let receive = async {
            while let Some(piece) = download_receiver.recv().await {
                output.send(StreamName::Data, piece).await;
            }
        };
        let (result, ()) = tokio::select! {
            ended = async { tokio::join!(worker, receive) } => ended,
            never = feed(input, first_read, upload_sender, &turn) => match never {},
        };
        let (result, rest) = result.unwrap_or_else(|error| Err(worker_failed(&error)))?;
        output.send_at_end(rest.into()).await;
        Ok(result)
    }
}

/// Runs `work`, which has no streams, on a worker thread. It is not cut off: it must be short, or bounded.
///
/// # Errors
/// What `work` fails with; [`ErrorCode::Internal`] when it panics.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(worker_failed(&error)))
}

fn worker_failed(error: &tokio::task::JoinError) -> Fault {
    Fault::failed(ErrorCode::Internal, format!("a worker of the agent's failed: {error}"))
}

/// Passes the input on to a worker, from its first read on. One that is cut off leaves the worker's queue closed without an end.
async fn feed(
    mut input: Intake,
    first_read: oneshot::Receiver<()>,
    queue: mpsc::Sender<Option<Bytes>>,
    turn: &std::sync::mpsc::Receiver<()>,
) -> Infallible {
    if first_read.await.is_ok() {
        let has_one_processor = sys::has_one_processor();
        loop {
            let Ok(piece) = input.next().await else { break };
            let end = piece.is_none();
            let _ = turn.try_recv();
            // A worker that reads no more ends soon, and this with it.
            if queue.send(piece).await.is_err() || end {
                break;
            }
            if has_one_processor && input.is_empty() {
                let _ = turn.recv_timeout(TURN);
            }
        }
    }
    drop(queue);
    std::future::pending().await
}

impl Outlet {
    /// Sends bytes of one stream, as its credit allows.
    pub(crate) async fn send(&self, stream: StreamName, bytes: Bytes) {
        if stream == StreamName::Data {
            self.send_now(stream, self.sent.held.take()).await;
        }
        self.send_now(stream, bytes).await;
    }

    async fn send_now(&self, stream: StreamName, bytes: Bytes) {
        match &self.sink {
            Sink::Lane { id, credits, bulk } => drop(self.send_with(*id, credits, bulk, stream, bytes, None).await),
            Sink::Local(_) if bytes.is_empty() => {}
            Sink::Local(sender) => drop(sender.send((stream, bytes)).await),
        }
    }

    /// Sends bytes of `data` that may be the last: they wait for more of them, or for the result, which then goes with them.
    pub(crate) async fn send_at_end(&self, bytes: Bytes) {
        let before = match self.sink {
            Sink::Lane { .. } => self.sent.held.replace(bytes),
            // A dialect takes the result by another way, and looks for nothing with it.
            Sink::Local(_) => bytes,
        };
        self.send_now(StreamName::Data, before).await;
    }

    /// Sends the result together with the bytes that wait for it. Returns it, for the control lane, where there are none or it is too long for
    /// the other.
    pub(super) async fn conclude(&self, result: Finished) -> Option<ReplyBody> {
        let held = self.sent.held.take();
        let mut output = self.sent.totals.get();
        output.data += held.len() as u64;
        let last = ReplyBody::Finished { result, output };
        match &self.sink {
            Sink::Lane { id, credits, bulk } if !held.is_empty() => {
                let last = self.send_with(*id, credits, bulk, StreamName::Data, held, Some(Box::new(last))).await;
                last.map(|last| *last)
            }
            _ => Some(last),
        }
    }

    /// Sends bytes as credit allows, and `last` with the last of them. Returns it where it did not fit.
    async fn send_with(
        &self,
        id: RequestId,
        credits: &Credits,
        bulk: &mpsc::Sender<Outgoing>,
        stream: StreamName,
        mut bytes: Bytes,
        mut last: Option<Box<ReplyBody>>,
    ) -> Option<Box<ReplyBody>> {
        let credit = credits.of(stream)?;
        while !bytes.is_empty() {
            let length = credit.take(bytes.len().min(OUTPUT_PIECE) as u64).await;
            let piece = bytes.split_to(length as usize);
            let mut header = header(id, stream, self.advance(stream, length), length);
            header.last = last.take_if(|_| bytes.is_empty());
            let mut head = Vec::with_capacity(128);
            if encode_line(&header, &mut head).is_err() {
                last = header.last.take();
                encode_line(&header, &mut head).expect("a chunk header is short without a reply");
            }
            // When the lane has ended, so will the session, and this with it.
            let _ = bulk.send(Outgoing::Chunk(head, piece)).await;
        }
        last
    }

    /// Says that a stream has ended before its operation. One that ends with its operation needs no such word.
    pub(crate) async fn end(&self, stream: StreamName) {
        if let Sink::Lane { id, bulk, .. } = &self.sink {
            let header = ChunkHeader { end: true, payload: None, ..header(*id, stream, self.advance(stream, 0), 0) };
            let mut chunk = Vec::new();
            encode_line(&header, &mut chunk).expect("a chunk header is short");
            let _ = bulk.send(Outgoing::Bytes(chunk)).await;
        }
    }

    /// Copies what stands behind `cursor` until `end` is known and reached; `ended` tells that it has become known. Returns how many bytes were
    /// gone already.
    pub(crate) async fn copy(
        &self,
        stream: StreamName,
        cursor: &Cursor,
        end: impl Fn() -> Option<u64>,
        ended: &Notify,
    ) -> u64 {
        let mut dropped = 0;
        loop {
            let (changed, ended) = (cursor.output().changed.notified(), ended.notified());
            let (position, end) = (cursor.position(), end().unwrap_or(u64::MAX));
            if position >= end {
                return dropped;
            }
            let limit = (OUTPUT_PIECE as u64).min(end - position) as usize;
            match cursor.read(limit, |at, bytes| (at, Bytes::copy_from_slice(bytes))) {
                Some((at, bytes)) => {
                    dropped += at - position;
                    self.send(stream, bytes).await;
                }
                None => tokio::select! { () = changed => {}, () = ended => {} },
            }
        }
    }

    /// Counts bytes that are sent, and tells their position.
    fn advance(&self, stream: StreamName, length: u64) -> u64 {
        let mut totals = self.sent.totals.get();
        let total = match stream {
            StreamName::Stdout => &mut totals.stdout,
            StreamName::Stderr => &mut totals.stderr,
            StreamName::Data | StreamName::Stdin => &mut totals.data,
        };
        let at = *total;
        *total += length;
        self.sent.totals.set(totals);
        at
    }
}

/// An operation's input, as its worker reads it.
pub(crate) struct Upload {
    /// Says that the input is wanted: what is refused before is never sent.
    wanted: Option<oneshot::Sender<()>>,
    queue: mpsc::Receiver<Option<Bytes>>,
    /// Says that the worker has done what it was given.
    waits: std::sync::mpsc::SyncSender<()>,
    piece: Bytes,
    ended: bool,
}

impl Upload {
    /// The next bytes as they came; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.fill()?;
        Ok(Some(std::mem::take(&mut self.piece)).filter(|piece| !piece.is_empty()))
    }

    fn fill(&mut self) -> io::Result<()> {
        if let Some(wanted) = self.wanted.take() {
            let _ = wanted.send(());
        }
        while self.piece.is_empty() && !self.ended {
            let piece = self.queue.try_recv().ok().or_else(|| {
                let _ = self.waits.try_send(());
                self.queue.blocking_recv()
            });
            match piece {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.ended = true,
                None => return Err(cut_off()),
            }
        }
        Ok(())
    }
}

impl Read for Upload {
    fn read(&mut self, place: &mut [u8]) -> io::Result<usize> {
        self.fill()?;
        let count = place.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut place[..count]);
        Ok(count)
    }
}

/// An operation's `data`, as its worker writes it. What it has gathered when the work has succeeded is sent, too.
pub(crate) struct Download {
    queue: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl Write for Download {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.buffer);
        self.queue.blocking_send(piece.into()).map_err(|_| cut_off())
    }
}

impl Download {
    /// What tells whether anybody still wants the operation, for work that sends little.
    pub(crate) fn wanted(&self) -> impl Fn() -> bool + use<> {
        let queue = self.queue.downgrade();
        // Nothing is left of a queue that was closed, and dropped, at the other end.
        move || queue.upgrade().is_some_and(|queue| !queue.is_closed())
    }

    /// Hands on bytes that need not be gathered, behind those that were.
    pub(crate) fn hand_on(&mut self, piece: Bytes) -> io::Result<()> {
        self.flush()?;
        self.queue.blocking_send(piece).map_err(|_| cut_off())
    }
}

/// What a worker's reads and writes fail with when nobody wants its work any more.
fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the host left, or no longer wants it")
}

/// The fault of a worker whose streams were cut off. Nobody reads it, unless the input alone was lost.
pub(crate) fn cancelled(error: &io::Error) -> Fault {
    Fault::failed(ErrorCode::Cancelled, format!("the streams of the request were cut off: {error}"))
}

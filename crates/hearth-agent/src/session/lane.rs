//! A lane's two ends: how its bytes are read and written, not what they mean.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hearth_protocol::{FrameError, LineDecoder, limits};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

/// What is read from the control lane at a time, in bytes.
const READ: usize = 64 * 1024;
/// What is read from the bulk lane at a time between two chunks, in bytes: a page, which is what a port hands out.
const READ_HEAD: usize = 4096;
/// The memory that is taken for what the bulk lane brings, in bytes: a whole chunk of an upload, or several smaller ones.
const READ_BULK: usize = READ_HEAD + limits::UPLOAD_CHUNK;

/// A lane as it is read.
pub(crate) type Reader = Box<dyn AsyncRead + Unpin>;
/// A lane as it is written.
pub(crate) type Writer = Box<dyn AsyncWrite + Unpin>;

/// What waits for a lane's writer.
pub(crate) enum Outgoing {
    /// Whole messages.
    Bytes(Vec<u8>),
    /// One message, its payload apart: where the lane takes both at once, nothing is copied to join them.
    Chunk(Vec<u8>, Bytes),
    /// A wish to know when all before it is written.
    Flush(oneshot::Sender<()>),
}

/// Writes what is queued, until the lane or the queue ends.
pub(super) async fn write_lane(mut lane: Writer, mut queue: mpsc::Receiver<Outgoing>) {
    while let Some(message) = queue.recv().await {
        let written = match message {
            Outgoing::Bytes(bytes) => lane.write_all(&bytes).await,
            Outgoing::Chunk(head, payload) => write_chunk(&mut lane, head, payload).await,
            Outgoing::Flush(done) => {
                let _ = done.send(());
                Ok(())
            }
        };
        if written.is_err() {
            return;
        }
    }
}

/// Writes a message in as few writes as the lane allows: at a port each is a message of its own, however short.
async fn write_chunk(lane: &mut Writer, mut head: Vec<u8>, payload: Bytes) -> io::Result<()> {
    if lane.is_write_vectored() {
        return lane.write_all_buf(&mut Buf::chain(head.as_slice(), payload)).await;
    }
    head.extend_from_slice(&payload);
    lane.write_all(&head).await
}

/// Reads the bulk lane once; at the end there is nothing to read. `missing` bytes belong to the chunk that has begun.
pub(super) async fn read_some(reader: &mut Reader, buffer: &mut BytesMut, missing: usize) -> io::Result<()> {
    // More room is other memory, to which what is here is copied. So no more is read than the rest of a chunk, or what the next begins with.
    let most = if missing == 0 { READ_HEAD } else { missing };
    if buffer.capacity() - buffer.len() < most {
        buffer.reserve(READ_BULK.max(most));
    }
    match reader.read_buf(&mut buffer.limit(most)).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// A small payload in memory of its own: as a part of what it was read into, it would keep all of that for as long as nobody takes it, and the
/// sender's credit would bound nothing.
pub(super) fn of_its_own(payload: Bytes) -> Bytes {
    if payload.len() < limits::CHUNK { Bytes::copy_from_slice(&payload) } else { payload }
}

/// Why a lane cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneError {
    #[error("the lane broke")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The control lane as lines.
pub(crate) struct Lines {
    reader: Reader,
    buffer: BytesMut,
    decoder: LineDecoder,
}

impl Lines {
    /// Reads lines from `reader`.
    pub(crate) fn new(reader: Reader) -> Self {
        Self { reader, buffer: BytesMut::new(), decoder: LineDecoder::default() }
    }

    /// The next line; `None` at the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, LaneError> {
        loop {
            if let Some(line) = self.decoder.decode(&mut self.buffer)? {
                return Ok(Some(line));
            }
            self.buffer.reserve(4096);
            if self.reader.read_buf(&mut (&mut self.buffer).limit(READ)).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Forgets what is buffered, for a port whose host has changed.
    pub(crate) fn reset(&mut self) {
        self.buffer.clear();
        self.decoder = LineDecoder::default();
    }

    /// Gives the connection and what was read ahead of it to another use.
    pub(crate) fn into_parts(self) -> (Reader, BytesMut) {
        (self.reader, self.buffer)
    }
}

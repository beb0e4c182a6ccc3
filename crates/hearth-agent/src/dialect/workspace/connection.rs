//! One connection: a request line, what is uploaded behind it, and what is answered.
//!
//! ```text
//! [CONNECT 5005 ─> OK 5005]  request line  [upload of a known size]  ─>  reply line  [download]  ─> end
//! ```
//!
//! A peer that neither sends what it announced nor takes its answer for [`PATIENCE`] is given up.

use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use hearth_protocol::LineDecoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::reply::{Object, write_piece};
use super::text::Decoder;
use super::texts::Refusal;
use crate::session::{Reader, Writer};

/// The longest request in bytes: a MiB of text, however it is escaped, and more.
const LINE: usize = 16 * 1024 * 1024;
/// How long a peer may take for its next bytes, or to take ours.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is read at a time, in bytes.
const READ: usize = 256 * 1024;
/// What is written at a time, in bytes.
const WRITE: usize = 64 * 1024;
/// The bridge of a microVM monitor begins with this: a port's name, which is answered with one of its own.
const CONNECT: &[u8] = b"CONNECT ";
const CONNECTED: &[u8] = b"OK 5005\n";

/// A connection.
pub(super) struct Connection {
    reader: Reader,
    writer: Writer,
    /// What was read ahead.
    ahead: BytesMut,
    /// The bytes of the upload that have not been read, beyond those that were read ahead of their use.
    owed: u64,
    /// Some of the answer was sent.
    begun: bool,
    /// The peer takes nothing more.
    broken: bool,
}

impl Connection {
    /// Takes over a fresh connection.
    pub(super) fn new(reader: Reader, writer: Writer) -> Self {
        Self { reader, writer, ahead: BytesMut::new(), owed: 0, begun: false, broken: false }
    }

    /// Reads the request; `None` when the peer left without one. A last line needs no newline.
    ///
    /// # Errors
    /// A line that is too long, or does not come.
    pub(super) async fn request(&mut self) -> Result<Option<Bytes>, Refusal> {
        let line = self.line().await?;
        if !line.as_ref().is_some_and(|line| line.starts_with(CONNECT)) {
            return Ok(line);
        }
        self.send(CONNECTED).await;
        self.begun = false;
        self.line().await
    }

    async fn line(&mut self) -> Result<Option<Bytes>, Refusal> {
        let mut decoder = LineDecoder::with_limit(LINE);
        loop {
            let found = decoder.decode(&mut self.ahead).map_err(|_| {
                // As much again is read, for a peer that takes no answer before it has said all.
                self.owed = (self.ahead.len() + LINE) as u64;
                format!("a request may have {LINE} bytes")
            })?;
            if found.is_some() {
                return Ok(found);
            }
            match self.read().await {
                Ok(true) => {}
                Ok(false) if self.ahead.is_empty() => return Ok(None),
                Ok(false) => return Ok(Some(self.ahead.split().freeze())),
                Err(error) => return Err(format!("the request cannot be read: {error}").into()),
            }
        }
    }

    /// Reads some bytes ahead; false at the end.
    async fn read(&mut self) -> io::Result<bool> {
        self.ahead.reserve(READ);
        let mut place = (&mut self.ahead).limit(READ);
        let read = tokio::time::timeout(PATIENCE, self.reader.read_buf(&mut place)).await;
        let count = read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(count > 0)
    }

    /// Announces that so many bytes follow the request.
    pub(super) fn expect(&mut self, bytes: u64) {
        self.owed = bytes;
    }

    /// The next bytes of the upload; `None` behind its last.
    ///
    /// # Errors
    /// When the peer leaves, or falls silent, before that.
    pub(super) async fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        if self.owed == 0 {
            return Ok(None);
        }
        if self.ahead.is_empty() && !self.read().await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = usize::try_from(self.owed).unwrap_or(usize::MAX).min(self.ahead.len());
        self.owed -= length as u64;
        Ok(Some(self.ahead.split_to(length).freeze()))
    }

    /// Sends bytes of the answer. Once the peer is gone they go nowhere.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.begun = true;
        for piece in bytes.chunks(WRITE) {
            if self.broken {
                return;
            }
            let written = tokio::time::timeout(PATIENCE, self.writer.write_all(piece)).await;
            self.broken = !matches!(written, Ok(Ok(())));
        }
    }

    /// Whether the peer still takes what is sent.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether an answer was begun: it can then only be ended, or be seen to have none.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Answers.
    pub(super) async fn reply(&mut self, object: Object) {
        self.send(&object.line()).await;
    }

    /// Says what has been sent is all, and ends the connection. What the peer has still under way is read, so that it is not told of a
    /// broken connection before it has read its answer.
    pub(super) async fn close(mut self) {
        let _ = self.writer.shutdown().await;
        while self.owed > 0 {
            self.owed = self.owed.saturating_sub(self.ahead.len() as u64);
            self.ahead.clear();
            if !matches!(self.read().await, Ok(true)) {
                return;
            }
        }
        // What came unasked is there already; nothing is waited for.
        let _ = tokio::time::timeout(Duration::ZERO, self.read()).await;
    }
}

/// A text that is sent in pieces, within a string of a reply.
#[derive(Default)]
pub(super) struct TextPiece {
    decoder: Decoder,
    json: Vec<u8>,
    /// The last character, if there was one.
    last: Option<char>,
}

impl TextPiece {
    /// Adds bytes of a program, which are text as far as they are.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let Self { decoder, json, last } = self;
        decoder.decode(bytes, &mut |text| {
            write_piece(json, text);
            *last = text.chars().next_back().or(*last);
        });
    }

    /// Adds a text of ours, behind the end of a program's.
    pub(super) fn say(&mut self, text: &str) {
        self.end();
        write_piece(&mut self.json, text);
        self.last = text.chars().next_back().or(self.last);
    }

    /// Ends the program's text.
    pub(super) fn end(&mut self) {
        let Self { decoder, json, last } = self;
        decoder.finish(&mut |text| {
            write_piece(json, text);
            *last = text.chars().next_back();
        });
    }

    /// The last character so far.
    pub(super) fn last(&self) -> Option<char> {
        self.last
    }

    /// The JSON of what was added since the last time.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.json)
    }
}

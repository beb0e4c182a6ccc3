//! Requests as lines, whatever a client sends: none is too long for the guest's memory, and one that is too long is only that.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use hearth_protocol::LineDecoder;
use tokio::io::AsyncReadExt;

use super::request::{LINE, Refusal};
use crate::session::Reader;

/// What is read at a time, in bytes.
const READ: usize = 64 * 1024;
/// What every connection may hold of a line that has not ended, in bytes.
const FREE: usize = 64 * 1024;
/// What all connections together may hold beyond that.
const SHARED: usize = 64 * 1024 * 1024;

/// The memory for long lines, of all connections.
#[derive(Debug, Default)]
pub(super) struct Memory {
    used: Cell<usize>,
}

/// The lines of one connection.
pub(super) struct Lines {
    reader: Reader,
    buffer: BytesMut,
    decoder: LineDecoder,
    /// The rest of a line that was refused is still to come.
    skipping: bool,
    memory: Rc<Memory>,
    charged: usize,
}

impl Lines {
    pub(super) fn new(reader: Reader, memory: Rc<Memory>) -> Self {
        let decoder = LineDecoder::with_limit(LINE);
        Self { reader, buffer: BytesMut::new(), decoder, skipping: false, memory, charged: 0 }
    }

    /// The next line, or why there is none in its place; `None` at the end. Cancel-safe.
    pub(super) async fn next(&mut self) -> io::Result<Option<Result<Bytes, Refusal>>> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            self.buffer.reserve(READ);
            if self.reader.read_buf(&mut (&mut self.buffer).limit(READ)).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn take_line(&mut self) -> Option<Result<Bytes, Refusal>> {
        if self.skipping {
            self.skip();
        }
        match self.decoder.decode(&mut self.buffer) {
            Ok(Some(line)) => {
                self.charge(self.buffer.len());
                Some(Ok(line))
            }
            Ok(None) if self.charge(self.buffer.len()) => None,
            Ok(None) => Some(Err(self.refuse("the guest has no room for another line of this length now"))),
            Err(error) => Some(Err(self.refuse(error))),
        }
    }

    fn refuse(&mut self, reason: impl std::fmt::Display) -> Refusal {
        self.skipping = true;
        self.decoder = LineDecoder::with_limit(LINE);
        self.skip();
        Refusal::request(reason)
    }

    /// Passes over what is there of a line that was refused.
    fn skip(&mut self) {
        match self.buffer.iter().position(|&byte| byte == b'\n') {
            Some(end) => {
                drop(self.buffer.split_to(end + 1));
                self.skipping = false;
            }
            None => self.buffer.clear(),
        }
        self.charge(self.buffer.len());
    }

    /// Accounts for what is held; false, and nothing changed, where there is no room for it.
    fn charge(&mut self, held: usize) -> bool {
        let wanted = held.saturating_sub(FREE);
        let used = self.memory.used.get() - self.charged + wanted;
        if wanted > self.charged && used > SHARED {
            return false;
        }
        self.memory.used.set(used);
        if wanted == 0 && self.charged > 0 {
            // The buffer does not shrink by itself.
            self.buffer = BytesMut::from(self.buffer.as_ref());
        }
        self.charged = wanted;
        true
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.memory.used.set(self.memory.used.get() - self.charged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(input: Vec<u8>, memory: Rc<Memory>) -> Vec<Result<Bytes, Refusal>> {
        let mut lines = Lines::new(Box::new(io::Cursor::new(input)), memory);
        let mut found = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            found.push(line);
        }
        found
    }

    #[tokio::test]
    async fn a_line_over_the_limit_is_one_error_and_the_next_is_read() {
        let longest = vec![b'x'; LINE - 1];
        let input =
            [b"one\n".as_slice(), &longest, b"\n", &longest, b"y\ntwo\n", &longest, &longest, b"\n\nrest"].concat();
        let memory = Rc::<Memory>::default();
        let found = all(input, Rc::clone(&memory)).await;
        let shapes: Vec<_> = found.iter().map(|line| line.as_ref().map(|line| line.len()).ok()).collect();
        assert_eq!(shapes, [Some(3), Some(LINE - 1), None, Some(3), None, Some(0)]);
        assert_eq!(memory.used.get(), 0);
    }

    #[tokio::test]
    async fn what_all_connections_hold_of_long_lines_is_bounded() {
        let memory = Rc::<Memory>::default();
        let mut held = Vec::new();
        let refused = loop {
            let (ours, theirs) = tokio::io::duplex(2 * LINE);
            let mut lines = Lines::new(Box::new(ours), Rc::clone(&memory));
            let mut theirs = theirs;
            tokio::io::AsyncWriteExt::write_all(&mut theirs, &vec![b'x'; LINE - 1]).await.unwrap();
            let outcome = tokio::select! {
                biased;
                line = tokio::task::unconstrained(lines.next()) => Some(line.unwrap().unwrap()),
                () = std::future::ready(()) => None,
            };
            held.push((lines, theirs));
            assert!(memory.used.get() <= SHARED);
            if let Some(line) = outcome {
                break line;
            }
        };
        assert!(refused.is_err());
        assert_eq!(held.len(), SHARED / (LINE - 1 - FREE) + 1);
        drop(held);
        assert_eq!(memory.used.get(), 0);
        assert_eq!(all(b"line\n".to_vec(), memory).await.len(), 1);
    }
}

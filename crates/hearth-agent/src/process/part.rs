//! A reader's part of an output stream: from where it begins to an end that becomes known later.
//!
//! While the part grows, the process waits for its reader rather than lose a byte. At its end it waits no longer, since the stream is for
//! whoever comes next: what the reader has not read yet is put aside, in a ring of its own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use hearth_protocol::{Budget, limits};
use tokio::sync::Notify;

use super::output::{Cursor, OUTPUT_PIECE, Output};
use super::ring::{FILL, Ring};

/// What is kept of what was put aside: all that a stream with the default budget and its pipe hold at once.
const ASIDE: Budget = Budget { head: limits::KEPT_HEAD, tail: limits::KEPT_TAIL + FILL as u64 };

/// A reader's part of an output stream.
pub(crate) struct Part {
    cursor: Cursor,
    aside: RefCell<Ring>,
    /// Up to where `aside` is read.
    read: Cell<u64>,
    dropped: Cell<u64>,
    ended: Cell<bool>,
    end: Notify,
}

impl Part {
    /// Begins a part of `output` at `from`.
    pub(crate) fn new(output: &Rc<Output>, from: u64) -> Self {
        Self {
            cursor: output.cursor(from, true),
            aside: RefCell::new(output.ring_beside(ASIDE)),
            read: Cell::new(0),
            dropped: Cell::new(0),
            ended: Cell::new(false),
            end: Notify::new(),
        }
    }

    /// Has the process wait for this reader no longer. What is there is put aside; of what comes the reader may lose some.
    pub(crate) fn let_go(&self) {
        if !self.ended.get() {
            self.put_aside(u64::MAX);
            self.cursor.release();
        }
    }

    /// Ends the part behind all that is written at this moment, and tells where that is.
    pub(crate) async fn end(&self) -> u64 {
        self.let_go();
        let end = self.cursor.output().settle().await;
        self.put_aside(end);
        self.ended.set(true);
        self.end.notify_waiters();
        end
    }

    fn put_aside(&self, end: u64) {
        let mut aside = self.aside.borrow_mut();
        loop {
            let position = self.cursor.position();
            let limit = usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX);
            let put = |at: u64, bytes: &[u8]| {
                // Behind a gap there may be only what comes behind the end.
                let own = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
                aside.write(&bytes[..own]);
                self.dropped.set(self.dropped.get() + at.min(end) - position);
            };
            if limit == 0 || self.cursor.read(limit, put).is_none() {
                return;
            }
        }
    }

    /// The next bytes; `None` at the end. Cancel-safe.
    pub(crate) async fn next(&self) -> Option<Bytes> {
        loop {
            let (changed, ended) = (self.cursor.output().changed.notified(), self.end.notified());
            if let Some(bytes) = self.take() {
                return Some(bytes);
            }
            if self.ended.get() {
                return None;
            }
            tokio::select! { () = changed => {}, () = ended => {} }
        }
    }

    fn take(&self) -> Option<Bytes> {
        let note = |from: u64, at: u64, bytes: &[u8]| {
            self.dropped.set(self.dropped.get() + at - from);
            Bytes::copy_from_slice(bytes)
        };
        if let Some((at, bytes)) = self.aside.borrow().read(self.read.get(), OUTPUT_PIECE) {
            let bytes = note(self.read.get(), at, bytes);
            self.read.set(at + bytes.len() as u64);
            return Some(bytes);
        }
        if self.ended.get() {
            return None;
        }
        let position = self.cursor.position();
        self.cursor.read(OUTPUT_PIECE, |at, bytes| note(position, at, bytes))
    }

    /// How many bytes of it are gone, as far as it was read.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn rest(part: &Part) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = part.next().await {
            all.extend_from_slice(&bytes);
        }
        all
    }

    #[tokio::test]
    async fn a_part_that_has_ended_is_read_whole_whatever_is_written_behind_it() {
        let output = Output::alone();
        let data: Vec<u8> = (0..limits::KEPT_TAIL).map(|at| (at * 31 % 251) as u8).collect();
        output.write(b"before");
        output.write(&data);
        let part = Part::new(&output, 6);
        assert_eq!(part.next().await.unwrap(), data[..OUTPUT_PIECE]);
        assert_eq!(part.end().await, output.total());
        output.write(&vec![0; 4 << 20]);
        assert!(rest(&part).await == data[OUTPUT_PIECE..]);
        assert_eq!(part.dropped(), 0);
    }

    #[tokio::test]
    async fn of_a_part_that_was_let_go_what_is_gone_is_counted_exactly() {
        let output = Output::alone();
        output.write(&[b'a'; 1000]);
        let part = Part::new(&output, 0);
        part.let_go();
        output.write(&vec![b'b'; 8 << 20]);
        part.end().await;
        output.write(&vec![b'c'; 4 << 20]);
        let read = rest(&part).await;
        assert!(read.starts_with(&[b'a'; 1000]) && !read.contains(&b'c'));
        assert_eq!(read.len() as u64 + part.dropped(), 1000 + (8 << 20));
    }
}

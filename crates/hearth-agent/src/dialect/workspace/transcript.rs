//! What a shell has written, as text with positions in characters.
//!
//! The text itself is not kept here: it is decoded anew, for each read, from the bytes that the process's output keeps. What is kept is an
//! index: every so many bytes, how many characters came before. It is made as the bytes arrive, so that a position stays exact
//! when what lies before it is no longer kept.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use hearth_protocol::limits;

use super::text::Decoder;
use crate::process::Output;

/// How far apart the index's marks are, in bytes.
const STRIDE: usize = 4096;

/// A text that grows.
pub(super) struct Transcript {
    output: Rc<Output>,
    index: RefCell<Index>,
}

/// A piece of a transcript.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The position of its first character: what was asked for, or, when that is no longer kept, what is kept behind it.
    pub(super) start: u64,
    /// The text.
    pub(super) text: String,
    /// The position behind its last character.
    pub(super) end: u64,
    /// Whether there is more behind it.
    pub(super) more: bool,
}

#[derive(Default)]
struct Index {
    marks: VecDeque<Mark>,
    decoder: Decoder,
    /// The characters that are whole.
    characters: u64,
    /// The bytes that were seen.
    bytes: u64,
}

/// A place where a character begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    character: u64,
    byte: u64,
}

impl Transcript {
    /// Begins to follow an output, until it ends.
    pub(super) fn follow(output: &Rc<Output>) -> Rc<Self> {
        let transcript = Rc::new(Self { output: Rc::clone(output), index: RefCell::default() });
        let (weak, output) = (Rc::downgrade(&transcript), Rc::clone(output));
        tokio::task::spawn_local(async move {
            // What is not counted yet must not be lost: the process waits for this as it would for a full pipe.
            let cursor = output.cursor(0, true);
            loop {
                let changed = output.changed.notified();
                let Some(transcript) = weak.upgrade() else { return };
                while cursor.read(STRIDE, |_, bytes| transcript.index.borrow_mut().add(bytes)).is_some() {}
                if output.end().is_some_and(|end| cursor.position() >= end) {
                    return transcript.index.borrow_mut().finish();
                }
                drop(transcript);
                changed.await;
            }
        });
        transcript
    }

    /// Reads at most `limit` characters from position `from` on. A position past the end is the end.
    pub(super) fn read(&self, from: u64, limit: u64) -> Piece {
        let index = self.index.borrow();
        let mut start = from.min(index.characters);
        let mut mark = index.mark_before(start);
        loop {
            let wanted = (index.characters - start).min(limit);
            let mut taken = Taken { skip: start - mark.character, left: wanted, text: String::new() };
            match self.take(mark, &mut taken) {
                Some(gap_ends) if taken.skip > 0 || taken.text.is_empty() => {
                    // What was asked for is gone.
                    mark = index.mark_behind(gap_ends);
                    start = mark.character.max(start);
                }
                _ => {
                    let end = start + (wanted - taken.left);
                    return Piece { start, text: taken.text, end, more: end < index.characters };
                }
            }
        }
    }

    /// Decodes from a mark on. When a gap comes before all is taken, returns where it ends.
    fn take(&self, mark: Mark, taken: &mut Taken) -> Option<u64> {
        let (cursor, mut decoder, mut expected) = (self.output.cursor(mark.byte, false), Decoder::default(), mark.byte);
        while taken.left > 0 {
            let read = cursor.read(STRIDE, |at, bytes| {
                if at == expected {
                    decoder.decode(bytes, &mut |text| taken.take(text));
                    expected += bytes.len() as u64;
                }
                at
            });
            match read {
                Some(at) if at >= expected => return Some(at),
                Some(_) => {}
                None => {
                    decoder.finish(&mut |text| taken.take(text));
                    break;
                }
            }
        }
        None
    }
}

/// What a read has come to.
struct Taken {
    /// The characters before the first that is wanted.
    skip: u64,
    /// The characters that are still wanted.
    left: u64,
    text: String,
}

impl Taken {
    fn take(&mut self, text: &str) {
        for character in text.chars() {
            if self.skip > 0 {
                self.skip -= 1;
            } else if self.left > 0 {
                self.left -= 1;
                self.text.push(character);
            }
        }
    }
}

impl Index {
    fn add(&mut self, bytes: &[u8]) {
        let characters = &mut self.characters;
        self.decoder.decode(bytes, &mut |text| *characters += text.chars().count() as u64);
        self.bytes += bytes.len() as u64;
        let mark = Mark { character: self.characters, byte: self.bytes - self.decoder.begun() as u64 };
        if self.marks.back().is_none_or(|last| last.byte + STRIDE as u64 <= mark.byte) {
            self.marks.push_back(mark);
            self.prune();
        }
    }

    fn finish(&mut self) {
        let characters = &mut self.characters;
        self.decoder.finish(&mut |_| *characters += 1);
    }

    /// Forgets one mark for bytes between head and tail for each that is added.
    fn prune(&mut self) {
        let dropped = self.bytes.saturating_sub(limits::KEPT_TAIL + STRIDE as u64);
        let first = self.marks.partition_point(|mark| mark.byte <= limits::KEPT_HEAD);
        while self.marks.get(first + 1).is_some_and(|mark| mark.byte < dropped) {
            self.marks.remove(first);
        }
    }

    fn mark_before(&self, character: u64) -> Mark {
        let behind = self.marks.partition_point(|mark| mark.character <= character);
        behind.checked_sub(1).and_then(|index| self.marks.get(index)).copied().unwrap_or(Mark { character: 0, byte: 0 })
    }

    /// The first mark at or behind a byte; the end, if there is none.
    fn mark_behind(&self, byte: u64) -> Mark {
        let end = Mark { character: self.characters, byte: self.bytes };
        self.marks.get(self.marks.partition_point(|mark| mark.byte < byte)).copied().unwrap_or(end)
    }
}

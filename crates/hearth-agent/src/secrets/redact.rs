//! Replaces values in a stream, whatever pieces it comes in.
//!
//! What is shown never depends on how the stream was cut. For that, an end of the stream that may yet become a value is held back until
//! a further byte decides it: exactly as many bytes as begin some value, so nothing at all as long as the last byte begins none. Every byte
//! of every occurrence is hidden; occurrences that overlap share one mark. (Leftmost-longest replacement, which is the same wherever none
//! overlap, would show the end of the second.) The work is linear in the bytes, whatever the values.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;

use super::automaton::{Automaton, ROOT, State};

/// What is written in place of a value.
pub(crate) const MARK: &[u8] = b"[REDACTED]";

/// The redaction of one stream. Positions below count from the first byte that is held.
#[derive(Debug)]
pub(crate) struct Redactor {
    automaton: Rc<Automaton>,
    state: State,
    /// The end of the stream that begins a value, for [`Self::replace_values`] in full, shown already or not.
    held: Vec<u8>,
    /// How far the stream was shown, or hidden behind a mark.
    shown: usize,
    /// How far the bytes behind the last mark are hidden by it.
    covered: usize,
    /// Occurrences that are not shown as a mark yet, because a longer one may have begun before them. Apart and in order.
    pending: VecDeque<(usize, usize)>,
}

/// The bytes at hand: those held, and those that have just come.
#[derive(Clone, Copy)]
struct Text<'a> {
    held: &'a [u8],
    input: &'a [u8],
}

impl Text<'_> {
    fn length(self) -> usize {
        self.held.len() + self.input.len()
    }

    fn show(self, from: usize, to: usize, out: &mut impl FnMut(&[u8])) {
        let seam = self.held.len();
        for piece in [&self.held[from.min(seam)..to.min(seam)], &self.input[from.max(seam) - seam..to.max(seam) - seam]]
        {
            if !piece.is_empty() {
                out(piece);
            }
        }
    }
}

impl Redactor {
    /// Makes the redaction of a stream that begins now.
    pub(crate) fn new(automaton: Rc<Automaton>) -> Self {
        Self { automaton, state: ROOT, held: Vec::new(), shown: 0, covered: 0, pending: VecDeque::new() }
    }

    /// Takes the next bytes of the stream, and hands to `out` what of it can be shown now.
    pub(crate) fn feed(&mut self, input: &[u8], out: &mut impl FnMut(&[u8])) {
        let held = std::mem::take(&mut self.held);
        let text = Text { held: &held, input };
        let automaton = Rc::clone(&self.automaton);
        let mut at = 0;
        while at < input.len() {
            if self.state == ROOT {
                if !self.pending.is_empty() {
                    self.release(text, held.len() + at, out);
                }
                at += automaton.skip(&input[at..]);
                if at == input.len() {
                    break;
                }
            }
            self.state = automaton.step(self.state, input[at]);
            at += 1;
            if let Some(length) = automaton.found(self.state) {
                self.note(held.len() + at - length, held.len() + at);
            }
        }
        let decided = text.length() - automaton.depth(self.state);
        self.release(text, decided, out);
        self.hold(held, input, decided);
    }

    /// Shows what is held, because nothing more is expected. Should more come all the same, and complete a value, then the rest of it is
    /// hidden.
    pub(crate) fn flush(&mut self, out: &mut impl FnMut(&[u8])) {
        let held = std::mem::take(&mut self.held);
        self.release(Text { held: &held, input: b"" }, held.len(), out);
        self.held = held;
    }

    /// Looks for other values from now on. What is held is looked at again; what was shown stays shown.
    pub(crate) fn replace_values(&mut self, automaton: Rc<Automaton>, out: &mut impl FnMut(&[u8])) {
        self.automaton = automaton;
        self.state = ROOT;
        self.pending.clear();
        let held = std::mem::take(&mut self.held);
        self.feed(&held, out);
    }

    /// The most bytes that may be fed now for at most `room` to come out of them and of what is held, now or at a flush, whatever the values.
    pub(crate) fn most(&self, room: usize) -> usize {
        (room / MARK.len()).saturating_sub(self.held.len())
    }

    /// The room that must be there for `count` bytes to be fed.
    pub(crate) fn room_for(&self, count: usize) -> usize {
        (self.held.len() + count) * MARK.len()
    }

    /// Notes an occurrence that has just ended. It joins those that it overlaps, of which the last may be a mark already.
    fn note(&mut self, mut start: usize, end: usize) {
        while let Some((earlier, _)) = self.pending.pop_back_if(|(_, earlier_end)| *earlier_end > start) {
            start = start.min(earlier);
        }
        if start < self.covered && self.shown <= self.covered {
            (self.covered, self.shown) = (end, end);
        } else {
            // What a flush has shown of it cannot be taken back.
            self.pending.push_back((start.max(self.shown), end));
        }
    }

    /// Shows everything before `decided`: no occurrence that is still to be found begins there.
    fn release(&mut self, text: Text<'_>, decided: usize, out: &mut impl FnMut(&[u8])) {
        while let Some((start, end)) = self.pending.pop_front_if(|(start, _)| *start <= decided) {
            text.show(self.shown, start, out);
            out(MARK);
            (self.covered, self.shown) = (end, end);
        }
        if self.shown < decided {
            text.show(self.shown, decided, out);
            self.shown = decided;
        }
    }

    /// Keeps what comes from `decided` on, and counts from there.
    fn hold(&mut self, mut held: Vec<u8>, input: &[u8], decided: usize) {
        match decided.checked_sub(held.len()) {
            Some(rest) => {
                held.clear();
                held.extend_from_slice(&input[rest..]);
            }
            None => {
                held.drain(..decided);
                held.extend_from_slice(input);
            }
        }
        self.held = held;
        self.shown -= decided;
        self.covered = self.covered.saturating_sub(decided);
        self.pending.iter_mut().for_each(|(start, end)| (*start, *end) = (*start - decided, *end - decided));
    }
}

/// Redacts a text that is all there.
pub(crate) fn redact<'a>(automaton: &Rc<Automaton>, text: &'a [u8]) -> Cow<'a, [u8]> {
    redact_to(automaton, text, false)
}

/// Redacts a text whose end was cut off: an end that begins a value is hidden too.
pub(crate) fn redact_cut<'a>(automaton: &Rc<Automaton>, text: &'a [u8]) -> Cow<'a, [u8]> {
    redact_to(automaton, text, true)
}

fn redact_to<'a>(automaton: &Rc<Automaton>, text: &'a [u8], cut: bool) -> Cow<'a, [u8]> {
    if automaton.skip(text) == text.len() {
        return Cow::Borrowed(text);
    }
    let mut shown = Vec::with_capacity(text.len());
    let mut out = |piece: &[u8]| shown.extend_from_slice(piece);
    let mut redactor = Redactor::new(Rc::clone(automaton));
    redactor.feed(text, &mut out);
    if cut && !redactor.held.is_empty() {
        redactor.note(0, redactor.held.len());
    }
    redactor.flush(&mut out);
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests;

//! The beginning and the end of a stream, with what was between them counted.

use std::collections::VecDeque;

use crate::Captured;

/// What is kept of a stream.
#[derive(Debug)]
pub struct Capture {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_limit: usize,
    tail_limit: usize,
    /// The position behind the last byte that came.
    at: u64,
    dropped: u64,
}

impl Capture {
    /// Keeps up to `limit` bytes, the first and the last half.
    pub fn new(limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let (head_limit, tail_limit) = (limit - limit / 2, limit / 2);
        Self { head: Vec::new(), tail: VecDeque::new(), head_limit, tail_limit, at: 0, dropped: 0 }
    }

    /// Takes the bytes at a position; those between it and what came before were dropped in the guest.
    pub fn take(&mut self, at: u64, bytes: &[u8]) {
        self.gap(at);
        self.at = at + bytes.len() as u64;
        // Behind a gap nothing belongs to the beginning any more.
        let room = if self.dropped == 0 && self.tail.is_empty() { self.head_limit - self.head.len() } else { 0 };
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(self.tail_limit);
        self.tail.drain(..excess);
        self.dropped += excess as u64;
    }

    /// Takes the next bytes of a stream without gaps.
    pub fn push(&mut self, bytes: &[u8]) {
        self.take(self.at, bytes);
    }

    /// Takes the length of the whole stream.
    pub fn end(&mut self, total: u64) {
        self.gap(total);
    }

    /// What came before a gap and was not of the beginning can no longer be put into its place, and is dropped with it.
    fn gap(&mut self, to: u64) {
        let gap = to.saturating_sub(self.at);
        if gap > 0 {
            self.dropped += gap + self.tail.len() as u64;
            self.tail.clear();
            self.at = to;
        }
    }

    /// Puts what is kept into words.
    pub fn finish(self) -> Captured {
        Captured::parts(&self.head, self.dropped, &Vec::from(self.tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(limit: u64, pieces: &[(u64, &str)], total: u64) -> (String, u64, Option<u64>) {
        let mut capture = Capture::new(limit);
        pieces.iter().for_each(|(at, text)| capture.take(*at, text.as_bytes()));
        capture.end(total);
        let captured = capture.finish();
        (captured.data, captured.dropped_bytes, captured.dropped_after)
    }

    #[test]
    fn what_fits_is_whole_however_it_came() {
        assert_eq!(captured(4, &[(0, "a"), (1, "bcd")], 4), ("abcd".into(), 0, None));
        assert_eq!(captured(5, &[(0, "abcde")], 5), ("abcde".into(), 0, None));
    }

    #[test]
    fn what_does_not_fit_loses_its_middle() {
        assert_eq!(captured(4, &[(0, "abc"), (3, "defg"), (7, "h")], 8), ("abgh".into(), 4, Some(2)));
        assert_eq!(captured(0, &[(0, "abc")], 3), (String::new(), 3, Some(0)));
        assert_eq!(captured(1, &[(0, "abc")], 3), ("a".into(), 2, Some(1)));
    }

    #[test]
    fn gaps_of_the_guests_are_counted() {
        assert_eq!(captured(8, &[(0, "ab"), (6, "gh")], 8), ("abgh".into(), 4, Some(2)));
        assert_eq!(captured(8, &[(0, "ab")], 5), ("ab".into(), 3, Some(2)));
        assert_eq!(captured(4, &[(0, "abc"), (9, "jkl")], 12), ("abkl".into(), 8, Some(2)));
    }
}

//! What is kept of a stream: its head, its tail, and the count of what lies between.

use std::collections::VecDeque;

/// The bytes kept from the start of a stream.
const HEAD: usize = 128 * 1024;
/// The bytes kept from its end. At least a session's window, so that a lossless follower can be a whole window behind.
const TAIL: usize = 1024 * 1024;

/// A bounded record of an unbounded stream, addressed by byte positions that never shift. Grows with what is written.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Ring {
    /// The number of bytes that were ever written.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The bytes of memory in use.
    pub(crate) fn memory(&self) -> usize {
        self.head.capacity() + self.tail.capacity()
    }

    /// How many bytes may be written before a reader at `cursor` would lose any.
    pub(crate) fn room_before(&self, cursor: u64) -> usize {
        let behind = usize::try_from(self.total.saturating_sub(cursor)).unwrap_or(usize::MAX);
        TAIL.saturating_sub(behind)
    }

    /// Appends `bytes`; the oldest of the tail make room.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let to_head = bytes.len().min(HEAD - self.head.len());
        let (first, rest) = bytes.split_at(to_head);
        self.head.extend_from_slice(first);
        let rest = &rest[rest.len().saturating_sub(TAIL)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(TAIL);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// The first bytes kept at or after `cursor`, at most `limit` of them in one piece, and the position of the first.
    /// `None` when there are none yet.
    pub(crate) fn read(&self, cursor: u64, limit: usize) -> Option<(u64, &[u8])> {
        if cursor >= self.total {
            return None;
        }
        if let Some(piece) =
            usize::try_from(cursor).ok().and_then(|start| self.head.get(start..)).filter(|p| !p.is_empty())
        {
            return Some((cursor, &piece[..piece.len().min(limit)]));
        }
        let tail_start = self.total - self.tail.len() as u64;
        let at = cursor.max(tail_start);
        let (front, back) = self.tail.as_slices();
        let offset = (at - tail_start) as usize;
        let piece = if offset < front.len() { &front[offset..] } else { &back[offset - front.len()..] };
        Some((at, &piece[..piece.len().min(limit)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(ring: &Ring, mut cursor: u64, limit: usize) -> (Vec<u8>, u64) {
        let (mut bytes, mut gap) = (Vec::new(), 0);
        while let Some((at, piece)) = ring.read(cursor, limit) {
            gap += at - cursor;
            bytes.extend_from_slice(piece);
            cursor = at + piece.len() as u64;
        }
        (bytes, gap)
    }

    #[test]
    fn what_fits_is_kept_whole_in_any_cut() {
        let data: Vec<u8> = (0..HEAD + TAIL).map(|i| (i * 31 % 251) as u8).collect();
        for cut in [1000, 4096, 70_000, data.len()] {
            let mut ring = Ring::default();
            data.chunks(cut).for_each(|piece| ring.write(piece));
            for limit in [999, 65_536, usize::MAX] {
                assert_eq!(read_all(&ring, 0, limit), (data.clone(), 0));
            }
        }
    }

    #[test]
    fn past_the_budget_head_and_tail_stay_and_the_gap_is_counted_exactly() {
        let data: Vec<u8> = (0..3 * (HEAD + TAIL)).map(|i| (i * 17 % 241) as u8).collect();
        let mut ring = Ring::default();
        data.chunks(10_007).for_each(|piece| ring.write(piece));
        let (bytes, gap) = read_all(&ring, 0, 5000);
        assert_eq!(bytes[..HEAD], data[..HEAD]);
        assert_eq!(bytes[HEAD..], data[data.len() - TAIL..]);
        assert_eq!(gap as usize, data.len() - HEAD - TAIL);
        assert!(ring.memory() <= 2 * (HEAD + TAIL));
    }

    #[test]
    fn room_is_what_a_reader_can_still_fall_behind() {
        let mut ring = Ring::default();
        ring.write(&vec![1; TAIL]);
        assert_eq!(ring.room_before(0), 0);
        assert_eq!(ring.room_before(100), 100);
        assert_eq!(ring.room_before(TAIL as u64), TAIL);
    }
}

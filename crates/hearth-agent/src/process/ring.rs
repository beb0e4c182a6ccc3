//! What is kept of a stream: its head, its tail, and the count of what lies between.

use std::ops::Range;

/// The bytes kept from the start of a stream.
const HEAD: usize = 128 * 1024;
/// The bytes kept from its end. At least a session's window, so that a lossless follower can be a whole window behind.
const TAIL: usize = 1024 * 1024;
/// The most that one [`Ring::fill`] takes: so much more than the tail has room, so that what is kept is not what is written over.
pub(super) const FILL: usize = 256 * 1024;

/// A bounded record of an unbounded stream, addressed by byte positions that never shift. Grows with what is written.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    head: Vec<u8>,
    /// Byte `n` behind the head is at `n % (TAIL + FILL)`.
    tail: Vec<u8>,
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

    /// Whether the head is full, so that [`Self::fill`] can take what comes.
    pub(crate) fn is_past_head(&self) -> bool {
        self.head.len() == HEAD
    }

    /// Appends `bytes`; the oldest of the tail make room.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let (to_head, mut rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
        self.head.extend_from_slice(to_head);
        self.total += to_head.len() as u64;
        while !rest.is_empty() {
            let copied = self.fill(rest.len(), |place| {
                place.copy_from_slice(&rest[..place.len()]);
                Ok::<_, std::convert::Infallible>(place.len())
            });
            rest = &rest[copied.unwrap_or_default()..];
        }
    }

    /// Has `source` write at most `limit` bytes behind the others, in one piece, and say how many: output that need not be copied
    /// again. Only past the head.
    ///
    /// # Errors
    /// What `source` fails with; nothing is appended then.
    pub(crate) fn fill<E>(
        &mut self,
        limit: usize,
        source: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let place = self.place(limit.min(FILL));
        let count = source(&mut self.tail[place])?;
        self.total += count as u64;
        Ok(count)
    }

    /// Where the next bytes of the tail go, up to its wrap. The tail is grown to hold them.
    fn place(&mut self, limit: usize) -> Range<usize> {
        let start = self.index(self.total);
        let end = (start + limit).min(TAIL + FILL);
        if end > self.tail.len() {
            let length = end.max(self.tail.len() * 2).min(TAIL + FILL);
            self.tail.reserve_exact(length - self.tail.len());
            self.tail.resize(length, 0);
        }
        start..end
    }

    fn index(&self, position: u64) -> usize {
        ((position - HEAD as u64) % (TAIL + FILL) as u64) as usize
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
        let at = cursor.max(self.total.saturating_sub(TAIL as u64)).max(HEAD as u64);
        let start = self.index(at);
        let length = ((self.total - at) as usize).min(limit).min(TAIL + FILL - start);
        Some((at, &self.tail[start..start + length]))
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
        assert!(ring.memory() <= 2 * HEAD + TAIL + FILL, "{}", ring.memory());
    }

    #[test]
    fn filling_and_writing_make_the_same_record() {
        let data: Vec<u8> = (0..3 * (HEAD + TAIL)).map(|i| (i * 13 % 239) as u8).collect();
        let (mut written, mut filled) = (Ring::default(), Ring::default());
        written.write(&data);
        filled.write(&data[..HEAD]);
        let mut rest = &data[HEAD..];
        while !rest.is_empty() {
            let take = |place: &mut [u8]| {
                // As a pipe does: sometimes less than there is room for.
                let count = place.len().min(rest.len()).min(50_021);
                place[..count].copy_from_slice(&rest[..count]);
                Ok::<_, ()>(count)
            };
            rest = &rest[filled.fill(FILL, take).unwrap()..];
        }
        assert_eq!(read_all(&filled, 0, 4096), read_all(&written, 0, 65_536));
    }

    #[test]
    fn a_fill_that_fails_or_falls_short_loses_nothing_that_was_kept() {
        let mut ring = Ring::default();
        ring.write(&vec![1; HEAD + 3 * TAIL]);
        let spoil = |place: &mut [u8]| {
            place.fill(9);
            Err::<usize, ()>(())
        };
        assert_eq!(ring.fill(FILL, spoil), Err(()));
        let cursor = ring.total() - TAIL as u64;
        let (kept, gap) = read_all(&ring, cursor, usize::MAX);
        assert_eq!((kept, gap), (vec![1; TAIL], 0));
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

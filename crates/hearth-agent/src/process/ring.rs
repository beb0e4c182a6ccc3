//! What is kept of a stream: its head, its tail, and the count of what lies between.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use hearth_protocol::{Budget, limits};

/// The most that one [`Ring::fill`] takes: so much more than the tail has room, so that what is kept is not what is written over.
pub(super) const FILL: usize = 256 * 1024;
/// What every head may take, however much all streams take already.
const LEAST_HEAD: usize = 16 * 1024;
/// What every tail may take with its room to fill. More than is ever written at once, so that a tail that ends its growth here loses
/// nothing of that.
const LEAST_TAIL: usize = 80 * 1024;
/// What a tail may keep at most that was extended.
const LONGEST_TAIL: usize = 2 * limits::KEPT_MOST as usize;

/// A bound on what all rings together may take. Past it a ring grows no more, and what it keeps is less than its budget.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: usize,
    taken: Cell<usize>,
}

impl Memory {
    /// Makes a bound of `limit` bytes.
    pub(crate) fn new(limit: usize) -> Rc<Self> {
        Rc::new(Self { limit, taken: Cell::new(0) })
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.taken.get().saturating_add(bytes) <= self.limit
    }
}

/// A bounded record of an unbounded stream, addressed by byte positions that never shift. Grows with what is written.
#[derive(Debug)]
pub(crate) struct Ring {
    head: Vec<u8>,
    head_limit: usize,
    /// Byte `n` behind the head is at `n % tail_limit`.
    tail: Vec<u8>,
    tail_limit: usize,
    total: u64,
    /// From here on nothing was written over, though it may lie before what the tail must keep.
    intact: u64,
    memory: Rc<Memory>,
    /// What of `memory` is this ring's.
    charged: usize,
}

impl Ring {
    /// Makes an empty record that keeps `budget` and takes from `memory`.
    pub(crate) fn new(budget: Budget, memory: Rc<Memory>) -> Self {
        let tail = budget.tail as usize;
        Self {
            head: Vec::new(),
            head_limit: budget.head as usize,
            tail: Vec::new(),
            tail_limit: tail + FILL.min(tail / 4),
            total: 0,
            intact: 0,
            memory,
            charged: 0,
        }
    }

    /// Makes an empty record that keeps `budget` and takes from the same memory as this.
    pub(super) fn beside(&self, budget: Budget) -> Self {
        Self::new(budget, Rc::clone(&self.memory))
    }

    /// The number of bytes that were ever written.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// How many of the bytes before `position` are gone: those between the head and the tail.
    pub(crate) fn dropped(&self, position: u64) -> u64 {
        self.tail_start().min(position).saturating_sub(self.head.len() as u64)
    }

    /// The bytes of memory in use.
    pub(crate) fn memory(&self) -> usize {
        self.charged
    }

    /// The most that one [`Self::fill`] takes.
    pub(crate) fn fill_limit(&self) -> usize {
        FILL.min(self.tail_limit / 5)
    }

    /// The bytes that the tail keeps.
    pub(super) fn window(&self) -> usize {
        self.tail_limit - self.fill_limit()
    }

    /// The position of the first byte of the tail.
    fn tail_start(&self) -> u64 {
        self.total.saturating_sub(self.window() as u64).max(self.intact).max(self.head.len() as u64)
    }

    /// How many bytes may be written before a reader at `cursor` would lose any.
    pub(crate) fn room_before(&self, cursor: u64) -> usize {
        let behind = usize::try_from(self.total.saturating_sub(cursor)).unwrap_or(usize::MAX);
        self.window().saturating_sub(behind)
    }

    /// Whether the head is full, so that [`Self::fill`] can take what comes.
    pub(crate) fn is_past_head(&self) -> bool {
        self.head.len() >= self.head_limit
    }

    /// Appends `bytes`; the oldest of the tail make room.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if !self.is_past_head() {
            self.grow_head(rest.len());
            let (to_head, behind) = rest.split_at(rest.len().min(self.head_limit - self.head.len()));
            self.head.extend_from_slice(to_head);
            self.total += to_head.len() as u64;
            rest = behind;
        }
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
        let place = self.place(limit.min(self.fill_limit()));
        let count = source(&mut self.tail[place])?;
        self.total += count as u64;
        Ok(count)
    }

    /// Makes ready for a [`Self::fill`]: after that it is known how far the tail will grow, and so what [`Self::room_before`] a reader.
    pub(crate) fn prepare(&mut self) {
        let written = self.total - self.head.len() as u64;
        if self.tail.len() < self.tail_limit && self.is_past_head() {
            self.grow_tail(written as usize + self.fill_limit());
        }
    }

    /// Lets the tail keep `more` bytes, beyond its budget, as far as there is memory and [`LONGEST_TAIL`] allows.
    pub(crate) fn extend(&mut self, more: usize) {
        let kept = self.window() + more;
        let limit = kept + FILL.min(kept / 4);
        if more == 0 || kept > LONGEST_TAIL {
            return;
        }
        if self.tail.len() < self.tail_limit {
            // It has not wrapped, and grows as it is written.
            self.tail_limit = limit;
            return;
        }
        if self.grant(self.tail.len(), limit, 0) < limit {
            return;
        }
        let mut tail = vec![0; limit];
        let mut at = self.intact.max(self.head.len() as u64);
        let start = |position: u64| ((position - self.head.len() as u64) % limit as u64) as usize;
        while let Some((_, piece)) = self.read(at, limit - start(at)) {
            tail[start(at)..start(at) + piece.len()].copy_from_slice(piece);
            at += piece.len() as u64;
        }
        (self.tail, self.tail_limit) = (tail, limit);
    }

    /// Where the next bytes of the tail go, up to its wrap.
    fn place(&mut self, limit: usize) -> Range<usize> {
        self.prepare();
        let start = self.index(self.total);
        let end = (start + limit.min(self.fill_limit())).min(self.tail_limit);
        self.intact = self.intact.max((self.total + (end - start) as u64).saturating_sub(self.tail_limit as u64));
        start..end
    }

    /// Makes the head hold `more` bytes, or ends it where it stands.
    fn grow_head(&mut self, more: usize) {
        let needed = (self.head.len() + more).min(self.head_limit);
        if needed <= self.head.capacity() {
            return;
        }
        let doubled = needed.max(self.head.capacity() * 2).min(self.head_limit);
        let capacity = self.grant(self.head.capacity(), doubled, LEAST_HEAD);
        self.head_limit = if capacity < needed { capacity } else { self.head_limit };
        self.head.reserve_exact(capacity - self.head.len());
    }

    /// Makes the tail `length` long, or, where there is no memory for it, ends its growth. It has not wrapped yet: it would be
    /// at its limit, and not have to grow.
    fn grow_tail(&mut self, length: usize) {
        let needed = length.min(self.tail_limit);
        if needed <= self.tail.len() {
            return;
        }
        let doubled = needed.max(self.tail.len() * 2).min(self.tail_limit);
        let length = self.grant(self.tail.len(), doubled, LEAST_TAIL);
        self.tail_limit = if length < needed { length } else { self.tail_limit };
        self.tail.reserve_exact(length - self.tail.len());
        self.tail.resize(length, 0);
    }

    /// How large what has `present` bytes may become that wants `wanted`: as wanted, or, where there is no memory, `least` at most.
    fn grant(&mut self, present: usize, wanted: usize, least: usize) -> usize {
        let granted = match self.memory.has_room_for(wanted - present) {
            true => wanted,
            false => wanted.min(least).max(present),
        };
        self.charged += granted - present;
        self.memory.taken.set(self.memory.taken.get() + granted - present);
        granted
    }

    fn index(&self, position: u64) -> usize {
        ((position - self.head.len() as u64) % self.tail_limit as u64) as usize
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
        // A reader that is this far already goes on without a gap: one that held the stream back when its tail ended its growth.
        let at = if cursor >= self.intact { cursor } else { cursor.max(self.tail_start()) };
        let start = self.index(at);
        let length = ((self.total - at) as usize).min(limit).min(self.tail_limit - start);
        Some((at, &self.tail[start..start + length]))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.memory.taken.set(self.memory.taken.get() - self.charged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: usize = limits::KEPT_HEAD as usize;
    const TAIL: usize = limits::KEPT_TAIL as usize;

    fn ring() -> Ring {
        ring_of(Budget::default())
    }

    fn ring_of(budget: Budget) -> Ring {
        Ring::new(budget, Memory::new(usize::MAX))
    }

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
            let mut ring = ring();
            data.chunks(cut).for_each(|piece| ring.write(piece));
            for limit in [999, 65_536, usize::MAX] {
                assert_eq!(read_all(&ring, 0, limit), (data.clone(), 0));
            }
        }
    }

    #[test]
    fn past_the_budget_head_and_tail_stay_and_the_gap_is_counted_exactly() {
        let data: Vec<u8> = (0..3 * (HEAD + TAIL)).map(|i| (i * 17 % 241) as u8).collect();
        let mut ring = ring();
        data.chunks(10_007).for_each(|piece| ring.write(piece));
        let (bytes, gap) = read_all(&ring, 0, 5000);
        assert_eq!(bytes[..HEAD], data[..HEAD]);
        assert_eq!(bytes[HEAD..], data[data.len() - TAIL..]);
        assert_eq!(gap as usize, data.len() - HEAD - TAIL);
        assert_eq!((ring.dropped(ring.total()), ring.dropped(HEAD as u64 + 10)), (gap, 10));
        assert!(ring.memory() <= 2 * HEAD + TAIL + FILL, "{}", ring.memory());
    }

    #[test]
    fn filling_and_writing_make_the_same_record() {
        let data: Vec<u8> = (0..3 * (HEAD + TAIL)).map(|i| (i * 13 % 239) as u8).collect();
        let (mut written, mut filled) = (ring(), ring());
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
        let mut ring = ring();
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
        let mut ring = ring();
        ring.write(&vec![1; TAIL]);
        assert_eq!(ring.room_before(0), 0);
        assert_eq!(ring.room_before(100), 100);
        assert_eq!(ring.room_before(TAIL as u64), TAIL);
    }

    #[test]
    fn budgets_are_kept_to_the_byte() {
        let data: Vec<u8> = (0..1_000_000_u32).map(|i| (i * 7 % 233) as u8).collect();
        for (head, tail) in [(0, 32_768), (1, 32_771), (5000, 100_003), (200_000, 40_000)] {
            let mut ring = ring_of(Budget { head, tail });
            data.chunks(10_007).for_each(|piece| ring.write(piece));
            let (head, tail) = (head as usize, tail as usize);
            let (bytes, gap) = read_all(&ring, 0, 5000);
            assert_eq!(bytes, [&data[..head], &data[data.len() - tail..]].concat());
            assert_eq!((ring.dropped(u64::MAX), gap as usize), (gap, data.len() - head - tail));
            assert!(ring.memory() <= head + tail + tail / 4, "{}", ring.memory());
        }
    }

    #[test]
    fn a_stream_that_is_short_takes_little_memory_and_drops_nothing() {
        let mut ring = ring();
        assert_eq!((ring.memory(), ring.dropped(ring.total())), (0, 0));
        ring.write(b"hello\n");
        assert!(ring.memory() < 64, "{}", ring.memory());
        assert_eq!(ring.dropped(ring.total()), 0);
    }

    #[test]
    fn past_the_memory_of_all_streams_each_keeps_a_little_and_still_counts_exactly() {
        let memory = Memory::new(1 << 20);
        let data: Vec<u8> = (0..3 * (HEAD + TAIL)).map(|i| (i * 11 % 229) as u8).collect();
        let mut rings: Vec<Ring> = (0..20).map(|_| Ring::new(Budget::default(), Rc::clone(&memory))).collect();
        for piece in data.chunks(60_001) {
            rings.iter_mut().for_each(|ring| ring.write(piece));
        }
        for ring in &rings {
            let (bytes, gap) = read_all(ring, 0, 5000);
            let kept_head = ring.head.len();
            assert!(kept_head >= LEAST_HEAD && bytes.len() - kept_head >= LEAST_TAIL * 4 / 5);
            assert_eq!(bytes[..kept_head], data[..kept_head]);
            assert_eq!(bytes[kept_head..], data[data.len() - (bytes.len() - kept_head)..]);
            assert_eq!((ring.dropped(u64::MAX), gap as usize), (gap, data.len() - bytes.len()));
        }
        let least = rings.len() * (LEAST_HEAD + LEAST_TAIL);
        assert!(memory.taken.get() <= memory.limit + least, "{}", memory.taken.get());
        rings.clear();
        assert_eq!(memory.taken.get(), 0);
    }

    #[test]
    fn an_extended_tail_keeps_what_it_had_and_that_much_more() {
        let data: Vec<u8> = (0..3 * (HEAD + TAIL)).map(|i| (i * 19 % 223) as u8).collect();
        for written in [0, HEAD / 2, HEAD + TAIL / 2, HEAD + TAIL, data.len() - TAIL - 12_345] {
            let mut ring = ring();
            data[..written].chunks(10_007).for_each(|piece| ring.write(piece));
            let cursor = written.saturating_sub(TAIL) as u64;
            let room = ring.room_before(cursor);
            ring.extend(100_000);
            assert_eq!(ring.room_before(cursor), room + 100_000);
            let more = &data[..written + room + 100_000];
            more[written..].chunks(4096).for_each(|piece| ring.write(piece));
            assert!(read_all(&ring, cursor, 5000) == (more[cursor as usize..].to_vec(), 0), "after {written}");
            let (kept, gap) = read_all(&ring, 0, usize::MAX);
            assert_eq!((kept.len() + gap as usize, gap), (more.len(), ring.dropped(u64::MAX)));
            ring.write(&data);
            assert!(read_all(&ring, ring.total() - TAIL as u64, 5000) == (data[data.len() - TAIL..].to_vec(), 0));
        }
    }

    #[test]
    fn a_tail_that_there_is_no_memory_to_extend_stays_as_it_is() {
        let memory = Memory::new(HEAD + TAIL + FILL);
        let mut ring = Ring::new(Budget::default(), memory);
        ring.write(&vec![1; HEAD + 3 * TAIL]);
        let cursor = ring.total() - TAIL as u64;
        ring.extend(100_000);
        assert_eq!((ring.room_before(cursor), read_all(&ring, cursor, 5000)), (0, (vec![1; TAIL], 0)));
    }

    #[test]
    fn a_tail_that_ends_its_growth_keeps_the_room_that_it_has_promised() {
        // Room for the head and two growths of the tail, not for a third.
        let memory = Memory::new(HEAD + 3 * FILL);
        let mut ring = Ring::new(Budget::default(), memory);
        let data: Vec<u8> = (0..HEAD + 2 * TAIL).map(|i| (i * 5 % 227) as u8).collect();
        ring.write(&data[..HEAD]);
        let mut written = HEAD;
        // As the pump does for a lossless follower that stands at the end of the head.
        loop {
            ring.prepare();
            let room = ring.room_before(HEAD as u64);
            if room < ring.fill_limit() {
                break;
            }
            let source = |place: &mut [u8]| {
                place.copy_from_slice(&data[written..written + place.len()]);
                Ok::<_, ()>(place.len())
            };
            written += ring.fill(room, source).unwrap();
        }
        assert!(ring.tail_limit < TAIL, "it was to end its growth");
        let (bytes, gap) = read_all(&ring, HEAD as u64, usize::MAX);
        assert!(bytes == data[HEAD..written] && gap == 0);
    }
}

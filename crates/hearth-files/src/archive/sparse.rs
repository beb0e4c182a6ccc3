//! Where a sparse file has its data.

use std::os::fd::BorrowedFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// The most pieces of one file that are told apart, so that the list of them stays within some MiB. What lies behind the last of them
/// counts as data.
pub(super) const SEGMENTS: usize = 1 << 18;

/// A piece of a file that is data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Whether the pieces stand in order within a file of this length, do not overlap, and hold as much as is stored.
pub(super) fn is_sound(segments: &[Segment], file: u64, stored: u64) -> bool {
    let follow = segments.iter().try_fold((0_u64, 0_u64), |(end, sum), segment| {
        let next = segment.offset.checked_add(segment.length)?;
        (segment.offset >= end && next <= file).then(|| (next, sum + segment.length))
    });
    follow.is_some_and(|(_, sum)| sum == stored)
}

/// Asks the file system for the pieces of a file of this length; all of it is one where that is not known.
pub(super) fn segments(file: BorrowedFd<'_>, length: u64) -> Vec<Segment> {
    find(file, length).unwrap_or_else(|_| vec![Segment { offset: 0, length }])
}

fn find(file: BorrowedFd<'_>, length: u64) -> Result<Vec<Segment>, Errno> {
    let mut segments = Vec::new();
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.min(length),
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error),
        };
        let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
            Ok(end) if segments.len() + 1 < SEGMENTS => end.min(length),
            Ok(_) | Err(Errno::NXIO) => length,
            Err(error) => return Err(error),
        };
        if end > start {
            segments.push(Segment { offset: start, length: end - start });
        }
        at = end.max(at + 1);
    }
    // A hole at the end is known by an empty piece behind it, as GNU tar has it.
    if segments.last().is_none_or(|last: &Segment| last.offset + last.length < length) {
        segments.push(Segment { offset: length, length: 0 });
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound(pieces: &[(u64, u64)], file: u64, stored: u64) -> bool {
        let segments: Vec<_> = pieces.iter().map(|&(offset, length)| Segment { offset, length }).collect();
        is_sound(&segments, file, stored)
    }

    #[test]
    fn pieces_must_stand_in_order_inside_the_file() {
        assert!(sound(&[], 100, 0) && sound(&[(0, 5), (5, 5), (90, 10), (100, 0)], 100, 20));
        assert!(!sound(&[(5, 5), (0, 5)], 100, 10), "in order");
        assert!(!sound(&[(0, 6), (5, 5)], 100, 11), "apart");
        assert!(!sound(&[(90, 11)], 100, 11), "inside");
        assert!(!sound(&[(u64::MAX, 2)], u64::MAX, 2), "a number that can be");
        assert!(!sound(&[(0, 5)], 100, 6), "as much as is stored");
    }
}

//! The copy of what only a process has in memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::areas::Area;
use crate::saved::{PAGE, PageState, page_states};
use crate::sys;

/// A stretch of addresses as it is to be mapped again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) begin: u64,
    pub(super) length: u64,
    pub(super) protection: i32,
    pub(super) of: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Nothing: zeros.
    Blank,
    /// The copy, from this byte on.
    Copy(u64),
    /// The guest's memory, from this byte on.
    Memory(u64),
    /// A program's file, from this byte on.
    File(String, u64),
}

/// Up to so many pages that a process does not have between two that it has are copied as well, as zeros: a mapping costs more.
const GAP: u64 = 16;

/// The most that is copied, and the most addresses that are looked at, in bytes: seen are 80 MiB and 600 MiB, and a guest that has broken its
/// QEMU can have that map what it likes.
const MOST_COPIED: u64 = 1 << 30;
const MOST_ADDRESSES: u64 = 16 << 30;
/// What is copied at once, in bytes.
const PIECE: u64 = 16 << 20;

/// Copies what only this process has to the end of `copy`, and returns what is to be mapped where. `memory` is the file of the guest's.
pub(super) fn copy(pid: u32, areas: &[Area], memory: (u64, u64), copy: &File) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut end = 0;
    let own = areas.iter().filter(|area| area.file != Some(memory));
    if own.map(Area::length).fold(0, u64::saturating_add) > MOST_ADDRESSES {
        return Err(io::Error::other("it has mapped more than a QEMU does"));
    }
    for area in areas.iter().filter(|area| !area.is_the_kernels()) {
        let states = || page_states(pid, area.begin, area.length());
        let piece = |begin, length, of| Piece { begin, length, protection: area.protection, of };
        if area.file == Some(memory) {
            pieces.push(piece(area.begin, area.length(), Source::Memory(area.offset)));
            continue;
        }
        if area.is_shared {
            return Err(io::Error::other(format!("{:?} is shared with other processes", area.name)));
        }
        let runs = match &area.file {
            Some(_) if !states()?.contains(&PageState::Own) => {
                pieces.push(piece(area.begin, area.length(), Source::File(area.name.clone(), area.offset)));
                continue;
            }
            Some(_) => vec![(0, area.length() / PAGE)],
            None => runs(&states()?),
        };
        let mut at = area.begin;
        for (first, pages) in runs {
            let (begin, length) = (area.begin + first * PAGE, pages * PAGE);
            if begin > at {
                pieces.push(piece(at, begin - at, Source::Blank));
            }
            if end + length > MOST_COPIED {
                return Err(io::Error::other("it has more memory of its own than a QEMU does"));
            }
            let mut copied = 0;
            while copied < length {
                let mut bytes = Vec::new();
                sys::read_process(pid, &[(begin + copied, PIECE.min(length - copied))], &mut bytes)?;
                copy.write_all_at(&bytes, end + copied)?;
                copied += bytes.len() as u64;
            }
            pieces.push(piece(begin, length, Source::Copy(end)));
            (at, end) = (begin + length, end + length);
        }
        if area.end > at {
            pieces.push(piece(at, area.end - at, Source::Blank));
        }
    }
    Ok(pieces)
}

/// The stretches of pages that are there, first and number of each.
fn runs(states: &[PageState]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let there = states.iter().enumerate().filter(|(_, state)| **state != PageState::Missing);
    for page in there.map(|(page, _)| page as u64) {
        match runs.last_mut() {
            Some((first, pages)) if page - (*first + *pages) <= GAP => *pages = page - *first + 1,
            _ => runs.push((page, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_with_few_between_them_are_one_run() {
        let mut states = vec![PageState::Missing; 100];
        for page in [3, 4, 4 + GAP as usize + 1, 60] {
            states[page] = PageState::Own;
        }
        assert_eq!(runs(&states), [(3, GAP + 3), (60, 1)]);
        assert_eq!(runs(&states[..3]), []);
    }

    #[test]
    fn what_a_process_has_of_its_own_is_copied_and_the_rest_named() {
        let own = vec![7_u8; 3 * PAGE as usize];
        let areas = crate::areas::areas(std::process::id()).unwrap();
        let of_own = areas.iter().find(|area| (area.begin..area.end).contains(&(own.as_ptr() as u64))).unwrap();
        let file = tempfile::tempfile().unwrap();
        let pieces = copy(std::process::id(), std::slice::from_ref(of_own), (0, 0), &file).unwrap();
        assert_eq!(pieces.iter().map(|piece| piece.length).sum::<u64>(), of_own.length());
        let place = own.as_ptr() as u64;
        let piece = pieces.iter().find(|piece| (piece.begin..piece.begin + piece.length).contains(&place)).unwrap();
        let Source::Copy(at) = piece.of else { panic!("{piece:?}") };
        let mut copied = [0; 16];
        file.read_exact_at(&mut copied, at + place - piece.begin).unwrap();
        assert_eq!(copied, [7; 16]);
        let code = areas.iter().find(|area| area.protection & libc::PROT_EXEC != 0 && area.file.is_some()).unwrap();
        let pieces = copy(std::process::id(), std::slice::from_ref(code), (0, 0), &file).unwrap();
        assert_eq!(pieces[0].of, Source::File(code.name.clone(), code.offset));
    }
}

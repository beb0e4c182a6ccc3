//! What only a process has in memory: all of it, or what it has beside the copy that it began with.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::file;
use crate::areas::Area;
use crate::saved::{PAGE, PageState, page_states, pagemap, read_at, with_slack};
use crate::sys::Filling;

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
    /// What is not in the copy that its process began from, from this byte on.
    Own(u64),
}

impl Source {
    /// The same, from a later byte on.
    fn behind(&self, bytes: u64) -> Self {
        match self {
            Self::Blank => Self::Blank,
            Self::Copy(offset) => Self::Copy(offset + bytes),
            Self::Memory(offset) => Self::Memory(offset + bytes),
            Self::File(path, offset) => Self::File(path.clone(), offset + bytes),
            Self::Own(offset) => Self::Own(offset + bytes),
        }
    }
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
        return Err(too_many_addresses());
    }
    let mut states = States::of(pid, areas)?;
    for area in areas.iter().filter(|area| !area.is_the_kernels()) {
        let piece = |begin, length, of| Piece { begin, length, protection: area.protection, of };
        if area.file == Some(memory) {
            pieces.push(piece(area.begin, area.length(), Source::Memory(area.offset)));
            continue;
        }
        if area.is_shared {
            return Err(shared(area));
        }
        let runs = match &area.file {
            Some(_) if !states.of_area(area)?.contains(&PageState::Own) => {
                pieces.push(piece(area.begin, area.length(), Source::File(area.name.clone(), area.offset)));
                continue;
            }
            Some(_) => vec![(0, area.length() / PAGE)],
            None => runs(states.of_area(area)?, GAP),
        };
        let mut at = area.begin;
        for (first, pages) in runs {
            let (begin, length) = (area.begin + first * PAGE, pages * PAGE);
            if begin > at {
                pieces.push(piece(at, begin - at, Source::Blank));
            }
            if end + length > MOST_COPIED {
                return Err(too_much());
            }
            let mut copied = 0;
            while copied < length {
                let mut bytes = vec![0; PIECE.min(length - copied) as usize];
                read_at(pid, &[(begin + copied, bytes.len() as u64)], &mut bytes)?;
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

/// The most that a process may have of its own beside what it began with, in bytes: its guest stands still while that is copied. Seen: 2 to 20 MiB.
const MOST_DIFFERENT: u64 = 64 << 20;

/// Up to so many pages between two of its own are copied as well, for the same reason.
const OWN_GAP: u64 = 3;

/// What a process has that began from another's copy: what is to be mapped where, and which stretches of that are its own.
pub(super) struct Difference {
    pub(super) pieces: Vec<Piece>,
    /// Address and length of each.
    own: Vec<(u64, u64)>,
}

impl Difference {
    /// Looks at a process that began from the copy in the file `began_from`. All that is in other files of copies counts as its own.
    pub(super) fn of(pid: u32, areas: &[Area], memory: (u64, u64), began_from: (u64, u64)) -> io::Result<Self> {
        let mut difference = Self { pieces: Vec::new(), own: Vec::new() };
        let (mut looked_at, mut bytes) = (0_u64, 0);
        let mut states = States::of(pid, areas)?;
        for area in areas.iter().filter(|area| !area.is_the_kernels() && !file::is_a_script(area)) {
            let of = match area.file {
                Some(file) if file == memory => Source::Memory(area.offset),
                _ if area.is_shared => return Err(shared(area)),
                Some(file) if file == began_from => Source::Copy(area.offset),
                Some(_) if file::is_a_copy(area) => Source::Own(0),
                Some(_) => Source::File(area.name.clone(), area.offset),
                None => Source::Blank,
            };
            let all = area.length() / PAGE;
            let own = match &of {
                Source::Memory(_) => Vec::new(),
                Source::Own(_) => vec![(0, all)],
                _ => {
                    looked_at += area.length();
                    if looked_at > MOST_ADDRESSES {
                        return Err(too_many_addresses());
                    }
                    stretches(states.of_area(area)?.iter().map(|state| *state == PageState::Own), OWN_GAP)
                }
            };
            let mut at = 0;
            for (first, pages) in own.into_iter().chain([(all, 0)]) {
                if first > at {
                    difference.add(area, at, first, of.behind(at * PAGE));
                }
                if pages > 0 {
                    difference.add(area, first, first + pages, Source::Own(bytes));
                    difference.own.push((area.begin + first * PAGE, pages * PAGE));
                }
                (at, bytes) = (first + pages, bytes + pages * PAGE);
            }
        }
        if bytes > MOST_DIFFERENT { Err(too_much()) } else { Ok(difference) }
    }

    fn add(&mut self, area: &Area, first: u64, end: u64, of: Source) {
        let (begin, length) = (area.begin + first * PAGE, (end - first) * PAGE);
        self.pieces.push(Piece { begin, length, protection: area.protection, of });
    }

    /// How much is its own.
    fn bytes(&self) -> usize {
        self.own.iter().map(|(_, length)| *length as usize).sum()
    }

    /// Room for what is its own, and somewhat more.
    pub(super) fn room(&self) -> io::Result<Filling> {
        Filling::new(file::unsealed(file::PAGES)?, with_slack(self.bytes() as u64) as usize)
    }

    /// Reads what is its own.
    pub(super) fn read(&self, pid: u32, room: Filling) -> io::Result<File> {
        let length = self.bytes();
        let mut room = if length <= room.length() { room } else { self.room()? };
        read_at(pid, &self.own, &mut room.bytes()[..length])?;
        room.finish(length)
    }
}

/// Whose pages are, of all areas one behind the other: read at once where they touch, for most of them are small.
struct States<'a> {
    pagemap: File,
    areas: &'a [Area],
    /// What was read last, from which address on.
    begin: u64,
    read: Vec<PageState>,
}

/// The most addresses that are looked at at once, in bytes.
const AT_ONCE: u64 = 256 << 20;

impl<'a> States<'a> {
    fn of(pid: u32, areas: &'a [Area]) -> io::Result<Self> {
        Ok(Self { pagemap: pagemap(pid)?, areas, begin: 0, read: Vec::new() })
    }

    fn of_area(&mut self, area: &Area) -> io::Result<&[PageState]> {
        let is_read = self.begin <= area.begin && area.end <= self.begin + self.read.len() as u64 * PAGE;
        if !is_read {
            let mut end = area.end;
            for next in self.areas {
                if next.begin == end && next.end - area.begin <= AT_ONCE {
                    end = next.end;
                }
            }
            (self.begin, self.read) = (area.begin, page_states(&self.pagemap, area.begin, end - area.begin)?);
        }
        let first = (area.begin - self.begin) / PAGE;
        Ok(&self.read[first as usize..][..(area.length() / PAGE) as usize])
    }
}

fn too_many_addresses() -> io::Error {
    io::Error::other("it has mapped more than a QEMU does")
}

fn too_much() -> io::Error {
    io::Error::other("it has more memory of its own than a QEMU does")
}

fn shared(area: &Area) -> io::Error {
    io::Error::other(format!("{:?} is shared with other processes", area.name))
}

/// The stretches of pages that are there, first and number of each. Up to `gap` others between two belong to both.
fn runs(states: &[PageState], gap: u64) -> Vec<(u64, u64)> {
    stretches(states.iter().map(|state| *state != PageState::Missing), gap)
}

fn stretches(wanted: impl Iterator<Item = bool>, gap: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (page, _) in (0_u64..).zip(wanted).filter(|(_, is_wanted)| *is_wanted) {
        match runs.last_mut() {
            Some((first, pages)) if page - (*first + *pages) <= gap => *pages = page - *first + 1,
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
        assert_eq!(runs(&states, GAP), [(3, GAP + 3), (60, 1)]);
        assert_eq!(runs(&states, 0), [(3, 2), (4 + GAP + 1, 1), (60, 1)]);
        assert_eq!(runs(&states[..3], GAP), []);
    }

    #[test]
    fn each_areas_states_are_its_own_whatever_was_read_at_once() {
        let own = vec![7_u8; 8 * PAGE as usize];
        let areas = crate::areas::areas(std::process::id()).unwrap();
        let mut states = States::of(std::process::id(), &areas).unwrap();
        let place = own.as_ptr() as u64 / PAGE + 1;
        let mut found = false;
        for area in areas.iter().filter(|area| !area.is_the_kernels()).chain([&areas[0]]) {
            let of_area = states.of_area(area).unwrap();
            assert_eq!(of_area.len() as u64 * PAGE, area.length());
            if (area.begin..area.end).contains(&(place * PAGE)) {
                found = true;
                assert_eq!(of_area[(place - area.begin / PAGE) as usize..][..6], [PageState::Own; 6]);
            }
        }
        assert!(found && areas.len() > 10);
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

//! Which pages of a guest's memory its machine has changed, and reading and writing them from outside.
//!
//! The memory of a restored machine is a private mapping of a sealed file. A page that was only read is the file's; one that was
//! written is anonymous, and `/proc/PID/pagemap` tells which is which, without any privilege (only page *numbers* are hidden).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::resume_unwind;
use std::thread;

use super::{PAGE, Run, SealedRam};
use crate::areas::areas;
use crate::sys;

/// Bit 63 of an entry: the page is there. Bit 62: it is swapped out. Bit 61: it is a file's. (Documentation/admin-guide/mm/pagemap.rst)
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;
const ENTRY: u64 = 8;
/// Entries read at once.
const BATCH: usize = 64 * 1024;

/// The private mappings of a template's memory in one process: usually one.
#[derive(Debug)]
pub(crate) struct Mapping {
    pid: u32,
    parts: Vec<Part>,
}

/// A stretch of addresses that maps a stretch of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    address: u64,
    length: u64,
    offset: u64,
}

impl Mapping {
    /// Finds where a process has mapped `ram`.
    pub(crate) fn find(pid: u32, ram: &SealedRam) -> io::Result<Self> {
        let file = ram.identity()?;
        let of_ram = areas(pid)?.into_iter().filter(|area| area.file == Some(file));
        let parts: Vec<Part> =
            of_ram.map(|area| Part { address: area.begin, length: area.length(), offset: area.offset }).collect();
        let mapped: u64 = parts.iter().map(|part| part.length).sum();
        if mapped == ram.size() {
            Ok(Self { pid, parts })
        } else {
            Err(io::Error::other("its memory is not mapped once and whole"))
        }
    }

    /// The pages that the process has changed, as runs in order.
    pub(crate) fn changed(&self) -> io::Result<Vec<Run>> {
        let pagemap = pagemap(self.pid)?;
        let mut runs = Vec::new();
        let mut bytes = vec![0; BATCH * ENTRY as usize];
        for part in &self.parts {
            let (first, pages) = (part.address / PAGE, part.length / PAGE);
            let mut done = 0;
            while done < pages {
                let count = (pages - done).min(BATCH as u64);
                let batch = &mut bytes[..(count * ENTRY) as usize];
                pagemap.read_exact_at(batch, (first + done) * ENTRY)?;
                collect(batch, part.offset / PAGE + done, &mut runs);
                done += count;
            }
        }
        Ok(runs)
    }

    /// Reads the content of `runs`.
    pub(crate) fn read(&self, runs: &[Run], room: Room) -> io::Result<Vec<u8>> {
        let mut content = room.for_just(runs.iter().map(|run| run.pages * PAGE).sum::<u64>() as usize)?;
        read_at(self.pid, &self.addresses(runs)?, &mut content)?;
        Ok(content)
    }

    /// Writes `bytes` over the content of `runs`.
    pub(crate) fn write(&self, runs: &[Run], bytes: &[u8]) -> io::Result<()> {
        write_at(self.pid, &self.addresses(runs)?, bytes)
    }

    /// Where runs are in the process: address and length of each.
    fn addresses(&self, runs: &[Run]) -> io::Result<Vec<(u64, u64)>> {
        let within = |run: &Run| {
            let (offset, length) = (run.first * PAGE, run.pages * PAGE);
            let holds = |part: &&Part| part.offset <= offset && offset + length <= part.offset + part.length;
            let part = self.parts.iter().find(holds)?;
            Some((part.address + (offset - part.offset), length))
        };
        let found = runs.iter().map(|run| within(run).ok_or_else(|| io::Error::other("a run lies outside of memory")));
        found.collect()
    }
}

/// What one thread reads or writes, in bytes at least, and the most threads that do: a guest that is to go on stands still meanwhile.
const PIECE: u64 = 2 << 20;
const HANDS: usize = 4;

/// Memory that is there already, for what is to be read while a guest stands still.
#[derive(Debug)]
pub(crate) struct Room(Vec<u8>);

impl Room {
    /// For what has so many bytes by now, and may get more.
    pub(crate) fn of(bytes: u64) -> io::Result<Self> {
        Ok(Self(sys::zeros(with_slack(bytes) as usize, true)?))
    }

    fn for_just(self, bytes: usize) -> io::Result<Vec<u8>> {
        let Self(mut room) = self;
        if room.len() < bytes {
            return sys::zeros(bytes, false);
        }
        room.truncate(bytes);
        Ok(room)
    }
}

/// What has so many bytes by now may have so many when its guest stands still.
pub(crate) fn with_slack(bytes: u64) -> u64 {
    bytes + bytes / 8 + PIECE / 4
}

/// Fills `out` with what a process has at `stretches` (address and length of each), which have the same length together.
pub(crate) fn read_at(pid: u32, stretches: &[(u64, u64)], out: &mut [u8]) -> io::Result<()> {
    let shares = shares(stretches, out.len())?;
    let mut rest = out;
    at_once(shares.into_iter().map(|(stretches, length)| {
        let (piece, behind) = std::mem::take(&mut rest).split_at_mut(length);
        rest = behind;
        move || sys::read_process(pid, &stretches, piece)
    }))
}

/// Writes `bytes` over what a process has at `stretches`, which have the same length together.
fn write_at(pid: u32, stretches: &[(u64, u64)], bytes: &[u8]) -> io::Result<()> {
    let shares = shares(stretches, bytes.len())?;
    let mut rest = bytes;
    at_once(shares.into_iter().map(|(stretches, length)| {
        let (piece, behind) = rest.split_at(length);
        rest = behind;
        move || sys::write_process(pid, &stretches, piece)
    }))
}

/// What one thread reads or writes: stretches, and how long they are together.
type Share = (Vec<(u64, u64)>, usize);

/// Divides stretches of so many bytes among threads.
fn shares(stretches: &[(u64, u64)], bytes: usize) -> io::Result<Vec<Share>> {
    let total: u64 = stretches.iter().map(|(_, length)| length).sum();
    if total != bytes as u64 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let hands = thread::available_parallelism().map_or(1, usize::from).min(HANDS) as u64;
    let share = total.div_ceil(hands).max(PIECE);
    let parts = stretches.iter().flat_map(|(begin, length)| {
        (0..*length).step_by(PIECE as usize).map(move |at| (begin + at, PIECE.min(length - at)))
    });
    let mut shares: Vec<Share> = Vec::new();
    for part in parts {
        match shares.last_mut() {
            Some((stretches, length)) if (*length as u64) < share => {
                stretches.push(part);
                *length += part.1 as usize;
            }
            _ => shares.push((vec![part], part.1 as usize)),
        }
    }
    Ok(shares)
}

/// Has all work done at once, the first on this thread.
fn at_once<W: FnOnce() -> io::Result<()> + Send>(mut work: impl Iterator<Item = W>) -> io::Result<()> {
    let Some(own) = work.next() else { return Ok(()) };
    thread::scope(|scope| {
        let others: Vec<_> = work.map(|work| scope.spawn(work)).collect();
        let own = own();
        let ended = others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ended.fold(own, |so_far, other| so_far.and(other))
    })
}

/// Whose a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageState {
    /// It is not there.
    Missing,
    /// A file's.
    OfFile,
    /// The process's own.
    Own,
}

/// What tells whose a process's pages are.
pub(crate) fn pagemap(pid: u32) -> io::Result<File> {
    File::open(format!("/proc/{pid}/pagemap"))
}

/// Whose each page of a stretch of a process's addresses is.
pub(crate) fn page_states(pagemap: &File, address: u64, length: u64) -> io::Result<Vec<PageState>> {
    let mut bytes = vec![0; (length / PAGE * ENTRY) as usize];
    pagemap.read_exact_at(&mut bytes, address / PAGE * ENTRY)?;
    Ok(entries(&bytes).map(state).collect())
}

fn entries(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(ENTRY as usize).map(|entry| u64::from_ne_bytes(entry.try_into().expect("chunks of 8 bytes")))
}

fn state(entry: u64) -> PageState {
    match entry {
        _ if is_changed(entry) => PageState::Own,
        _ if entry & PRESENT != 0 => PageState::OfFile,
        _ => PageState::Missing,
    }
}

fn collect(bytes: &[u8], first: u64, runs: &mut Vec<Run>) {
    for (page, entry) in (first..).zip(entries(bytes)) {
        if is_changed(entry) {
            Run::add(runs, page);
        }
    }
}

fn is_changed(entry: u64) -> bool {
    entry & SWAPPED != 0 || entry & (PRESENT | OF_FILE) == PRESENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_pages_are_those_that_belong_to_no_file_or_are_swapped_out() {
        assert!(is_changed(PRESENT) && is_changed(SWAPPED) && is_changed(SWAPPED | OF_FILE));
        assert!(!is_changed(0) && !is_changed(PRESENT | OF_FILE));
    }

    #[test]
    fn what_several_read_at_once_is_in_order() {
        let numbers: Vec<u64> = (0..3 * PIECE / 8).collect();
        let begin = numbers.as_ptr() as u64;
        // In pieces of all sizes, from the end to the begin.
        let lengths = [8, 4096, PIECE, PIECE + 8, PIECE / 2];
        let stretches = lengths.map(|length| (begin + 3 * PIECE - length, length));
        let wanted: Vec<u8> = stretches
            .iter()
            .flat_map(|(address, length)| &numbers[(address - begin) as usize / 8..][..*length as usize / 8])
            .flat_map(|number| number.to_ne_bytes())
            .collect();
        let mut read = Room::of(PIECE).unwrap().for_just(wanted.len()).unwrap();
        read_at(std::process::id(), &stretches, &mut read).unwrap();
        assert!(read == wanted);
        read_at(std::process::id(), &[], &mut []).unwrap();
        for unreadable in [(1, 5 * PIECE), (begin, 4096)] {
            let stretches = [(begin, 4096), unreadable];
            assert!(read_at(std::process::id(), &stretches, &mut vec![0; 4096 + 5 * PIECE as usize - 1]).is_err());
        }
        let mut copy = vec![0_u64; numbers.len()];
        let to = copy.as_mut_ptr() as u64;
        write_at(std::process::id(), &stretches.map(|(address, length)| (address - begin + to, length)), &wanted)
            .unwrap();
        let untouched = numbers.len() - (PIECE as usize + 8) / 8;
        assert!(copy[untouched..] == numbers[untouched..] && copy[..untouched].iter().all(|number| *number == 0));
        assert!(write_at(std::process::id(), &[(to, 8), (to, 5 * PIECE)], &wanted[..16]).is_err());
    }

    #[test]
    fn neighbouring_pages_are_one_run_even_across_batches() {
        let entries: Vec<u8> =
            [0, PRESENT, PRESENT, PRESENT | OF_FILE, PRESENT].iter().flat_map(|e| e.to_ne_bytes()).collect();
        let mut runs = Vec::new();
        collect(&entries, 10, &mut runs);
        collect(&PRESENT.to_ne_bytes(), 15, &mut runs);
        let run = |first, pages| Run { first, pages };
        assert_eq!(runs, [run(11, 2), run(14, 2)]);
    }
}

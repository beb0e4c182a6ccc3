//! Which pages of a guest's memory its machine has changed, and reading and writing them from outside.
//!
//! The memory of a restored machine is a private mapping of a sealed file. A page that was only read is the file's; one that was
//! written is anonymous, and `/proc/PID/pagemap` tells which is which, without any privilege (only page *numbers* are hidden).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

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
        let pagemap = File::open(format!("/proc/{}/pagemap", self.pid))?;
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

    /// Appends the content of `runs` to `out`.
    pub(crate) fn read(&self, runs: &[Run], out: &mut Vec<u8>) -> io::Result<()> {
        sys::read_process(self.pid, &self.addresses(runs)?, out)
    }

    /// Writes `bytes` over the content of `runs`.
    pub(crate) fn write(&self, runs: &[Run], bytes: &[u8]) -> io::Result<()> {
        sys::write_process(self.pid, &self.addresses(runs)?, bytes)
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

/// Whose each page of a stretch of a process's addresses is.
pub(crate) fn page_states(pid: u32, address: u64, length: u64) -> io::Result<Vec<PageState>> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
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

//! What a process does to become the one of a checkpoint: a list of system calls with their arguments, worked out beforehand, and what each
//! must return. Pure; `sys.rs` has the few instructions that carry it out.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use super::sys;
use crate::saved::PAGE;

/// Where scripts are put, each at an address of its own. Linux maps nothing there by itself: programs lie above 0x5500_0000_0000, or below 4 GiB.
const FIRST_ADDRESS: u64 = 0x1000_0000_0000;
const ADDRESSES: u64 = 0x4000_0000_0000;
/// How far behind a script the kernel's own mappings wait while everything else goes.
const ASIDE: u64 = 1 << 30;
/// How much may wait there.
pub(super) const ROOM_ASIDE: u64 = 1 << 20;
/// The end of what a program may map, unless it asks for more.
const END: u64 = 0x7fff_ffff_f000;
/// The lowest address that may be mapped, on any usual host.
const BEGIN: u64 = 0x1_0000;

/// Where the report's descriptor is moved to, and behind it what was passed: above all that a machine has.
pub(super) const PARKED_REPORT: RawFd = 511;
/// Where the descriptor waits whose first byte is the word to go on.
pub(super) const PARKED_GATE: RawFd = PARKED_REPORT - 1;
/// The step that a script's failure is reported as.
pub(super) const STEP: u8 = crate::sys::ChildStep::Checkpoint as u8;

/// What a call must return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Anything: without it the process is hardly another.
    Any,
    Success,
    Number(u64),
    /// The number of the thread that it makes, which goes on with the script that its stack begins with.
    Thread(u64),
    /// The first argument is the stack pointer that it is called with.
    Back,
}

impl Outcome {
    pub(super) const ANY: u32 = 0;
    pub(super) const SUCCESS: u32 = 1;
    pub(super) const NUMBER: u32 = 2;
    pub(super) const THREAD: u32 = 3;
    pub(super) const BACK: u32 = 4;

    fn encoded(self) -> (u32, u64) {
        match self {
            Self::Any => (Self::ANY, 0),
            Self::Success => (Self::SUCCESS, 0),
            Self::Number(number) => (Self::NUMBER, number),
            Self::Thread(number) => (Self::THREAD, number),
            Self::Back => (Self::BACK, 0),
        }
    }
}

/// A number that may not be known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Is(u64),
    /// The address of what was added to the data there.
    Data(u64),
    /// The address of a thread's first entry.
    Thread(usize),
    /// A place that may be written to.
    Scratch,
    /// So far from the kernel's code for programs, wherever it is in whoever carries this out.
    Own(u64),
}

impl From<u64> for Word {
    fn from(number: u64) -> Self {
        Self::Is(number)
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    call: i64,
    arguments: [Word; 6],
    outcome: Outcome,
}

/// An entry's size in bytes.
const ENTRY: u64 = 64;

/// A script that is being written.
#[derive(Debug)]
pub(super) struct Script {
    address: u64,
    main: Vec<Entry>,
    threads: Vec<Vec<Entry>>,
    data: Vec<u8>,
    /// Words in the data, by their place.
    words: Vec<(u64, Word)>,
}

impl Default for Script {
    fn default() -> Self {
        // Whoever has broken one of those who become it need not know where its code is in all others.
        let drawn = RandomState::new().hash_one(0) % (ADDRESSES / PAGE) * PAGE;
        let address = FIRST_ADDRESS + drawn;
        Self { address, main: Vec::new(), threads: Vec::new(), data: Vec::new(), words: Vec::new() }
    }
}

impl Script {
    /// Where the kernel's own mappings wait.
    pub(super) fn aside(&self) -> u64 {
        self.address + ASIDE
    }

    /// Whether a stretch of addresses is where this will be, or what waits.
    pub(super) fn overlaps(&self, begin: u64, end: u64) -> bool {
        begin < self.aside() + ROOM_ASIDE && end > self.address
    }

    /// Adds a call; arguments that are not given are 0.
    pub(super) fn call(&mut self, call: i64, arguments: &[Word], outcome: Outcome) {
        self.main.push(Entry::new(call, arguments, outcome));
    }

    /// Begins the script of another thread.
    pub(super) fn thread(&mut self) -> usize {
        self.threads.push(Vec::new());
        self.threads.len() - 1
    }

    /// As [`Self::call`], for another thread.
    pub(super) fn call_in(&mut self, thread: usize, call: i64, arguments: &[Word], outcome: Outcome) {
        self.threads[thread].push(Entry::new(call, arguments, outcome));
    }

    /// Adds bytes that a call refers to, on a boundary of 16.
    pub(super) fn data(&mut self, bytes: &[u8]) -> Word {
        self.data.resize(self.data.len().next_multiple_of(16), 0);
        let at = self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        Word::Data(at)
    }

    /// As [`Self::data`], of words.
    pub(super) fn words(&mut self, words: &[Word]) -> Word {
        let at = self.data(&vec![0; words.len() * 8]);
        let Word::Data(first) = at else { return at };
        self.words.extend((first..).step_by(8).zip(words.iter().copied()));
        at
    }

    /// Adds a string, with its end.
    pub(super) fn string(&mut self, text: &str) -> Word {
        self.data(&[text.as_bytes(), &[0]].concat())
    }

    /// The bytes to be put in place, and where.
    pub(super) fn finish(self) -> (Vec<u8>, Layout) {
        let entries = self.main.iter().chain(self.threads.iter().flatten()).count() as u64;
        let first = PAGE;
        let data = first + entries * ENTRY;
        let scratch = (data + self.data.len() as u64).next_multiple_of(PAGE);
        let length = scratch + PAGE;
        let address = self.address;
        let mut starts = vec![address + first + self.main.len() as u64 * ENTRY];
        self.threads.iter().for_each(|thread| starts.push(starts[starts.len() - 1] + thread.len() as u64 * ENTRY));
        let mut bytes = vec![0; length as usize];
        bytes[..sys::code().len()].copy_from_slice(sys::code());
        bytes[data as usize..][..self.data.len()].copy_from_slice(&self.data);
        let mut own_addresses = Vec::new();
        let mut put = |bytes: &mut [u8], at: u64, word: Word| {
            let number = match word {
                Word::Is(number) => number,
                Word::Data(place) => address + data + place,
                Word::Thread(thread) => starts[thread],
                Word::Scratch => address + scratch,
                Word::Own(distance) => {
                    own_addresses.push(at);
                    distance
                }
            };
            bytes[at as usize..][..8].copy_from_slice(&number.to_le_bytes());
        };
        for (place, word) in self.words {
            put(&mut bytes, data + place, word);
        }
        let all = self.main.iter().chain(self.threads.iter().flatten());
        for (at, entry) in (first..).step_by(ENTRY as usize).zip(all) {
            let (kind, value) = entry.outcome.encoded();
            put(&mut bytes, at, (entry.call as u64 | u64::from(kind) << 32).into());
            for (place, argument) in (at + 8..).step_by(8).zip(entry.arguments) {
                put(&mut bytes, place, argument);
            }
            put(&mut bytes, at + ENTRY - 8, value.into());
        }
        (bytes, Layout { address, length, first, scratch, own_addresses })
    }

    /// Unmaps all that whoever carries this out had, but for the script and what waits aside, between which nothing is.
    pub(super) fn clear(&mut self) {
        for (from, to) in [(BEGIN, self.address), (self.aside() + ROOM_ASIDE, END)] {
            self.call(libc::SYS_munmap, &[from.into(), (to - from).into()], Outcome::Success);
        }
    }
}

impl Entry {
    fn new(call: i64, arguments: &[Word], outcome: Outcome) -> Self {
        let argument = |index: usize| arguments.get(index).copied().unwrap_or(Word::Is(0));
        Self { call, arguments: std::array::from_fn(argument), outcome }
    }
}

/// Where a script's parts are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    pub(super) address: u64,
    pub(super) length: u64,
    /// Where the first entry is, counted from the address, at which the code is.
    first: u64,
    /// Where something may be written.
    scratch: u64,
    /// Words that the address of the kernel's code for programs is to be added to.
    pub(super) own_addresses: Vec<u64>,
}

impl Layout {
    pub(super) fn code(&self) -> u64 {
        self.address
    }

    pub(super) fn first(&self) -> u64 {
        self.address + self.first
    }

    pub(super) fn scratch(&self) -> u64 {
        self.address + self.scratch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], layout: &Layout, address: u64) -> u64 {
        let at = (address - layout.address) as usize;
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn what_was_not_known_yet_is_an_address_in_the_end() {
        let mut script = Script::default();
        let text = script.string("a name");
        script.call(1, &[text, 7.into()], Outcome::Success);
        let thread = script.thread();
        let stack = script.words(&[Word::Thread(thread)]);
        script.call(2, &[stack, Word::Own(64)], Outcome::Thread(5));
        script.call_in(thread, 3, &[], Outcome::Back);
        let (bytes, layout) = script.finish();
        assert_eq!(bytes.len() as u64, layout.length);
        assert!(bytes.starts_with(sys::code()));
        let entry = |number: u64| layout.first() + number * ENTRY;
        let at = |address| word(&bytes, &layout, address);
        assert_eq!((at(entry(0)), at(entry(0) + 16)), (1 | u64::from(Outcome::SUCCESS) << 32, 7));
        let text = (at(entry(0) + 8) - layout.address) as usize;
        assert!(bytes[text..].starts_with(b"a name\0"));
        assert_eq!((at(entry(1)), at(entry(1) + 56)), (2 | u64::from(Outcome::THREAD) << 32, 5));
        let stack = at(entry(1) + 8);
        assert_eq!((at(stack), at(at(stack))), (entry(2), 3 | u64::from(Outcome::BACK) << 32));
        assert_eq!(layout.own_addresses, [entry(1) + 16 - layout.address]);
        assert!(layout.scratch() + PAGE == layout.address + layout.length && layout.scratch() % PAGE == 0);
    }
}

//! Another processor's help: a thread that looks at the second half of what a checkpoint has while the walk is in the first.
//!
//! It only ever saves the walk a call to the system: what it has not seen when the walk comes there, the walk looks at itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;

use hearth_protocol::files::FileKind;

use super::plan::Places;
use super::scan::{Found, look_at};
use super::store::Entries;

/// The fewest entries that are worth a thread.
const WORTH: u64 = 2000;
/// How many looks are handed over at a time.
const PIECE: usize = 128;
/// How many pieces may wait: all of a large workspace's, but not of any.
const PIECES: usize = 1024;

/// What was seen at entries in a row.
struct Seen {
    /// The number of the first.
    first: u64,
    looks: Vec<Option<Found>>,
}

/// What comes from the thread, which ends when this is dropped.
pub(super) struct Foresight {
    from: Receiver<Seen>,
    seen: Seen,
}

impl Foresight {
    /// Begins, unless there is too little to look at, or nobody to do so. `entries` stand at their beginning.
    pub(super) fn begin(top: BorrowedFd<'_>, entries: Entries, count: u64) -> Option<Self> {
        let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if count < WORTH || processors < 2 {
            return None;
        }
        let top = top.try_clone_to_owned().ok()?;
        let (to, from) = sync_channel(PIECES);
        thread::Builder::new().spawn(move || look(&top, entries, count * 9 / 20, &to)).ok()?;
        Some(Self { from, seen: Seen { first: 0, looks: Vec::new() } })
    }

    /// What was at the entry of this number, if that was seen. Asked in the order of numbers.
    pub(super) fn at(&mut self, number: u64) -> Option<Found> {
        loop {
            let place = number.checked_sub(self.seen.first)?;
            if let Some(found) = self.seen.looks.get(place as usize) {
                return *found;
            }
            self.seen = match self.from.try_recv() {
                Ok(seen) => seen,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return None,
            };
        }
    }
}

/// Looks at what is where the entries say, from the one of number `first` on. Gives up without a word: see above.
fn look(top: &OwnedFd, mut entries: Entries, first: u64, to: &SyncSender<Seen>) {
    let mut places = Places::default();
    let (mut number, mut room) = (0, Vec::new());
    let mut seen = Seen { first, looks: Vec::with_capacity(PIECE) };
    while let Ok(Some(entry)) = entries.next_in(room) {
        if number >= first {
            let parent = places.parent(top.as_fd(), &entry.path);
            let found = match entry.kind {
                // Whether one was changed is asked when its time comes.
                FileKind::Directory => None,
                _ => parent.ok().and_then(|(parent, name)| look_at(parent, &name).ok()),
            };
            seen.looks.push(found);
        }
        (number, room) = (number + 1, entry.path);
        if seen.looks.len() == PIECE {
            let next = Seen { first: number, looks: Vec::with_capacity(PIECE) };
            if to.send(std::mem::replace(&mut seen, next)).is_err() {
                return;
            }
        }
    }
    let _ = to.send(seen);
}

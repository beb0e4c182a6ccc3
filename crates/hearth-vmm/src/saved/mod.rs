//! A machine's saved state: what a template, a fork, a pause and a snapshot are made of.
//!
//! All four are the same three things: the memory of a booted guest that nobody can change any more ([`SealedRam`]), the state of the
//! devices ([`SavedMachine::devices`]), and, for a guest that has run since, the pages that it has changed ([`Delta`]). A restored machine maps
//! the sealed memory privately, so its changed pages are exactly the anonymous ones of that mapping. A booted machine has memory of its own: what
//! is saved of it lies on memory of zeros ([`SealedRam::blank`]), and is all that is not zero.

mod delta;
mod pages;
mod ram;

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use crate::Checkpoint;
pub use delta::{Delta, DeltaError, Run, read_pages};
pub(crate) use pages::{Mapping, PageState, Room, page_states, pagemap, read_at, with_slack};
pub use ram::{RamError, SealedRam};
pub(crate) use ram::{guest_memory, resident};

/// The size of a page of guest memory in bytes: x86's small one.
pub const PAGE: u64 = 4096;
/// The most bytes that the devices' state may have. Seen: 9 to 420 KB.
pub const MAX_DEVICE_STATE: u64 = 64 << 20;

/// A machine as it was at one moment.
#[derive(Clone, Debug)]
pub struct SavedMachine {
    /// The memory that it was restored from; for one that was booted memory of zeros, or, as a template, its own.
    pub ram: Arc<SealedRam>,
    /// The state of its devices, as QEMU wrote it; empty where only its QEMU was taken, which has it.
    pub devices: Arc<[u8]>,
    /// What it had changed of `ram` since; none for a template.
    pub delta: Option<Arc<Delta>>,
    /// Its QEMU at that moment, where that was taken: see [`Machine::stand_by`](crate::Machine::stand_by).
    pub checkpoint: Option<Arc<Checkpoint>>,
}

/// What a machine goes on from.
#[derive(Debug)]
pub struct Resting {
    /// The memory that its own is a private mapping of.
    pub ram: Arc<SealedRam>,
    /// The state of its devices; of no use to a QEMU that has it.
    pub devices: Arc<[u8]>,
    /// What it had changed of `ram`; none for a template.
    pub changes: Option<Changes>,
}

/// Pages that a guest had changed.
pub enum Changes {
    /// They are in this process's memory.
    Held(Arc<Delta>),
    /// They are where [`Delta::write_to`] has written them, and are read while QEMU waits for them.
    Written {
        /// Where, for errors.
        path: PathBuf,
        /// From the first byte on. Its end is an error unless they are what was written.
        input: Box<dyn Read + Send>,
    },
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(delta) => f.debug_tuple("Held").field(delta).finish(),
            Self::Written { path, .. } => f.debug_struct("Written").field("path", path).finish_non_exhaustive(),
        }
    }
}

impl From<SavedMachine> for Resting {
    fn from(SavedMachine { ram, devices, delta, .. }: SavedMachine) -> Self {
        Self { ram, devices, changes: delta.map(Changes::Held) }
    }
}

//! A machine's saved state: what a template, a fork, a pause and a snapshot are made of.
//!
//! All four are the same three things: the memory of a booted guest that nobody can change any more ([`SealedRam`]), the state of the
//! devices ([`SavedMachine::devices`]), and, for a guest that has run since, the pages that it has changed ([`Delta`]). A restored machine maps
//! the sealed memory privately, so its changed pages are exactly the anonymous ones of that mapping. A booted machine has memory of its own: what
//! is saved of it lies on memory of zeros ([`SealedRam::blank`]), and is all that is not zero.

mod delta;
mod pages;
mod ram;

use std::sync::Arc;

pub use delta::{Delta, DeltaError, Run};
pub(crate) use pages::Mapping;
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
    /// The state of its devices, as QEMU wrote it.
    pub devices: Arc<[u8]>,
    /// What it had changed of `ram` since; none for a template.
    pub delta: Option<Arc<Delta>>,
}

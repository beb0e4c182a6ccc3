//! The workspace's history: named checkpoints of it, what has changed since one, and the way back; and patches.
//!
//! ```text
//! take   walk × newest checkpoint ──> contents that are new (packs, large files) + the list of entries = a checkpoint
//! diff   walk × checkpoint ──> what differs ──> a patch as git writes it, or records
//! reset  walk × checkpoint ──> what differs ──> staged ──> put in place
//! patch  bytes ──> parsed ──> applied to what is there ──> staged ──> put in place
//! ```
//!
//! **A checkpoint is its own index.** Its list of entries ([`record`]) says of each file where its content is kept and what `stat` said when
//! the content was last seen to be this (size, times, inode). A file of which `stat` says the same is not read. One that was touched is
//! read and compared; when its content is the same, the list is told the new `stat` and it is not read again. A file whose times are not older than the
//! tick in which it was read is not trusted: it may be written to once more without a trace (`Stamp::is_settled`).
//!
//! **Contents have no digest.** What identifies one is where it is kept; two that are kept in two places are compared. So nothing is hashed,
//! and nothing depends on a hash that a program in the guest could have collide to hide what it did.
//!
//! What must stay true:
//!
//! - Both sides of a comparison come in the order of a [`Walk`](crate::walk::Walk), so that memory does not grow with the tree: only with what
//!   has changed (reset) or shares an inode.
//! - A reset, and a patch, make everything they need beside the workspace first and put it in place by renames, each of which can be taken
//!   back ([`plan`]): they happen whole or not at all. Nothing is written through a link, and no file is written to that is in place.
//! - FIFOs, sockets and devices are noted and never opened. What is mounted in the workspace is no part of it.
//! - The store is the agent's alone: it is no part of a [`Root`](crate::Root), and its paths hold nothing that a client wrote but checked names.

mod bodies;
mod diff;
mod error;
mod foresight;
mod order;
mod packs;
pub mod patch;
mod plan;
mod record;
mod render;
mod reset;
mod scan;
mod store;
mod take;

pub use diff::{changes, diff};
pub use error::HistoryError;
pub use plan::Leftovers;
pub use reset::reset;
pub use store::History;
pub use take::take;

//! Directory trees, as what uses the crate meets them.
#![allow(clippy::panic, clippy::print_stderr, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod archives;
mod history;
mod invariants;
mod properties;
mod tree;

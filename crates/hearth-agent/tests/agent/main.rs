//! The agent as an ordinary process, used through the host's own channel. Numbers in names are those of the behaviours that a
//! client must be able to rely on.

#![allow(clippy::panic, clippy::print_stderr, clippy::unwrap_used)]

mod archives;
mod behaviours;
mod dial;
mod execution_dialect;
mod files;
mod fuzz;
mod history;
mod kernels;
mod packages;
mod parked;
mod processes;
mod secrets;
mod services;
mod shells;
mod support;
#[path = "../../../hearth-files/tests/it/tree.rs"]
#[allow(dead_code, reason = "shared with the tests of hearth-files, which use all of it")]
mod tree;
mod trees;
mod watches;
mod wire;
mod workspace_dialect;

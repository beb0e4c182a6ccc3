//! What the agent gives, through the engine and in a real machine: the chosen dozen of what `hearth-agent`'s own tests check against the
//! agent as a process. Numbers in names are those of the behaviours that a client must be able to rely on.
//!
//! `HEARTH_TEST_HOME` names a home with the default image; `make test` prepares one. Without it these tests say that they were skipped.

#![allow(clippy::panic, clippy::print_stderr, clippy::unwrap_used)]

mod dialects;
mod files;
mod history;
mod kernels;
mod lifecycle;
mod ports;
mod processes;
mod secrets;
mod support;

//! The `hearth` command as its users run it, on real machines. Numbers in names are those of the behaviours that a user must be
//! able to rely on.
//!
//! `HEARTH_TEST_HOME` names a home with the default image; `make test` prepares one. Without it the tests that boot something
//! say that they were skipped.

#![allow(clippy::panic, clippy::print_stderr, clippy::unwrap_used)]

mod adoption;
mod audit;
mod daemon;
mod endings;
mod full;
mod guest;
mod held;
mod help;
mod kept;
mod kernels;
mod lasting;
mod machines;
mod mcp;
mod packaging;
mod pool;
mod python;
mod recipes;
mod refusals;
mod remote;
mod restarts;
mod running;
mod schemathesis;
mod screen;
mod seeds;
mod shells;
mod stopping;
mod support;
mod templates;
mod top;
mod traces;
mod transfer;
mod workspace;

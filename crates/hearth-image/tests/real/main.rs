//! Tests with real images: built from Debian's archive, mounted, and booted under emulation.
//!
//! The default image is built once for the whole run. `HEARTH_TEST_STORE` may name a store to keep it in between
//! runs. What cannot run here (no network, a tool missing, no root) says so and passes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "these are tests and what they share")]

mod boot;
mod builds;
mod content;
mod support;

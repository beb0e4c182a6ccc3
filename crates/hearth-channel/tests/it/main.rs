//! The host's end against scripted peers, most of them hostile. The peers are built on `hearth-protocol` alone.
#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod endpoints;
mod handshake;
mod hostile;
mod lines;
mod peer;
mod processes;
mod requests;
mod writing;

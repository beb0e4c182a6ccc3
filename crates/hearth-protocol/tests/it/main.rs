//! The wire as bytes, and what must hold whatever bytes come.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod golden;
mod golden_files;
mod golden_history;
mod golden_kernels;
mod golden_process;
mod golden_secrets;
mod golden_services;
mod golden_shell;
mod invariants;
mod properties;

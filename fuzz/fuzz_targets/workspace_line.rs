//! The requests of the workspace agent's dialect.
#![no_main]

#[path = "../../crates/hearth-agent/tests/agent/workspace_dialect/invariants.rs"]
mod invariants;

libfuzzer_sys::fuzz_target!(|data: &[u8]| invariants::workspace_line(data));

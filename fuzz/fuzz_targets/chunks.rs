//! The framing of the bulk lane.
#![no_main]

#[path = "../../crates/hearth-protocol/tests/it/invariants.rs"]
#[allow(dead_code, reason = "each target runs one of the checks")]
mod invariants;

libfuzzer_sys::fuzz_target!(|data: &[u8]| invariants::chunk_decoder(data));

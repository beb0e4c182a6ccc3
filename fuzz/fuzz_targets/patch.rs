//! A patch, applied.
#![no_main]

#[path = "../../crates/hearth-files/tests/it/invariants.rs"]
#[allow(dead_code, reason = "each target runs one of the checks")]
mod invariants;

libfuzzer_sys::fuzz_target!(|data: &[u8]| invariants::patch_text(data));

//! A line from a client of the execution channel, as the agent reads it.
#![no_main]

#[path = "../../crates/hearth-agent/src/dialect/execution/request/mod.rs"]
#[allow(dead_code, reason = "the agent uses all of it")]
mod request;
#[path = "../../crates/hearth-agent/src/dialect/execution/request_invariant.rs"]
mod request_invariant;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    request_invariant::execution_line(data);
    request_invariant::execution_line_behind_a_cut(data);
});

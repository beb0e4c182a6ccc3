//! A whole session's host end, against an agent that sends anything. The first two bytes of the data say how much of the rest goes to the
//! control lane; what is left goes to the bulk lane.
#![no_main]

#[path = "../../crates/hearth-channel/tests/it/hostile.rs"]
mod hostile;
#[path = "../../crates/hearth-channel/tests/it/peer.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "shared with the crate's tests, which use all of it")]
mod peer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let [high, low, rest @ ..] = data {
        let (control, bulk) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes([*high, *low]))));
        hostile::host(control, bulk);
    }
});

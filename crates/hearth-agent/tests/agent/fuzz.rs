//! Frames that nobody would send, to the agent as a process. What the decoders make of any bytes is tested in `hearth-protocol`; here, that the
//! agent around them outlives it all.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use hearth_protocol::{Epoch, Lane, Reply};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::support::{Agent, HANG, peak_kib, run};

/// Whole lines to start from. None does harm, however it is changed.
const LINES: [&str; 12] = [
    r#"{"id":1,"type":"ping"}"#,
    r#"{"id":2,"type":"info"}"#,
    r#"{"id":3,"type":"list","after":1,"tag":"x"}"#,
    r#"{"id":4,"type":"start","command":{"argv":["/nowhere/to/be/found"]},"stdin":true,"attach":"lossless","timeout_ms":5}"#,
    r#"{"id":5,"type":"attach","process":1,"stdout":0,"stderr":0,"delivery":"bounded"}"#,
    r#"{"id":6,"type":"credit","stream":"stdout","bytes":65536}"#,
    r#"{"id":7,"type":"file","op":"read","path":"none","offset":1,"length":2}"#,
    r#"{"id":8,"type":"file","op":"write","path":"fuzzed"}"#,
    r#"{"id":8,"type":"detach"}"#,
    r#"{"id":8,"stream":"stdin","at":0,"payload":3}"#,
    r#"{"id":8,"stream":"stdin","at":3,"end":true}"#,
    r#"{"hello":{"epoch":"0123456789abcdef0123456789abcdef","lane":"control","min":1,"max":1}}"#,
];

/// A line with some of its bytes replaced, left out, doubled, or all behind one cut off.
fn changed(line: &str, changes: Vec<(Index, u8, u8)>) -> Vec<u8> {
    let mut line = line.as_bytes().to_vec();
    for (index, byte, how) in changes {
        if line.is_empty() {
            break;
        }
        let at = index.index(line.len());
        match how {
            0 => line[at] = byte,
            1 => drop(line.remove(at)),
            2 => line.insert(at, line[at]),
            _ => line.truncate(at),
        }
    }
    line.push(b'\n');
    line
}

/// The header of a chunk with any numbers, and some bytes for its payload, rarely as many as it says.
fn chunk() -> impl Strategy<Value = Vec<u8>> {
    let number =
        || prop_oneof![0_u64..20, select(vec![65_536, 1 << 20, (1 << 20) + 1, 1 << 40, i64::MAX as u64, u64::MAX])];
    let stream = select(vec!["stdin", "stdout", "stderr", "data", "none"]);
    (number(), stream, number(), any::<bool>(), number(), vec(any::<u8>(), 0..3000)).prop_map(
        |(id, stream, at, end, payload, bytes)| {
            let header = format!(r#"{{"id":{id},"stream":"{stream}","at":{at},"end":{end},"payload":{payload}}}"#);
            [header.as_bytes(), b"\n", &bytes].concat()
        },
    )
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<Index>(), any::<u8>(), 0_u8..4), 0..4);
    prop_oneof![
        6 => (select(LINES.to_vec()), changes).prop_map(|(line, changes)| changed(line, changes)),
        4 => chunk(),
        2 => vec(any::<u8>(), 0..2000),
        1 => (0_usize..140_000).prop_map(|length| vec![b'x'; length]),
        1 => (0_usize..60_000).prop_map(|depth| [&b"[".repeat(depth), b"\n".as_slice()].concat()),
    ]
}

/// Where the frames go.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// To a connection that has not said hello.
    Fresh,
    Control,
    /// While an upload waits for its bytes.
    Bulk,
}

/// Says everything, and hears the other end out: it must close. What it closes before all is said is its own choice.
fn say_and_hear(mut stream: &UnixStream, bytes: &[u8]) -> Vec<u8> {
    stream.set_write_timeout(Some(HANG)).unwrap();
    let said = stream.write_all(bytes);
    let kind = said.as_ref().err().map(std::io::Error::kind);
    assert_ne!(kind, Some(std::io::ErrorKind::WouldBlock), "the agent neither reads nor closes");
    let _ = stream.shutdown(Shutdown::Write);
    let mut heard = Vec::new();
    if let Err(error) = stream.read_to_end(&mut heard) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the agent does not close");
    }
    heard
}

/// Whether these are whole replies, but for the last.
fn assert_replies(heard: &[u8]) {
    let whole = heard.iter().rposition(|&byte| byte == b'\n').unwrap_or(0);
    for line in heard[..whole].split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let reply = serde_json::from_slice::<Reply>(line);
        assert!(reply.is_ok(), "{:?}: {}", reply, line.escape_ascii());
    }
}

fn send(agent: &Agent, target: Target, epoch: Epoch, bytes: &[u8]) {
    match target {
        Target::Fresh => {
            let stream = UnixStream::connect(agent.socket()).unwrap();
            stream.set_read_timeout(Some(HANG)).unwrap();
            say_and_hear(&stream, bytes);
        }
        Target::Control => assert_replies(&say_and_hear(&agent.raw(epoch, Lane::Control), bytes)),
        Target::Bulk => {
            let mut control = agent.raw(epoch, Lane::Control);
            let bulk = agent.raw(epoch, Lane::Bulk);
            control.write_all(b"{\"id\":8,\"type\":\"file\",\"op\":\"write\",\"path\":\"fuzzed\"}\n").unwrap();
            say_and_hear(&bulk, bytes);
            assert_replies(&say_and_hear(&control, b""));
        }
    }
}

#[tokio::test]
async fn b48_no_frames_make_the_agent_panic_hang_or_take_much_memory() {
    const CASES: u8 = 250;
    let agent = Agent::start();
    let mut runner = TestRunner::deterministic();
    for case in 0..CASES {
        for target in [Target::Fresh, Target::Control, Target::Bulk] {
            let bytes = vec(frame(), 1..8).new_tree(&mut runner).unwrap().current().concat();
            let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                send(&agent, target, Epoch::from_random([case; 16]), &bytes);
            }));
            assert!(sent.is_ok(), "case {case} to {target:?}: {}", bytes[..bytes.len().min(4000)].escape_ascii());
        }
        if case % 25 == 0 {
            assert_eq!(run(&agent.connect().await, "echo next").await.stdout, b"next\n");
        }
    }
    assert_eq!(run(&agent.connect().await, "echo last").await.stdout, b"last\n");
    let peak = peak_kib(agent.pid());
    assert!(peak < 32 * 1024, "the agent took {peak} KiB");
    assert_eq!(agent.last_words(), "");
}

//! What no client of ours would send.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use hearth_channel::{Channel, ConnectOptions, Connection, Endpoint};
use hearth_protocol::{ChunkHeader, Epoch, Lane, ReplyBody, limits};

use crate::support::{Agent, read_line, run, status_kib};

fn epoch(number: u8) -> Epoch {
    Epoch::from_random([number; 16])
}

#[tokio::test]
async fn b18_each_bad_line_gets_one_structured_error_and_the_next_is_served() {
    let agent = Agent::start();
    let mut control = agent.raw(epoch(1), Lane::Control);
    for (line, code) in [
        (r#"{"id":1,"type":"dance"}"#, "unknown_request"),
        ("{bad json", "malformed_request"),
        (r#"["id",1]"#, "malformed_request"),
        ("", "malformed_request"),
        (r#"{"id":1,"type":"start","command":{"argv":["true"]},"surprise":1}"#, "invalid_field"),
        (r#"{"id":1,"type":"start","command":{"argv":7}}"#, "invalid_field"),
        (r#"{"id":1,"type":"signal","process":99,"signal":"TERM"}"#, "unknown_process"),
        (r#"{"id":1,"type":"signal","process":99,"signal":"NOPE"}"#, "invalid_field"),
        (r#"{"id":1,"type":"process","op":"dance"}"#, "invalid_field"),
        (r#"{"id":1,"type":"process","op":"read","process":"nobody"}"#, "unknown_process"),
        (r#"{"id":1,"type":"shell","op":"open","name":"../../tmp/x"}"#, "invalid_field"),
        (r#"{"id":1,"type":"shell","op":"close","name":"nobody"}"#, "unknown_name"),
    ] {
        control.write_all(format!("{line}\n").as_bytes()).unwrap();
        let answer = read_line(&mut control);
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{line:?} got {answer}");
        assert!(answer.contains("\"outcome\":\"never_started\""), "{answer}");
    }
    control.write_all(b"{\"id\":2,\"type\":\"ping\"}\n").unwrap();
    assert_eq!(read_line(&mut control), r#"{"id":2,"type":"pong"}"#);
}

#[tokio::test]
async fn b18_a_header_over_the_limit_closes_the_connection_and_the_agent_serves_the_next() {
    let agent = Agent::start();
    let mut control = agent.raw(epoch(2), Lane::Control);
    // The agent may close before all of it is taken.
    let _ = control.write_all(&vec![b'x'; 200_000]);
    let mut rest = String::new();
    let _ = control.read_to_string(&mut rest);
    assert!(rest.is_empty() || rest.contains("header_too_long"), "{rest}");
    assert_eq!(run(&agent.connect().await, "echo next").await.stdout, b"next\n");
}

/// Begins to write the file `new`, breaks the bulk lane in the middle of that by `breaking`, and checks that the request ends, that the next
/// is refused rather than left waiting, and that nothing of the file is left. Returns what control said first.
fn break_an_upload(agent: &Agent, number: u8, breaking: impl FnOnce(UnixStream)) -> String {
    let mut control = agent.raw(epoch(number), Lane::Control);
    let mut bulk = agent.raw(epoch(number), Lane::Bulk);
    let write = |id: u64| format!("{{\"id\":{id},\"type\":\"file\",\"op\":\"write\",\"path\":\"new\"}}\n");
    control.write_all(write(1).as_bytes()).unwrap();
    assert!(read_line(&mut control).contains("\"credit\""));
    bulk.write_all(b"{\"id\":1,\"stream\":\"stdin\",\"at\":0,\"payload\":4}\nsome").unwrap();
    breaking(bulk);
    let first = read_line(&mut control);
    let ended = if first.starts_with("{\"id\":1,") { first.clone() } else { read_line(&mut control) };
    assert!(ended.contains("\"code\":\"cancelled\"") && ended.contains("\"outcome\":\"failed\""), "{ended}");
    control.write_all(write(2).as_bytes()).unwrap();
    let refused = read_line(&mut control);
    assert!(refused.contains("\"id\":2,") && refused.contains("\"code\":\"cancelled\""), "{refused}");
    assert!(refused.contains("\"outcome\":\"never_started\""), "{refused}");
    control.write_all(b"{\"id\":3,\"type\":\"ping\"}\n").unwrap();
    assert_eq!(read_line(&mut control), r#"{"id":3,"type":"pong"}"#);
    first
}

#[tokio::test]
async fn b18_a_payload_cut_short_ends_its_upload_and_harms_nobody() {
    let agent = Agent::start();
    let cut_short = |mut bulk: UnixStream| {
        bulk.write_all(b"{\"id\":1,\"stream\":\"stdin\",\"at\":4,\"payload\":1000}\nonly this").unwrap();
    };
    let first = break_an_upload(&agent, 3, cut_short);
    assert!(first.contains("\"id\":1,"), "{first}");
    assert_eq!(run(&agent.connect().await, "[ -e new ] || echo next").await.stdout, b"next\n");
}

#[tokio::test]
async fn b18_b48_a_bulk_lane_that_cannot_be_understood_ends_every_upload_and_says_so() {
    let agent = Agent::start();
    let announced = b"{\"id\":1,\"stream\":\"stdin\",\"at\":4,\"payload\":1099511627776}\n".to_vec();
    for (number, garbage) in [(10, b"garbage\n".to_vec()), (11, vec![b'x'; 70_000]), (12, announced)] {
        let first = break_an_upload(&agent, number, |mut bulk| {
            // The agent may close before all of it is taken.
            let _ = bulk.write_all(&garbage);
            let _ = bulk.read_to_end(&mut Vec::new());
        });
        assert!(first.contains("\"id\":null") && first.contains("the bulk lane is lost"), "{first}");
    }
    assert_eq!(run(&agent.connect().await, "[ -e new ] || echo next").await.stdout, b"next\n");
}

#[tokio::test]
async fn a_payload_or_header_over_the_limit_ends_the_bulk_lane_with_a_word() {
    let agent = Agent::start();
    for (number, chunk) in [(4, "{\"id\":1,\"stream\":\"stdin\",\"at\":0,\"payload\":99999999}\n"), (5, "nonsense\n")] {
        let mut control = agent.raw(epoch(number), Lane::Control);
        let mut bulk = agent.raw(epoch(number), Lane::Bulk);
        bulk.write_all(chunk.as_bytes()).unwrap();
        assert!(read_line(&mut control).contains("the bulk lane is lost"));
    }
}

#[tokio::test]
async fn a_connection_that_speaks_something_else_is_closed() {
    let agent = Agent::start();
    let mut stream = UnixStream::connect(agent.socket()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // A reset says the same as an end: what was sent was not read to its end.
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn a_crowd_that_says_nothing_keeps_nobody_out() {
    /// Less than the agent's patience with one that says nothing.
    const BEFORE_ANY_GIVES_UP: Duration = Duration::from_secs(15);
    let agent = Agent::start();
    let connect = || UnixStream::connect(agent.socket()).unwrap();
    let begun = Instant::now();
    let mut crowd: Vec<_> = (0..600).map(|_| connect()).collect();
    assert_eq!(run(&agent.connect().await, "echo served").await.stdout, b"served\n");
    assert!(begun.elapsed() < BEFORE_ANY_GIVES_UP, "served after {:?}", begun.elapsed());
    // It is the oldest that made room, and not the newest.
    assert_eq!(crowd[0].read(&mut [0]).unwrap(), 0);
    crowd[599].set_nonblocking(true).unwrap();
    assert_eq!(crowd[599].read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn versions_without_overlap_are_refused_with_both_ranges() {
    let agent = Agent::start();
    let mut stream = UnixStream::connect(agent.socket()).unwrap();
    let hello = format!("\n{{\"hello\":{{\"epoch\":\"{}\",\"lane\":\"control\",\"min\":7,\"max\":9}}}}\n", epoch(6));
    stream.write_all(hello.as_bytes()).unwrap();
    let answer = read_line(&mut stream);
    assert!(answer.contains("unsupported_version") && answer.contains("the host 7 to 9"), "{answer}");
}

#[tokio::test]
async fn input_beyond_its_credit_is_refused() {
    let agent = Agent::start();
    let mut control = agent.raw(epoch(7), Lane::Control);
    let mut bulk = agent.raw(epoch(7), Lane::Bulk);
    let start = r#"{"id":1,"type":"start","command":{"argv":["sleep","300"]},"stdin":true,"attach":"lossless"}"#;
    control.write_all(format!("{start}\n").as_bytes()).unwrap();
    assert!(read_line(&mut control).contains("started"));
    let payload = vec![0; 600 * 1024];
    bulk.write_all(format!("{{\"id\":1,\"stream\":\"stdin\",\"at\":0,\"payload\":{}}}\n", payload.len()).as_bytes())
        .unwrap();
    bulk.write_all(&payload).unwrap();
    assert!(read_line(&mut control).contains("more than it was granted"));
}

#[tokio::test]
async fn one_upload_of_a_session_at_a_time_has_a_large_window() {
    let agent = Agent::start();
    let mut control = agent.raw(epoch(9), Lane::Control);
    let mut bulk = agent.raw(epoch(9), Lane::Bulk);
    let begin = |control: &mut UnixStream, id: u64, window: u64| {
        let write = format!("{{\"id\":{id},\"type\":\"file\",\"op\":\"write\",\"path\":\"file{id}\"}}\n");
        control.write_all(write.as_bytes()).unwrap();
        let credit = read_line(control);
        assert!(credit.contains(&format!("\"bytes\":{window}}}")), "{credit}");
    };
    begin(&mut control, 1, limits::UPLOAD_WINDOW);
    begin(&mut control, 2, limits::WINDOW);
    begin(&mut control, 3, limits::WINDOW);
    bulk.write_all(b"{\"id\":1,\"stream\":\"stdin\",\"at\":0,\"end\":true}\n").unwrap();
    assert!(read_line(&mut control).contains("\"finished\""));
    begin(&mut control, 4, limits::UPLOAD_WINDOW);
}

#[tokio::test]
async fn a_result_comes_with_the_last_bytes_of_its_operation_where_it_has_any() {
    let agent = Agent::start();
    let mut control = agent.raw(epoch(11), Lane::Control);
    let mut bulk = agent.raw(epoch(11), Lane::Bulk);
    let list = r#""type":"file","op":"list","path":"""#;
    control.write_all(b"{\"id\":1,\"type\":\"file\",\"op\":\"stat\",\"path\":\"\"}\n").unwrap();
    assert!(read_line(&mut control).contains("finished"));
    std::fs::write(agent.workspace().join("file"), "content").unwrap();
    for (id, request) in [(2, list), (3, r#""type":"file","op":"read","path":"file""#)] {
        control.write_all(format!("{{\"id\":{id},{request}}}\n").as_bytes()).unwrap();
        let header: ChunkHeader = serde_json::from_str(&read_line(&mut bulk)).unwrap();
        let length = header.payload.unwrap();
        assert_eq!((header.id.0, header.at), (id, 0));
        let last = header.last.map(|last| *last);
        assert!(matches!(last, Some(ReplyBody::Finished { output, .. }) if output.data == length), "{last:?}");
        bulk.read_exact(&mut vec![0; length as usize]).unwrap();
        control.write_all(b"{\"id\":9,\"type\":\"ping\"}\n").unwrap();
        assert!(read_line(&mut control).contains("pong"));
    }
}

#[tokio::test]
async fn a_byte_that_nobody_reads_keeps_no_more_than_itself() {
    // More than a pipe holds, so that nothing behind it is taken.
    const PAYLOAD: usize = 300 * 1024;
    const CHUNKS: u64 = 256;
    let agent = Agent::start();
    let mut control = agent.raw(epoch(10), Lane::Control);
    let mut bulk = agent.raw(epoch(10), Lane::Bulk);
    let start = r#"{"id":1,"type":"start","command":{"argv":["sleep","300"]},"stdin":true,"attach":"lossless"}"#;
    control.write_all(format!("{start}\n").as_bytes()).unwrap();
    assert!(read_line(&mut control).contains("started"));
    let before = status_kib(agent.pid(), "VmRSS:");
    let full = vec![0; PAYLOAD];
    let mut input = |id: u64, at: u64, payload: &[u8]| {
        let header = format!("{{\"id\":{id},\"stream\":\"stdin\",\"at\":{at},\"payload\":{}}}\n", payload.len());
        bulk.write_all(header.as_bytes()).unwrap();
        bulk.write_all(payload).unwrap();
    };
    // A byte after each large chunk, which is for a request that is over.
    input(1, 0, &full);
    for chunk in 0..CHUNKS {
        input(99, 0, &full);
        input(1, PAYLOAD as u64 + chunk, b"x");
    }
    // More than its credit: the answer comes once all the rest was read.
    input(1, PAYLOAD as u64 + CHUNKS, &full);
    assert!(read_line(&mut control).contains("more than it was granted"));
    let kept = status_kib(agent.pid(), "VmRSS:").saturating_sub(before);
    assert!(kept < 16 * 1024, "{CHUNKS} bytes keep {kept} KiB");
}

#[tokio::test]
async fn a_request_id_in_use_is_refused() {
    let agent = Agent::start();
    let mut control = agent.raw(epoch(8), Lane::Control);
    let start = r#"{"id":1,"type":"start","command":{"argv":["sleep","300"]},"attach":"lossless"}"#;
    control.write_all(format!("{start}\n{start}\n").as_bytes()).unwrap();
    assert!(read_line(&mut control).contains("started"));
    assert!(read_line(&mut control).contains("duplicate_request"));
}

#[tokio::test]
async fn the_same_agent_is_reached_over_tcp() {
    let agent = Agent::start_with(&["--native", "tcp:127.0.0.1:0"]);
    let addr = agent.addresses[1].strip_prefix("tcp:").unwrap().parse().unwrap();
    assert_eq!(run(&agent.connect_to(Endpoint::Tcp { addr }).await, "echo over tcp").await.stdout, b"over tcp\n");
}

#[tokio::test]
async fn the_same_agent_is_reached_over_vsock() {
    const LOOPBACK: u32 = 1;
    if tokio_vsock::VsockListener::bind(tokio_vsock::VsockAddr::new(LOOPBACK, u32::MAX)).is_err() {
        return eprintln!("skipped: this kernel has no vsock loopback (module vsock_loopback)");
    }
    let agent = Agent::start_with(&["--native", "vsock:4294967295"]);
    let port = agent.addresses[1].strip_prefix("vsock:").unwrap().parse().unwrap();
    assert_eq!(
        run(&agent.connect_to(Endpoint::Vsock { cid: LOOPBACK, port }).await, "echo over vsock").await.stdout,
        b"over vsock\n"
    );
}

#[tokio::test]
async fn a_session_goes_on_with_whoever_has_its_connections_next() {
    let agent = Agent::start();
    let [control, bulk] = [Lane::Control, Lane::Bulk].map(|lane| agent.raw(epoch(7), lane));
    let mut earlier = control.try_clone().unwrap();
    earlier.write_all(b"{\"id\":1,\"type\":\"ping\"}\n{\"id\":2,\"type\":\"settle\"}\n").unwrap();
    assert_eq!(read_line(&mut earlier), r#"{"id":1,"type":"pong"}"#);
    assert_eq!(read_line(&mut earlier), r#"{"id":2,"type":"done"}"#);
    let connection = |stream: UnixStream| {
        stream.set_nonblocking(true).unwrap();
        Connection::try_from(tokio::net::UnixStream::from_std(stream).unwrap()).unwrap()
    };
    let channel = Channel::resume(connection(control), connection(bulk), ConnectOptions::default());
    channel.ping().await.unwrap();
    let outcome = run(&channel, "cat; echo behind").await;
    assert_eq!((outcome.stdout.as_slice(), outcome.code()), (b"behind\n".as_slice(), Some(0)));
}

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hearth_channel::lines::{LineChannel, LineEndpoints, LineError, LineOptions, REQUEST_LIMIT, reconnecting_channel};
use hearth_channel::{ConnectError, Endpoint};
use hearth_protocol::Outcome;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::peer::{Memory, own_uid};

/// Long enough for anything that must happen, which is all these tests wait for.
const LONG: Duration = Duration::from_secs(30);
/// Passes for sure where nothing happens.
const SHORT: Duration = Duration::from_millis(50);

struct Port {
    _dir: TempDir,
    path: PathBuf,
    listener: UnixListener,
}

fn port() -> Port {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("port");
    let listener = UnixListener::bind(&path).unwrap();
    Port { _dir: dir, path, listener }
}

impl Port {
    fn endpoint(&self) -> Endpoint {
        Endpoint::Unix { path: self.path.clone(), expected_uid: own_uid() }
    }

    async fn accept(&self) -> Guest {
        Guest(BufReader::new(self.listener.accept().await.unwrap().0))
    }
}

/// A scripted guest on one port.
struct Guest(BufReader<UnixStream>);

impl Guest {
    async fn read(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn write(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.unwrap();
    }

    async fn say(&mut self, message: Value) {
        self.write(format!("{message}\n")).await;
    }

    /// Reads a request and answers it with these messages, its `op_id` added.
    async fn answer(&mut self, messages: impl IntoIterator<Item = Value>) -> Value {
        let request = self.read().await;
        for message in messages {
            self.say(to(&request, message)).await;
        }
        request
    }
}

/// Adds the `op_id` of `request` to its answer.
fn to(request: &Value, mut answer: Value) -> Value {
    answer["op_id"] = request["op_id"].clone();
    answer
}

fn ping() -> Value {
    json!({"action": "ping"})
}

async fn pinged(channel: &LineChannel) -> Result<Value, LineError> {
    channel.send_request(&ping(), LONG).await
}

fn pong() -> Value {
    json!({"type": "pong", "version": "1"})
}

async fn connected() -> (LineChannel, Guest, Port) {
    connected_with(LineOptions::default()).await
}

async fn connected_with(options: LineOptions) -> (LineChannel, Guest, Port) {
    let port = port();
    let channel = LineChannel::new(LineEndpoints::One(port.endpoint()), options);
    channel.connect(LONG).await.unwrap();
    let guest = port.accept().await;
    (channel, guest, port)
}

async fn dual() -> (LineChannel, Guest, Guest) {
    let (command, event) = (port(), port());
    let endpoints = LineEndpoints::Dual { command: command.endpoint(), event: event.endpoint() };
    let channel = LineChannel::new(endpoints, LineOptions::default());
    channel.connect(LONG).await.unwrap();
    (channel, command.accept().await, event.accept().await)
}

async fn check_alive(channel: &LineChannel, guest: &mut Guest) {
    let (answer, _) = tokio::join!(pinged(channel), guest.answer([pong()]));
    assert_eq!(answer.unwrap()["type"], "pong");
}

async fn broken_by(bytes: &[u8]) -> LineError {
    let (channel, mut guest, _port) = connected().await;
    check_alive(&channel, &mut guest).await;
    let script = async {
        guest.read().await;
        let _ = guest.0.write_all(bytes).await;
        guest
    };
    let (answer, _guest) = tokio::join!(pinged(&channel), script);
    assert!(!channel.is_connected().await, "the connection is dropped");
    answer.expect_err("broken")
}

#[tokio::test]
async fn send_request_gets_its_one_answer_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::Tcp { addr: listener.local_addr().unwrap() };
    let channel = LineChannel::new(LineEndpoints::One(endpoint), LineOptions::default());
    channel.connect(LONG).await.unwrap();
    let script = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let answer = to(&serde_json::from_str(&line).unwrap(), pong());
        stream.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(pinged(&channel), script);
    assert_eq!(answer.unwrap()["type"], "pong");
}

#[tokio::test]
async fn stream_messages_hands_out_everything_until_complete_or_error() {
    for last in [json!({"type": "complete", "exit_code": 0}), json!({"type": "error", "message": "no"})] {
        let (channel, mut guest, _port) = connected().await;
        let chunk = json!({"type": "stdout", "chunk": "hi\n"});
        let exec = json!({"action": "exec", "language": "raw", "code": "echo hi"});
        let script =
            guest.answer([chunk.clone(), chunk.clone(), last.clone(), json!({"type": "stdout", "chunk": "late"})]);
        let host = async {
            let mut messages = channel.stream_messages(&exec, LONG).await.unwrap();
            let mut kinds = Vec::new();
            while let Some(message) = messages.next().await.unwrap() {
                kinds.push(message["type"].as_str().unwrap().to_owned());
            }
            kinds
        };
        let (kinds, request) = tokio::join!(host, script);
        assert_eq!(kinds, ["stdout", "stdout", last["type"].as_str().unwrap()]);
        assert_eq!(request["code"], "echo hi");
        check_alive(&channel, &mut guest).await;
    }
}

#[tokio::test]
async fn an_op_id_of_the_callers_is_kept() {
    let (channel, mut guest, _port) = connected().await;
    let request = json!({"action": "ping", "op_id": "mine"});
    let (answer, seen) = tokio::join!(channel.send_request(&request, LONG), guest.answer([pong()]));
    assert_eq!((&answer.unwrap()["op_id"], &seen["op_id"]), (&json!("mine"), &json!("mine")));
}

#[tokio::test]
async fn a_connection_attempt_is_made_once_and_not_by_itself() {
    let channel = LineChannel::new(
        LineEndpoints::One(Endpoint::Unix { path: "/nonexistent/port".into(), expected_uid: own_uid() }),
        LineOptions::default(),
    );
    let error = channel.connect(LONG).await.expect_err("nobody there");
    assert!(matches!(error, LineError::Connect(ConnectError::Dial { .. })), "{error:?}");
    let error = channel.send_request(&ping(), LONG).await.expect_err("not connected");
    assert!(matches!(error, LineError::NotConnected), "{error:?}");
}

#[tokio::test]
async fn b44_a_port_served_by_another_user_is_refused_before_a_byte_is_sent() {
    let (good, bad) = (port(), port());
    let wrong = Endpoint::Unix { path: bad.path.clone(), expected_uid: own_uid() + 1 };
    for endpoints in [
        LineEndpoints::One(wrong.clone()),
        LineEndpoints::Dual { command: good.endpoint(), event: wrong.clone() },
        LineEndpoints::Dual { command: wrong.clone(), event: good.endpoint() },
    ] {
        let error = LineChannel::new(endpoints, LineOptions::default()).connect(LONG).await.expect_err("wrong user");
        assert!(matches!(error, LineError::Connect(ConnectError::WrongPeer { .. })), "{error:?}");
        let mut received = Vec::new();
        bad.accept().await.0.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"");
    }
}

#[tokio::test]
async fn b45_peer_that_stops_reading_fails_fast_and_memory_stays_flat() {
    let options = LineOptions { queue_timeout: SHORT, ..LineOptions::default() };
    let (channel, _guest, _port) = connected_with(options).await;
    let request = json!({"action": "exec", "code": "x".repeat(50_000)});
    let before = Memory::now();
    let mut refusals = 0;
    for _ in 0..600 {
        if let Err(error) = channel.send_command(&request).await {
            assert!(matches!(error, LineError::QueueFull { after: SHORT }), "{error:?}");
            assert_eq!(error.to_string(), "write queue full, guest agent not draining for 50ms");
            refusals += 1;
            if refusals == 3 {
                break;
            }
        }
    }
    assert_eq!(refusals, 3, "everything was taken in");
    before.check_growth(32);
    assert!(channel.is_connected().await, "a slow guest ends nothing");
}

#[tokio::test]
async fn b46_bytes_of_an_earlier_session_are_never_taken_for_an_answer() {
    let (channel, mut guest, _port) = connected().await;
    let script = async {
        guest.write("rest of a line\"}\n[]\n\u{1}\n").await;
        guest.say(pong()).await;
        guest.say(json!({"type": "pong", "version": "stale", "op_id": "of another session"})).await;
        guest.answer([pong()]).await
    };
    let (answer, _) = tokio::join!(pinged(&channel), script);
    assert_eq!(answer.unwrap()["version"], "1");
}

#[tokio::test]
async fn a_timeout_leaves_the_connection_open_and_a_late_answer_is_dropped() {
    let (channel, mut guest, _port) = connected().await;
    let error = channel.send_request(&ping(), SHORT).await.expect_err("nobody answers");
    assert!(matches!(error, LineError::TimedOut { outcome: Outcome::MayHaveRun, .. }), "{error:?}");
    assert!(channel.is_connected().await);
    let late = guest.read().await;
    guest.say(to(&late, json!({"type": "pong", "version": "late"}))).await;
    let (answer, _) = tokio::join!(pinged(&channel), guest.answer([pong()]));
    assert_eq!(answer.unwrap()["version"], "1");
}

#[tokio::test]
async fn a_timeout_in_the_middle_of_a_line_loses_nothing() {
    let (channel, mut guest, _port) = connected().await;
    let request = json!({"action": "exec", "code": "echo"});
    let mut messages = channel.stream_messages(&request, SHORT).await.unwrap();
    let text = to(&guest.read().await, json!({"type": "complete", "exit_code": 0})).to_string();
    guest.write(&text[..20]).await;
    messages.next().await.expect_err("half a line");
    drop(messages);
    guest.write(format!("{}\n", &text[20..])).await;
    check_alive(&channel, &mut guest).await;
}

#[tokio::test]
async fn the_end_of_the_stream_drops_the_connection_and_the_next_connect_starts_clean() {
    let (channel, mut guest, port) = connected().await;
    let script = async {
        let request = guest.read().await;
        let text = to(&request, pong()).to_string();
        guest.write(&text[..text.len() - 3]).await;
        drop(guest);
    };
    let (answer, ()) = tokio::join!(pinged(&channel), script);
    let error = answer.expect_err("half an answer");
    assert!(matches!(error, LineError::HungUp | LineError::Read { .. }), "{error:?}");
    assert_eq!(error.outcome(), Outcome::MayHaveRun);
    assert!(!channel.is_connected().await);
    channel.connect(LONG).await.unwrap();
    let mut guest = port.accept().await;
    check_alive(&channel, &mut guest).await;
}

#[tokio::test]
async fn b48_an_oversize_line_drops_the_connection() {
    let error = broken_by(&vec![b'x'; 17 << 20]).await;
    assert!(matches!(error, LineError::LineTooLong { .. }), "{error:?}");
}

#[tokio::test]
async fn a_line_of_15_mib_is_read() {
    let (channel, mut guest, _port) = connected().await;
    let big = json!({"type": "complete", "text": "x".repeat(15 << 20)});
    let (answer, _) = tokio::join!(pinged(&channel), guest.answer([big]));
    assert_eq!(answer.unwrap()["text"].as_str().unwrap().len(), 15 << 20);
}

#[tokio::test]
async fn b48_a_line_that_is_no_message_drops_the_connection() {
    let nested = format!("{}\n", "[".repeat(100_000));
    for line in [b"nonsense \x1b[2J\n".as_slice(), b"[]\n", b"\n", b"\xff\xfe\n", nested.as_bytes()] {
        let error = broken_by(line).await;
        let LineError::NotAMessage { reason } = error else { panic!("{error:?}") };
        assert!(!reason.contains('\x1b') && reason.len() < 2000, "{reason}");
    }
}

#[tokio::test]
async fn b48_a_line_of_nothing_but_structure_takes_no_hundreds_of_megabytes() {
    let before = Memory::now();
    let line = format!("{{\"type\":\"pong\",\"x\":[{}0]}}\n", "[],".repeat(5 << 20));
    let error = broken_by(line.as_bytes()).await;
    assert!(matches!(error, LineError::NotAMessage { .. }), "{error:?}");
    before.check_growth(128);
}

#[tokio::test]
async fn requests_that_no_guest_reads_are_refused_before_they_are_sent() {
    let (channel, mut guest, _port) = connected().await;
    let error = channel.send_request(&json!(["ping"]), LONG).await.expect_err("an array");
    assert!(matches!(error, LineError::NotAnObject), "{error:?}");
    let error = channel.send_request(&json!({"code": "x".repeat(REQUEST_LIMIT)}), LONG).await.expect_err("too long");
    assert!(matches!(error, LineError::RequestTooLong { .. }), "{error:?}");
    check_alive(&channel, &mut guest).await;
}

#[tokio::test]
async fn a_dead_writer_fails_the_next_send_at_once() {
    let (channel, command, mut event) = dual().await;
    drop(command);
    // The writer learns of the end of the command port by itself; until it has, sends are queued.
    let error = loop {
        match channel.send_command(&ping()).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LineError::WriterStopped), "{error:?}");
    assert!(!channel.is_connected().await);
    assert_eq!(event.0.read(&mut [0]).await.unwrap(), 0, "the event port is closed as well");
}

#[tokio::test]
async fn commands_pass_while_events_stream() {
    let (channel, mut command, mut event) = dual().await;
    let exec = channel.send_command(&json!({"action": "exec", "code": "yes"})).await.unwrap();
    let mut events = channel.stream_events(LONG).await.unwrap();
    let script = async {
        let request = command.read().await;
        assert_eq!(request["op_id"], exec);
        event.say(json!({"type": "complete", "op_id": "stale"})).await;
        event.say(to(&request, json!({"type": "stdout", "chunk": "y\n"}))).await;
        let ping = command.read().await;
        event.say(to(&ping, pong())).await;
        event.say(to(&request, json!({"type": "complete", "exit_code": 0}))).await;
    };
    let host = async {
        assert_eq!(events.next().await.unwrap().unwrap()["type"], "stdout");
        channel.send_command(&ping()).await.unwrap();
        assert_eq!(events.next().await.unwrap().unwrap()["type"], "pong");
        assert_eq!(events.next().await.unwrap().unwrap()["type"], "complete");
        assert_eq!(events.next().await.unwrap(), None);
    };
    tokio::join!(host, script);
}

#[tokio::test]
async fn a_request_over_two_ports_is_a_command_and_its_first_event() {
    let (channel, mut command, mut event) = dual().await;
    let script = async {
        command.write("chatter on the command port is discarded\n").await;
        let request = command.read().await;
        event.say(to(&request, pong())).await;
    };
    let (answer, ()) = tokio::join!(pinged(&channel), script);
    assert_eq!(answer.unwrap()["type"], "pong");
}

#[tokio::test]
async fn two_ports_are_connected_in_parallel() {
    // Neither listener accepts before both have been connected to, which a serial connect to the first would wait for.
    let (command, event) = (port(), port());
    let endpoints = LineEndpoints::Dual {
        command: Endpoint::VsockUnix { path: command.path.clone(), port: 1, expected_uid: own_uid() },
        event: Endpoint::VsockUnix { path: event.path.clone(), port: 2, expected_uid: own_uid() },
    };
    let channel = LineChannel::new(endpoints, LineOptions::default());
    let script = async {
        let (mut command, mut event) = tokio::join!(command.accept(), event.accept());
        for (guest, line) in [(&mut command, "CONNECT 1\n"), (&mut event, "CONNECT 2\n")] {
            let mut read = String::new();
            guest.0.read_line(&mut read).await.unwrap();
            assert_eq!(read, line);
        }
        event.write("OK 2\n").await;
        command.write("OK 1\n").await;
        (command, event)
    };
    let (connected, _guests) = tokio::join!(channel.connect(LONG), script);
    connected.unwrap();
}

#[tokio::test]
async fn close_sends_what_is_queued_and_gives_up_in_time() {
    let request = json!({"action": "exec", "code": "x".repeat(50_000)});
    let options = LineOptions { queue_timeout: SHORT, close_timeout: LONG };
    let (channel, mut guest, _port) = connected_with(options.clone()).await;
    for _ in 0..50 {
        channel.send_command(&request).await.unwrap();
    }
    let reading = async {
        let mut lines = 0;
        while guest.0.read_until(b'\n', &mut Vec::new()).await.unwrap() > 0 {
            lines += 1;
        }
        lines
    };
    let begun = Instant::now();
    let ((), lines) = tokio::join!(channel.close(), reading);
    assert!(lines == 50 && begun.elapsed() < LONG, "{lines} lines in {:?}", begun.elapsed());
    let (channel, _guest, _port) = connected_with(LineOptions { close_timeout: SHORT, ..options }).await;
    for _ in 0..50 {
        channel.send_command(&request).await.unwrap();
    }
    channel.close().await;
    assert!(!channel.is_connected().await);
}

#[tokio::test]
async fn reconnecting_channel_closes_connects_and_sees_nothing_of_before() {
    let (channel, mut old, port) = connected().await;
    old.say(pong()).await;
    let script = async {
        let mut rest = Vec::new();
        old.0.read_to_end(&mut rest).await.unwrap();
        let mut guest = port.accept().await;
        guest.answer([json!({"type": "pong", "version": "fresh"})]).await;
        (rest, guest)
    };
    let host = async {
        let channel = reconnecting_channel(&channel, LONG).await.unwrap();
        channel.send_request(&ping(), LONG).await.unwrap()
    };
    let (answer, (rest, _guest)) = tokio::join!(host, script);
    assert_eq!((answer["version"].as_str(), rest.as_slice()), (Some("fresh"), b"".as_slice()));
}

#[tokio::test]
async fn a_second_reader_waits_its_turn_within_its_own_bound() {
    let (channel, _guest, _port) = connected().await;
    let _events = channel.stream_events(LONG).await.unwrap();
    let error = channel.send_request(&ping(), SHORT).await.expect_err("somebody else reads");
    assert!(matches!(error, LineError::TimedOut { .. }), "{error:?}");
}

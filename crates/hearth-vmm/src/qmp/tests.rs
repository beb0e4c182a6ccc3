//! The client against a peer that may do anything, over a socket pair.

use std::os::fd::AsRawFd;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const GREETING: &[u8] = b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\n";

/// A client that has been greeted, and the peer's end, which has answered the negotiation.
async fn connected() -> (Qmp, BufReader<UnixStream>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut peer = BufReader::new(theirs);
    let server = async {
        peer.write_all(GREETING).await.unwrap();
        let request = next_request(&mut peer).await;
        assert_eq!(request["execute"], "qmp_capabilities");
        answer(&mut peer, &request, "\"return\": {}").await;
        peer
    };
    let (qmp, peer) = tokio::join!(Qmp::open(ours), server);
    (qmp.unwrap(), peer)
}

async fn next_request(peer: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    peer.read_line(&mut line).await.unwrap();
    serde_json::from_str(&line).unwrap()
}

async fn answer(peer: &mut BufReader<UnixStream>, request: &Value, body: &str) {
    peer.write_all(format!("{{{body}, \"id\": {}}}\n", request["id"]).as_bytes()).await.unwrap();
}

/// Runs one command against a peer that says `said` to it and then closes.
async fn command_met_with(said: &[u8]) -> Result<Value, QmpError> {
    let (qmp, mut peer) = connected().await;
    let server = async move {
        next_request(&mut peer).await;
        // The client may hang up on nonsense before all of it is written.
        drop(peer.write_all(said).await);
    };
    tokio::join!(qmp.execute("query-status", None), server).0
}

#[tokio::test]
async fn answers_reach_their_commands_in_any_order() {
    let (qmp, mut peer) = connected().await;
    let server = async {
        let first = next_request(&mut peer).await;
        let second = next_request(&mut peer).await;
        answer(&mut peer, &second, "\"return\": \"second\"").await;
        answer(&mut peer, &first, "\"return\": \"first\"").await;
    };
    let (first, second, ()) = tokio::join!(qmp.execute("one", None), qmp.execute("two", None), server);
    assert_eq!((first.unwrap(), second.unwrap()), (json!("first"), json!("second")));
}

#[tokio::test]
async fn refusal_is_typed() {
    let (qmp, mut peer) = connected().await;
    let server = async {
        let request = next_request(&mut peer).await;
        answer(&mut peer, &request, "\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}").await;
    };
    let (result, ()) = tokio::join!(qmp.execute("dance", None), server);
    assert!(matches!(result, Err(QmpError::Refused { class, .. }) if class == "CommandNotFound"));
}

#[tokio::test]
async fn peer_that_hangs_up_fails_the_command_at_once() {
    let result = command_met_with(b"").await;
    assert!(matches!(result, Err(QmpError::Closed { reason: CloseReason::EndOfFile, .. })), "{result:?}");
}

#[tokio::test]
async fn line_without_end_closes_the_connection_at_its_limit() {
    let result = command_met_with(&vec![b'x'; MAX_LINE + 10]).await;
    assert!(matches!(result, Err(QmpError::Closed { reason: CloseReason::LineTooLong, .. })), "{result:?}");
}

#[tokio::test]
async fn nonsense_closes_the_connection_with_its_beginning() {
    for nonsense in [&b"\xff\xfe\0\n"[..], b"[1]\n", b"3\n", b"\n", b"{\"return\": \n"] {
        let result = command_met_with(nonsense).await;
        assert!(matches!(result, Err(QmpError::Closed { reason: CloseReason::Malformed { .. }, .. })), "{result:?}");
    }
}

#[tokio::test]
async fn command_after_the_end_fails_with_the_reason() {
    let (qmp, peer) = connected().await;
    drop(peer);
    for _ in 0..2 {
        let result = qmp.execute("query-status", None).await;
        assert!(matches!(result, Err(QmpError::Closed { .. })), "{result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silent_peer_times_out_and_leaves_nothing_waiting() {
    let (qmp, _peer) = connected().await;
    let result = qmp.execute_within("query-status", None, Duration::from_secs(1)).await;
    assert!(matches!(result, Err(QmpError::TimedOut { .. })), "{result:?}");
    assert!(qmp.inner.shared.waiting().answers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn peer_that_does_not_greet_times_out() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    assert!(matches!(Qmp::open(ours).await, Err(QmpError::NoGreeting)));
}

#[tokio::test]
async fn peer_that_greets_as_something_else_is_refused() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"{\"hello\": 1}\n").await.unwrap();
    assert!(matches!(Qmp::open(ours).await, Err(QmpError::BadGreeting)));
}

#[tokio::test]
async fn flood_of_events_costs_a_bounded_backlog() {
    let (qmp, mut peer) = connected().await;
    let mut events = qmp.events();
    let server = async {
        for number in 0..1000 {
            let event = format!("{{\"event\": \"E\", \"data\": {number}}}\n");
            peer.write_all(event.as_bytes()).await.unwrap();
        }
        let request = next_request(&mut peer).await;
        answer(&mut peer, &request, "\"return\": 1").await;
    };
    let (result, ()) = tokio::join!(qmp.execute("query-status", None), server);
    assert_eq!(result.unwrap(), json!(1));
    let lagged = events.recv().await;
    assert!(matches!(lagged, Err(broadcast::error::RecvError::Lagged(missed)) if missed >= 900), "{lagged:?}");
    assert_eq!(events.recv().await.unwrap().name, "E");
}

#[tokio::test]
async fn passed_descriptor_arrives_with_its_command() {
    let (qmp, peer) = connected().await;
    let (mut read_end, write_end) = tokio::net::unix::pipe::pipe().map(|(w, r)| (r, w)).unwrap();
    let sent = write_end.as_raw_fd();
    let server = async {
        let stream = peer.into_inner();
        let (line, received) = receive_with_descriptor(&stream).await;
        assert!(line.contains("getfd") && line.contains("state"), "{line}");
        let mut file = std::fs::File::from(received);
        std::io::Write::write_all(&mut file, b"through").unwrap();
        drop(file);
        let id = serde_json::from_str::<Value>(&line).unwrap()["id"].clone();
        let mut peer = BufReader::new(stream);
        answer(&mut peer, &json!({ "id": id }), "\"return\": {}").await;
        peer
    };
    assert!(sent > 2);
    let descriptor = write_end.into_blocking_fd().unwrap();
    let (result, _peer) = tokio::join!(qmp.pass_fd("state", descriptor), server);
    result.unwrap();
    let mut text = String::new();
    read_end.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "through");
}

async fn receive_with_descriptor(stream: &UnixStream) -> (String, OwnedFd) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 1024];
    let received = stream
        .async_io(Interest::READABLE, || {
            let mut slices = [io::IoSliceMut::new(&mut bytes)];
            Ok(recvmsg(stream, &mut slices, &mut control, RecvFlags::DONTWAIT)?)
        })
        .await
        .unwrap();
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    (String::from_utf8_lossy(&bytes[..received.bytes]).into_owned(), descriptor.unwrap())
}

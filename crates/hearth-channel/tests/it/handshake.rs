use std::error::Error;

use hearth_channel::{Channel, ChannelError, ConnectError, ConnectOptions, Ended, Violation};
use hearth_protocol::{
    AgentHello, Epoch, ErrorCode, Fault, HelloAnswer, Lane, Outcome, ReplyBody, RequestId, StreamName,
};

use crate::peer::{Peer, answer, chunk, pair};

/// Connects to a peer that answers the control hello with these bytes, and tells why it failed.
async fn refused(bytes: impl FnOnce(Epoch) -> Vec<u8>) -> ConnectError {
    let (control, bulk, mut peer) = pair();
    let script = async {
        let epoch = peer.control.hello().await.epoch;
        peer.control.send(bytes(epoch)).await;
        peer
    };
    let (channel, _peer) = tokio::join!(Channel::over(control, bulk, ConnectOptions::default()), script);
    let error = channel.expect_err("no session");
    assert_eq!(error.outcome(), Outcome::NeverStarted);
    match error {
        ChannelError::Connect(error) => error,
        other => panic!("not a connect error: {other:?}"),
    }
}

fn hello(epoch: Epoch, lane: Lane, answer: HelloAnswer) -> Vec<u8> {
    AgentHello { epoch, lane, answer, agent: "peer".into() }.to_bytes()
}

#[tokio::test(start_paused = true)]
async fn requests_go_out_before_the_bulk_lane_has_answered() {
    let (control, bulk, mut peer) = pair();
    let script = async {
        let epoch = peer.control.hello().await.epoch;
        peer.control.send(answer(epoch, Lane::Control)).await;
        peer.pong().await;
        peer
    };
    let host = async {
        let channel = Channel::over(control, bulk, ConnectOptions::default()).await.unwrap();
        channel.ping().await.unwrap();
        channel
    };
    tokio::join!(host, script);
}

#[tokio::test(start_paused = true)]
async fn b46_bytes_of_an_earlier_session_are_never_taken_for_an_answer() {
    let (control, bulk, mut peer) = pair();
    let old = Epoch::from_random([7; 16]);
    let script = async {
        let pong = r#"{"id":1,"type":"pong"}"#;
        peer.control.send(format!("rest of a line\"}}\n{pong}\n")).await;
        peer.control.send(answer(old, Lane::Control)).await;
        peer.control.send(format!("{pong}\n{{\"id\":2,\"typ")).await;
        let epoch = peer.control.hello().await.epoch;
        peer.control.send(format!("{{\"hello\":{{\"epoch\":\"{}", &epoch.to_string()[..31])).await;
        peer.control.send(answer(epoch, Lane::Control)).await;
        // An unfinished payload of the earlier session swallows nothing.
        peer.bulk.send(chunk(RequestId(1), StreamName::Stdout, 0, false, b"stale output")).await;
        peer.bulk.send(&chunk(RequestId(1), StreamName::Stdout, 12, false, &[b'x'; 1000])[..100]).await;
        peer.bulk.send(answer(old, Lane::Bulk)).await;
        let bulk = peer.bulk.hello().await.epoch;
        assert_eq!(bulk, epoch);
        peer.bulk.send(answer(bulk, Lane::Bulk)).await;
        let id = peer.request().await.id;
        peer.reply(id, ReplyBody::Error(Fault::failed(ErrorCode::Busy, "the true answer"))).await;
        peer
    };
    let host = async {
        let channel = Channel::over(control, bulk, ConnectOptions::default()).await.unwrap();
        let fault = channel.ping().await.expect_err("the scripted fault");
        assert_eq!(fault.source().unwrap().to_string(), "the true answer");
        channel
    };
    let (channel, mut peer) = tokio::join!(host, script);
    let (pinged, ()) = tokio::join!(channel.ping(), peer.pong());
    pinged.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hello_is_found_behind_garbage_and_byte_by_byte() {
    let (control, bulk, mut peer) = pair();
    let script = async {
        let epoch = peer.control.hello().await.epoch;
        peer.control.send(vec![b'{'; 300_000]).await;
        peer.control.dribble(answer(epoch, Lane::Control)).await;
        peer.bulk.hello().await;
        peer.bulk.dribble(answer(epoch, Lane::Bulk)).await;
        peer.pong().await;
        peer
    };
    let host = async {
        let channel = Channel::over(control, bulk, ConnectOptions::default()).await.unwrap();
        channel.ping().await.unwrap();
        channel
    };
    tokio::join!(host, script);
}

#[tokio::test(start_paused = true)]
async fn an_echo_of_our_own_hello_is_not_an_answer() {
    let error = refused(|epoch| hearth_protocol::HostHello::new(epoch, Lane::Control).to_bytes()).await;
    assert!(matches!(error, ConnectError::NoAnswer { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hello_of_another_epoch_is_not_an_answer() {
    let error = refused(|_| answer(Epoch::from_random([1; 16]), Lane::Control)).await;
    assert!(matches!(error, ConnectError::NoAnswer { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_version_refusal_is_typed_and_its_text_is_escaped() {
    let fault = Fault::never_started(ErrorCode::UnsupportedVersion, "\x1b[31mtoo old");
    let error = refused(|epoch| hello(epoch, Lane::Control, HelloAnswer::Error(fault))).await;
    let ConnectError::Refused { source } = error else { panic!("{error:?}") };
    assert_eq!((source.code, source.message.as_str()), (ErrorCode::UnsupportedVersion, "\\u{1b}[31mtoo old"));
}

#[tokio::test(start_paused = true)]
async fn a_version_that_was_not_offered_is_refused() {
    let error = refused(|epoch| hello(epoch, Lane::Control, HelloAnswer::Protocol(2))).await;
    assert!(matches!(error, ConnectError::UnknownVersion { version: 2 }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_the_other_lane_is_refused() {
    let error = refused(|epoch| answer(epoch, Lane::Bulk)).await;
    assert!(matches!(error, ConnectError::WrongLane { found: Lane::Bulk, .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_up_at_once_is_told_from_one_that_is_silent() {
    let (control, bulk, peer) = pair();
    drop(peer);
    let error = Channel::over(control, bulk, ConnectOptions::default()).await.expect_err("nobody there");
    let hung_up = |error: &ChannelError| {
        matches!(error, ChannelError::Connect(ConnectError::HungUp | ConnectError::Greet { .. }))
    };
    assert!(hung_up(&error), "{error:?}");
    let (control, bulk, _peer) = pair();
    let error = Channel::over(control, bulk, ConnectOptions::default()).await.expect_err("nobody there");
    assert!(matches!(error, ChannelError::Connect(ConnectError::NoAnswer { .. })), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_silent_on_the_bulk_lane_ends_the_channel() {
    let (control, bulk, mut peer) = pair();
    let script = async {
        let epoch = peer.control.hello().await.epoch;
        peer.control.send(answer(epoch, Lane::Control)).await;
    };
    let (channel, ()) = tokio::join!(Channel::over(control, bulk, ConnectOptions::default()), script);
    let ended = channel.unwrap().closed().await;
    assert!(matches!(&*ended, Ended::Bulk { source: ConnectError::NoAnswer { .. } }), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_second_hello_ends_the_channel_on_either_lane() {
    type Script = fn(&mut Peer) -> &mut crate::peer::PeerLane;
    for (lane, pick) in [(Lane::Control, (|peer| &mut peer.control) as Script), (Lane::Bulk, |peer| &mut peer.bulk)] {
        let (control, bulk, mut peer) = pair();
        let (channel, epoch) = tokio::join!(Channel::over(control, bulk, ConnectOptions::default()), peer.greet());
        pick(&mut peer).send(answer(epoch, lane)).await;
        let ended = channel.unwrap().closed().await;
        let Ended::Violation { lane: found, source } = &*ended else { panic!("{ended:?}") };
        assert_eq!(*found, lane);
        assert!(matches!(source, Violation::SecondHello | Violation::Framing { .. }), "{source:?}");
    }
}

use std::error::Error;

use hearth_channel::{Channel, ChannelError, ConnectOptions, Ended, Violation};
use hearth_protocol::files::FileResult;
use hearth_protocol::{
    ChunkHeader, Command, ErrorCode, Fault, Finished, FrameError, Lane, Outcome, OutputTotals, ProcessId, Reply,
    ReplyBody, RequestBody, RequestId, Signal, SignalScope, Start, StreamName, limits,
};

use crate::peer::{Peer, connected, connected_with, line, seconds};

fn violation(ended: &Ended) -> &Violation {
    match ended {
        Ended::Violation { lane: Lane::Control, source } => source,
        other => panic!("not a violation on the control lane: {other:?}"),
    }
}

/// Sends bytes on the control lane of a fresh session, and tells what rule they broke.
async fn broken_by(bytes: impl AsRef<[u8]>) -> Violation {
    let (channel, mut peer) = connected().await;
    let (ended, _) = tokio::join!(channel.closed(), peer.control.offer(bytes));
    violation(&ended).clone()
}

/// Checks that a session works.
async fn check_alive(channel: &Channel, peer: &mut Peer) {
    let (pinged, ()) = tokio::join!(channel.ping(), peer.pong());
    pinged.unwrap();
}

#[tokio::test(start_paused = true)]
async fn replies_find_their_requests_in_any_order() {
    let (channel, mut peer) = connected().await;
    let script = async {
        let (first, second) = (peer.request().await, peer.request().await);
        assert_eq!((&first.body, &second.body), (&RequestBody::Ping {}, &RequestBody::List { after: None, tag: None }));
        peer.reply(second.id, ReplyBody::Processes { processes: vec![], more: false }).await;
        peer.reply(first.id, ReplyBody::Pong {}).await;
    };
    let (ping, list, ()) = tokio::join!(channel.ping(), channel.list(), script);
    ping.unwrap();
    assert_eq!(list.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_leaves_the_channel_usable_and_a_late_reply_is_dropped() {
    let (channel, mut peer) = connected().await;
    let error = channel.request_within(RequestBody::Ping {}, seconds(1)).await.expect_err("nobody answers");
    assert!(matches!(error, ChannelError::TimedOut { outcome: Outcome::MayHaveRun, .. }), "{error:?}");
    let late = peer.request().await.id;
    peer.reply(late, ReplyBody::Error(Fault::failed(ErrorCode::Io, "late"))).await;
    check_alive(&channel, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_waits_for_any_more_is_forgotten() {
    let (channel, mut peer) = connected().await;
    drop(tokio::time::timeout(seconds(1), channel.ping()).await);
    let late = peer.request().await.id;
    peer.reply(late, ReplyBody::Pong {}).await;
    check_alive(&channel, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_keeps_its_code_and_outcome_and_its_text_is_bounded_and_escaped() {
    let (channel, mut peer) = connected().await;
    let script = async {
        let request = peer.request().await;
        let text = format!("\x1b]0;title\x07{}", "x".repeat(50_000));
        peer.reply(request.id, ReplyBody::Error(Fault::failed(ErrorCode::NotRunning, text))).await;
    };
    let (refused, ()) = tokio::join!(channel.signal(ProcessId(1), Signal::Term, SignalScope::Tree), script);
    let error = refused.expect_err("a fault");
    assert_eq!(error.outcome(), Outcome::Failed);
    let ChannelError::Fault { source } = error else { panic!("not a fault") };
    assert_eq!(source.code, ErrorCode::NotRunning);
    assert!(source.message.starts_with("\\u{1b}]0;title\\u{7}xxx") && source.message.len() < 1100, "{source:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_kind_is_an_error_and_the_channel_lives() {
    let (channel, mut peer) = connected().await;
    let script = async {
        let id = peer.request().await.id;
        peer.reply(id, ReplyBody::Done {}).await;
    };
    let (pinged, ()) = tokio::join!(channel.ping(), script);
    let error = pinged.expect_err("not a pong");
    assert!(matches!(error, ChannelError::UnexpectedReply { asked: "ping", answered: "done" }), "{error:?}");
    check_alive(&channel, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_fits_no_line_is_refused_before_it_is_sent() {
    let (channel, mut peer) = connected().await;
    let start = Start::new(Command::Shell(vec![b'x'; limits::HEADER].into()));
    let error = channel.start(start).await.expect_err("too large");
    assert!(matches!(error, ChannelError::TooLarge { source: FrameError::LineTooLong { .. } }), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NeverStarted);
    for _ in 0..2 {
        let (pinged, request) = tokio::join!(channel.ping(), async {
            let request = peer.request().await;
            peer.reply(request.id, ReplyBody::Pong {}).await;
            request.body
        });
        pinged.unwrap();
        assert_eq!(request, RequestBody::Ping {}, "nothing was sent for the refused one, a detach included");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_sent_and_lost_may_have_run_and_a_later_one_never_started() {
    let (channel, mut peer) = connected().await;
    let (lost, ()) = tokio::join!(channel.ping(), async {
        peer.request().await;
        drop(peer);
    });
    let error = lost.expect_err("lost");
    assert_eq!(error.outcome(), Outcome::MayHaveRun, "{error:?}");
    assert!(matches!(*channel.closed().await, Ended::HungUp { .. }));
    let error = channel.ping().await.expect_err("ended");
    assert_eq!(error.outcome(), Outcome::NeverStarted, "{error:?}");
    assert!(error.source().is_some(), "the reason is there");
}

#[tokio::test(start_paused = true)]
async fn a_request_stuck_behind_another_when_the_channel_ends_never_started() {
    let (channel, peer) = connected().await;
    // The first requests fill the lane, which nobody reads; the last one cannot have left.
    let large = || RequestBody::Start(Start::new(Command::Shell(vec![b'x'; limits::HEADER - 1000].into())));
    let stuck = || channel.request_within(large(), seconds(3600));
    let requests = async {
        tokio::join!(stuck(), stuck(), stuck(), stuck(), stuck(), stuck(), stuck(), stuck(), stuck(), stuck())
    };
    let hang_up = async {
        tokio::time::sleep(seconds(1)).await;
        drop(peer);
    };
    let (answers, ()) = tokio::join!(requests, hang_up);
    assert_eq!(answers.0.expect_err("ended").outcome(), Outcome::MayHaveRun);
    assert_eq!(answers.9.expect_err("ended").outcome(), Outcome::NeverStarted);
}

#[tokio::test(start_paused = true)]
async fn replies_byte_by_byte_are_whole() {
    let (channel, mut peer) = connected().await;
    let script = async {
        let id = peer.request().await.id;
        peer.control.dribble(line(&Reply { id: Some(id), body: ReplyBody::Pong {} })).await;
    };
    let (pinged, ()) = tokio::join!(channel.ping(), script);
    pinged.unwrap();
}

#[tokio::test(start_paused = true)]
async fn half_a_line_before_the_end_is_no_reply() {
    let (channel, mut peer) = connected().await;
    let script = async {
        let id = peer.request().await.id;
        peer.control.send(format!("{{\"id\":{},\"type\":\"pong\"}}", id.0)).await;
        drop(peer);
    };
    let (pinged, ()) = tokio::join!(channel.ping(), script);
    assert!(matches!(pinged, Err(ChannelError::Ended { outcome: Outcome::MayHaveRun, .. })), "{pinged:?}");
}

#[tokio::test(start_paused = true)]
async fn an_oversize_line_ends_the_channel() {
    let violation = broken_by(vec![b'x'; 2 * limits::HEADER]).await;
    assert!(matches!(violation, Violation::Framing { source: FrameError::LineTooLong { .. } }), "{violation:?}");
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_no_reply_ends_the_channel_and_is_shown_escaped() {
    for bytes in ["\n", "[]\n", "nonsense\n", "{\"id\":1,\"type\":\"\\u001b[2J\"}\n", "\u{1b}[2J\n"] {
        let Violation::NotAReply { reason } = broken_by(bytes).await else { panic!("{bytes:?}") };
        assert!(!reason.contains('\x1b') && reason.len() < 2000, "{reason:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_nobody_ends_the_channel() {
    let fault = ReplyBody::Error(Fault::never_started(ErrorCode::MalformedRequest, "what?"));
    let violation = broken_by(line(&Reply { id: None, body: fault })).await;
    assert_eq!(violation, Violation::Unaddressed { message: "what?".into() });
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_request_never_made_ends_the_channel() {
    let violation = broken_by(line(&Reply { id: Some(RequestId(99)), body: ReplyBody::Pong {} })).await;
    assert_eq!(violation, Violation::NeverAsked { id: RequestId(99) });
}

#[tokio::test(start_paused = true)]
async fn replies_to_finished_requests_without_end_end_the_channel() {
    let (channel, mut peer) = connected().await;
    check_alive(&channel, &mut peer).await;
    let again = line(&Reply { id: Some(RequestId(1)), body: ReplyBody::Pong {} });
    let flood = async { while peer.control.offer(&again).await {} };
    let (ended, ()) = tokio::join!(channel.closed(), flood);
    assert_eq!(*violation(&ended), Violation::Late);
}

#[tokio::test(start_paused = true)]
async fn everybody_who_waits_is_told_of_the_end() {
    let (channel, peer) = connected_with(ConnectOptions { request_timeout: seconds(3600), ..Default::default() }).await;
    let start = Start::new(Command::Shell("true".into()));
    let hang_up = async {
        tokio::time::sleep(seconds(1)).await;
        drop(peer);
    };
    let (ping, start, ended, ()) = tokio::join!(channel.ping(), channel.start(start), channel.closed(), hang_up);
    assert!(matches!(*ended, Ended::HungUp { .. }));
    for error in [ping.expect_err("ended"), start.expect_err("ended")] {
        assert!(matches!(error, ChannelError::Ended { .. }), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_may_come_with_the_last_bytes_of_its_operation_and_nothing_else_may() {
    let finished = |data| ReplyBody::Finished {
        result: Finished::File(FileResult::Read { size: 7 }),
        output: OutputTotals { data, ..OutputTotals::default() },
    };
    for (last, fits) in [(finished(7), true), (ReplyBody::Done {}, false), (ReplyBody::Pong {}, false)] {
        let (channel, mut peer) = connected().await;
        let script = async {
            let id = peer.request().await.id;
            let header = |at, last, payload| ChunkHeader {
                id,
                stream: StreamName::Data,
                at,
                end: false,
                detach: false,
                last,
                payload: Some(payload),
            };
            let chunks =
                [&*line(&header(0, None, 4)), b"cont", &line(&header(4, Some(Box::new(last)), 3)), b"ent"].concat();
            peer.bulk.send(chunks).await;
        };
        let (read, ()) = tokio::join!(channel.read_whole("file", 100), script);
        match fits {
            true => assert_eq!(read.unwrap(), "content"),
            false => assert!(matches!(
                &*channel.closed().await,
                Ended::Violation { lane: Lane::Bulk, source: Violation::OutOfPlace { .. } }
            )),
        }
    }
}

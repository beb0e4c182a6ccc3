use bytes::Bytes;
use hearth_channel::{ChannelError, ConnectOptions, Ended};
use hearth_protocol::{Command, Delivery, Outcome, ReplyBody, RequestBody, Start, StreamName, limits};
use tokio::time::Instant;

use crate::peer::{Memory, connected, connected_with, seconds};

fn large() -> RequestBody {
    RequestBody::Start(Start::new(Command::Shell(vec![b'x'; limits::HEADER - 1000].into())))
}

/// Fills the control lane and its queue until a request is refused, and tells how many were not.
async fn fill(channel: &hearth_channel::Channel) -> (usize, ChannelError) {
    for accepted in 0..1000 {
        let error = channel.request_within(large(), seconds(1)).await.expect_err("nobody answers");
        if !matches!(error, ChannelError::TimedOut { outcome: Outcome::MayHaveRun, .. }) {
            return (accepted, error);
        }
    }
    panic!("the queue has no bound");
}

#[tokio::test(start_paused = true)]
async fn b45_peer_that_stops_reading_fails_fast_and_memory_stays_flat() {
    let options = ConnectOptions { queue_timeout: seconds(1) / 2, ..Default::default() };
    let (channel, _peer) = connected_with(options).await;
    let before = Memory::now();
    let (accepted, error) = fill(&channel).await;
    assert!(matches!(error, ChannelError::QueueFull { .. }), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NeverStarted);
    assert!(error.to_string().contains("write queue full, guest agent not draining"), "{error}");
    assert!(accepted <= 2 * 100 + 2, "{accepted} messages were taken in");
    for _ in 0..1000 {
        channel.request_within(large(), seconds(1)).await.expect_err("full");
    }
    before.check_growth(32);
    assert!(channel.ended().is_none(), "a slow peer ends nothing");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_waited_for_as_long_as_said_and_no_longer() {
    let (channel, _peer) = connected().await;
    let (_, error) = fill(&channel).await;
    assert!(matches!(error, ChannelError::TimedOut { outcome: Outcome::NeverStarted, .. }), "its own bound: {error:?}");
    let begun = Instant::now();
    let error = channel.ping().await.expect_err("full");
    assert!(matches!(error, ChannelError::QueueFull { .. }), "{error:?}");
    assert_eq!(begun.elapsed(), seconds(5));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_again_gets_everything_in_order() {
    let (channel, mut peer) = connected().await;
    let (accepted, _) = fill(&channel).await;
    for _ in 0..accepted {
        assert_eq!(peer.request().await.body, large());
    }
    let (pinged, ()) = tokio::join!(channel.ping(), peer.pong());
    pinged.unwrap();
}

#[tokio::test(start_paused = true)]
async fn reading_goes_on_while_writing_is_stuck() {
    let (channel, mut peer) = connected().await;
    let mut start = Start::new(Command::Shell("yes".into()));
    start.attach = Some(Delivery::Lossless);
    let (process, id) = tokio::join!(channel.start(start), peer.start());
    let process = process.unwrap();
    fill(&channel).await;
    let payload = vec![b'y'; limits::CHUNK];
    for at in (0..limits::WINDOW).step_by(limits::CHUNK) {
        peer.output(id, StreamName::Stdout, at, &payload).await;
    }
    for _ in (0..limits::WINDOW).step_by(limits::CHUNK) {
        assert!(process.next_event().await.unwrap().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_writer_fails_the_next_send_at_once() {
    let (channel, peer) = connected().await;
    drop(peer);
    channel.closed().await;
    let begun = Instant::now();
    let error = channel.ping().await.expect_err("dead");
    assert_eq!((error.outcome(), begun.elapsed()), (Outcome::NeverStarted, seconds(0)));
}

#[tokio::test(start_paused = true)]
async fn close_sends_what_is_queued() {
    let (channel, mut peer) = connected().await;
    let (accepted, _) = fill(&channel).await;
    let reading = async {
        for _ in 0..accepted {
            assert_eq!(peer.request().await.body, large());
        }
        peer.control.rest().await
    };
    let begun = Instant::now();
    let ((), rest) = tokio::join!(channel.close(), reading);
    assert_eq!((rest, begun.elapsed()), (vec![], seconds(0)));
}

#[tokio::test(start_paused = true)]
async fn close_gives_up_on_a_peer_that_does_not_read() {
    let (channel, mut peer) = connected().await;
    let (accepted, _) = fill(&channel).await;
    let begun = Instant::now();
    channel.close().await;
    assert_eq!(begun.elapsed(), seconds(5));
    assert!(peer.control.rest().await.len() < accepted * limits::HEADER);
}

#[tokio::test(start_paused = true)]
async fn who_waits_when_the_channel_is_closed_is_told() {
    let (channel, mut peer) = connected().await;
    let mut start = Start::new(Command::Shell("cat".into()));
    (start.attach, start.stdin) = (Some(Delivery::Lossless), true);
    let (process, _) = tokio::join!(channel.start(start), peer.start());
    let process = process.unwrap();
    let mut stdin = process.stdin().unwrap();
    let (event, ()) = tokio::join!(process.next_event(), channel.close());
    let Err(ChannelError::Ended { source, outcome }) = event else { panic!("{event:?}") };
    assert!(matches!(*source, Ended::Closed) && outcome == Outcome::MayHaveRun, "{source:?}");
    stdin.write(Bytes::from_static(b"more")).await.expect_err("closed");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_channel_hangs_up() {
    let (channel, mut peer) = connected().await;
    drop(channel);
    assert_eq!((peer.control.rest().await, peer.bulk.rest().await), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_takes_no_input_on_the_bulk_lane_fails_the_writer_alone() {
    let (channel, mut peer) = connected().await;
    let mut start = Start::new(Command::Shell("cat".into()));
    (start.attach, start.stdin) = (Some(Delivery::Lossless), true);
    let (process, id) = tokio::join!(channel.start(start), peer.start());
    let process = process.unwrap();
    let mut stdin = process.stdin().unwrap();
    peer.reply(id, ReplyBody::Credit { stream: StreamName::Stdin, bytes: limits::CREDIT - limits::WINDOW }).await;
    let error = stdin.write(Bytes::from(vec![0; limits::CREDIT as usize])).await.expect_err("nobody reads");
    assert!(matches!(error, ChannelError::QueueFull { .. }), "{error:?}");
    let (pinged, ()) = tokio::join!(channel.ping(), peer.pong());
    pinged.unwrap();
}

use bytes::Bytes;
use hearth_channel::{Channel, ChannelError, Ended, Event, Process, Violation};
use hearth_protocol::{
    Attach, Command, CreditError, Delivery, ErrorCode, Fault, Lane, Outcome, OutputTotals, ProcessId, ProcessRef,
    ReplyBody, RequestBody, RequestId, Start, StreamName, limits,
};

use crate::peer::{Peer, chunk, connected, seconds, success};

const OUT: StreamName = StreamName::Stdout;
const ERR: StreamName = StreamName::Stderr;
const WINDOW: usize = limits::WINDOW as usize;

/// A followed process with input.
fn command() -> Start {
    let mut start = Start::new(Command::Shell("cat".into()));
    (start.attach, start.stdin) = (Some(Delivery::Lossless), true);
    start
}

async fn start(channel: &Channel, peer: &mut Peer) -> (Process, RequestId) {
    let (process, id) = tokio::join!(channel.start(command()), peer.start());
    (process.unwrap(), id)
}

async fn started() -> (Channel, Peer, Process, RequestId) {
    let (channel, mut peer) = connected().await;
    let (process, id) = start(&channel, &mut peer).await;
    (channel, peer, process, id)
}

fn exit(stdout: u64, stderr: u64) -> ReplyBody {
    ReplyBody::Exit { status: success(), output: OutputTotals { stdout, stderr, ..OutputTotals::default() } }
}

fn exited(stdout: u64, stderr: u64) -> Event {
    Event::Exit { status: success(), output: OutputTotals { stdout, stderr, ..OutputTotals::default() } }
}

fn output(stream: StreamName, at: u64, bytes: &'static [u8]) -> Event {
    Event::Output { stream, at, bytes: Bytes::from_static(bytes) }
}

async fn next(process: &Process) -> Event {
    process.next_event().await.unwrap().expect("an event")
}

/// Tells whether nothing comes although there is all the time in the world.
async fn nothing_comes(process: &Process) -> bool {
    tokio::time::timeout(seconds(3600), process.next_event()).await.is_err()
}

async fn check_alive(channel: &Channel, peer: &mut Peer) {
    let (pinged, ()) = tokio::join!(channel.ping(), peer.pong());
    pinged.unwrap();
}

async fn violated(channel: &Channel) -> Violation {
    match &*channel.closed().await {
        Ended::Violation { source, .. } => source.clone(),
        other => panic!("not a violation: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_tells_its_names_its_output_and_its_exit() {
    let (_channel, mut peer, process, id) = started().await;
    assert_eq!((process.id(), process.pid()), (ProcessId(7), 70));
    peer.output(id, OUT, 0, b"out\xff\0").await;
    peer.output(id, ERR, 0, b"err").await;
    assert_eq!((next(&process).await, next(&process).await), (output(OUT, 0, b"out\xff\0"), output(ERR, 0, b"err")));
    peer.reply(id, exit(5, 3)).await;
    assert_eq!(next(&process).await, exited(5, 3));
    assert_eq!(process.next_event().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn the_exit_waits_for_output_that_is_still_on_its_way() {
    let (_channel, mut peer, process, id) = started().await;
    peer.reply(id, exit(3, 1)).await;
    assert!(nothing_comes(&process).await);
    peer.output(id, OUT, 0, b"abc").await;
    assert_eq!(next(&process).await, output(OUT, 0, b"abc"));
    assert!(nothing_comes(&process).await);
    peer.output(id, ERR, 0, b"x").await;
    assert_eq!((next(&process).await, next(&process).await), (output(ERR, 0, b"x"), exited(3, 1)));
}

#[tokio::test(start_paused = true)]
async fn output_before_the_started_reply_is_kept() {
    let (channel, mut peer) = connected().await;
    let script = async {
        let id = peer.request().await.id;
        peer.output(id, OUT, 0, b"early").await;
        tokio::time::sleep(seconds(1)).await;
        peer.reply(id, ReplyBody::Started { process: ProcessId(7), pid: 70 }).await;
    };
    let (process, ()) = tokio::join!(channel.start(command()), script);
    assert_eq!(next(&process.unwrap()).await, output(OUT, 0, b"early"));
}

#[tokio::test(start_paused = true)]
async fn gaps_show_as_jumps_and_count_as_arrived() {
    let (_channel, mut peer, process, id) = started().await;
    peer.output(id, OUT, 0, b"head").await;
    peer.output(id, OUT, 1000, b"tail").await;
    peer.reply(id, exit(1004, 0)).await;
    assert_eq!((next(&process).await, next(&process).await), (output(OUT, 0, b"head"), output(OUT, 1000, b"tail")));
    assert_eq!(next(&process).await, exited(1004, 0));
}

#[tokio::test(start_paused = true)]
async fn dropped_last_bytes_show_in_the_totals() {
    for (at, end) in [(4, true), (1000, false)] {
        let (_channel, mut peer, process, id) = started().await;
        peer.output(id, OUT, 0, b"head").await;
        peer.reply(id, exit(1000, 0)).await;
        peer.bulk.send(chunk(id, OUT, at, end, b"")).await;
        assert_eq!((next(&process).await, next(&process).await), (output(OUT, 0, b"head"), exited(1000, 0)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_attach_starts_where_it_asked_to_or_later() {
    let (channel, mut peer) = connected().await;
    let attach = Attach { process: ProcessId(7).into(), stdout: 100, stderr: 20, delivery: Delivery::Bounded };
    let (process, id) = tokio::join!(channel.attach(attach), peer.start());
    let process = process.unwrap();
    peer.output(id, OUT, 150, b"ab").await;
    peer.reply(id, exit(152, 20)).await;
    assert_eq!((next(&process).await, next(&process).await), (output(OUT, 150, b"ab"), exited(152, 20)));
}

#[tokio::test(start_paused = true)]
async fn small_chunks_that_nobody_takes_are_joined() {
    let (_channel, mut peer, process, id) = started().await;
    for at in 0..1000 {
        peer.output(id, OUT, at, b"x").await;
    }
    peer.reply(id, exit(1000, 0)).await;
    let mut events = Vec::new();
    while let Some(event) = process.next_event().await.unwrap() {
        events.push(event);
    }
    assert!(events.len() < 100, "{} events", events.len());
}

#[tokio::test(start_paused = true)]
async fn credit_is_granted_as_output_is_taken_and_not_before() {
    let (channel, mut peer, process, id) = started().await;
    peer.output(id, OUT, 0, &vec![b'x'; WINDOW]).await;
    check_alive(&channel, &mut peer).await;
    let mut taken = 0;
    while taken < WINDOW {
        let Event::Output { bytes, .. } = next(&process).await else { panic!("output") };
        taken += bytes.len();
    }
    let mut granted = 0;
    while granted < limits::WINDOW {
        let request = peer.request().await;
        let RequestBody::Credit { stream: OUT, bytes } = request.body else { panic!("{request:?}") };
        assert_eq!(request.id, id);
        granted += bytes;
    }
    peer.output(id, OUT, limits::WINDOW, &vec![b'y'; WINDOW]).await;
    check_alive(&channel, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn b47_a_stream_that_nobody_reads_delays_neither_a_ping_nor_another_stream() {
    let (channel, mut peer, _unread, unread) = started().await;
    let (process, id) = start(&channel, &mut peer).await;
    for stream in [OUT, ERR] {
        peer.output(unread, stream, 0, &vec![b'x'; WINDOW]).await;
    }
    let begun = tokio::time::Instant::now();
    check_alive(&channel, &mut peer).await;
    for at in 0..100 {
        peer.output(id, OUT, at * 1000, &[b'y'; 1000]).await;
        assert!(matches!(next(&process).await, Event::Output { .. }));
    }
    assert_eq!(begun.elapsed(), seconds(0), "nothing had to wait");
}

#[tokio::test(start_paused = true)]
async fn output_beyond_the_credit_ends_the_channel() {
    let (channel, mut peer, process, id) = started().await;
    peer.output(id, OUT, 0, &vec![b'x'; WINDOW]).await;
    peer.output(id, OUT, limits::WINDOW, b"y").await;
    let source = CreditError::Overrun { excess: 1 };
    assert_eq!(violated(&channel).await, Violation::Credit { id, stream: OUT, source });
    let mut kept = 0;
    let error = loop {
        match process.next_event().await {
            Ok(Some(Event::Output { bytes, .. })) => kept += bytes.len(),
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!((kept, error.outcome()), (WINDOW, Outcome::MayHaveRun), "what came before is handed over");
}

#[tokio::test(start_paused = true)]
async fn a_payload_beyond_the_limit_ends_the_channel() {
    let (channel, mut peer, _process, id) = started().await;
    peer.bulk.send(format!("{{\"id\":{},\"stream\":\"stdout\",\"at\":0,\"payload\":99999999999}}\n", id.0)).await;
    assert!(matches!(violated(&channel).await, Violation::Framing { .. }));
}

#[tokio::test(start_paused = true)]
async fn chunks_out_of_place_end_the_channel() {
    for (count, bytes) in [
        (1, chunk(RequestId(1), StreamName::Stdin, 0, false, b"x")),
        (2, chunk(RequestId(1), OUT, 0, false, b"x")),
        (2, chunk(RequestId(1), OUT, 5, true, b"x")),
        (1, chunk(RequestId(1), OUT, u64::MAX, false, b"x")),
        (1, chunk(RequestId(2), OUT, 0, false, b"x")),
    ] {
        let (channel, mut peer, _process, id) = started().await;
        assert_eq!(id, RequestId(1));
        for _ in 0..count {
            peer.bulk.send(&bytes).await;
        }
        let violation = violated(&channel).await;
        let expected = matches!(
            violation,
            Violation::OutOfPlace { .. } | Violation::Backwards { .. } | Violation::NeverAsked { .. }
        );
        assert!(expected, "{violation:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn replies_out_of_place_end_the_channel() {
    let started_again = || ReplyBody::Started { process: ProcessId(8), pid: 80 };
    let credit = |stream| ReplyBody::Credit { stream, bytes: 1 };
    for replies in [vec![started_again()], vec![ReplyBody::Pong {}], vec![credit(OUT)], vec![exit(9, 9), exit(9, 9)]] {
        let (channel, mut peer, _process, id) = started().await;
        for reply in replies {
            peer.reply(id, reply).await;
        }
        let violation = violated(&channel).await;
        assert!(matches!(violation, Violation::OutOfPlace { .. }), "{violation:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn credit_for_input_beyond_the_limit_ends_the_channel() {
    let (channel, mut peer, _process, id) = started().await;
    peer.reply(id, ReplyBody::Credit { stream: StreamName::Stdin, bytes: u64::MAX }).await;
    let source = CreditError::Overgrant;
    assert_eq!(violated(&channel).await, Violation::Credit { id, stream: StreamName::Stdin, source });
}

#[tokio::test(start_paused = true)]
async fn dropping_a_process_detaches_and_what_was_on_its_way_is_dropped() {
    let (channel, mut peer, process, id) = started().await;
    peer.output(id, OUT, 0, b"unread").await;
    drop(process);
    let request = peer.request().await;
    assert_eq!((request.id, request.body), (id, RequestBody::Detach {}));
    peer.output(id, OUT, 6, &[b'x'; 100_000]).await;
    peer.reply(id, exit(9, 9)).await;
    peer.reply(id, ReplyBody::Done {}).await;
    check_alive(&channel, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_detach_comes_behind_the_input_by_its_lane() {
    let (channel, mut peer, process, id) = started().await;
    let mut stdin = process.stdin().unwrap();
    stdin.write(Bytes::from_static(b"all of it")).await.unwrap();
    stdin.close();
    drop(process);
    let mut chunks = Vec::new();
    for _ in 0..3 {
        let (header, payload) = peer.bulk.chunk().await;
        assert_eq!((header.id, header.stream), (id, StreamName::Stdin));
        chunks.push((header.at, header.end, header.detach, payload));
    }
    let nothing = Bytes::new;
    let sent = Bytes::from_static(b"all of it");
    assert_eq!(chunks, [(0, false, false, sent), (9, true, false, nothing()), (9, false, true, nothing())]);
    peer.reply(id, ReplyBody::Done {}).await;
    check_alive(&channel, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn output_of_forgotten_processes_without_end_ends_the_channel() {
    let (channel, mut peer, process, id) = started().await;
    drop(process);
    let flood = async {
        let (mut at, payload) = (0, vec![b'x'; limits::CHUNK]);
        while peer.bulk.offer(chunk(id, OUT, at, false, &payload)).await {
            at += limits::CHUNK as u64;
        }
        at
    };
    let (ended, sent) = tokio::join!(channel.closed(), flood);
    assert!(matches!(&*ended, Ended::Violation { lane: Lane::Bulk, source: Violation::Late }), "{ended:?}");
    assert!(sent < 4 * limits::WINDOW, "{sent} bytes were taken in");
}

#[tokio::test(start_paused = true)]
async fn a_detach_is_confirmed_and_the_channel_lives() {
    let (channel, mut peer, process, id) = started().await;
    let script = async {
        let request = peer.request().await;
        assert_eq!((request.id, request.body), (id, RequestBody::Detach {}));
        peer.reply(id, ReplyBody::Done {}).await;
    };
    let (detached, ()) = tokio::join!(process.detach(), script);
    detached.unwrap();
    check_alive(&channel, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_not_answered_in_time_is_detached() {
    let (channel, mut peer) = connected().await;
    let error = channel.start(command()).await.expect_err("nobody answers");
    assert!(matches!(error, ChannelError::TimedOut { outcome: Outcome::MayHaveRun, .. }), "{error:?}");
    let start = peer.request().await;
    assert_eq!(peer.request().await.body, RequestBody::Detach {});
    peer.reply(start.id, ReplyBody::Started { process: ProcessId(7), pid: 70 }).await;
    check_alive(&channel, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_start_is_the_agents_fault_as_it_is() {
    let (channel, mut peer) = connected().await;
    let script = async {
        let id = peer.request().await.id;
        let fault = Fault::never_started(ErrorCode::CommandNotFound, "no such command: nope");
        peer.reply(id, ReplyBody::Error(fault)).await;
    };
    let (refused, ()) = tokio::join!(channel.start(command()), script);
    let ChannelError::Fault { source } = refused.expect_err("refused") else { panic!("not a fault") };
    assert_eq!((source.code, source.outcome), (ErrorCode::CommandNotFound, Outcome::NeverStarted));
    check_alive(&channel, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_after_the_start_comes_behind_the_output_and_detaches() {
    let (_channel, mut peer, process, id) = started().await;
    peer.output(id, OUT, 0, b"some").await;
    assert_eq!(next(&process).await, output(OUT, 0, b"some"));
    peer.reply(id, ReplyBody::Error(Fault::failed(ErrorCode::Internal, "oh"))).await;
    assert!(matches!(process.next_event().await, Err(ChannelError::Fault { .. })));
    drop(process);
    assert_eq!(peer.request().await.body, RequestBody::Detach {}, "the agent may still hold the process back");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_not_followed_has_no_events_and_no_input() {
    let (channel, mut peer) = connected().await;
    let start = Start::new(Command::Shell("sleep 100".into()));
    let (process, _) = tokio::join!(channel.start(start), peer.start());
    let process = process.unwrap();
    assert!(process.stdin().is_none());
    assert_eq!(process.next_event().await.unwrap(), None);
    drop(process);
    for _ in 0..2 {
        let (pinged, request) = tokio::join!(channel.ping(), async {
            let request = peer.request().await;
            peer.reply(request.id, ReplyBody::Pong {}).await;
            request.body
        });
        pinged.unwrap();
        assert_eq!(request, RequestBody::Ping {}, "there was nothing to detach from");
    }
}

#[tokio::test(start_paused = true)]
async fn input_goes_out_in_order_within_the_credit_and_ends_when_closed() {
    let (_channel, mut peer, process, id) = started().await;
    let data = Bytes::from((0..2 * WINDOW).map(|at| (at / 1000) as u8).collect::<Vec<u8>>());
    let mut stdin = process.stdin().expect("asked for");
    assert!(process.stdin().is_none(), "there is one writer");
    let writing = async {
        stdin.write(data.clone()).await.unwrap();
        assert_eq!(stdin.position(), data.len() as u64);
        stdin.close();
    };
    let reading = async {
        let mut read = Vec::new();
        loop {
            let (header, payload) = peer.bulk.chunk().await;
            assert_eq!((header.id, header.stream, header.at), (id, StreamName::Stdin, read.len() as u64));
            read.extend_from_slice(&payload);
            if header.end {
                return read;
            }
            assert!(read.len() <= WINDOW || payload.len() <= 1000, "more than was granted");
            if read.len() >= WINDOW {
                let bytes = 1000;
                peer.reply(id, ReplyBody::Credit { stream: StreamName::Stdin, bytes }).await;
            }
        }
    };
    let ((), read) = tokio::join!(writing, reading);
    assert!(read == data, "the bytes differ");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_input_closes_it_behind_what_was_written() {
    let (_channel, mut peer, process, _id) = started().await;
    let mut stdin = process.stdin().unwrap();
    stdin.write(Bytes::from_static(b"last words")).await.unwrap();
    drop(stdin);
    assert_eq!(peer.bulk.chunk().await.1, "last words");
    let (header, payload) = peer.bulk.chunk().await;
    assert_eq!((header.at, header.end, payload.len()), (10, true, 0));
}

#[tokio::test(start_paused = true)]
async fn input_for_a_process_that_has_ended_is_refused() {
    let (_channel, mut peer, process, id) = started().await;
    let mut stdin = process.stdin().unwrap();
    stdin.write(Bytes::from(vec![b'x'; WINDOW])).await.unwrap();
    let (refused, ()) = tokio::join!(stdin.write(Bytes::from_static(b"y")), peer.reply(id, exit(0, 0)));
    assert!(matches!(refused, Err(ChannelError::StdinClosed)), "{refused:?}");
    assert_eq!(next(&process).await, exited(0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_task_reads_while_others_write_and_signal() {
    let (_channel, mut peer, process, id) = started().await;
    let mut stdin = process.stdin().unwrap();
    let echo = async {
        let (_, payload) = peer.bulk.chunk().await;
        peer.output(id, OUT, 0, &payload).await;
        let request = peer.request().await;
        assert!(matches!(request.body, RequestBody::Signal { process: ProcessRef::Id(ProcessId(7)), .. }));
        peer.reply(request.id, ReplyBody::Done {}).await;
    };
    let signal = process.signal(hearth_protocol::Signal::Int, hearth_protocol::SignalScope::Process);
    let write = stdin.write(Bytes::from_static(b"echo"));
    let (event, signalled, written, ()) = tokio::join!(next(&process), signal, write, echo);
    assert_eq!(event, output(OUT, 0, b"echo"));
    signalled.and(written).unwrap();
}

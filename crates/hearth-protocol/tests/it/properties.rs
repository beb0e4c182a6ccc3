//! The invariants over arbitrary bytes, over bytes that are nearly right, and over everything that can be written.

use std::collections::BTreeMap;

use bytes::BytesMut;
use hearth_protocol::{
    AgentHello, Attach, ChunkHeader, Command, CreditError, Delivery, Epoch, HelloAnswer, HelloScanner, HostHello, Lane,
    ProcessId, ProcessRef, PtySize, RawString, ReceiveWindow, Request, RequestBody, RequestId, SendWindow, Signal,
    SignalScope, Start, StreamName, Tag, encode_line, limits, negotiate, parse_request,
};
use proptest::prelude::*;

use crate::{golden, invariants};

/// Bytes of any kind, and bytes that look like what the wire carries: golden messages, cut, joined, with bytes changed for others or for
/// characters of any length.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let other = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        any::<char>().prop_map(|character| character.to_string().into_bytes()),
    ];
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        near_a_limit().prop_map(|length| [vec![b'x'; length], b"\n".to_vec()].concat()),
        prop::sample::select(golden::messages()).prop_map(String::into_bytes),
        prop::sample::select(golden::messages()).prop_map(|text| format!("{text}\n").into_bytes()),
        (prop::sample::select(golden::messages()), any::<prop::sample::Index>(), other).prop_map(
            |(text, at, other)| {
                let mut bytes = text.into_bytes();
                let at = at.index(bytes.len());
                bytes.splice(at..=at, other);
                bytes
            }
        ),
        (0..300u64).prop_map(
            |payload| format!("{{\"id\":1,\"stream\":\"stdout\",\"at\":0,\"payload\":{payload}}}\n").into_bytes()
        ),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

/// Lengths of lines around the limits that the invariants use, the newline not counted.
fn near_a_limit() -> impl Strategy<Value = usize> {
    let limits = vec![0, 1, 8, 100, limits::HEADER];
    (prop::sample::select(limits), 0..3usize).prop_map(|(limit, more)| (limit + more).saturating_sub(2))
}

/// What may stand before a hello: anything, and what comes close to its mark. The mark itself cannot: it was drawn later.
fn stale(epoch: Epoch) -> impl Strategy<Value = Vec<u8>> {
    let mark = format!("{{\"hello\":{{\"epoch\":\"{epoch}\"");
    let (all, hello) = (mark.clone(), mark.clone());
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        (0..mark.len()).prop_map(move |length| all.as_bytes()[..length].to_vec()),
        (0..hello.len()).prop_map(move |at| {
            let mut near = hello.clone().into_bytes();
            near[at] ^= 1;
            near
        }),
        any::<[u8; 16]>().prop_map(|other| HostHello::new(Epoch::from_random(other), Lane::Bulk).to_bytes()),
        Just(b"{\"id\":1,\"stream\":\"stdout\",\"at\":0,\"payload\":1000000}\npartial".to_vec()),
        Just(vec![b'x'; 70_000]),
    ];
    prop::collection::vec(piece, 0..8)
        .prop_map(|pieces| pieces.concat())
        .prop_filter("this is the hello's mark", move |stale| {
            !stale.windows(mark.len()).any(|part| part == mark.as_bytes())
        })
}

fn raw() -> impl Strategy<Value = RawString> {
    prop_oneof![
        prop::collection::vec(1..=255u8, 0..40).prop_map(RawString::from),
        "[^\\x00]{0,20}".prop_map(|text| RawString::from(text.into_bytes())),
    ]
}

fn start() -> impl Strategy<Value = Start> {
    let command = prop_oneof![
        (prop::collection::vec(1..=255u8, 1..9), prop::collection::vec(raw(), 0..5)).prop_map(
            |(program, arguments)| { Command::Argv([RawString::from(program)].into_iter().chain(arguments).collect()) }
        ),
        raw().prop_map(Command::Shell),
    ];
    let env = prop::collection::btree_map("[^=\\x00]{1,10}", raw(), 0..4);
    let size = (1..=limits::PTY_CELLS, 1..=limits::PTY_CELLS).prop_map(|(columns, rows)| PtySize { columns, rows });
    let times = (prop::option::of(1..=limits::TIMEOUT_MS), prop::option::of(0..=limits::GRACE_MS));
    let attach = prop::option::of(prop_oneof![Just(Delivery::Lossless), Just(Delivery::Bounded)]);
    let more = (prop::option::of(raw()), prop::option::of(any::<String>()), any::<bool>(), prop::option::of(size));
    (command, env, times, attach, more).prop_map(
        |(command, env, (timeout_ms, grace_ms), attach, (cwd, user, stdin, pty))| {
            let env: BTreeMap<String, RawString> = env;
            Start { cwd, env, user, stdin, pty, timeout_ms, grace_ms, attach, ..Start::new(command) }
        },
    )
}

fn body() -> impl Strategy<Value = RequestBody> {
    let tag = "[^\\p{C}]{1,30}".prop_map(|tag: String| ProcessRef::from(Tag::new(tag).unwrap()));
    let process = prop_oneof![any::<u64>().prop_map(|id| ProcessRef::from(ProcessId(id))), tag];
    prop_oneof![
        start().prop_map(RequestBody::Start),
        (process.clone(), any::<u64>(), any::<u64>()).prop_map(|(process, stdout, stderr)| {
            RequestBody::Attach(Attach { process, stdout, stderr, delivery: Delivery::Lossless })
        }),
        (process, prop::sample::select(Signal::ALL)).prop_map(|(process, signal)| RequestBody::Signal {
            process,
            signal,
            scope: SignalScope::Tree
        }),
        any::<u64>().prop_map(|bytes| RequestBody::Credit { stream: StreamName::Stdout, bytes }),
    ]
}

proptest! {
    #[test]
    fn lines_are_the_same_however_the_stream_is_cut(data in hostile()) {
        invariants::line_decoder(&data);
    }

    #[test]
    fn chunks_are_the_same_however_the_stream_is_cut(data in hostile()) {
        invariants::chunk_decoder(&data);
    }

    #[test]
    fn a_hello_scanner_holds_less_than_a_line_of_anything(data in hostile(), hellos in prop::collection::vec(0..3u8, 0..4)) {
        let hello = HostHello::new(invariants::epoch(), Lane::Bulk).to_bytes();
        let hello = hellos.into_iter().flat_map(|kind| match kind {
            0 => hello.clone(),
            1 => hello[..60].to_vec(),
            // A marked line without end.
            _ => [&hello[..60], &[b'x'; limits::HEADER]].concat(),
        });
        invariants::hello_scanner(&hello.chain(data).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_as_a_request_are_read_or_refused_in_a_line(data in hostile()) {
        invariants::request(&data);
    }

    #[test]
    fn a_refusal_fits_a_line_whatever_it_repeats(character in any::<char>(), request in prop::sample::select(vec!["type", "x", "env"])) {
        let text = serde_json::to_string(&character.to_string().repeat(15_000)).expect("a string");
        invariants::request(format!("{{\"id\":1,\"type\":\"ping\",\"{request}\":{text}}}").as_bytes());
        invariants::request(format!("{{\"id\":1,\"type\":{text}}}").as_bytes());
        invariants::request(format!("{{\"id\":1,\"type\":\"start\",\"command\":{{\"shell\":\"\"}},\"env\":{{{text}:\"\",\"=\":\"\"}}}}").as_bytes());
    }

    #[test]
    fn any_bytes_as_a_reply_are_read_as_written_or_refused(data in hostile()) {
        invariants::reply(&data);
    }

    #[test]
    fn a_hello_is_found_behind_anything_and_takes_nothing_of_what_follows(
        (epoch, stale) in any::<[u8; 16]>().prop_map(Epoch::from_random).prop_flat_map(|epoch| (Just(epoch), stale(epoch))),
        rest in prop::collection::vec(any::<u8>(), 0..50),
        step in 1..5000usize,
    ) {
        let hello = AgentHello { epoch, lane: Lane::Control, answer: HelloAnswer::Protocol(1), agent: "x".into() };
        let stream = [stale, hello.to_bytes(), rest.clone()].concat();
        let (mut scanner, mut buffer, mut found) = (HelloScanner::new(epoch), BytesMut::new(), None);
        for piece in stream.chunks(step) {
            buffer.extend_from_slice(piece);
            found = found.or_else(|| scanner.scan(&mut buffer));
            prop_assert!(found.is_some() || buffer.len() < limits::HEADER);
        }
        prop_assert_eq!(AgentHello::parse(&found.expect("found")), Some(hello));
        prop_assert_eq!(&buffer[..], &rest[..]);
    }

    #[test]
    fn every_request_is_read_as_written(id in any::<u64>(), body in body()) {
        let request = Request { id: RequestId(id), body };
        let mut line = Vec::new();
        encode_line(&request, &mut line).expect("these fit");
        prop_assert_eq!(parse_request(line.strip_suffix(b"\n").expect("a line")), Ok(request));
    }

    #[test]
    fn a_message_is_a_line_of_its_own_or_leaves_nothing(length in 65_000..66_000usize) {
        let mut out = b"before".to_vec();
        let fits = encode_line(&"x".repeat(length), &mut out).is_ok();
        prop_assert_eq!(fits, length + 3 <= limits::HEADER);
        prop_assert_eq!(out.len(), if fits { 6 + length + 3 } else { 6 });
    }

    #[test]
    fn honest_ends_never_break_the_rules_of_credit(steps in prop::collection::vec((0..3u8, 0..2 * limits::WINDOW), 0..200)) {
        let (mut sender, mut receiver) = (SendWindow::default(), ReceiveWindow::default());
        let (mut unread, mut grants) = (0, 0);
        for (step, wanted) in steps {
            match step {
                0 => {
                    let sent = sender.take(wanted);
                    prop_assert!(sent <= wanted);
                    prop_assert_eq!(receiver.receive(sent), Ok(()));
                    unread += sent;
                }
                1 => {
                    let read = wanted.min(unread);
                    unread -= read;
                    grants += receiver.consume(read).unwrap_or(0);
                }
                _ => prop_assert_eq!(sender.grant(std::mem::take(&mut grants)), Ok(())),
            }
            prop_assert!(sender.available() + unread + grants <= limits::WINDOW);
        }
    }

    #[test]
    fn a_stream_that_is_read_never_stalls(size in limits::WINDOW..=limits::CREDIT, reads in prop::collection::vec(1..limits::WINDOW, 1..50)) {
        let (mut sender, mut receiver) = (SendWindow::closed(), ReceiveWindow::new(size));
        sender.grant(size).expect("within the limit");
        let mut unread = 0;
        for read in reads.into_iter().cycle().take(500) {
            unread += sender.take(u64::MAX);
            prop_assert!(unread > 0, "everything was read and nothing may be sent");
            let read = read.min(unread);
            unread -= read;
            if let Some(grant) = receiver.consume(read) {
                sender.grant(grant).expect("within the limit");
            }
        }
    }

    #[test]
    fn dishonest_credit_is_refused_and_changes_nothing(received in 0..=limits::WINDOW, excess in 1..=u64::MAX / 2) {
        let mut receiver = ReceiveWindow::default();
        receiver.receive(received).expect("granted");
        let rest = limits::WINDOW - received;
        prop_assert_eq!(receiver.receive(rest + excess), Err(CreditError::Overrun { excess }));
        prop_assert_eq!(receiver.receive(rest), Ok(()));
        let mut sender = SendWindow::default();
        prop_assert_eq!(sender.grant(limits::CREDIT - limits::WINDOW + excess), Err(CreditError::Overgrant));
        prop_assert_eq!(sender.available(), limits::WINDOW);
    }

    #[test]
    fn a_version_is_chosen_only_where_both_ends_speak_it(min in any::<u32>(), max in any::<u32>()) {
        match negotiate(min, max) {
            Ok(version) => prop_assert!((min..=max).contains(&version) && version == 1),
            Err(_) => prop_assert!(!(min..=max).contains(&1)),
        }
    }

    #[test]
    fn epochs_and_names_of_signals_are_read_as_written(bytes in any::<[u8; 16]>(), signal in prop::sample::select(Signal::ALL)) {
        let epoch = Epoch::from_random(bytes);
        prop_assert_eq!(epoch.to_string().parse(), Ok(epoch));
        prop_assert_eq!(signal.to_string().parse(), Ok(signal));
        prop_assert_eq!(signal.number().to_string().parse(), Ok(signal));
    }

    #[test]
    fn a_chunk_header_is_read_as_written(id in any::<u64>(), at in any::<u64>(), end in any::<bool>(), payload in prop::option::of(any::<u64>())) {
        let header = ChunkHeader { id: RequestId(id), stream: StreamName::Stderr, at, end, detach: false, last: None, payload };
        let text = serde_json::to_string(&header).expect("plain data");
        prop_assert_eq!(serde_json::from_str::<ChunkHeader>(&text).expect("what we write can be read"), header);
    }
}

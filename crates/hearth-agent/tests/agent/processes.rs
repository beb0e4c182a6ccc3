//! Processes that are there: by tag, by several clients, in pieces, within limits, a thousand at once.

use std::cell::Cell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_channel::{Channel, ChannelError, Event};
use hearth_protocol::process::ReadOutput;
use hearth_protocol::secrets::SecretValue;
use hearth_protocol::{
    Attach, Budget, Command, Delivery, ErrorCode, Keep, Outcome as Retry, ProcessId, ProcessRef, ProcessState, PtySize,
    ResourceLimits, Signal, SignalScope, Start, StreamName, Tag, limits,
};

use crate::support::{Agent, HANG, SOON, fault, finish, is_alive, number, peak_kib, run, shell};

fn tag(name: &str) -> Tag {
    Tag::new(name).unwrap()
}

/// Starts a shell command that nobody follows.
async fn start(channel: &Channel, text: &str) -> ProcessId {
    let start = Start { attach: None, ..shell(text) };
    channel.start(start).await.unwrap().id()
}

/// Waits for the first line on standard output, and takes it.
async fn first_line(process: &hearth_channel::Process) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        match process.next_event().await.unwrap().unwrap() {
            Event::Output { bytes, .. } => line.extend_from_slice(&bytes),
            exit @ Event::Exit { .. } => panic!("{exit:?}"),
        }
    }
    String::from_utf8(line).unwrap()
}

/// Reads all of a process's standard output in pieces of a size; none of it may have been dropped.
async fn read_to_end(channel: &Channel, process: ProcessId, limit: u64) -> Vec<u8> {
    let mut read = Vec::new();
    loop {
        let wanted = ReadOutput { from: read.len() as u64, limit, wait_ms: 10_000, ..ReadOutput::new(process) };
        let (piece, bytes) = channel.read_output(wanted).await.unwrap();
        assert_eq!((piece.at, piece.length), (read.len() as u64, bytes.len() as u64), "pieces of {limit}");
        read.extend_from_slice(&bytes);
        if piece.ended {
            assert_eq!(piece.total, read.len() as u64);
            return read;
        }
    }
}

#[tokio::test]
async fn input_arrives_whole_though_its_writer_lets_go_at_once() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let input = Bytes::from(vec![b'x'; limits::WINDOW as usize]);
    for _ in 0..20 {
        let process = channel.start(Start { stdin: true, ..shell("wc -c") }).await.unwrap();
        let mut stdin = process.stdin().unwrap();
        stdin.write(input.clone()).await.unwrap();
        stdin.close();
        let id = process.id();
        drop(process);
        assert_eq!(read_to_end(&channel, id, 100).await, format!("{}\n", input.len()).into_bytes());
    }
}

#[tokio::test]
async fn b06_a_long_exec_delays_no_other_request() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    std::fs::write(agent.workspace().join("file"), "x").unwrap();
    let long = channel.start(shell("sleep 300")).await.unwrap();
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let begun = Instant::now();
        channel.stat("file").await.unwrap();
        channel.list().await.unwrap();
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest < Duration::from_millis(50) && is_alive(long.pid()), "{fastest:?}");
    long.signal(Signal::Kill, SignalScope::Tree).await.unwrap();
}

#[tokio::test]
async fn what_heeds_the_term_of_its_deadline_in_its_own_time_is_sent_one() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let heeds = "trap 'echo asked' TERM; echo ready; while :; do read -r line; done";
    let mut start = Start::new(Command::Shell(heeds.into()));
    (start.attach, start.stdin) = (Some(Delivery::Lossless), true);
    (start.timeout_ms, start.grace_ms) = (Some(500), Some(1000));
    let process = channel.start(start).await.unwrap();
    let outcome = finish(&process).await;
    assert_eq!(outcome.stdout, b"ready\nasked\n");
    assert!(outcome.status.unwrap().timed_out);
}

#[tokio::test]
async fn floods_that_nobody_reads_leave_everybody_else_their_turn() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    for _ in 0..3 {
        start(&channel, "exec cat /dev/zero").await;
    }
    let mut took = Vec::new();
    for _ in 0..50 {
        let begun = Instant::now();
        channel.ping().await.unwrap();
        took.push(begun.elapsed());
    }
    took.sort();
    // The slowest is as slow as the machine's other work makes it.
    assert!(took[25] < Duration::from_millis(250), "{took:?}");
}

#[tokio::test]
async fn b47_pings_are_answered_between_the_bytes_of_a_gigabyte() {
    const BYTES: u64 = 1 << 30;
    /// What may arrive while a ping is under way, however busy the machine is: some ten times what the agent and the lane hold of a stream.
    const MEANWHILE: u64 = 8 << 20;
    let agent = Agent::start();
    let channel = agent.connect().await;
    let process = channel.start(shell(&format!("exec head -c {BYTES} /dev/zero"))).await.unwrap();
    let (taken, mut pings) = (Cell::new(0), 0);
    let take = async {
        while let Some(Event::Output { bytes, .. }) = process.next_event().await.unwrap() {
            taken.set(taken.get() + bytes.len() as u64);
        }
    };
    let ping = async {
        loop {
            let begun = taken.get();
            channel.ping().await.unwrap();
            let meanwhile = taken.get() - begun;
            assert!(meanwhile <= MEANWHILE, "ping {pings} took as long as {meanwhile} bytes");
            pings += 1;
        }
    };
    tokio::select! { () = take => {}, never = ping => never }
    assert_eq!(taken.get(), BYTES);
    assert!(pings >= 1000, "{pings} pings");
}

#[tokio::test]
async fn b08_a_slow_reader_is_given_head_and_tail_and_the_count_of_the_rest() {
    const BYTES: usize = 100_000_000;
    let agent = Agent::start();
    let channel = agent.connect().await;
    let mut flood = shell(&format!("echo kept >&2; head -c {BYTES} /dev/zero; echo end; exit 3"));
    flood.attach = Some(Delivery::Bounded);
    flood.keep.stdout = Budget { head: 10_000, tail: 50_000 };
    let process = channel.start(flood).await.unwrap();
    // A first line is taken, then nothing until it has ended: the process does not wait.
    process.next_event().await.unwrap();
    let done = ReadOutput { from: BYTES as u64, wait_ms: 30_000, ..ReadOutput::new(process.id()) };
    let mut wait = channel.read_output(ReadOutput { from: 0, ..done.clone() }).await.unwrap().0;
    while !wait.ended {
        let from = wait.total;
        wait = channel.read_output(ReadOutput { from, ..done.clone() }).await.unwrap().0;
    }
    let outcome = finish(&process).await;
    assert_eq!(outcome.code(), Some(3));
    let totals = outcome.totals;
    assert_eq!((totals.stdout, totals.stdout_dropped), (BYTES as u64 + 4, BYTES as u64 + 4 - 60_000));
    assert_eq!((totals.stderr, totals.stderr_dropped), (5, 0));
    let stderr = ReadOutput { stream: StreamName::Stderr, ..ReadOutput::new(process.id()) };
    assert_eq!(channel.read_output(stderr).await.unwrap().1, "kept\n");
    assert!(outcome.stdout.ends_with(b"\0end\n") && outcome.gaps > 0);
    let listed = channel.list().await.unwrap();
    assert_eq!(listed[0].output, totals);
    let head = channel.read_output(ReadOutput { limit: 1 << 20, ..ReadOutput::new(process.id()) }).await.unwrap();
    assert_eq!((head.0.at, head.0.length), (0, 10_000));
    let tail = channel.read_output(ReadOutput { from: 10_000, limit: 1 << 20, ..done }).await.unwrap();
    assert_eq!((tail.0.at, tail.0.length, tail.0.ended), (totals.stdout - 50_000, 50_000, true));
    assert!(peak_kib(agent.pid()) < 24 * 1024, "the agent took {} KiB", peak_kib(agent.pid()));
}

#[tokio::test]
async fn b16_any_cut_gives_the_exact_bytes_and_a_late_cursor_the_size_of_the_gap() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let expected: String = (1..=30_000).map(|number| format!("{number}\n")).collect();
    let whole = start(&channel, "seq 1 30000").await;
    for limit in [1000, 4096, 65_536, 1 << 20] {
        assert!(read_to_end(&channel, whole, limit).await == expected.as_bytes(), "cut {limit}");
    }
    let mut late = shell("seq 1 30000");
    // For a lossless follower that is behind at the end, more is kept.
    late.attach = Some(Delivery::Bounded);
    late.keep = Keep { stdout: Budget { head: 1000, tail: 40_000 }, ..Keep::default() };
    let late = channel.start(late).await.unwrap();
    finish(&late).await;
    let late = late.id();
    let end = expected.len() as u64;
    let behind_head = ReadOutput { from: 1000, limit: 1 << 20, ..ReadOutput::new(late) };
    let piece = channel.read_output(behind_head).await.unwrap();
    assert!(piece.0.ended, "{:?}", piece.0);
    assert_eq!((piece.0.at, piece.0.at - 1000), (end - 40_000, end - 41_000));
    assert!(piece.1 == expected.as_bytes()[piece.0.at as usize..]);
    let behind = channel.read_output(ReadOutput { from: end + 1, ..ReadOutput::new(late) }).await.unwrap_err();
    assert_eq!(fault(&behind), (ErrorCode::InvalidField, Retry::NeverStarted));
}

#[tokio::test]
async fn a_read_waits_for_more_no_longer_than_asked_and_ends_with_the_process() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, "mkfifo first second").await;
    let id = start(&channel, "read x < first; echo more; read x < second").await;
    let begun = Instant::now();
    let (nothing, bytes) = channel.read_output(ReadOutput { wait_ms: 50, ..ReadOutput::new(id) }).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(50));
    assert_eq!((nothing.length, nothing.ended, bytes.len()), (0, false, 0));
    let waiting = channel.read_output(ReadOutput { wait_ms: 60_000, ..ReadOutput::new(id) });
    let (read, _) = tokio::join!(waiting, run(&channel, "echo > first"));
    assert_eq!(read.unwrap().1, "more\n");
    let waiting = channel.read_output(ReadOutput { from: 5, wait_ms: 60_000, ..ReadOutput::new(id) });
    let (read, _) = tokio::join!(waiting, run(&channel, "echo > second"));
    let read = read.unwrap().0;
    assert!(read.ended && read.length == 0, "{read:?}");
}

#[tokio::test]
async fn one_that_is_to_be_forgotten_is_known_to_its_follower_alone_once_it_has_ended() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let start = Start { forget: true, stdin: true, ..shell("cat; exit 4") };
    let process = channel.start(start).await.unwrap();
    assert_eq!(channel.list().await.unwrap().len(), 1);
    process.stdin().unwrap().close();
    assert_eq!(finish(&process).await.status.unwrap().shell_code(), 4);
    channel.ping().await.unwrap();
    assert_eq!(channel.list().await.unwrap(), []);
}

#[tokio::test]
async fn a_tag_names_the_one_that_runs_and_then_the_last_that_did() {
    let agent = Agent::start();
    let (channel, other) = (agent.connect().await, agent.connect().await);
    let tagged = |text: &str| Start { tag: Some(tag("web server")), attach: None, ..shell(text) };
    let first = channel.start(tagged("echo first; sleep 300")).await.unwrap().id();
    let refused = other.start(tagged("true")).await.unwrap_err();
    assert_eq!(fault(&refused), (ErrorCode::AlreadyExists, Retry::NeverStarted));
    let read = ReadOutput { wait_ms: 10_000, ..ReadOutput::new(tag("web server")) };
    assert_eq!(other.read_output(read.clone()).await.unwrap().1, "first\n");
    let attach = Attach { process: tag("web server").into(), stdout: 0, stderr: 0, delivery: Delivery::Lossless };
    let followed = other.attach(attach).await.unwrap();
    assert_eq!(followed.id(), first);
    other.signal(tag("web server"), Signal::Kill, SignalScope::Tree).await.unwrap();
    assert_eq!(finish(&followed).await.signal(), Some(9));
    let second = channel.start(tagged("echo second")).await.unwrap().id();
    assert_eq!(other.read_output(read).await.unwrap().1, "second\n");
    start(&channel, "true").await;
    let listed = other.list_tagged(tag("web server")).await.unwrap();
    assert_eq!(listed.iter().map(|process| process.process).collect::<Vec<_>>(), [first, second]);
    assert!(listed.iter().all(|process| process.tag == Some(tag("web server"))));
    let unknown = other.signal(tag("no such"), Signal::Term, SignalScope::Process).await.unwrap_err();
    assert_eq!(fault(&unknown).0, ErrorCode::UnknownProcess);
}

#[tokio::test]
async fn another_client_writes_resizes_and_ends_the_input() {
    let agent = Agent::start();
    let (channel, other) = (agent.connect().await, agent.connect().await);
    let process = channel.start(Start { stdin: true, ..shell("cat; echo over") }).await.unwrap();
    let data: Vec<u8> = (0..200_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let write = other.write_input(process.id(), Bytes::from(data.clone()), HANG);
    let (written, ()) = tokio::join!(write, async {
        let written = other.write_input(process.id(), Bytes::new(), HANG).await.unwrap();
        assert_eq!(written.accepted, 0);
    });
    assert_eq!(written.unwrap().accepted, data.len() as u64);
    assert_eq!(other.write_input(process.id(), "small\n".into(), HANG).await.unwrap().accepted, 6);
    other.close_stdin(process.id()).await.unwrap();
    let outcome = finish(&process).await;
    assert!(outcome.stdout == [data.as_slice(), b"small\nover\n"].concat());
    for (id, code) in [
        (process.id(), ErrorCode::NotRunning),
        (start(&channel, "sleep 300").await, ErrorCode::InvalidField),
        (ProcessId(99), ErrorCode::UnknownProcess),
    ] {
        let refused = other.write_input(id, "x".into(), HANG).await.unwrap_err();
        assert_eq!(fault(&refused), (code, Retry::NeverStarted), "{id:?}");
        let refused = other.close_stdin(id).await.unwrap_err();
        assert_eq!(fault(&refused).0, code, "{id:?}");
    }
}

#[tokio::test]
async fn input_that_was_closed_by_either_end_is_refused() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let process = channel.start(Start { stdin: true, ..shell("exec <&-; echo closed; sleep 300") }).await.unwrap();
    assert_eq!(first_line(&process).await, "closed\n");
    // The first write finds out; whoever writes next is told.
    let mut refused = None;
    while refused.is_none() {
        refused = channel.write_input(process.id(), "x".into(), HANG).await.err();
    }
    assert_eq!(fault(&refused.unwrap()).0, ErrorCode::NotRunning);
    let process = channel.start(Start { stdin: true, ..shell("cat; sleep 300") }).await.unwrap();
    channel.close_stdin(process.id()).await.unwrap();
    let refused = channel.write_input(process.id(), "x".into(), HANG).await.unwrap_err();
    assert_eq!(fault(&refused).0, ErrorCode::NotRunning);
}

#[tokio::test]
async fn b15_a_write_to_a_process_that_does_not_read_is_answered_with_what_was_taken() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let process = channel.start(Start { stdin: true, ..shell("read go; cat | wc -c") }).await.unwrap();
    channel.write_input(process.id(), "go\n".into(), HANG).await.unwrap();
    let stopped = start(&channel, &format!("kill -STOP -{0}; echo done", process.pid())).await;
    channel.read_output(ReadOutput { wait_ms: 10_000, ..ReadOutput::new(stopped) }).await.unwrap();
    let begun = Instant::now();
    let written = channel.write_input(process.id(), vec![b'x'; 300_000].into(), Duration::from_millis(100));
    let (written, outcome) = tokio::join!(written, run(&channel, "echo free"));
    let accepted = written.unwrap().accepted;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!((65_536..300_000).contains(&accepted), "{accepted}");
    assert_eq!(outcome.stdout, b"free\n");
    let more = channel.write_input(process.id(), vec![b'x'; 300_000].into(), Duration::ZERO).await.unwrap();
    assert!(more.accepted < 65_536, "{more:?}");
    process.signal(Signal::Cont, SignalScope::Tree).await.unwrap();
    channel.close_stdin(process.id()).await.unwrap();
    // What was taken is delivered, and nothing else.
    assert_eq!(u64::from(number(&finish(&process).await.stdout)), accepted + more.accepted);
}

#[tokio::test]
async fn what_the_agent_was_started_to_ignore_ends_a_program_all_the_same() {
    let agent = Agent::start_under("sh", &["-c", "trap '' HUP INT QUIT TERM; exec \"$0\" \"$@\""]);
    let channel = agent.connect().await;
    for signal in [Signal::Hup, Signal::Int, Signal::Quit, Signal::Term] {
        let process = channel.start(shell("exec sleep 60")).await.unwrap();
        process.signal(signal, SignalScope::Tree).await.unwrap();
        assert_eq!(finish(&process).await.signal(), Some(signal.number()), "{signal:?}");
    }
}

#[tokio::test]
async fn any_signal_arrives_by_name_or_number() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    for signal in [Signal::Usr1, Signal::Stkflt, Signal::Pwr, Signal::Rt0, Signal::Rt1, Signal::Rt30] {
        let process = channel.start(shell("exec sleep 300")).await.unwrap();
        process.signal(signal, SignalScope::Process).await.unwrap();
        assert_eq!(finish(&process).await.signal(), Some(signal.number()), "{signal}");
    }
}

#[tokio::test]
async fn the_job_in_the_foreground_is_reached_and_nothing_else() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    // A shell with job control, whose job and whose background job are groups of their own.
    let script = "set -m; sleep 300 & echo background $!; sh -c 'echo job $$; exec sleep 300'; echo status $?; kill $!";
    let mut start = shell(script);
    start.pty = Some(PtySize { columns: 80, rows: 24 });
    let process = channel.start(start).await.unwrap();
    let mut said = String::new();
    while !(said.contains("job ") && said.ends_with('\n')) {
        said += &first_line(&process).await;
    }
    let background: u32 = said.split("background ").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert!(is_alive(background));
    channel.signal(process.id(), Signal::Term, SignalScope::Foreground).await.unwrap();
    let rest = String::from_utf8(finish(&process).await.stdout).unwrap();
    assert!(rest.contains("status 143"), "{rest}");
    let error = channel.signal(process.id(), Signal::Term, SignalScope::Foreground).await.unwrap_err();
    assert_eq!(fault(&error).0, ErrorCode::NotRunning);
    let plain = channel.start(shell("sleep 300")).await.unwrap();
    let error = plain.signal(Signal::Term, SignalScope::Foreground).await.unwrap_err();
    assert_eq!(fault(&error).0, ErrorCode::NotATerminal);
}

/// Starts with limits, or says why this system has none: then nothing may have run.
async fn limited(channel: &Channel, text: &str, limits: ResourceLimits) -> Option<hearth_channel::Process> {
    match channel.start(Start { limits, ..shell(text) }).await {
        Ok(process) => Some(process),
        Err(ChannelError::Fault { source }) => {
            assert_eq!((source.code, source.outcome), (ErrorCode::Unavailable, Retry::NeverStarted), "{source}");
            assert!(source.message.contains("limits"), "{source}");
            eprintln!("skipped: {source}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn b17_a_tree_beyond_its_memory_is_killed_alone_and_says_so() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let limits = ResourceLimits { memory_bytes: Some(32 << 20), ..ResourceLimits::default() };
    let bystander = channel.start(shell("sleep 300")).await.unwrap();
    let Some(process) = limited(&channel, "sleep 300 & tail /dev/zero", limits).await else { return };
    let outcome = finish(&process).await;
    assert_eq!(outcome.signal(), Some(9));
    assert!(outcome.status.unwrap().out_of_memory);
    assert!(is_alive(bystander.pid()));
    assert_eq!(run(&channel, "echo alive").await.stdout, b"alive\n");
}

#[tokio::test]
async fn processes_and_processor_time_are_limited() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let limits = ResourceLimits { pids: Some(5), ..ResourceLimits::default() };
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 300 & done; echo all";
    if let Some(process) = limited(&channel, script, limits).await {
        let outcome = finish(&process).await;
        assert!(!outcome.stderr.is_empty() && outcome.stdout != b"all\n", "{outcome:?}");
    }
    let limits = ResourceLimits { cpu_percent: Some(10), ..ResourceLimits::default() };
    let start = Start { timeout_ms: Some(1000), limits, ..shell("while :; do :; done") };
    if limited(&channel, "true", limits).await.is_some() {
        let status = finish(&channel.start(start).await.unwrap()).await.status.unwrap();
        assert!(status.cpu_us < 400_000, "{status:?}");
    }
}

#[tokio::test]
async fn limits_are_refused_where_there_are_no_control_groups() {
    let agent = Agent::start_with(&["--no-cgroup"]);
    let channel = agent.connect().await;
    let limits = ResourceLimits { pids: Some(5), ..ResourceLimits::default() };
    let refused = channel.start(Start { limits, ..shell("true") }).await.unwrap_err();
    assert_eq!(fault(&refused), (ErrorCode::Unavailable, Retry::NeverStarted));
    assert!(matches!(&refused, ChannelError::Fault { source } if source.message.contains("--no-cgroup was given")));
}

#[tokio::test]
async fn a_thousand_processes_and_a_hundred_readers_work() {
    const PROCESSES: u64 = 1000;
    const READERS: usize = 100;
    let agent = Agent::start_with_descriptors(256);
    let channel = agent.connect().await;
    let idle = resident_kib(agent.pid());
    for _ in 0..PROCESSES {
        let cat = Start { stdin: true, ..Start::new(Command::Argv(vec!["cat".into()])) };
        channel.start(cat).await.unwrap();
    }
    let each = (resident_kib(agent.pid()) - idle) / PROCESSES;
    assert!(each < 16, "an idle process takes {each} KiB of the agent");
    let mut readers = Vec::new();
    for _ in 0..READERS / 10 {
        let channel = agent.connect().await;
        for id in 1..=10 {
            let process = ProcessRef::Id(ProcessId(id));
            let attach = Attach { process, stdout: 0, stderr: 0, delivery: Delivery::Lossless };
            let attached = channel.attach(attach).await.unwrap();
            readers.push(tokio::spawn(async move { finish(&attached).await }));
        }
        tokio::spawn(async move { channel.closed().await });
    }
    let line = "x".repeat(70_000) + "\n";
    for id in 1..=PROCESSES {
        let written = channel.write_input(ProcessId(id), line.clone().into(), HANG).await.unwrap();
        assert_eq!(written.accepted, line.len() as u64);
        channel.close_stdin(ProcessId(id)).await.unwrap();
    }
    for reader in readers {
        let outcome = reader.await.unwrap();
        assert!(outcome.stdout == line.as_bytes() && outcome.gaps == 0);
    }
    // A child has the limit that the agent was started with.
    assert_eq!(run(&channel, "ulimit -n").await.stdout, b"256\n");
    assert!(read_to_end(&channel, ProcessId(PROCESSES), 1 << 20).await == line.as_bytes());
}

fn resident_kib(pid: u32) -> u64 {
    crate::support::status_kib(pid, "VmRSS:")
}

#[tokio::test]
async fn a_read_of_standard_error_is_its_own() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let id = start(&channel, "echo out; echo err >&2").await;
    let read = ReadOutput { stream: StreamName::Stderr, wait_ms: 10_000, ..ReadOutput::new(id) };
    assert_eq!(channel.read_output(read).await.unwrap().1, "err\n");
}

/// Waits until nothing that has a tag is listed as running.
async fn wait_until_listed_as_ended(channel: &Channel, name: &str) {
    let ended = async {
        while channel.list_tagged(tag(name)).await.unwrap().iter().any(|one| one.state == ProcessState::Running) {}
    };
    tokio::time::timeout(HANG, ended).await.expect("the end is known");
}

#[tokio::test]
async fn a_follower_that_takes_nothing_keeps_no_exit_from_anybody_else() {
    let agent = Agent::start();
    let (stuck, channel) = (agent.connect().await, agent.connect().await);
    for (pty, hidden) in [(None, None), (None, Some("hidden")), (Some(PtySize { columns: 80, rows: 24 }), None)] {
        let mut forever = Start { tag: Some(tag("forever")), pty, timeout_ms: Some(500), ..shell("yes; true") };
        forever.redact.extend(hidden.map(SecretValue::from));
        // Nothing is taken of it from here on, so that its window, ring and pipe are full when its time is over.
        let first = stuck.start(forever.clone()).await.unwrap();
        let attach = Attach { process: first.id().into(), stdout: 0, stderr: 0, delivery: Delivery::Bounded };
        let second = finish(&channel.attach(attach).await.unwrap()).await;
        assert!(second.timed_out(), "{:?}", second.status);
        wait_until_listed_as_ended(&channel, "forever").await;
        // The tag is free, and the first follower still gets every byte.
        finish(&channel.start(Start { timeout_ms: Some(1), ..forever }).await.unwrap()).await;
        let first = finish(&first).await;
        assert_eq!((first.gaps, first.totals.stdout), (0, second.totals.stdout));
        assert_eq!(first.stdout.len() as u64, first.totals.stdout);
        let line = if pty.is_some() { "y\r\n" } else { "y\n" };
        assert!(first.stdout.chunks(line.len()).all(|said| line.as_bytes().starts_with(said)));
    }
}

#[tokio::test]
async fn a_kill_is_known_while_a_follower_takes_nothing() {
    let agent = Agent::start();
    let (stuck, channel) = (agent.connect().await, agent.connect().await);
    let flood = Start { tag: Some(tag("flood")), ..shell("head -c 2000000 /dev/zero; yes") };
    let first = stuck.start(flood).await.unwrap();
    // Once there is less room than the agent reads at a time, the writer is held back.
    let full = limits::WINDOW + limits::KEPT_TAIL - 256 * 1024;
    let held_back = async { while channel.list().await.unwrap()[0].output.stdout <= full {} };
    tokio::time::timeout(HANG, held_back).await.expect("the ring fills");
    channel.signal(first.id(), Signal::Kill, SignalScope::Tree).await.unwrap();
    wait_until_listed_as_ended(&channel, "flood").await;
    let outcome = finish(&first).await;
    assert_eq!((outcome.signal(), outcome.gaps, outcome.stdout.len() as u64), (Some(9), 0, outcome.totals.stdout));
}

#[tokio::test]
async fn the_peak_of_memory_is_the_processes_own_or_said_to_be_unknown() {
    for options in [&[][..], &["--no-cgroup"]] {
        let agent = Agent::start_with(options);
        let channel = agent.connect().await;
        // A process begins in the agent's memory, of which there is much once it has held much output.
        for _ in 0..2 {
            let keep = Keep { stdout: Budget { head: 0, tail: limits::KEPT_MOST }, ..Keep::default() };
            let id =
                channel.start(Start { keep, attach: None, ..shell("head -c 30000000 /dev/zero") }).await.unwrap().id();
            let attach = Attach { process: id.into(), stdout: 0, stderr: 0, delivery: Delivery::Bounded };
            finish(&channel.attach(attach).await.unwrap()).await;
        }
        let held = peak_kib(agent.pid()) * 1024;
        assert!(held > 24 << 20, "the agent took {held} bytes");
        let peak = async |text: &str| run(&channel, text).await.status.unwrap().peak_memory_bytes;
        let small = peak("true").await;
        assert!(small.is_none_or(|bytes| bytes < 8 << 20), "{small:?} of {held}, {options:?}");
        let large = peak("dd if=/dev/zero of=/dev/null bs=150M count=1 2> /dev/null").await;
        assert!(large.is_some_and(|bytes| (150 << 20..200 << 20).contains(&bytes)), "{large:?}, {options:?}");
    }
}

#[tokio::test]
async fn what_a_program_has_left_running_is_counted_until_it_has_ended() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let left = async || {
        let listed = channel.list().await.unwrap();
        (matches!(listed[0].state, ProcessState::Exited(_)), listed[0].left_running)
    };
    let process = channel.start(shell("sleep 1h & sleep 2h &")).await.unwrap();
    finish(&process).await;
    assert_eq!(left().await, (true, 2));
    channel.signal(process.id(), Signal::Kill, SignalScope::Tree).await.unwrap();
    while left().await != (true, 0) {}
}

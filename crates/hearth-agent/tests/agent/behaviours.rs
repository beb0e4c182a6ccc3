//! Running things.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_channel::Event;
use hearth_protocol::{
    Attach, Command, Delivery, ErrorCode, Outcome as Retry, PtySize, Signal, SignalScope, Start, StreamName,
};

use crate::support::{Agent, HANG, fault, finish, is_alive, number, peak_kib, run, shell};

#[tokio::test]
async fn b01_both_streams_and_the_code_arrive() {
    let agent = Agent::start();
    let outcome = run(&agent.connect().await, "echo out; echo err >&2; exit 3").await;
    assert_eq!((outcome.stdout.as_slice(), outcome.stderr.as_slice()), (b"out\n".as_slice(), b"err\n".as_slice()));
    assert_eq!(outcome.code(), Some(3));
}

#[tokio::test]
async fn b02_bytes_that_are_no_text_arrive_and_the_command_ran_once() {
    let agent = Agent::start();
    let outcome = run(&agent.connect().await, "echo once >> ran; printf '\\377\\001'").await;
    assert_eq!(outcome.stdout, b"\xff\x01");
    assert_eq!(std::fs::read_to_string(agent.workspace().join("ran")).unwrap(), "once\n");
}

#[tokio::test]
async fn b03_a_deadline_keeps_what_was_said_and_leaves_no_process() {
    for options in [&[][..], &["--no-cgroup"]] {
        let agent = Agent::start_with(options);
        let channel = agent.connect().await;
        let mut start = shell("echo partial; (sleep 77 & echo $! >&2; trap '' TERM; sleep 78 & echo $! >&2; wait)");
        start.timeout_ms = Some(300);
        let outcome = finish(&channel.start(start).await.unwrap()).await;
        assert_eq!(outcome.stdout, b"partial\n");
        assert!(outcome.timed_out());
        for pid in String::from_utf8_lossy(&outcome.stderr).lines() {
            assert!(!is_alive(pid.parse().unwrap()), "{pid} is left, {options:?}");
        }
        assert_eq!(run(&channel, "echo next").await.stdout, b"next\n");
    }
}

#[tokio::test]
async fn b03_a_tree_that_ignores_term_is_killed_after_the_grace() {
    let agent = Agent::start();
    let mut start = shell("trap '' TERM; echo $$; while :; do sleep 1; done");
    (start.timeout_ms, start.grace_ms) = (Some(100), Some(50));
    let outcome = finish(&agent.connect().await.start(start).await.unwrap()).await;
    assert_eq!((outcome.signal(), outcome.timed_out()), (Some(9), true));
    assert!(!is_alive(number(&outcome.stdout)));
}

#[tokio::test]
async fn b03_a_program_that_handles_term_reports_its_own_code() {
    let agent = Agent::start();
    let mut start = shell("trap 'echo bye; exit 7' TERM; sleep 60 & wait");
    (start.timeout_ms, start.grace_ms) = (Some(200), Some(30_000));
    let outcome = finish(&agent.connect().await.start(start).await.unwrap()).await;
    assert_eq!((outcome.code(), outcome.timed_out(), outcome.stdout.as_slice()), (Some(7), true, b"bye\n".as_slice()));
}

#[tokio::test]
async fn b04_line_ends_are_not_touched() {
    let agent = Agent::start();
    assert_eq!(run(&agent.connect().await, "printf 'a\\r\\nb\\rc'").await.stdout, b"a\r\nb\rc");
}

#[tokio::test]
async fn b05_a_client_that_vanishes_leaves_the_process_and_all_its_output_to_the_next() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, "mkfifo go").await;
    let process = channel.start(shell("echo first; read line < go; seq 1 20000")).await.unwrap();
    let first = process.next_event().await.unwrap();
    assert!(matches!(first, Some(Event::Output { .. })), "{first:?}");
    let id = process.id();
    std::mem::forget(process);
    drop(channel);
    let channel = agent.connect().await;
    run(&channel, "echo > go").await;
    let process = channel
        .attach(Attach { process: id.into(), stdout: 0, stderr: 0, delivery: Delivery::Lossless })
        .await
        .unwrap();
    let outcome = finish(&process).await;
    let expected: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(String::from_utf8(outcome.stdout).unwrap(), format!("first\n{expected}"));
}

#[tokio::test]
async fn b07_a_background_child_does_not_hold_the_exit_and_lives_on() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let outcome = run(&channel, "sleep 300 & echo $!").await;
    let child = number(&outcome.stdout);
    assert!(is_alive(child));
    // What is remembered is bounded, but a process with children alive is never forgotten.
    for _ in 0..300 {
        run(&channel, ":").await;
    }
    assert!(is_alive(child));
    assert!(agent.stop());
    assert!(!is_alive(child), "it ends with the agent");
}

#[tokio::test]
async fn b08_a_flood_that_nobody_reads_is_bounded_counted_and_crowds_out_nothing() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let mut start = shell("echo kept >&2; head -c 100000000 /dev/zero; echo end");
    start.attach = None;
    let id = channel.start(start).await.unwrap().id();
    let process =
        channel.attach(Attach { process: id.into(), stdout: 0, stderr: 0, delivery: Delivery::Bounded }).await.unwrap();
    let outcome = finish(&process).await;
    assert_eq!(outcome.totals.stdout, 100_000_004);
    assert_eq!(outcome.stdout.len() as u64 + outcome.gaps, outcome.totals.stdout);
    assert!(outcome.stdout.ends_with(b"\0end\n") && outcome.stdout.starts_with(b"\0\0"));
    assert_eq!(outcome.stderr, b"kept\n");
    let peak = peak_kib(agent.pid());
    assert!(peak < 40 * 1024, "the agent took {peak} KiB");
}

#[tokio::test]
async fn a_lossless_follower_gets_every_byte_however_slow_it_is() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let process = channel.start(shell("seq 1 2000000")).await.unwrap();
    let outcome = finish(&process).await;
    assert_eq!(outcome.gaps, 0);
    let lines = String::from_utf8(outcome.stdout).unwrap();
    assert!(lines.lines().enumerate().all(|(index, line)| line == (index + 1).to_string()));
    assert_eq!(lines.lines().count(), 2_000_000);
}

#[tokio::test]
async fn b09_input_ends_at_once_unless_it_is_asked_for() {
    let agent = Agent::start();
    assert_eq!(run(&agent.connect().await, "cat; echo done").await.stdout, b"done\n");
}

#[tokio::test]
async fn b09_piped_input_arrives_whole_and_its_end_ends_cat() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let mut start = shell("cat");
    start.stdin = true;
    let process = channel.start(start).await.unwrap();
    let data: Vec<u8> = (0..5_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut stdin = process.stdin().unwrap();
    let (written, outcome) = tokio::join!(
        async {
            let result = stdin.write(Bytes::from(data.clone())).await;
            stdin.close();
            result
        },
        finish(&process)
    );
    written.unwrap();
    assert!(outcome.stdout == data, "5 MB came back changed");
    assert_eq!(outcome.code(), Some(0));
}

#[tokio::test]
async fn b09_the_end_of_a_terminals_input_ends_cat_once_whether_a_line_has_begun_or_not() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    for typed in ["", "whole\n", "begun", "tab\t"] {
        let mut start = shell("stty -echo; echo go; cat; echo :first; cat; echo :second; read line; echo :$line");
        start.pty = Some(PtySize { columns: 80, rows: 24 });
        let process = channel.start(start).await.unwrap();
        let mut said = Vec::new();
        while said != b"go\r\n" {
            match process.next_event().await.unwrap().unwrap() {
                Event::Output { bytes, .. } => said.extend_from_slice(&bytes),
                exit @ Event::Exit { .. } => panic!("{exit:?}"),
            }
        }
        let mut stdin = process.stdin().unwrap();
        stdin.write(Bytes::from(typed)).await.unwrap();
        channel.close_stdin(process.id()).await.unwrap();
        channel.close_stdin(process.id()).await.unwrap();
        stdin.write(Bytes::from("third\n")).await.unwrap();
        let rest = String::from_utf8(finish(&process).await.stdout).unwrap().replace('\r', "");
        assert_eq!(rest, format!("{typed}:first\n:second\n:third\n"));
    }
}

#[tokio::test]
async fn input_to_a_process_that_does_not_read_delays_nobody() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let mut start = shell("sleep 300");
    start.stdin = true;
    let process = channel.start(start).await.unwrap();
    let mut stdin = process.stdin().unwrap();
    let stuck = stdin.write(Bytes::from(vec![0; 5_000_000]));
    tokio::select! {
        result = stuck => panic!("nobody has read it: {result:?}"),
        outcome = run(&channel, "echo free") => assert_eq!(outcome.stdout, b"free\n"),
    }
    process.signal(Signal::Kill, SignalScope::Tree).await.unwrap();
}

#[tokio::test]
async fn b10_signals_and_codes_are_told_apart_and_the_agent_lives_on() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    for (text, code, signal, shell_code) in [
        ("kill -SEGV $$", None, Some(11), 139),
        ("kill -KILL $$", None, Some(9), 137),
        ("exit 137", Some(137), None, 137),
    ] {
        let outcome = run(&channel, text).await;
        assert_eq!((outcome.code(), outcome.signal()), (code, signal), "{text}");
        assert_eq!(outcome.status.unwrap().shell_code(), shell_code);
    }
    channel.ping().await.unwrap();
}

#[tokio::test]
async fn b11_orphans_are_adopted_and_reaped() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, "for i in $(seq 50); do (setsid sh -c 'sleep 0.05' &) ; done").await;
    let children = format!("/proc/{0}/task/{0}/children", agent.pid());
    let all_reaped = async {
        while !std::fs::read_to_string(&children).unwrap().trim().is_empty() {
            // Each request makes the agent take a turn, reaping included.
            channel.ping().await.unwrap();
        }
    };
    tokio::time::timeout(HANG, all_reaped).await.expect("no orphan stays");
}

#[tokio::test]
async fn b13_a_terminal_has_its_size_and_takes_another() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let mut start = shell("stty size; trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.02; done");
    start.pty = Some(PtySize { columns: 80, rows: 24 });
    let process = channel.start(start).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"ready\r\n") {
        match process.next_event().await.unwrap().unwrap() {
            Event::Output { stream, bytes, .. } => {
                assert_eq!(stream, StreamName::Stdout);
                said.extend_from_slice(&bytes);
            }
            exit @ Event::Exit { .. } => panic!("{exit:?}"),
        }
    }
    assert_eq!(said, b"24 80\r\nready\r\n");
    process.resize(PtySize { columns: 100, rows: 30 }).await.unwrap();
    assert_eq!(finish(&process).await.stdout, b"30 100\r\n");
}

#[tokio::test]
async fn what_is_typed_at_a_terminal_reaches_the_program_and_ctrl_c_its_job() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    // A program alone: a shell loses a Ctrl-C that comes between its fork and the exec of its job (seen with dash).
    let mut start = Start::new(Command::Argv(vec!["cat".into()]));
    start.attach = Some(Delivery::Lossless);
    start.pty = Some(PtySize { columns: 80, rows: 24 });
    let process = channel.start(start).await.unwrap();
    let mut stdin = process.stdin().unwrap();
    stdin.write(Bytes::from_static(b"hello\n")).await.unwrap();
    let mut said = Vec::new();
    // Once as the terminal's echo, once as the program's answer.
    while said != b"hello\r\nhello\r\n" {
        match process.next_event().await.unwrap().unwrap() {
            Event::Output { bytes, .. } => said.extend_from_slice(&bytes),
            exit @ Event::Exit { .. } => panic!("{exit:?} after {:?}", String::from_utf8_lossy(&said)),
        }
    }
    stdin.write(Bytes::from_static(b"\x03")).await.unwrap();
    assert_eq!(finish(&process).await.signal(), Some(2));
}

#[tokio::test]
async fn what_cannot_start_says_why_and_that_nothing_ran() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let plain = |program: &str| Start::new(Command::Argv(vec![program.into()]));
    let mut no_directory = plain("true");
    no_directory.cwd = Some("/nonexistent".into());
    let mut no_user = plain("true");
    no_user.user = Some("nobody-of-that-name".into());
    for (start, code) in [
        (plain("no-such-command"), ErrorCode::CommandNotFound),
        (plain("/no/such/command"), ErrorCode::CommandNotFound),
        (plain("/etc/passwd"), ErrorCode::CommandNotExecutable),
        (plain("/etc"), ErrorCode::CommandNotExecutable),
        (no_directory, ErrorCode::WorkingDirectory),
        (no_user, ErrorCode::UnknownUser),
    ] {
        let error = channel.start(start.clone()).await.unwrap_err();
        assert_eq!(fault(&error), (code, Retry::NeverStarted), "{start:?}");
    }
    assert_eq!(run(&channel, "echo fine").await.stdout, b"fine\n");
}

#[tokio::test]
async fn a_process_gets_its_directory_variables_and_arguments_byte_for_byte() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let script = r#"pwd; printf '%s|' "$A" "$HOME" "$1""#;
    let argv = [b"sh".as_slice(), b"-c", script.as_bytes(), b"sh", b"\xfe 'x'\n"];
    let mut start = Start::new(Command::Argv(argv.iter().map(|argument| (*argument).into()).collect()));
    start.attach = Some(Delivery::Lossless);
    start.cwd = Some("/usr".into());
    start.env.insert("A".into(), b"\xff=b".as_slice().into());
    start.env.insert("HOME".into(), "/h".into());
    let outcome = finish(&channel.start(start).await.unwrap()).await;
    assert_eq!(outcome.stdout, b"/usr\n\xff=b|/h|\xfe 'x'\n|");
}

#[tokio::test]
async fn without_a_user_or_a_home_processes_have_the_agents_own() {
    let home = tempfile::tempdir().unwrap();
    let said = format!("HOME={}", home.path().display());
    let agent = Agent::start_under("env", &[&said]);
    let outcome = run(&agent.connect().await, "echo $HOME").await;
    assert_eq!(String::from_utf8_lossy(&outcome.stdout).trim_end(), home.path().to_str().unwrap());
    // One that was started with nothing finds its user's.
    let agent = Agent::start_under("env", &["-i"]);
    let outcome = run(&agent.connect().await, "getent passwd $(id -u) | cut -d: -f6; echo $HOME").await;
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let (listed, said) = text.trim_end().split_once('\n').unwrap();
    assert_eq!(listed, said);
}

#[tokio::test]
async fn an_agent_that_is_root_runs_processes_as_the_user_asked_for() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let mut start = shell("id -un; id -Gn; echo $HOME");
    (start.user, start.cwd) = (Some("nobody".into()), Some("/".into()));
    let outcome = finish(&channel.start(start).await.unwrap()).await;
    assert_eq!(String::from_utf8(outcome.stdout).unwrap(), "nobody\nnogroup\n/nonexistent\n");
}

#[tokio::test]
async fn a_signal_reaches_the_process_or_its_whole_tree() {
    for options in [&[][..], &["--no-cgroup"]] {
        let agent = Agent::start_with(options);
        let channel = agent.connect().await;
        let process = channel.start(shell("setsid sleep 300 & echo $!; wait")).await.unwrap();
        let Some(Event::Output { bytes, .. }) = process.next_event().await.unwrap() else { panic!("no output") };
        process.signal(Signal::Kill, SignalScope::Tree).await.unwrap();
        assert_eq!(finish(&process).await.signal(), Some(9));
        until_dead(&channel, number(&bytes)).await;
        let error = process.signal(Signal::Term, SignalScope::Process).await.unwrap_err();
        assert_eq!(fault(&error).0, ErrorCode::NotRunning);
    }
}

/// A killed process may take a moment to die; each ping is a turn of the agent.
async fn until_dead(channel: &hearth_channel::Channel, pid: u32) {
    let dead = async {
        while is_alive(pid) {
            channel.ping().await.unwrap();
        }
    };
    tokio::time::timeout(HANG, dead).await.expect("a killed process dies");
}

#[tokio::test]
async fn processes_are_listed_with_their_state() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, "exit 4").await;
    let running = channel.start(shell("sleep 300")).await.unwrap();
    let list = channel.list().await.unwrap();
    let states: Vec<_> = list.iter().map(|process| format!("{:?}", process.state)).collect();
    assert!(states[0].contains("code: Some(4)") && states[1] == "Running", "{states:?}");
    assert_eq!(list[1].process, running.id());
}

#[tokio::test]
async fn a_list_is_complete_however_many_and_long_the_commands_are() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    for _ in 0..150 {
        run(&channel, &format!(": {}", "x".repeat(20_000))).await;
    }
    let list = channel.list().await.unwrap();
    assert_eq!(list.len(), 150);
    assert!(list.windows(2).all(|pair| pair[0].process < pair[1].process));
}

#[tokio::test]
async fn an_agent_that_ends_leaves_no_process_socket_or_group() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let outcome = run(&channel, "setsid sleep 300 & echo $!").await;
    let socket = agent.socket();
    channel.shutdown(Duration::ZERO).await.unwrap();
    let pid = agent.pid();
    assert!(agent.stop());
    assert!(!is_alive(number(&outcome.stdout)) && !socket.exists());
    let groups = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = groups.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let left = mount.map(|mount| std::path::Path::new(mount).join(format!("hearth-agent-{pid}")).exists());
    assert_ne!(left, Some(true));
}

#[tokio::test]
async fn at_the_agents_end_programs_have_their_grace_and_what_outlives_it_is_killed() {
    const GRACE: Duration = Duration::from_secs(4);
    let agent = Agent::start();
    let channel = agent.connect().await;
    let notes = agent.workspace();
    let heeds = format!(
        "trap 'sleep 0.3; echo heeded > {}/note; exit' TERM; echo; while :; do sleep 0.05; done",
        notes.display()
    );
    let ignores = "trap '' TERM HUP; echo; while :; do sleep 0.05; done";
    let mut started = Vec::new();
    for (text, pty) in [(heeds.as_str(), false), ("exec bash -i", true), (ignores, false)] {
        let mut start = Start::new(Command::Shell(text.into()));
        (start.attach, start.pty) = (Some(Delivery::Lossless), pty.then_some(PtySize { columns: 80, rows: 24 }));
        let process = channel.start(start).await.unwrap();
        // Its first words say that it heeds what it is to heed.
        process.next_event().await.unwrap();
        started.push(process);
    }
    let begun = Instant::now();
    channel.shutdown(GRACE).await.unwrap();
    for process in &started[..2] {
        let status = finish(process).await.status.unwrap();
        assert_ne!(status.signal, Some(9), "it heeds what it is asked, in time: {status:?}");
    }
    assert_eq!(std::fs::read_to_string(notes.join("note")).unwrap(), "heeded\n");
    let refused = channel.start(shell("true")).await.unwrap_err();
    assert_eq!(fault(&refused), (ErrorCode::Busy, Retry::NeverStarted));
    while matches!(started[2].next_event().await, Ok(Some(_))) {}
    assert!(begun.elapsed() >= GRACE && begun.elapsed() < GRACE + HANG, "{:?}", begun.elapsed());
}

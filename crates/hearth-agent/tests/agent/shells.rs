//! Shells.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_channel::Channel;
use hearth_protocol::process::ReadOutput;
use hearth_protocol::shell::{Idle, IdleReason, OpenShell, ReadPlain, ReadShell, ShellName, WaitIdle};
use hearth_protocol::{Attach, Command, Delivery, ErrorCode, ProcessId, PtySize, Signal, SignalScope};

use crate::support::{Agent, HANG, SOON, fault, finish, is_alive, run};

fn name(name: &str) -> ShellName {
    ShellName::new(name).unwrap()
}

/// The shell that is there on every system, with a prompt that is easy to find.
fn plain_shell(called: &str) -> OpenShell {
    let command = Some(Command::Argv(vec!["sh".into()]));
    let env = [("PS1".to_owned(), "$ ".into()), ("ENV".to_owned(), "".into())].into();
    OpenShell { command, env, size: PtySize { columns: 80, rows: 24 }, ..OpenShell::new(name(called)) }
}

/// A shell with an editor for its lines; `None`, and says so, where there is none.
fn editing_shell(called: &str) -> Option<OpenShell> {
    if !std::path::Path::new("/bin/bash").exists() {
        eprintln!("skipped: this system has no bash");
        return None;
    }
    let argv = ["bash", "--noprofile", "--norc"].map(Into::into).to_vec();
    Some(OpenShell { command: Some(Command::Argv(argv)), ..plain_shell(called) })
}

async fn open(channel: &Channel, shell: OpenShell) -> ShellName {
    let name = shell.name.clone();
    channel.open_shell(shell).await.unwrap();
    at_prompt(channel, &name).await;
    name
}

async fn type_line(channel: &Channel, shell: &ShellName, line: &str) {
    let bytes = Bytes::copy_from_slice(line.as_bytes());
    let written = channel.write_shell(shell.clone(), bytes, true, HANG).await.unwrap();
    assert_eq!(written.accepted, line.len() as u64 + 1);
}

/// Waits until the shell is at its prompt.
async fn at_prompt(channel: &Channel, shell: &ShellName) {
    let wait = WaitIdle { quiet_ms: 50, timeout_ms: 30_000, ..WaitIdle::new(shell.clone(), Idle::Prompt) };
    let end = channel.wait_shell(wait).await.unwrap();
    assert_eq!((end.reason, end.job), (IdleReason::Idle, false));
}

/// All that the shell's screen shows and showed.
async fn screen(channel: &Channel, shell: &ShellName) -> String {
    channel.read_shell_plain(ReadPlain { limit: 1 << 20, ..ReadPlain::new(shell.clone()) }).await.unwrap().1
}

/// Waits until the shell's screen shows a line.
async fn until_shown(channel: &Channel, shell: &ShellName, line: &str) {
    let mut since = 0;
    loop {
        let read = ReadPlain { since, wait_ms: 30_000, ..ReadPlain::new(shell.clone()) };
        let (plain, text) = channel.read_shell_plain(read).await.unwrap();
        if text.lines().any(|shown| shown == line) {
            return;
        }
        assert!(!plain.ended && plain.next > since, "{line:?} does not come: {:?}", screen(channel, shell).await);
        since = plain.next;
    }
}

#[tokio::test]
async fn a_shell_keeps_its_state_between_commands_and_clients() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let shell = open(&channel, plain_shell("main")).await;
    type_line(&channel, &shell, "cd /usr; A=kept").await;
    at_prompt(&channel, &shell).await;
    drop(channel);
    let channel = agent.connect().await;
    type_line(&channel, &shell, "echo $PWD $A").await;
    at_prompt(&channel, &shell).await;
    assert_eq!(screen(&channel, &shell).await, "$ cd /usr; A=kept\n$ echo $PWD $A\n/usr kept\n$ ");
}

#[tokio::test]
async fn b13_a_shell_has_its_size_and_is_told_of_another() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let shell = open(&channel, plain_shell("main")).await;
    type_line(&channel, &shell, "stty size").await;
    until_shown(&channel, &shell, "24 80").await;
    at_prompt(&channel, &shell).await;
    // The job is told, too, and when it says that it listens, it does.
    let job = r#"sh -c 'trap "stty size; exit" WINCH; echo ready; while :; do sleep 0.02; done'"#;
    type_line(&channel, &shell, job).await;
    until_shown(&channel, &shell, "ready").await;
    channel.resize_shell(shell.clone(), PtySize { columns: 100, rows: 30 }).await.unwrap();
    until_shown(&channel, &shell, "30 100").await;
    assert_eq!(channel.shells().await.unwrap()[0].size, PtySize { columns: 100, rows: 30 });
}

#[tokio::test]
async fn b14_an_interrupt_stops_the_foreground_job_and_brings_the_prompt_back() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    for shell in [Some(plain_shell("plain")), editing_shell("editing")].into_iter().flatten() {
        let shell = open(&channel, shell).await;
        for typed in [false, true] {
            // A job that says that it runs: a shell may lose what comes between its fork and the start of the program.
            type_line(&channel, &shell, "sh -c 'echo running $$; exec sleep 100'").await;
            let from = ReadPlain { wait_ms: 30_000, ..ReadPlain::new(shell.clone()) };
            let mut pid = None;
            let mut since = 0;
            while pid.is_none() {
                let (plain, text) = channel.read_shell_plain(ReadPlain { since, ..from.clone() }).await.unwrap();
                let said = |line: &str| line.strip_prefix("running ")?.parse::<u32>().ok().filter(|&pid| is_alive(pid));
                pid = text.lines().find_map(said);
                since = plain.next;
            }
            let begun = Instant::now();
            match typed {
                true => drop(channel.write_shell(shell.clone(), "\x03".into(), false, HANG).await.unwrap()),
                false => channel.signal_shell(shell.clone(), Signal::Int, SignalScope::Foreground).await.unwrap(),
            }
            at_prompt(&channel, &shell).await;
            assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
            assert!(!is_alive(pid.unwrap()));
        }
        type_line(&channel, &shell, "echo works").await;
        until_shown(&channel, &shell, "works").await;
    }
}

#[tokio::test]
async fn b15_a_write_to_a_shell_whose_job_does_not_read_is_answered_and_delays_nobody() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let shell = open(&channel, plain_shell("main")).await;
    type_line(&channel, &shell, "sh -c 'echo running; exec sleep 300'").await;
    until_shown(&channel, &shell, "running").await;
    let lines = Bytes::from(format!("{}\n", "x".repeat(99)).repeat(3000));
    let begun = Instant::now();
    let write = channel.write_shell(shell.clone(), lines, false, Duration::from_millis(100));
    let (written, outcome) = tokio::join!(write, run(&channel, "echo free"));
    let accepted = written.unwrap().accepted;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(accepted > 0 && accepted < 300_000, "{accepted}");
    assert_eq!(outcome.stdout, b"free\n");
    // What is said goes on, and the shell can still be stopped.
    let end = channel.close_shell(shell, Duration::from_millis(100)).await.unwrap();
    assert!(end.code.is_some() || end.signal.is_some());
}

#[tokio::test]
async fn b15_of_a_line_too_long_for_a_terminal_all_is_taken_and_4095_bytes_are_kept_as_documented() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let shell = open(&channel, plain_shell("main")).await;
    for (mode, kept) in [("icanon", 4096), ("-icanon", 300_001)] {
        type_line(
            &channel,
            &shell,
            &format!("stty -echo {mode}; echo; echo as $((1 + 1)) {mode}; head -c {kept} | wc -c"),
        )
        .await;
        until_shown(&channel, &shell, &format!("as 2 {mode}")).await;
        let line = Bytes::from(vec![b'x'; 300_000]);
        assert_eq!(channel.write_shell(shell.clone(), line, true, HANG).await.unwrap().accepted, 300_001);
        until_shown(&channel, &shell, &format!("{kept}")).await;
    }
}

#[tokio::test]
async fn b16_what_a_shell_wrote_is_read_in_any_cut() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let shell = open(&channel, plain_shell("main")).await;
    type_line(&channel, &shell, "stty -echo; printf '\\377\\001中\\n'; seq 5000").await;
    until_shown(&channel, &shell, "5000").await;
    at_prompt(&channel, &shell).await;
    let mut cuts = Vec::new();
    for limit in [777, 65_536] {
        let mut read = Vec::new();
        loop {
            let range = ReadShell { from: read.len() as u64, limit, ..ReadShell::new(shell.clone()) };
            let (piece, bytes) = channel.read_shell(range).await.unwrap();
            assert_eq!(piece.at, read.len() as u64);
            read.extend_from_slice(&bytes);
            if read.len() as u64 == piece.total {
                break;
            }
        }
        cuts.push(read);
    }
    let numbers: String = (1..=5000).map(|number| format!("{number}\r\n")).collect();
    let expected = ["\r\n".as_bytes(), b"\xff\x01", "中\r\n".as_bytes(), numbers.as_bytes(), b"$ "].concat();
    assert!(cuts[0].ends_with(&expected), "{:?}", String::from_utf8_lossy(&cuts[0][..200]));
    assert!(cuts[0] == cuts[1]);
}

#[tokio::test]
async fn a_plain_read_is_what_a_screen_shows_and_what_has_scrolled_off_it() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let Some(shell) = editing_shell("main") else { return };
    let shell = open(&channel, shell).await;
    let script = r"printf 'one\rONE\n\033[31mred\033[0m\nabc\b\b\033[K\n10%%\r100%%\n中文\n'; seq 100";
    let before = channel.read_shell_plain(ReadPlain::new(shell.clone())).await.unwrap().0;
    type_line(&channel, &shell, script).await;
    until_shown(&channel, &shell, "100").await;
    at_prompt(&channel, &shell).await;
    let since = ReadPlain { since: before.next, limit: 1 << 20, ..ReadPlain::new(shell.clone()) };
    let (after, text) = channel.read_shell_plain(since).await.unwrap();
    let numbers: String = (1..=100).map(|number| format!("{number}\n")).collect();
    assert_eq!(text, format!("$ {script}\nONE\nred\na\n100%\n中文\n{numbers}$ "));
    assert_eq!((after.first, after.lines, after.more, after.gap), (0, 107, false, false));
    // An editor's screen is its own; behind it the shell's is as it was.
    type_line(&channel, &shell, r"printf '\033[?1049h\033[Hediting\n'; read x; printf '\033[?1049l'").await;
    until_shown(&channel, &shell, "editing").await;
    let (during, text) = channel.read_shell_plain(ReadPlain::new(shell.clone())).await.unwrap();
    assert!(during.alternate && text.trim_end() == "editing", "{text:?}");
    type_line(&channel, &shell, "").await;
    at_prompt(&channel, &shell).await;
    let (behind, text) =
        channel.read_shell_plain(ReadPlain { since: during.next, ..ReadPlain::new(shell.clone()) }).await.unwrap();
    assert!(!behind.alternate && !text.contains("editing") && text.ends_with("$ "), "{text:?}");
}

#[tokio::test]
async fn a_flood_is_read_by_lines_and_its_loss_is_told() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let shell = open(&channel, plain_shell("main")).await;
    type_line(&channel, &shell, "seq 300000; echo over").await;
    until_shown(&channel, &shell, "over").await;
    let (mut since, mut numbers) = (1, Vec::new());
    loop {
        let read = ReadPlain { since, limit: 10_000, ..ReadPlain::new(shell.clone()) };
        let (plain, text) = channel.read_shell_plain(read).await.unwrap();
        assert_eq!(plain.gap, since == 1);
        assert!(text.len() <= 10_000);
        numbers.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        since = plain.next;
        if !plain.more {
            break;
        }
    }
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]) && numbers.last() == Some(&300_000));
    assert!(numbers.len() > 5000, "{}", numbers.len());
}

#[tokio::test]
async fn a_wait_ends_with_quiet_with_the_prompt_with_the_shell_or_with_its_time() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let shell = open(&channel, plain_shell("main")).await;
    type_line(&channel, &shell, "sh -c 'echo running; exec sleep 0.5'").await;
    until_shown(&channel, &shell, "running").await;
    let quiet = WaitIdle { quiet_ms: 50, timeout_ms: 30_000, ..WaitIdle::new(shell.clone(), Idle::Quiet) };
    let end = channel.wait_shell(quiet.clone()).await.unwrap();
    assert_eq!((end.reason, end.job), (IdleReason::Idle, true));
    at_prompt(&channel, &shell).await;
    // A job that talks all the time is never quiet; one that is silent has no prompt.
    for (job, until) in [("while :; do echo .; sleep 0.01; done", Idle::Quiet), ("exec sleep 300", Idle::Prompt)] {
        type_line(&channel, &shell, &format!("sh -c 'echo go; {job}'")).await;
        until_shown(&channel, &shell, "go").await;
        let begun = Instant::now();
        let wait = WaitIdle { quiet_ms: 150, timeout_ms: 300, ..WaitIdle::new(shell.clone(), until) };
        assert_eq!(channel.wait_shell(wait).await.unwrap().reason, IdleReason::Timeout, "{job}");
        assert!(begun.elapsed() >= Duration::from_millis(300) && begun.elapsed() < SOON);
        channel.signal_shell(shell.clone(), Signal::Int, SignalScope::Foreground).await.unwrap();
        at_prompt(&channel, &shell).await;
        type_line(&channel, &shell, "clear").await;
        at_prompt(&channel, &shell).await;
    }
    type_line(&channel, &shell, "exit 3").await;
    assert_eq!(channel.wait_shell(quiet).await.unwrap().reason, IdleReason::Ended);
}

#[tokio::test]
async fn names_are_taken_until_the_shell_ends_and_found_in_the_list() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let first = channel.open_shell(plain_shell("main")).await.unwrap();
    let taken = channel.open_shell(plain_shell("main")).await.unwrap_err();
    assert_eq!(fault(&taken).0, ErrorCode::AlreadyExists);
    type_line(&channel, &name("main"), "exit 3").await;
    // As a process it is followed like any other.
    let attach = Attach { process: first.process.into(), stdout: 0, stderr: 0, delivery: Delivery::Lossless };
    let outcome = finish(&channel.attach(attach).await.unwrap()).await;
    assert_eq!(outcome.code(), Some(3));
    let listed = channel.shells().await.unwrap();
    assert_eq!((listed.len(), &listed[0].name, listed[0].process), (1, &name("main"), first.process));
    assert_eq!((listed[0].exit.as_ref().unwrap().code, listed[0].output), (Some(3), outcome.totals.stdout));
    let again = channel.open_shell(plain_shell("main")).await.unwrap();
    assert_ne!(again.process, first.process);
    assert!(channel.shells().await.unwrap()[0].exit.is_none());
    for other in 1..64 {
        channel.open_shell(plain_shell(&format!("other.{other}"))).await.unwrap();
    }
    assert_eq!(fault(&channel.open_shell(plain_shell("one-more")).await.unwrap_err()).0, ErrorCode::Busy);
    let unknown = channel.signal_shell(name("nobody"), Signal::Int, SignalScope::Foreground).await.unwrap_err();
    assert_eq!(fault(&unknown).0, ErrorCode::UnknownName);
}

#[tokio::test]
async fn closing_a_shell_ends_all_that_it_started() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let shell = open(&channel, plain_shell("main")).await;
    type_line(&channel, &shell, "trap '' HUP; sleep 300 & echo background $!").await;
    at_prompt(&channel, &shell).await;
    let text = screen(&channel, &shell).await;
    let said = text.lines().find_map(|line| line.strip_prefix("background "));
    let child: u32 = said.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    assert!(is_alive(child));
    let begun = Instant::now();
    let status = channel.close_shell(shell.clone(), Duration::from_millis(100)).await.unwrap();
    assert_eq!(status.signal, Some(9));
    assert!(begun.elapsed() < SOON && !is_alive(child));
    assert_eq!(channel.shells().await.unwrap(), []);
    // One that heeds the signal has no need of the grace.
    let shell = open(&channel, plain_shell("main")).await;
    let begun = Instant::now();
    let status = channel.close_shell(shell, Duration::from_secs(60)).await.unwrap();
    assert!(status.signal == Some(1) || status.code.is_some(), "{status:?}");
    assert!(begun.elapsed() < SOON);
}

/// bash is one, for a moment: between its prompt and its wait for a key it only notes a signal.
#[tokio::test]
async fn a_program_that_still_waits_for_input_is_asked_to_end_again() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let heeds_the_second = "trap 'trap \"exit 7\" HUP' HUP; printf '$ '; while :; do read -r line; done";
    let command = Some(Command::Argv(["sh", "-c", heeds_the_second].map(Into::into).to_vec()));
    let shell = open(&channel, OpenShell { command, ..plain_shell("main") }).await;
    let status = channel.close_shell(shell, HANG).await.unwrap();
    assert_eq!(status.code, Some(7), "{status:?}");
}

#[tokio::test]
async fn a_shell_without_a_command_is_the_users_own() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let opened = channel.open_shell(OpenShell::new(name("main"))).await.unwrap();
    at_prompt(&channel, &name("main")).await;
    let program = std::fs::read_link(format!("/proc/{}/exe", opened.pid)).unwrap();
    let shells = std::fs::read_to_string("/etc/passwd").unwrap();
    let own = rustix::process::geteuid().as_raw().to_string();
    let wanted = shells.lines().find(|line| line.split(':').nth(2) == Some(&own)).unwrap().rsplit(':').next().unwrap();
    assert_eq!(program, std::fs::canonicalize(wanted).unwrap());
    let wrong = ReadOutput::new(ProcessId(opened.process.0 + 1));
    assert_eq!(fault(&channel.read_output(wrong).await.unwrap_err()).0, ErrorCode::UnknownProcess);
}

#[tokio::test]
async fn b43_what_is_hidden_is_hidden_on_the_screen_too() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let redact = vec!["hunter2-is-secret".into()];
    let shell = open(&channel, OpenShell { redact, ..plain_shell("main") }).await;
    // In two halves, with a read between: nothing that begins the value is shown before it is known not to be one.
    type_line(&channel, &shell, "stty -echo; printf hunter2; read x; echo -is-secret and hunter3").await;
    at_prompt(&channel, &shell).await;
    assert!(!screen(&channel, &shell).await.contains("hunter2\n"));
    type_line(&channel, &shell, "").await;
    at_prompt(&channel, &shell).await;
    let text = screen(&channel, &shell).await;
    assert!(text.contains("[REDACTED] and hunter3") && !text.contains("hunter2-is-secret"), "{text}");
    let (_, raw) = channel.read_shell(ReadShell { limit: 1 << 20, ..ReadShell::new(shell) }).await.unwrap();
    let raw = String::from_utf8_lossy(&raw).into_owned();
    assert!(raw.contains("[REDACTED] and hunter3") && !raw.contains("hunter2-is-secret"), "{raw:?}");
}

#[tokio::test]
async fn b43_a_value_that_was_written_in_colours_is_hidden_in_the_text_of_the_screen() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let redact = vec!["hunter2-is-secret".into()];
    let shell = open(&channel, OpenShell { redact, ..plain_shell("main") }).await;
    type_line(&channel, &shell, r"stty -echo; printf 'a hunter2\033[31m-is\033[m-secret\033[K b\n'; echo over").await;
    until_shown(&channel, &shell, "over").await;
    let text = screen(&channel, &shell).await;
    assert!(text.contains("\na [REDACTED] b\n"), "{text}");
}

#[tokio::test]
async fn a_login_shell_waits_at_its_prompt_unless_a_job_of_its_runs() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let shell = open(&channel, OpenShell { command: None, ..plain_shell("a") }).await;
    let waits = async || channel.list().await.unwrap()[0].waiting;
    while !waits().await {}
    type_line(&channel, &shell, "mkfifo go; cat go > /dev/null &").await;
    at_prompt(&channel, &shell).await;
    assert!(!waits().await);
    type_line(&channel, &shell, "echo > go; wait").await;
    at_prompt(&channel, &shell).await;
    while !waits().await {}
}

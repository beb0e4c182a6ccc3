//! Several kernels, and what is asked about them.

use std::time::{Duration, Instant};

use hearth_channel::{ChannelError, KernelSent};
use hearth_protocol::kernel::{KernelExec, KernelStart, KernelState};
use hearth_protocol::secrets::Secret;
use hearth_protocol::{ErrorCode, StreamName, limits};

use super::{Bash, Javascript, Python, Retry, exec, is_here, print, run};
use crate::support::{Agent, HANG, SOON, is_alive, number};

fn named(name: &str) -> KernelExec {
    KernelExec { name: Some(name.into()), ..KernelExec::new(Bash) }
}

fn fault(error: ChannelError) -> (ErrorCode, Retry) {
    match error {
        ChannelError::Fault { source } => (source.code, source.outcome),
        other => panic!("not a fault of the agent's: {other}"),
    }
}

#[tokio::test]
async fn kernels_of_different_names_run_at_once_and_know_nothing_of_each_other() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    exec(&channel, named("one"), "x=1; mkfifo pipe").await.unwrap();
    exec(&channel, named("two"), "x=2").await.unwrap();
    // Each waits for the other: one after the other they would wait for ever.
    let (reader, writer) = tokio::join!(
        exec(&channel, named("one"), "read line < pipe; echo $x $line"),
        exec(&channel, named("two"), "echo from $x > pipe")
    );
    assert_eq!((reader.unwrap().out().as_str(), writer.unwrap().code()), ("1 from 2\n", 0));
    let kernels = channel.kernels().await.unwrap();
    let listed: Vec<_> = kernels.iter().map(|kernel| (kernel.name.as_str(), kernel.state, kernel.execs)).collect();
    assert_eq!(listed, [("one", KernelState::Idle, 2), ("two", KernelState::Idle, 2)]);
    channel.stop_kernel("one").await.unwrap();
    assert_eq!(channel.kernels().await.unwrap().len(), 1);
    assert_eq!(fault(channel.stop_kernel("one").await.unwrap_err()), (ErrorCode::UnknownName, Retry::NeverStarted));
    assert_eq!(exec(&channel, named("one"), "echo ${x-none}").await.unwrap().out(), "none\n");
    assert_eq!(exec(&channel, named("two"), "echo $x").await.unwrap().out(), "2\n");
    let other = KernelStart { name: Some("two".into()), ..KernelStart::new(Python) };
    assert_eq!(fault(channel.start_kernel(other).await.unwrap_err()), (ErrorCode::AlreadyExists, Retry::NeverStarted));
}

#[tokio::test]
async fn code_for_a_busy_kernel_waits_for_its_turn() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, Bash, "mkfifo go").await;
    let first = channel.exec_in_kernel(KernelExec::new(Bash), "echo on; read line < go; x=$line").await.unwrap();
    first.next().await.unwrap().unwrap();
    assert_eq!(channel.kernels().await.unwrap()[0].state, KernelState::Busy);
    let second = channel.exec_in_kernel(KernelExec::new(Bash), "echo $x").await.unwrap();
    channel.ping().await.unwrap();
    std::fs::write(agent.workspace().join("go"), "told\n").unwrap();
    assert_eq!(second.next().await.unwrap(), Some(KernelSent::Output(StreamName::Stdout, "told\n".into())));
}

#[tokio::test]
async fn code_goes_on_without_its_client_and_the_next_waits_for_it() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, Bash, "mkfifo go").await;
    let first =
        channel.exec_in_kernel(KernelExec::new(Bash), "echo on; read line < go; x=$line; echo unheard").await.unwrap();
    first.next().await.unwrap().unwrap();
    drop(first);
    drop(channel);
    let channel = agent.connect().await;
    assert_eq!(channel.kernels().await.unwrap()[0].state, KernelState::Busy);
    let next = channel.exec_in_kernel(KernelExec::new(Bash), "echo $x").await.unwrap();
    std::fs::write(agent.workspace().join("go"), "told\n").unwrap();
    assert_eq!(next.next().await.unwrap(), Some(KernelSent::Output(StreamName::Stdout, "told\n".into())));
}

#[tokio::test]
async fn code_that_is_to_be_given_up_goes_with_its_client_and_nobody_elses_does() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let with_its_client = || KernelExec { cancel_on_detach: true, ..KernelExec::new(Bash) };
    run(&channel, Bash, "mkfifo go").await;
    let first = channel.exec_in_kernel(KernelExec::new(Bash), "echo on; read line < go; x=$line").await.unwrap();
    first.next().await.unwrap().unwrap();
    // One that waits for its turn does not begin, and what has its turn does not hear of it.
    let waiting = channel.exec_in_kernel(with_its_client(), "x=never").await.unwrap();
    channel.ping().await.unwrap();
    drop(waiting);
    channel.ping().await.unwrap();
    std::fs::write(agent.workspace().join("go"), "told\n").unwrap();
    assert_eq!(print(&channel, Bash, "echo $x").await, "told\n");
    // One that runs is interrupted, whether its client lets go of it or is gone.
    let begun = channel.exec_in_kernel(with_its_client(), "echo on; while :; do sleep 1; done; x=never").await.unwrap();
    begun.next().await.unwrap().unwrap();
    drop(begun);
    assert_eq!(print(&channel, Bash, "echo $x").await, "told\n");
    let begun = channel.exec_in_kernel(with_its_client(), "echo on; while :; do sleep 1; done; x=never").await.unwrap();
    begun.next().await.unwrap().unwrap();
    drop((begun, channel));
    assert_eq!(print(&agent.connect().await, Bash, "echo $x").await, "told\n");
    // One that was heard to its end has come to it.
    let channel = agent.connect().await;
    assert_eq!(exec(&channel, with_its_client(), "x=heard; echo $x").await.unwrap().out(), "heard\n");
}

#[tokio::test]
async fn b03_a_deadline_interrupts_and_then_kills_and_what_was_said_is_kept() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let limited = KernelExec { timeout_ms: Some(200), ..KernelExec::new(Bash) };
    let started = Instant::now();
    let done = exec(&channel, limited.clone(), "x=1; echo partial; sleep 600").await.unwrap();
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!((done.out().as_str(), done.ran().timed_out, done.ran().state_lost), ("partial\n", true, false));
    assert_eq!(print(&channel, Bash, "echo $x").await, "1\n", "an interrupt was enough");
    let stubborn = "trap '' INT; echo partial; (trap '' INT; echo $BASHPID; exec sleep 600) & wait; sleep 600";
    let done = exec(&channel, limited.clone(), stubborn).await.unwrap();
    assert_eq!((done.ran().timed_out, done.ran().state_lost, done.code()), (true, true, 137));
    let child = number(done.out().strip_prefix("partial\n").unwrap().as_bytes());
    assert!(!is_alive(child));
    assert_eq!(print(&channel, Bash, "echo ${x-none}").await, "none\n");
    if is_here(Python) {
        let limited = KernelExec { language: Python, ..limited };
        let deaf = "print('partial', flush=True)\nimport time\nwhile True:\n  try: time.sleep(600)\n  except KeyboardInterrupt: pass";
        let done = exec(&channel, limited.clone(), deaf).await.unwrap();
        assert_eq!((done.out().as_str(), done.ran().timed_out, done.ran().state_lost), ("partial\n", true, true));
        let heeding = "try: time.sleep(600)\nexcept BaseException: print('heard')";
        run(&channel, Python, "import time").await;
        let done = exec(&channel, limited, heeding).await.unwrap();
        assert_eq!((done.out().as_str(), done.ran().timed_out, done.code()), ("heard\n", true, 0));
    }
}

/// Starts code that writes without end, and waits until it can write no more: its client does not read.
async fn flood(channel: &hearth_channel::Channel, exec: KernelExec, code: &str) -> hearth_channel::KernelOperation {
    let flooding = channel.exec_in_kernel(exec, code).await.unwrap();
    let first = flooding.next().await.unwrap();
    assert!(matches!(first, Some(KernelSent::Output(..))), "{code}: {first:?}");
    // Nothing tells that a pipe is full but time.
    tokio::time::sleep(Duration::from_millis(300)).await;
    flooding
}

#[tokio::test]
async fn b45_a_client_that_does_not_read_keeps_no_kernel_from_others() {
    let (python, javascript) = (
        "import sys\nx = 1\nwhile True: sys.stdout.write('x' * 100000)",
        "var x = 1; while (true) process.stdout.write('x'.repeat(100000))",
    );
    let languages = [
        (Python, python, "x", Some("1")),
        (super::Javascript, javascript, "x", Some("1")),
        (Bash, "x=1; while :; do printf %100000d 1; done", "echo $x", None),
        (Bash, "x=1; while :; do head -c 1000000 /dev/zero; done", "echo $x", None),
    ];
    for (language, code, next, value) in languages {
        if !is_here(language) {
            continue;
        }
        let agent = Agent::start();
        let (stuck, channel) = (agent.connect().await, agent.connect().await);
        for deadline in [None, Some(500)] {
            // On a busy machine the usual grace may be over before the interrupt is heeded, and with it the kernel.
            let grace_ms = deadline.map(|_| 20_000);
            let exec_of = KernelExec { timeout_ms: deadline, grace_ms, ..KernelExec::new(language) };
            let flooding = flood(&stuck, exec_of, code).await;
            let begun = Instant::now();
            if deadline.is_none() {
                channel.interrupt_kernel(language.name()).await.unwrap();
            }
            let done =
                tokio::time::timeout(HANG, exec(&channel, KernelExec::new(language), next)).await.unwrap().unwrap();
            assert!(begun.elapsed() < SOON, "{language:?} {:?}", begun.elapsed());
            assert!(done.value().as_deref() == value && (value.is_some() || done.out() == "1\n"), "{done:?}");
            // Whoever reads in the end is told what there was, as far as it was kept.
            let mut read = 0;
            let ran = loop {
                match flooding.next().await.unwrap().unwrap() {
                    KernelSent::Output(StreamName::Stdout, bytes) => read += bytes.len() as u64,
                    KernelSent::Ran(ran) => break ran,
                    _ => {}
                }
            };
            assert_eq!(
                (ran.interrupted, ran.timed_out, ran.state_lost),
                (true, deadline.is_some(), false),
                "{language:?} {code} {ran:?}"
            );
            assert!(read > 1 << 20, "{read}");
        }
        flood(&stuck, KernelExec::new(language), code).await;
        let begun = Instant::now();
        channel.stop_kernel(language.name()).await.unwrap();
        assert!(begun.elapsed() < SOON, "{language:?}: a stop took {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn b45_code_that_has_ended_is_over_although_its_client_does_not_read_and_loses_nothing() {
    let agent = Agent::start();
    let (slow, channel) = (agent.connect().await, agent.connect().await);
    for end in ["", "; exit 3", "; kill -9 $$"] {
        let code = format!("head -c 900000 /dev/zero | tr '\\0' x; printf %900000d 1 >&2{end}");
        let first = slow.exec_in_kernel(KernelExec::new(Bash), &code).await.unwrap();
        let more = format!("{}{code}", "head -c 3000000 /dev/zero; ");
        let begun = Instant::now();
        exec(&channel, KernelExec::new(Bash), &more).await.unwrap();
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        let (mut out, mut err) = (Vec::new(), 0);
        let ran = loop {
            match first.next().await.unwrap().unwrap() {
                KernelSent::Output(StreamName::Stdout, bytes) => out.extend_from_slice(&bytes),
                KernelSent::Output(_, bytes) => err += bytes.len(),
                KernelSent::Ran(ran) => break ran,
                KernelSent::Event(event) => panic!("{event:?}"),
            }
        };
        assert!(out == [b'x'; 900_000] && err == 900_000, "{} {err}", out.len());
        assert_eq!((ran.dropped, ran.state_lost), (0, end.contains("kill")), "{end}");
    }
}

#[tokio::test]
async fn a_restart_ends_all_that_the_interpreter_started_and_begins_afresh() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let child = number(print(&channel, Bash, "x=1; sleep 600 & echo $!").await.as_bytes());
    assert!(is_alive(child));
    let running = channel.exec_in_kernel(KernelExec::new(Bash), "echo on; sleep 600").await.unwrap();
    running.next().await.unwrap().unwrap();
    let (kernel, _) = channel.restart_kernel("bash").await.unwrap();
    assert_eq!(kernel.state, KernelState::Idle);
    assert!(!is_alive(child));
    let Some(KernelSent::Ran(ran)) = running.next().await.unwrap() else { panic!("it has ended") };
    assert_eq!((ran.code, ran.signal, ran.state_lost), (137, Some(9), true));
    let done = run(&channel, Bash, "echo ${x-none}").await;
    assert_eq!(done.out(), "none\n");
    assert_eq!(fault(channel.restart_kernel("nobody").await.unwrap_err()).0, ErrorCode::UnknownName);
    assert_eq!(fault(channel.interrupt_kernel("nobody").await.unwrap_err()).0, ErrorCode::UnknownName);
    channel.interrupt_kernel("bash").await.unwrap();
    assert_eq!(print(&channel, Bash, "echo on").await, "on\n", "an interrupt of nothing does nothing");
}

#[tokio::test]
async fn stopping_a_kernel_refuses_what_waits_for_it_and_leaves_nothing() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let running = channel.exec_in_kernel(KernelExec::new(Bash), "sleep 601 & echo $! $$; wait").await.unwrap();
    let Some(KernelSent::Output(_, said)) = running.next().await.unwrap() else { panic!("it says its pids") };
    let waiting = channel.exec_in_kernel(KernelExec::new(Bash), "echo never").await.unwrap();
    channel.ping().await.unwrap();
    channel.stop_kernel("bash").await.unwrap();
    assert_eq!(fault(waiting.next().await.unwrap_err()), (ErrorCode::UnknownName, Retry::NeverStarted));
    for pid in String::from_utf8_lossy(&said).split_whitespace() {
        assert!(!is_alive(pid.parse().unwrap()), "{pid} is left");
    }
    assert!(channel.kernels().await.unwrap().is_empty());
}

#[tokio::test]
async fn b26_code_that_is_empty_too_long_or_with_nul_is_refused_before_anything_runs() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    for (code, expected) in [
        ("".to_owned(), ErrorCode::InvalidField),
        (" \n\t\n".to_owned(), ErrorCode::InvalidField),
        ("\u{feff}".to_owned(), ErrorCode::InvalidField),
        ("echo a\0b".to_owned(), ErrorCode::InvalidField),
        ("#".repeat(limits::CODE + 1), ErrorCode::TooLarge),
    ] {
        // The host refuses it, and so does an agent that is sent it all the same, by either way.
        let refused = channel.exec_in_kernel(KernelExec::new(Bash), &code).await.map(drop).unwrap_err();
        assert_eq!(fault(refused), (expected, Retry::NeverStarted));
        assert_eq!(sent_anyway(&channel, code).await, (expected, Retry::NeverStarted));
    }
    assert!(channel.kernels().await.unwrap().is_empty(), "no kernel was started for it");
    let longest = format!("\u{feff}echo ran #{}", "x".repeat(limits::CODE - 13));
    assert_eq!(longest.len(), limits::CODE);
    assert_eq!(print(&channel, Bash, &longest).await, "ran\n");
}

async fn sent_anyway(channel: &hearth_channel::Channel, code: String) -> (ErrorCode, Retry) {
    use hearth_protocol::RequestBody;
    use hearth_protocol::kernel::KernelRequest;
    let exec = RequestBody::Kernel(KernelRequest::Exec(KernelExec::new(Bash)));
    let operation = channel.operate(exec).await.unwrap();
    if let Some(mut upload) = operation.upload() {
        // One that is refused half-way takes no more.
        let _ = upload.write(code.into()).await.map(|()| upload.finish());
    }
    fault(tokio::time::timeout(HANG, operation.finish()).await.unwrap().unwrap_err())
}

#[tokio::test]
async fn an_interpreter_that_is_not_there_is_told_apart() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let mut start = KernelStart::new(Python);
    start.env.insert("PATH".into(), "/nowhere".into());
    assert_eq!(
        fault(channel.start_kernel(start.clone()).await.unwrap_err()),
        (ErrorCode::Unavailable, Retry::NeverStarted)
    );
    // One that cannot run says what it said.
    let directory = agent.workspace().join("bin");
    std::fs::create_dir(&directory).unwrap();
    let program = directory.join("python3");
    std::fs::write(&program, "#!/bin/sh\necho no library >&2\nexit 3\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    start.env.insert("PATH".into(), directory.to_str().unwrap().into());
    let error = channel.start_kernel(start).await.unwrap_err();
    let ChannelError::Fault { source } = &error else { panic!("{error}") };
    assert!(source.message.contains("no library"), "{source}");
    assert_eq!(fault(error).0, ErrorCode::Unavailable);
    assert!(channel.kernels().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_background_work_says_between_two_execs_is_not_lost() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let code = "mkfifo go; { read line < go; echo late; echo done > went; } & echo now";
    assert_eq!(print(&channel, Bash, code).await, "now\n");
    std::fs::write(agent.workspace().join("go"), "\n").unwrap();
    while !agent.workspace().join("went").exists() {
        channel.ping().await.unwrap();
    }
    assert_eq!(print(&channel, Bash, "echo next").await, "late\nnext\n");
}

#[tokio::test]
async fn b43_secrets_are_given_by_name_and_show_nowhere() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let secret = Secret { name: "token".into(), value: "hunter\"2 3".into(), file: false };
    channel.set_secrets(vec![secret]).await.unwrap();
    let with_secret = |language| KernelExec {
        secrets: [("TOKEN".to_owned(), "token".to_owned())].into(),
        ..KernelExec::new(language)
    };
    let done = exec(&channel, with_secret(Bash), "echo \"<$TOKEN>\"; echo ${#TOKEN}").await.unwrap();
    assert!(!done.out().contains("hunter") && done.out().ends_with("\n10\n"), "{done:?}");
    assert_eq!(print(&channel, Bash, "echo ${TOKEN-none}").await, "none\n");
    let mut unknown = with_secret(Bash);
    unknown.secrets.insert("OTHER".into(), "nothing".into());
    assert_eq!(
        fault(exec(&channel, unknown, "echo never").await.unwrap_err()),
        (ErrorCode::UnknownName, Retry::NeverStarted)
    );
    if is_here(Python) {
        for code in [
            "import os\nprint(os.environ['TOKEN'])\nos.environ['TOKEN']",
            "raise ValueError(os.environ['TOKEN'])",
            "class J:\n  def _repr_json_(self): return {os.environ['TOKEN']: [os.environ['TOKEN']]}\nJ()",
        ] {
            let done = exec(&channel, with_secret(Python), code).await.unwrap();
            assert!(!format!("{done:?}").contains("hunter") && !done.out().contains("hunter"), "{done:?}");
        }
        assert_eq!(run(&channel, Python, "os.environ.get('TOKEN')").await.value(), None);
    }
}

#[tokio::test]
async fn kernels_serve_a_user_who_is_not_the_agents() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let agent = Agent::start_with(&["--user", "nobody", "--home", home.path().to_str().unwrap()]);
    // The workspace is the test's own.
    std::fs::set_permissions(agent.workspace(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let channel = agent.connect().await;
    run(&channel, Bash, "x=1; exit 3").await;
    assert_eq!(print(&channel, Bash, "echo $x $(id -un)").await, "1 nobody\n");
    run(&channel, Bash, "trap : EXIT; x=2; exit 3").await;
    assert_eq!(print(&channel, Bash, "echo $x").await, "1\n");
    if is_here(Python) {
        let done = run(&channel, Python, "import getpass; getpass.getuser()").await;
        assert_eq!(done.value().unwrap(), "'nobody'");
    }
    if is_here(super::Javascript) {
        let done = run(&channel, super::Javascript, "require('os').userInfo().username").await;
        assert_eq!(done.value().unwrap(), "'nobody'");
    }
}

#[tokio::test]
async fn a_kernel_waits_between_codes_unless_one_has_left_something_at_work() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let waits = async || channel.list().await.unwrap().last().unwrap().waiting;
    let languages = [
        (Bash, "sleep 1h & child=$!", "kill $child; wait"),
        (Python, "import subprocess; child = subprocess.Popen(['sleep', '1h'])", "child.kill(); child.wait()"),
        (Python, "import threading as t; e = t.Event(); w = t.Thread(target=e.wait); w.start()", "e.set(); w.join()"),
    ];
    for (language, leave, end) in languages {
        if !is_here(language) {
            continue;
        }
        let run =
            async |code: &str| assert_eq!(exec(&channel, KernelExec::new(language), code).await.unwrap().code(), 0);
        run(if language == Bash { ":" } else { "1" }).await;
        while !waits().await {}
        run(leave).await;
        // What is left at work can be taken for the subshell in which bash waits, as long as that has not begun.
        while waits().await {}
        run(end).await;
        while !waits().await {}
        channel.stop_kernel(language.name()).await.unwrap();
    }
}

#[tokio::test]
async fn an_interpreter_ends_with_an_agent_that_was_killed() {
    for language in [Bash, Javascript, Python] {
        if !is_here(language) {
            continue;
        }
        let agent = Agent::start();
        let channel = agent.connect().await;
        exec(&channel, KernelExec::new(language), if language == Bash { ":" } else { "1" }).await.unwrap();
        let interpreter = channel.list().await.unwrap()[0].pid;
        let pid = rustix::process::Pid::from_raw(agent.pid() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        while is_alive(interpreter) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

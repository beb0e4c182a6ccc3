//! The first program of an agent that was settled, whose child was made before.

use std::path::Path;

use hearth_channel::Channel;
use hearth_protocol::kernel::{KernelExec, KernelLanguage};
use hearth_protocol::{Command, ErrorCode, PtySize, ResourceLimits, Start};

use crate::kernels::exec;
use crate::support::{Agent, HANG, fault, finish, is_alive, number, run, shell};

/// All that a program can see of how it was started, but for its numbers.
const LOOK: &str = "id; pwd; env | sort; umask; ulimit -a; grep -E '^(Sig|Shd|NoNewPrivs|Seccomp)' /proc/self/status; \
    for fd in /proc/self/fd/*; do [ $fd = /proc/self/fd/255 ] || readlink $fd | tr -d 0-9; done; cat; ps -o tpgid=,tty= -p $$; \
    [ $(ps -o sid= -p $$) = $$ ] && echo leads";

async fn settled(agent: &Agent) -> Channel {
    let channel = agent.connect().await;
    channel.settle().await.unwrap();
    channel
}

/// The children of the agent that run no program of their own.
fn waiting(agent: &Agent) -> Vec<u32> {
    let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", agent.pid())).unwrap();
    let children = children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap());
    children.filter(|&pid| is_alive(pid) && of(pid) == of(agent.pid())).collect()
}

async fn until_none_waits(agent: &Agent) {
    let gone = async {
        while !waiting(agent).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(HANG, gone).await.expect("it ends");
}

#[tokio::test]
async fn the_first_program_of_a_settled_agent_sees_what_every_other_sees() {
    for stdin in [false, true] {
        let agent = Agent::start();
        let channel = settled(&agent).await;
        let parked = waiting(&agent);
        assert_eq!(parked.len(), 1, "a child waits");
        let open = std::fs::read_dir(format!("/proc/{}/fd", parked[0])).unwrap().count();
        assert_eq!(open, 6, "three of its own, its two ends, and what may become its input");
        let mut seen = Vec::new();
        for _ in 0..2 {
            let mut start = Start { stdin, ..shell(&format!("echo $$; {LOOK}")) };
            start.env.insert("GIVEN".to_owned(), "a value".into());
            let process = channel.start(start).await.unwrap();
            if stdin {
                let mut input = process.stdin().unwrap();
                input.write("typed\n".into()).await.unwrap();
                input.close();
            }
            let outcome = finish(&process).await;
            assert!(outcome.stderr.is_empty(), "{}", String::from_utf8_lossy(&outcome.stderr));
            let text = String::from_utf8(outcome.stdout).unwrap();
            let (pid, rest) = text.split_once('\n').unwrap();
            seen.push((pid.parse::<u32>().unwrap(), rest.to_owned(), outcome.status.unwrap().code));
        }
        assert_eq!(seen[0].0, parked[0], "the child has become the program");
        assert_ne!(seen[1].0, parked[0]);
        assert_eq!((&seen[0].1, seen[0].2), (&seen[1].1, seen[1].2));
        assert!(seen[0].1.contains("GIVEN=a value") && seen[0].1.ends_with("leads\n"), "{}", seen[0].1);
        assert_eq!(seen[0].1.contains("typed"), stdin);
        assert!(waiting(&agent).is_empty());
    }
}

#[tokio::test]
async fn what_asks_for_something_special_is_started_anew_and_the_child_that_waited_ends() {
    let plain = || shell("echo $$");
    let size = PtySize { columns: 80, rows: 24 };
    let elsewhere = Start { cwd: Some("/".into()), ..plain() };
    let at_a_terminal = Start { pty: Some(size), ..plain() };
    let as_root = Start { user: Some("root".into()), ..plain() };
    for (what, start) in [("cwd", elsewhere), ("pty", at_a_terminal), ("user", as_root)] {
        let agent = Agent::start();
        let channel = settled(&agent).await;
        let parked = waiting(&agent)[0];
        // A user that this agent may not become is refused, and nothing has begun then.
        let Ok(process) = channel.start(start).await else { continue };
        let outcome = finish(&process).await;
        assert_ne!(number(&outcome.stdout), parked, "{what}");
        until_none_waits(&agent).await;
        assert_eq!(run(&channel, "echo next").await.stdout, b"next\n");
    }
}

#[tokio::test]
async fn a_limit_is_none_of_the_childs_that_waits() {
    let agent = Agent::start();
    let channel = settled(&agent).await;
    let parked = waiting(&agent)[0];
    let limits = ResourceLimits { pids: Some(50), ..ResourceLimits::default() };
    match channel.start(Start { limits, ..shell("echo $$") }).await {
        Ok(process) => assert_ne!(number(&finish(&process).await.stdout), parked),
        Err(error) => assert_eq!(fault(&error).0, ErrorCode::Unavailable),
    }
    until_none_waits(&agent).await;
}

#[tokio::test]
async fn a_first_program_that_cannot_begin_says_why_and_the_next_does() {
    let agent = Agent::start();
    let channel = settled(&agent).await;
    let nothing = Start::new(Command::Argv(vec!["no-such-program".into()]));
    let error = channel.start(nothing).await.map(drop).unwrap_err();
    assert_eq!(fault(&error).0, ErrorCode::CommandNotFound);
    assert!(waiting(&agent).is_empty());
    assert_eq!(run(&channel, "echo next").await.stdout, b"next\n");
}

#[tokio::test]
async fn a_directory_that_is_another_by_then_is_the_one_that_a_program_starts_in() {
    let home = tempfile::tempdir().unwrap();
    let workspace = home.path().join("workspace");
    std::fs::create_dir(&workspace).unwrap();
    let agent = Agent::start_with(&["--workspace", workspace.to_str().unwrap()]);
    let channel = settled(&agent).await;
    std::fs::rename(&workspace, home.path().join("before")).unwrap();
    std::fs::create_dir(&workspace).unwrap();
    assert_eq!(run(&channel, "touch here; pwd -P").await.code(), Some(0));
    assert!(workspace.join("here").exists() && !home.path().join("before/here").exists());
    until_none_waits(&agent).await;
}

#[tokio::test]
async fn a_child_that_was_killed_while_it_waited_is_missed_by_nobody() {
    let agent = Agent::start();
    let channel = settled(&agent).await;
    let pid = rustix::process::Pid::from_raw(waiting(&agent)[0] as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until_none_waits(&agent).await;
    assert_eq!(run(&channel, "echo here").await.stdout, b"here\n");
}

#[tokio::test]
async fn an_agent_that_ends_leaves_no_child_that_waits() {
    let agent = Agent::start();
    let channel = settled(&agent).await;
    channel.settle().await.unwrap();
    let parked = waiting(&agent);
    assert_eq!(parked.len(), 1, "a second settling makes no other");
    drop(channel);
    assert!(agent.stop());
    assert!(!Path::new(&format!("/proc/{}/exe", parked[0])).exists() || !is_alive(parked[0]));
}

#[tokio::test]
async fn code_of_an_interpreter_that_waited_keeps_no_program_from_starting() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.warm_kernel().await.unwrap();
    channel.settle().await.unwrap();
    let parked = waiting(&agent)[0];
    let stop = format!("import os, signal; os.kill({parked}, signal.SIGSTOP)");
    exec(&channel, KernelExec::new(KernelLanguage::Python), &stop).await.unwrap();
    let kernels = channel.kernels().await.unwrap();
    assert!(kernels.iter().all(|kernel| kernel.warmed), "its interpreter was another: {kernels:?}");
    assert_eq!(run(&channel, "echo here").await.stdout, b"here\n");
    until_none_waits(&agent).await;
}

#[tokio::test]
async fn a_child_that_nobody_may_use_any_more_ends_by_itself() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.warm_kernel().await.unwrap();
    channel.settle().await.unwrap();
    exec(&channel, KernelExec::new(KernelLanguage::Python), "1").await.unwrap();
    until_none_waits(&agent).await;
}

//! Processes and shells in a machine.

use std::time::Duration;

use hearth_engine::protocol::shell::{Idle, IdleReason, OpenShell, ReadPlain, ShellName, WaitIdle};
use hearth_engine::protocol::{Command, ResourceLimits, Signal, SignalScope, Start};

use crate::support::Guest;

#[tokio::test]
async fn b17_a_tree_beyond_its_memory_is_killed_alone_and_says_so() {
    let Some(guest) = Guest::boot().await else { return };
    let bystander = guest.channel().start(Start::new(Command::Shell("sleep 300".into()))).await.unwrap();
    // A background child of the same tree goes, too; what is outside of it stays.
    let text = "sleep 300 & echo $!; tail /dev/zero";
    let limits = ResourceLimits { memory_bytes: Some(48 << 20), ..ResourceLimits::default() };
    let outcome = guest.start(Start { limits, ..Start::new(Command::Shell(text.into())) }).await;
    assert!(outcome.status.out_of_memory && outcome.status.signal == Some(9), "{outcome:?}");
    let child = String::from_utf8_lossy(&outcome.stdout).trim().to_owned();
    let left = guest.run(&format!("kill -0 {child} || kill -0 {} && echo alone", bystander.pid())).await;
    assert_eq!(left.stdout, b"alone\n", "{left:?}");
    guest.remove().await;
}

#[tokio::test]
async fn the_peak_of_memory_is_that_of_one_tree_alone() {
    let Some(guest) = Guest::boot().await else { return };
    // More starts than there are groups kept ready, so that some are used again.
    for _ in 0..8 {
        // What waits in memory to be written, and the file, which is in memory, too.
        let write = "head -c 40000000 /dev/zero | tail -c 32000000 > large; rm large";
        let large = guest.run(write).await.status.peak_memory_bytes;
        assert!(large.is_some_and(|bytes| (50_000_000..150_000_000).contains(&bytes)), "{large:?}");
        let small = guest.run("true").await.status.peak_memory_bytes;
        assert!(small.is_some_and(|bytes| (1..4_000_000).contains(&bytes)), "{small:?}");
    }
    guest.remove().await;
}

#[tokio::test]
async fn processes_and_processor_time_are_limited() {
    let Some(guest) = Guest::boot().await else { return };
    let limits = ResourceLimits { pids: Some(5), ..ResourceLimits::default() };
    let text = "for i in 1 2 3 4 5 6 7 8 9; do sleep 300 & done; echo all";
    let outcome = guest.start(Start { limits, ..Start::new(Command::Shell(text.into())) }).await;
    assert!(!outcome.stderr.is_empty() && outcome.stdout != b"all\n", "{outcome:?}");
    let limits = ResourceLimits { cpu_percent: Some(20), ..ResourceLimits::default() };
    let busy = Start { limits, timeout_ms: Some(2000), ..Start::new(Command::Shell("while :; do :; done".into())) };
    let status = guest.start(busy).await.status;
    assert!(status.timed_out && status.cpu_us < 1_000_000, "{status:?}");
    // The limits went with their trees.
    assert_eq!(guest.run("for i in 1 2 3 4 5 6 7 8 9; do sleep 0 & done; wait; echo all").await.stdout, b"all\n");
    guest.remove().await;
}

#[tokio::test]
async fn b13_b14_a_shell_is_typed_at_read_as_text_and_interrupted() {
    let Some(guest) = Guest::boot().await else { return };
    let channel = guest.channel();
    let name = ShellName::new("main").unwrap();
    let prompt = WaitIdle { quiet_ms: 200, ..WaitIdle::new(name.clone(), Idle::Prompt) };
    channel.open_shell(OpenShell::new(name.clone())).await.unwrap();
    assert_eq!(channel.wait_shell(prompt.clone()).await.unwrap().reason, IdleReason::Idle);
    let wait = Duration::from_secs(5);
    channel
        .write_shell(name.clone(), "stty size; sh -c 'echo running; exec sleep 100'".into(), true, wait)
        .await
        .unwrap();
    let mut since = 0;
    let mut said = String::new();
    while !said.contains("\nrunning\n") {
        let read = ReadPlain { since, wait_ms: 30_000, ..ReadPlain::new(name.clone()) };
        let (plain, text) = channel.read_shell_plain(read).await.unwrap();
        assert!(!plain.ended, "{said}{text}");
        (since, said) = (plain.next, format!("{said}{text}\n"));
    }
    assert!(said.contains("\n30 120\n"), "{said}");
    channel.signal_shell(name.clone(), Signal::Int, SignalScope::Foreground).await.unwrap();
    let end = channel.wait_shell(prompt).await.unwrap();
    assert_eq!((end.reason, end.job), (IdleReason::Idle, false));
    let status = channel.close_shell(name, wait).await.unwrap();
    assert!(status.code.is_some() || status.signal.is_some());
    guest.remove().await;
}

#[tokio::test]
async fn a_guest_has_room_for_many_descriptors_and_programs_the_usual_limit() {
    let Some(guest) = Guest::boot().await else { return };
    let limits = guest.run("ulimit -Sn; ulimit -Hn").await;
    assert_eq!(String::from_utf8_lossy(&limits.stdout), "1024\n524288\n");
    guest.remove().await;
}

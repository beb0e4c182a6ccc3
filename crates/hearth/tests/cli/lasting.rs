//! Sandboxes that are paused, go on, and are copied.

use std::time::{Duration, Instant};

use hearth_client::Client;
use hearth_client::api::{ForkSandbox, Idle, IdleAction, SandboxState};
use rustix::process::Signal;
use serde_json::Value;

use crate::held::Daemon;
use crate::support::{HANG, Running, assert_code, said, text};

/// What reads the file finds a whole number.
const COUNTER: &str = "i=0; while :; do i=$((i + 1)); echo $i > next; mv next count; sleep 0.05; done";

#[test]
fn a_paused_sandbox_goes_on_where_it_was_and_the_next_request_wakes_it() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a", "--disk", "64M"]);
    home.ok(&["exec", "-d", "a", "sh", "-c", COUNTER]);
    home.ok(&["exec", "a", "sh", "-c", "until [ -s count ]; do sleep 0.05; done; echo kept > note; sync"]);
    for round in 0..3 {
        let paused = home.json(&["pause", "--json", "a"]);
        assert_eq!(paused["sandboxes"][0]["state"], "paused", "{paused}");
        assert!(paused["sandboxes"][0]["saved_bytes"].as_u64() > Some(100_000), "{paused}");
        let usage: Value = home.json(&["ls", "--json"]);
        assert_eq!(usage[0]["state"], "paused");
        let again = home.0.hearth(&["pause", "--json", "a"]);
        assert_code(&again, 125);
        let error: Value = serde_json::from_slice(&again.stdout).unwrap();
        assert_eq!(error["error"]["code"], "wrong_state", "{}", said(&again));
        match round {
            0 => assert_eq!(home.ok(&["resume", "a"]), "a"),
            _ => assert_eq!(home.ok(&["exec", "a", "cat", "note"]), "kept", "a request wakes it"),
        }
        let moves = "before=$(cat count); until [ \"$(cat count)\" -gt \"$before\" ]; do sleep 0.05; done";
        home.ok(&["exec", "a", "sh", "-c", moves]);
    }
    let running = home.0.hearth(&["resume", "a"]);
    assert_code(&running, 125);
    assert!(text(&running.stderr).contains("it is running"), "{}", said(&running));
    home.ok(&["pause", "a"]);
    home.ok(&["rm", "a"]);
    home.0.assert_nothing_left();
}

#[test]
fn whoever_held_a_program_is_told_of_the_pause_and_finds_it_again() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let script = "echo ready; until [ -e go ]; do sleep 0.05; done; echo went";
    let mut holding = Running::start(&mut home.0.command(&["exec", "a", "sh", "-c", script]));
    holding.read_until("ready\n");
    home.ok(&["pause", "a"]);
    assert_code(&holding.finish(), 125);
    let client = Client::new(home.0.path().join("hearth.sock"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    home.ok(&["exec", "a", "touch", "go"]);
    let list = runtime.block_on(client.processes("a")).unwrap();
    let process = list.processes.iter().find(|process| process.output.stdout > 0).unwrap().process.0;
    let output = runtime.block_on(async {
        let mut held = client.attach("a", &process.to_string(), &Default::default()).await.unwrap();
        let mut text = Vec::new();
        loop {
            match held.next().await.unwrap() {
                hearth_client::HeldEvent::Output(_, bytes) => text.extend_from_slice(&bytes),
                hearth_client::HeldEvent::Dropped(..) => panic!("nothing was dropped"),
                hearth_client::HeldEvent::Exit(status, _) => return (text, status.shell_code()),
            }
        }
    });
    assert_eq!((text(&output.0).as_str(), output.1), ("ready\nwent\n", 0), "all of it, from the first byte");
}

#[test]
fn b52_copies_go_on_from_one_moment_each_as_itself() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a", "--label", "team=x"]);
    home.ok(&["exec", "-d", "a", "sh", "-c", COUNTER]);
    home.ok(&["exec", "a", "sh", "-c", "until [ -s count ]; do sleep 0.05; done; echo before > note"]);
    let forked = home.json(&["fork", "a", "-n", "2", "--name", "b", "--json"]);
    let copies = forked["sandboxes"].as_array().unwrap();
    assert_eq!((&copies[0]["name"], &copies[1]["name"]), (&"b-1".into(), &"b-2".into()), "{forked}");
    assert_eq!((&copies[0]["labels"]["team"], &copies[0]["state"]), (&"x".into(), &"running".into()));
    assert!(forked["stopped_us"].as_u64() > Some(0) && forked["changed_bytes"].as_u64() > Some(0), "{forked}");
    home.ok(&["exec", "a", "sh", "-c", "echo after > note"]);
    let say = "cat note; hostname; head -c 8 /dev/urandom | od -An -tx8; cat /etc/machine-id";
    let [first, second] = ["b-1", "b-2"].map(|name| home.ok(&["exec", name, "sh", "-c", say]));
    assert!(first.starts_with("before\nsb-") && second.starts_with("before\nsb-"), "{first} {second}");
    assert!(first.lines().zip(second.lines()).skip(1).all(|(one, other)| one != other), "{first} {second}");
    for name in ["a", "b-1", "b-2"] {
        let moves = "before=$(cat count); until [ \"$(cat count)\" -gt \"$before\" ]; do sleep 0.05; done";
        home.ok(&["exec", name, "sh", "-c", moves]);
    }
    // Of a paused one, and of a copy.
    home.ok(&["pause", "b-1"]);
    let again = home.ok(&["fork", "b-1", "--name", "c"]);
    assert_eq!(home.ok(&["exec", &again, "cat", "note"]), "before");
    let taken = home.0.hearth(&["fork", "a", "-n", "2", "--name", "b"]);
    assert_code(&taken, 125);
    assert!(text(&taken.stderr).contains("b-1"), "{}", said(&taken));
    assert_code(&home.0.hearth(&["fork", "a", "-n", "0"]), 125);
    home.ok(&["rm", "a"]);
    assert_eq!(home.ok(&["exec", "b-2", "cat", "note"]), "before", "copies outlive their source");
    home.ok(&["rm", "-a"]);
    home.0.assert_nothing_left();
}

#[test]
fn a_fork_that_nobody_waits_for_any_more_leaves_no_copy() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let forking = Running::start(&mut home.0.command(&["fork", "a", "-n", "3", "--name", "b"]));
    home.wait_for_event(&["b-3", "creating"]);
    forking.signal(Signal::KILL);
    forking.finish();
    for name in ["b-1", "b-2", "b-3"] {
        home.wait_for_event(&[name, "removed (whoever it was for is gone)"]);
    }
    assert_eq!(home.ok(&["exec", "a", "echo", "here"]), "here");
    home.ok(&["rm", "a"]);
    home.0.assert_nothing_left();
}

#[test]
fn a_sandbox_is_paused_or_removed_when_nobody_uses_it_and_nothing_runs() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a", "--idle", "pause:1s"]);
    home.wait_for_event(&["a", "paused (nobody used it)"]);
    // A request that goes on keeps it awake.
    assert_eq!(home.ok(&["exec", "a", "sh", "-c", "sleep 2; echo done"]), "done");
    // Neither does a kernel without code; what a program has left behind does.
    assert_eq!(home.ok(&["kernel", "run", "a", "1+1"]), "2");
    home.ok(&["exec", "a", "sh", "-c", "(sleep 2; date +%s%3N > ended) > /dev/null 2>&1 &"]);
    assert!(home.ok(&["ps", "a"]).contains("exited 0, left 2 running"));
    let client = Client::new(home.0.path().join("hearth.sock"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begun = Instant::now();
    while runtime.block_on(client.inspect("a")).unwrap().state != SandboxState::Paused {
        assert!(begun.elapsed() < HANG, "it is never paused");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!home.ok(&["exec", "a", "cat", "ended"]).is_empty(), "it was paused only when the program had ended");
    let request = ForkSandbox {
        name: Some("b".into()),
        idle: Some(Idle { action: IdleAction::Remove, after_seconds: 1 }),
        ..ForkSandbox::default()
    };
    runtime.block_on(client.fork("a", &request)).unwrap();
    home.wait_for_event(&["b", "removed (nobody used it)"]);
    home.ok(&["update", "a", "--idle", "none"]);
    assert_eq!(home.json(&["inspect", "a"])["idle"], Value::Null);
}

#[test]
fn a_snapshot_is_taken_started_from_carried_to_a_file_and_removed() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    home.ok(&["exec", "a", "sh", "-c", "echo saved > note"]);
    let saved = home.json(&["snapshot", "create", "a", "base", "--json"]);
    assert!(saved["bytes"].as_u64() > Some(100_000) && saved["stopped_us"].as_u64() > Some(0), "{saved}");
    home.ok(&["exec", "a", "sh", "-c", "echo later > note"]);
    let refused = |arguments: &[&str], code: i32, words: &str| {
        let output = home.0.hearth(arguments);
        assert_code(&output, code);
        assert!(text(&output.stderr).contains(words), "{arguments:?}: {}", said(&output));
    };
    refused(&["snapshot", "create", "a", "base"], 125, "already");
    refused(&["create", "--snapshot", "none"], 125, "no snapshot");
    refused(&["create", "--snapshot", "base", "--memory", "1G"], 125, "cannot be used with");
    home.ok(&["create", "--name", "b", "--snapshot", "base", "-e", "GIVEN=yes"]);
    assert_eq!(home.ok(&["exec", "b", "sh", "-c", "cat note; echo $GIVEN"]), "saved\nyes");
    let file = home.0.path().join("base.hearth");
    home.ok(&["snapshot", "export", "base", file.to_str().unwrap()]);
    home.ok(&["snapshot", "rm", "base"]);
    refused(&["snapshot", "rm", "base"], 125, "no snapshot");
    home.ok(&["snapshot", "import", file.to_str().unwrap(), "again"]);
    assert_eq!(home.json(&["snapshot", "ls", "--json"])[0]["name"], "again");
    home.ok(&["create", "--name", "c", "--snapshot", "again"]);
    assert_eq!(home.ok(&["exec", "c", "cat", "note"]), "saved");
    home.ok(&["rm", "a", "b", "c"]);
    home.0.assert_nothing_left();
}

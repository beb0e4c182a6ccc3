//! Sandboxes that are stopped, and started again on their disks.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

use hearth_client::api::SandboxState;
use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::held::Daemon;
use crate::support::{HANG, Running, assert_code, said, text, wait_until_gone};

/// Asks for something that is refused, in words that say these.
#[track_caller]
fn refused(home: &Daemon, arguments: &[&str], words: &[&str]) {
    let output = home.0.hearth(arguments);
    assert_code(&output, 125);
    let told = text(&output.stderr);
    assert!(words.iter().all(|words| told.contains(words)), "{arguments:?}: {}", said(&output));
}

fn state(home: &Daemon, sandbox: &str) -> String {
    home.json(&["inspect", sandbox])["state"].as_str().unwrap().to_owned()
}

/// Waits until a sandbox is in a state that it comes to by itself.
fn await_state(home: &Daemon, sandbox: &str, wanted: &str) {
    let begun = Instant::now();
    while state(home, sandbox) != wanted {
        assert!(begun.elapsed() < HANG, "{sandbox} is {}", state(home, sandbox));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_was_written_before_a_stop_is_there_after_a_start() {
    let Some(home) = Daemon::with_images() else { return };
    let arguments = ["create", "--name", "a", "--disk", "64M", "--label", "team=x", "--ttl", "1h", "-e", "GIVEN=yes"];
    let more = ["--secret", "TOKEN", "--publish", "0:8000"];
    let mut command = home.0.command(&[&arguments[..], &more].concat());
    assert_code(&Running::start(command.env("TOKEN", "s3cret-0123456789")).finish(), 0);
    let (before, ports) = (home.json(&["inspect", "a"]), home.ok(&["ports", "a"]));
    home.ok(&["exec", "a", "sh", "-c", "echo first > note"]);
    home.ok(&["checkpoint", "create", "a", "point"]);
    // Written last, and flushed by nobody but the stop.
    home.ok(&["exec", "a", "sh", "-c", "echo second > note; head -c 3000000 /dev/urandom > /tmp/large"]);
    let identity = "hostname; cat /etc/machine-id; cat note; sha256sum /tmp/large; echo $GIVEN";
    let known = home.ok(&["exec", "a", "sh", "-c", identity]);
    let stopped = home.json(&["stop", "--json", "a"])["sandboxes"][0].clone();
    assert_eq!(stopped["state"], "stopped", "{stopped}");
    assert!(stopped["unclean"].is_null() && stopped["lost_secrets"] == json!(["TOKEN"]), "{stopped}");
    assert!(home.0.noted_machines().is_empty(), "it has no machine");
    assert!(home.ok(&["ls"]).contains("stopped"));
    refused(&home, &["exec", "a", "true"], &["it is stopped", "hearth start"]);
    refused(&home, &["fork", "a"], &["it is stopped"]);
    refused(&home, &["snapshot", "create", "a", "s"], &["it is stopped"]);
    refused(&home, &["pause", "a"], &["it is stopped"]);
    refused(&home, &["stop", "a"], &["it is stopped"]);
    home.ok(&["update", "a", "--name", "b", "--ttl", "2h"]);
    home.end(Signal::KILL);
    // For the next daemon as well.
    await_state(&home, "b", "stopped");
    home.ok(&["start", "b"]);
    let after = home.json(&["inspect", "b"]);
    for field in ["id", "labels", "created_unix_ms", "image", "cpus", "memory_mib", "disk_mib"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert!(after["expires_unix_ms"].as_u64() > before["expires_unix_ms"].as_u64(), "{after}");
    assert_eq!(home.ok(&["ports", "b"]), ports);
    assert_eq!(home.ok(&["exec", "b", "sh", "-c", identity]), known);
    let diff = home.ok(&["diff", "b", "--since", "point"]);
    assert!(diff.contains("-first\n+second"), "{diff}");
    let kernel = home.ok(&["exec", "-u", "root", "b", "dmesg"]);
    assert!(kernel.contains("EXT4-fs") && !kernel.contains("recovery"), "its disk was left clean: {kernel}");
    assert_eq!(home.ok(&["exec", "b", "sh", "-c", "[ -e \"$HEARTH_SECRETS/TOKEN\" ] || echo none"]), "none");
    refused(&home, &["start", "b"], &["it is running"]);
    // It was booted, and is forked, saved and paused like any other.
    home.ok(&["exec", "b", "sh", "-c", "echo memory > /dev/shm/note"]);
    home.ok(&["fork", "b", "--name", "copy"]);
    home.ok(&["snapshot", "create", "b", "point"]);
    let files = fs::read_dir(home.0.path().join("snapshots/point")).unwrap().flatten();
    let taken: u64 = files.map(|file| file.metadata().unwrap().blocks() * 512).sum();
    let said = home.json(&["snapshot", "inspect", "point"])["bytes"].as_u64().unwrap();
    assert!(said <= taken && said > taken / 2, "it takes {taken} bytes, without holes, and {said} are said");
    home.ok(&["pause", "b"]);
    home.end(Signal::KILL);
    home.ok(&["create", "--snapshot", "point", "--name", "later"]);
    for one in ["b", "copy", "later"] {
        assert_eq!(home.ok(&["exec", one, "sh", "-c", "cat /dev/shm/note note"]), "memory\nsecond");
    }
    home.ok(&["rm", "copy", "later"]);
    home.ok(&["snapshot", "rm", "point"]);
    home.ok(&["stop", "b"]);
    let mut command = home.0.command(&["start", "b", "--secret", "TOKEN"]);
    assert_code(&Running::start(command.env("TOKEN", "another")).finish(), 0);
    assert_eq!(home.ok(&["exec", "b", "sh", "-c", "wc -c < $HEARTH_SECRETS/TOKEN; cat note"]), "7\nsecond");
    home.ok(&["stop", "b"]);
    home.ok(&["rm", "b"]);
    home.0.assert_nothing_left();
}

#[test]
fn programs_are_asked_to_end_and_those_that_do_not_are_killed_when_the_time_is_over() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a", "--disk", "64M"]);
    let heeds = "trap 'echo heeded > ended; exit' TERM; touch heeds; while :; do sleep 0.05; done";
    let ignores = "trap '' TERM; touch ignores; while :; do sleep 0.05; done";
    home.ok(&["exec", "-d", "a", "sh", "-c", heeds]);
    home.ok(&["service", "start", "a", "web", "--publish", "0:8000", "--", "sh", "-c", "exec sleep 1000"]);
    let wait = "until [ -e heeds ]; do sleep 0.05; done";
    home.ok(&["exec", "a", "sh", "-c", wait]);
    let mut held = Running::start(&mut home.0.command(&["exec", "a", "sh", "-c", "echo here; exec sleep 1000"]));
    held.read_until("here\n");
    let begun = Instant::now();
    home.ok(&["stop", "a", "--timeout", "60"]);
    assert!(begun.elapsed() < Duration::from_secs(60), "it waits for nobody who has ended");
    assert_code(&held.finish(), 143);
    home.ok(&["start", "a"]);
    assert_eq!(home.ok(&["exec", "a", "cat", "ended"]), "heeded");
    assert_eq!(home.ok(&["service", "ls", "a", "--json"]), "[]");
    assert_eq!(home.ok(&["ports", "a", "--json"]), "[]", "a service's ports are closed with it");
    home.ok(&["exec", "-d", "a", "sh", "-c", ignores]);
    home.ok(&["exec", "a", "sh", "-c", "until [ -e ignores ]; do sleep 0.05; done"]);
    let begun = Instant::now();
    let stopped = home.json(&["stop", "--json", "-t", "1", "a"])["sandboxes"][0].clone();
    assert!(stopped["unclean"].is_null() && begun.elapsed() >= Duration::from_secs(1), "{stopped}");
    refused(&home, &["stop", "-t", "301", "a"], &["at most 300"]);
}

#[test]
fn one_without_a_disk_is_not_stopped_and_a_paused_one_has_to_go_on_first() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "memory"]);
    home.ok(&["create", "--name", "disk", "--disk", "64M"]);
    home.ok(&["exec", "memory", "sh", "-c", "echo kept > note"]);
    refused(&home, &["stop", "memory"], &["no disk", "hearth pause", "--disk"]);
    assert_eq!(home.ok(&["exec", "memory", "cat", "note"]), "kept", "nothing has changed");
    home.ok(&["pause", "disk"]);
    refused(&home, &["stop", "disk"], &["it is paused", "hearth resume"]);
    home.ok(&["resume", "disk"]);
    home.ok(&["stop", "disk"]);
    // All that can be is done.
    let both = home.0.hearth(&["start", "memory", "disk"]);
    assert_code(&both, 125);
    assert_eq!((text(&both.stdout).as_str(), state(&home, "disk").as_str()), ("disk\n", "running"));
}

#[test]
fn a_guest_that_does_not_end_is_ended_and_its_disk_is_used_again() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a", "--disk", "64M"]);
    home.ok(&["exec", "a", "sh", "-c", "echo kept > note; sync"]);
    // Its agent stands still for ever, by the hand of its root.
    let freeze = "mkdir /sys/fs/cgroup/still && echo 1 > /sys/fs/cgroup/still/cgroup.procs && echo 1 > /sys/fs/cgroup/still/cgroup.freeze";
    let mut freezing = Running::start(&mut home.0.command(&["exec", "-u", "root", "a", "sh", "-c", freeze]));
    // Until then it answers.
    while home.0.hearth(&["ps", "a"]).status.success() {}
    let stopped = home.json(&["stop", "--json", "-t", "1", "a"])["sandboxes"][0].clone();
    assert!(stopped["unclean"].as_str().is_some_and(|why| why.contains("could not be asked to end")), "{stopped}");
    let _ = freezing.child.kill();
    freezing.finish();
    home.ok(&["start", "a"]);
    assert_eq!(home.ok(&["exec", "a", "cat", "note"]), "kept");
    let kernel = home.ok(&["exec", "-u", "root", "a", "dmesg"]);
    assert!(kernel.contains("recovery complete"), "{kernel}");
}

#[test]
fn one_whose_machine_has_died_is_started_again_on_its_disk() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "disk", "--disk", "64M", "--publish", "0:8000"]);
    home.ok(&["create", "--name", "memory"]);
    let ports = home.ok(&["ports", "disk"]);
    home.ok(&["exec", "disk", "sh", "-c", "echo kept > note; sync"]);
    // It is the guest's own doing, then that of somebody on the host, with a daemon and without.
    let _ = home.0.hearth(&["exec", "-u", "root", "disk", "sh", "-c", "echo b > /proc/sysrq-trigger"]);
    await_state(&home, "disk", "failed");
    home.ok(&["start", "disk"]);
    for has_daemon in [true, false] {
        if !has_daemon {
            home.end(Signal::KILL);
        }
        for machine in home.0.noted_machines() {
            kill_process(machine, Signal::KILL).unwrap();
            wait_until_gone(machine);
        }
        await_state(&home, "disk", "failed");
        refused(&home, &["exec", "disk", "true"], &["hearth start"]);
        await_state(&home, "memory", "failed");
        refused(&home, &["start", "memory"], &["no disk"]);
        home.ok(&["start", "disk"]);
        assert_eq!(home.ok(&["exec", "disk", "cat", "note"]), "kept");
        assert_eq!(home.ok(&["ports", "disk"]), ports);
    }
}

#[test]
fn a_start_that_fails_leaves_it_stopped_and_says_why() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a", "--disk", "64M"]);
    home.ok(&["exec", "a", "sh", "-c", "echo kept > note"]);
    home.ok(&["stop", "a"]);
    let overlay = home.0.left()[0].join("disk.1");
    let file = fs::File::options().read(true).write(true).open(&overlay).unwrap();
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).unwrap();
    file.write_all_at(b"none", 0).unwrap();
    let failed = home.0.hearth(&["start", "a"]);
    assert_code(&failed, 125);
    let info = home.json(&["inspect", "a"]);
    assert_eq!(info["state"], "stopped", "{}", said(&failed));
    assert!(info["reason"].as_str().is_some_and(|why| why.starts_with("it could not be started")), "{info}");
    assert!(home.0.noted_machines().is_empty());
    file.write_all_at(&magic, 0).unwrap();
    home.ok(&["start", "a"]);
    assert_eq!(home.ok(&["exec", "a", "cat", "note"]), "kept");
    home.ok(&["rm", "a"]);
    home.0.assert_nothing_left();
}

#[test]
fn a_stop_goes_on_to_its_end_though_the_daemon_is_killed() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a", "--disk", "64M"]);
    let slow = "trap 'echo asked; sleep 2; echo kept > note; exit' TERM; echo ready; while :; do sleep 0.05; done";
    let mut asked = Running::start(&mut home.0.command(&["exec", "a", "sh", "-c", slow]));
    asked.read_until("ready\n");
    let stopping = Running::start(&mut home.0.command(&["stop", "a"]));
    asked.read_until("asked\n");
    home.end(Signal::KILL);
    assert_ne!(stopping.finish().status.code(), Some(0), "nobody has said that it is done");
    asked.finish();
    home.wait_for_event(&["a", "adopted"]);
    await_state(&home, "a", "stopped");
    home.ok(&["start", "a"]);
    assert_eq!(home.ok(&["exec", "a", "cat", "note"]), "kept");
}

#[tokio::test]
async fn a_stopped_sandbox_takes_no_memory_and_is_started_only_where_there_is_room() {
    let Some(daemon) = crate::pool::Daemon::with(&["--max-memory", "700M", "--queue-timeout", "1s"]) else { return };
    let health = async || daemon.client.health().await.map(|health| (health.sandboxes, health.memory_mib));
    let begun = Instant::now();
    while health().await.is_err() {
        assert!(begun.elapsed() < HANG, "it does not come up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let hearth = |arguments: &[&str]| daemon.home.hearth(arguments);
    let ok = |arguments: &[&str]| assert_code(&hearth(arguments), 0);
    ok(&["create", "--name", "a", "--disk", "64M"]);
    ok(&["stop", "a"]);
    assert_eq!(health().await.unwrap(), (1, 0));
    ok(&["create", "--name", "b"]);
    let refused = hearth(&["start", "a"]);
    assert_code(&refused, 125);
    assert!(text(&refused.stderr).contains("memory"), "{}", said(&refused));
    let info = daemon.client.inspect("a").await.unwrap();
    assert_eq!((info.state, health().await.unwrap()), (SandboxState::Stopped, (2, 512)));
    ok(&["rm", "b"]);
    ok(&["start", "a"]);
    assert_eq!(health().await.unwrap(), (1, 512));
    daemon.end();
}

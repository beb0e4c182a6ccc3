//! Sandboxes that stay: the daemon, and the commands that use it.

use std::fs::{self, File};
use std::io::Write;
use std::process::Stdio;
use std::time::Instant;

use hearth_client::Client;
use hearth_client::api::exec::CommandLine;
use hearth_client::api::{CreateSandbox, ExecRequest};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use serde_json::Value;

use crate::held::Daemon;
use crate::support::{HANG, Home, Running, assert_code, said, text, wait_until_gone};

#[test]
fn a_sandbox_lives_from_create_to_rm_and_several_commands_use_it() {
    let Some(home) = Daemon::with_images() else { return };
    let created = home.0.hearth(&["create", "--name", "web", "--label", "team=a", "--ttl", "1h"]);
    assert_code(&created, 0);
    assert!(text(&created.stderr).contains("started the daemon"), "{}", said(&created));
    let id = text(&created.stdout).trim_end().to_owned();

    let both = home.0.hearth(&["exec", "web", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_code(&both, 3);
    assert_eq!((text(&both.stdout), text(&both.stderr)), ("out\n".into(), "err\n".into()));
    assert_eq!(
        home.ok(&["exec", "-w", "/tmp", "-e", "A=b", "-u", "root", &id[3..9], "sh", "-c", "pwd; echo $A; id -u"]),
        "/tmp\nb\n0"
    );
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let echoed = home.0.hearth_with_input(&["exec", "-i", "web", "cat"], bytes.clone());
    assert!(echoed.stdout == bytes, "{} bytes came back", echoed.stdout.len());
    assert_eq!(home.ok(&["exec", "web", "cat"]), "", "without -i there is no input");
    assert_code(&home.0.hearth(&["exec", "web", "no-such-command"]), 127);
    assert_code(&home.0.hearth(&["exec", "--timeout", "300ms", "web", "sleep", "100"]), 124);
    let report = home.json(&["exec", "--json", "web", "--", "printf", "\\377"]);
    assert_eq!((&report["exit_code"], &report["stdout"]["data"]), (&0.into(), &"/w==".into()));

    assert_eq!(home.json(&["ls", "--label", "team=a", "--json"])[0]["id"], id.as_str());
    assert_eq!(home.ok(&["ls", "-q", "--state", "failed"]), "");
    let taken = home.0.hearth(&["create", "--name", "web", "--json"]);
    assert_code(&taken, 125);
    let error: Value = serde_json::from_slice(&taken.stdout).unwrap();
    assert_eq!((&error["error"]["code"], &error["error"]["field"]), (&"name_taken".into(), &"name".into()));
    home.ok(&["update", "web", "--name", "db", "--label", "x=y", "--remove-label", "team", "--ttl", "none"]);
    let info = home.json(&["inspect", "db"]);
    assert_eq!((&info["labels"], &info["expires_unix_ms"]), (&serde_json::json!({ "x": "y" }), &Value::Null));
    home.ok(&["exec", "-u", "root", "db", "sh", "-c", "echo told > /dev/kmsg"]);
    // The console is another way than the program's end.
    while !home.ok(&["logs", "db"]).contains("told") {}

    assert_eq!(home.ok(&["rm", "db"]), "db");
    assert_code(&home.0.hearth(&["inspect", "db"]), 125);
    let events = home.ok(&["events", "--after", "0", "--no-follow"]);
    let words: Vec<&str> = events.lines().filter_map(|line| line.split(' ').nth(3)).collect();
    assert_eq!(words, ["creating", "running", "changed", "removing", "removed"], "{events}");
    home.0.assert_nothing_left();
}

#[test]
fn b51_a_creation_that_nobody_waits_for_any_more_leaves_nothing() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["events", "--no-follow"]);
    // The first ends while the template is made, which goes on, since others may wait for it.
    for (name, signal) in [("first", Signal::KILL), ("polite", Signal::INT), ("killed", Signal::KILL)] {
        let creating = Running::start(&mut home.0.command(&["create", "--name", name]));
        home.wait_for_event(&[name, "creating"]);
        creating.signal(signal);
        creating.finish();
        home.wait_for_event(&[name, "removed (whoever it was for is gone)"]);
        if name == "first" {
            home.ok(&["create", "--name", "patient"]);
            home.ok(&["rm", "patient"]);
        }
    }
    home.0.assert_nothing_left();
}

#[test]
fn b05_a_client_that_vanishes_leaves_its_program_running_and_ctrl_c_ends_it() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let script = "echo ready; while [ ! -e go ]; do sleep 0.05; done; echo went > done";
    let mut vanishing = Running::start(&mut home.0.command(&["exec", "a", "sh", "-c", script]));
    vanishing.read_until("ready\n");
    vanishing.signal(Signal::KILL);
    vanishing.finish();
    home.ok(&["exec", "a", "sh", "-c", "touch go; while [ ! -s done ]; do sleep 0.05; done"]);
    // Signals get through although the program reads none of what waits for it.
    let script = "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done";
    let mut command = home.0.command(&["exec", "-i", "a", "sh", "-c", script]);
    let mut deaf = Running::start(command.stdin(Stdio::piped()));
    let mut stdin = deaf.child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&vec![b'x'; 8 << 20]));
    deaf.read_until("ready\n");
    deaf.signal(Signal::INT);
    assert_code(&deaf.finish(), 9);
    assert!(writer.join().unwrap().is_err(), "the end of the program is the end of its input");
}

#[test]
fn a_machine_that_dies_is_told_and_kept_until_it_is_removed() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let running = home.0.hearth(&["exec", "-u", "root", "a", "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 100"]);
    assert_code(&running, 125);
    home.wait_for_event(&["a", "failed (its machine has ended"]);
    let refused = home.0.hearth(&["exec", "a", "true"]);
    assert!(text(&refused.stderr).contains("hearth rm"), "{}", said(&refused));
    assert!(home.ok(&["logs", "a"]).contains("sysrq"));
    home.ok(&["rm", "a"]);
    home.0.assert_nothing_left();
}

#[test]
fn a_bound_sandbox_goes_with_its_connection_and_results_are_honest() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["events", "--no-follow"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = Client::new(home.0.path().join("hearth.sock"));
    let bound = runtime.block_on(client.create_bound(&CreateSandbox::default())).unwrap();
    let id = bound.info.id.clone();
    let exec = |request: ExecRequest| runtime.block_on(client.exec(&id, &request)).unwrap();
    let mut request = ExecRequest::new(CommandLine::Shell("cat; echo err >&2; seq 1 100000; exit 5".into()));
    request.stdin = Some("ünï\n".into());
    request.max_output_bytes = Some(20);
    let result = exec(request);
    assert_eq!((result.exit_code, result.stderr.data.as_str()), (5, "err\n"));
    let total =
        "ünï\n".len() as u64 + (1..=100_000).map(|number: u64| number.to_string().len() as u64 + 1).sum::<u64>();
    // The first ten bytes and the last.
    assert_eq!(result.stdout.data, "ünï\n1\n2\n99\n100000\n");
    assert_eq!((result.stdout.dropped_bytes, result.stdout.dropped_after), (total - 20, Some(10)));
    drop(bound);
    drop(runtime);
    home.wait_for_event(&[&id, "removed (whoever it was for is gone)"]);
    home.0.assert_nothing_left();
}

#[test]
fn who_finds_a_daemon_that_does_not_listen_yet_gets_that_one() {
    let home = Daemon(Home::empty());
    assert_code(&home.0.hearth(&["events", "--no-follow"]), 0);
    let holder = home.pid();
    let (socket, aside) = (home.0.path().join("hearth.sock"), home.0.path().join("aside"));
    fs::rename(&socket, &aside).unwrap();
    let asking = Running::start(&mut home.0.command(&["events", "--no-follow"]));
    // It holds this lock while another daemon, which it has started, waits for the first one's end.
    let begun = Instant::now();
    let lock = File::open(home.0.path().join("start.lock")).unwrap();
    while flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() {
        flock(&lock, FlockOperation::Unlock).unwrap();
        assert!(begun.elapsed() < HANG, "no daemon is being started");
    }
    fs::rename(&aside, &socket).unwrap();
    let asked = asking.finish();
    assert_code(&asked, 0);
    assert!(!text(&asked.stderr).contains("started the daemon"), "{}", said(&asked));
    assert_eq!(home.pid(), holder);
}

#[test]
fn those_who_start_a_daemon_at_once_get_the_same_one() {
    let home = Daemon(Home::empty());
    let all: Vec<Running> = (0..6).map(|_| Running::start(&mut home.0.command(&["events", "--no-follow"]))).collect();
    let outputs: Vec<_> = all.into_iter().map(Running::finish).collect();
    outputs.iter().for_each(|output| assert_code(output, 0));
    let started = outputs.iter().filter(|output| text(&output.stderr).contains("started the daemon")).count();
    assert_eq!(started, 1);
    let second = home.0.hearth(&["daemon"]);
    assert_code(&second, 125);
    assert!(text(&second.stderr).contains("a daemon holds"), "{}", said(&second));
}

#[test]
fn a_daemon_with_nothing_to_do_ends_and_one_that_cannot_start_says_why() {
    let home = Daemon(Home::empty());
    let started = Running::start(home.0.command(&["events", "--no-follow"]).env("HEARTH_DAEMON_IDLE", "50ms")).finish();
    assert_code(&started, 0);
    if let Some(pid) = home.pid() {
        wait_until_gone(pid);
    }
    assert!(!home.0.path().join("hearth.sock").exists());
    let failed = Running::start(home.0.command(&["events", "--no-follow"]).env("HEARTH_DAEMON_IDLE", "soon")).finish();
    assert_code(&failed, 125);
    assert!(text(&failed.stderr).contains("the daemon could not start"), "{}", said(&failed));
}

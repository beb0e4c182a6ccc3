//! What is in a sandbox that stays: files, programs, services, ports, secrets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;

use serde_json::Value;

use crate::held::Daemon;
use crate::support::{HANG, Running, assert_code, said, text};

#[test]
fn files_are_written_read_listed_exported_and_removed_and_nothing_leaves_the_root() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    assert_code(&home.0.hearth_with_input(&["file", "write", "--mode", "640", "a", "data"], bytes.clone()), 0);
    let read = home.0.hearth(&["file", "read", "a", "/workspace/data"]);
    assert!(read.stdout == bytes, "{} bytes came back", read.stdout.len());
    home.ok(&[
        "exec",
        "a",
        "sh",
        "-c",
        "mkdir -p d/e; printf x > d/e/f; ln -s f d/e/l; printf '' > \"$(printf 'd/\\033x')\"",
    ]);
    let listed = home.ok(&["file", "ls", "-r", "a"]);
    assert!(listed.contains("- 0640      3000000 data") && listed.contains("d/e/l -> f"), "{listed}");
    assert!(listed.contains("d/\\u{1b}x") && !listed.contains('\x1b'), "{listed}");
    assert_eq!(home.json(&["file", "ls", "--json", "a", "d/e"]).as_array().unwrap().len(), 2);
    let outside = home.0.hearth(&["file", "read", "a", "../etc/hostname"]);
    assert_code(&outside, 125);
    assert!(text(&outside.stderr).contains("leaves /workspace"), "{}", said(&outside));
    let tar = home.0.path().join("d.tar");
    home.ok(&["export", "a", "d", "-o", tar.to_str().unwrap()]);
    let names = std::process::Command::new("tar").arg("tf").arg(&tar).output().unwrap();
    assert!(text(&names.stdout).contains("e/f"), "{}", said(&names));
    assert_code(&home.0.hearth(&["file", "rm", "a", "d"]), 125);
    home.ok(&["file", "rm", "-r", "a", "d"]);
    assert_code(&home.0.hearth(&["file", "read", "a", "d/e/f"]), 125);
}

#[test]
fn programs_are_listed_followed_and_killed_and_templates_leave_none() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    assert_eq!(home.json(&["ps", "--json", "a"]).as_array().unwrap().len(), 0, "nothing was started yet");
    let script = "echo first; while :; do sleep 0.1; done";
    let process = home.json(&["exec", "-d", "--json", "a", "sh", "-c", script])["process"].to_string();
    assert!(home.ok(&["ps", "a"]).lines().any(|line| line.starts_with(&process) && line.contains("running")));
    let mut following = Running::start(&mut home.0.command(&["attach", "a", &process]));
    following.read_until("first\n");
    home.ok(&["kill", "a", &process]);
    assert_code(&following.finish(), 143);
    assert!(home.ok(&["ps", "a"]).contains("exited 143"));
    assert_code(&home.0.hearth(&["kill", "a", "99"]), 125);
}

const ECHO: &str = "import socket
s = socket.create_server(('127.0.0.1', 7000))
while True:
    c, _ = s.accept()
    data = b''
    while piece := c.recv(65536): data += piece
    try: c.sendall(b'%d ' % len(data) + b'z' * 5000000)
    except OSError: pass
    c.close()
";

#[test]
fn b40_b42_a_service_is_reached_through_its_published_port_until_it_is_stopped() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let early =
        home.0.hearth(&["service", "start", "a", "bad", "--ready", "tcp:127.0.0.1:1", "--", "sh", "-c", "exit 7"]);
    assert_code(&early, 1);
    assert!(text(&early.stdout).contains("failed (process_exited_before_ready)"), "{}", said(&early));
    let options = ["service", "start", "--json", "--ready", "tcp:127.0.0.1:7000", "-p", "0:7000", "a", "echo", "--"];
    let started = home.json(&[&options[..], &["python3", "-c", ECHO]].concat());
    let address = started["ports"][0]["listen"].as_str().unwrap().to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{started}");
    assert!(home.ok(&["ports", "a"]).contains("-> 7000 (echo)"));
    let exchange = |sent: usize| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        stream.write_all(&vec![b'x'; sent]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    };
    for sent in [0, 2_000_000] {
        let answer = exchange(sent);
        let head = format!("{sent} zzz");
        assert!(
            answer.starts_with(head.as_bytes()) && answer.len() == head.len() - 3 + 5_000_000,
            "{} bytes",
            answer.len()
        );
    }
    // A connection wakes it.
    home.ok(&["pause", "a"]);
    assert!(exchange(5).starts_with(b"5 z"));
    assert!(home.ok(&["service", "ls", "a"]).contains("running"));
    assert_eq!(home.json(&["service", "restart", "--json", "a", "echo"])["state"], "running");
    assert!(home.ok(&["service", "stop", "a", "echo"]).contains("stopped (sigterm)"));
    assert_eq!(TcpStream::connect(&address).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(home.ok(&["ports", "a"]), "");
    // One where nobody listens in the guest is reset, and one of a sandbox that is gone refuses.
    home.ok(&["ports", "a", "-p", "0:7002"]);
    let published = home.json(&["ports", "a", "-p", "0:7001", "--json"]);
    assert_eq!((published.as_array().unwrap().len(), &published[0]["guest_port"]), (1, &7001.into()), "{published}");
    assert_eq!(home.ok(&["ports", "a"]).lines().count(), 2);
    let plain = published[0]["listen"].as_str().unwrap().to_owned();
    let mut stream = TcpStream::connect(&plain).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    home.ok(&["rm", "a"]);
    assert!(TcpStream::connect(&plain).is_err());
}

#[test]
fn b43_variables_and_secrets_are_given_and_no_value_is_shown() {
    let Some(home) = Daemon::with_images() else { return };
    let value = "s3cr3t-of-the-test";
    let mut command = home.0.command(&["create", "--name", "a", "-e", "COLOUR=blue", "--secret", "TOKEN", "--json"]);
    let created = Running::start(command.env("TOKEN", value)).finish();
    assert_code(&created, 0);
    let show = "echo $COLOUR ${#TOKEN}; echo $TOKEN; cat $HEARTH_SECRETS/TOKEN";
    let shown = home.ok(&["exec", "--secret", "TOKEN", "a", "sh", "-c", show]);
    assert!(shown.starts_with(&format!("blue {}\n", value.len())) && !shown.contains(value), "{shown}");
    let has = "test -e $HEARTH_SECRETS/TOKEN; echo $? $COLOUR";
    for (arguments, expected) in [(&["fork", "a"][..], "1 blue"), (&["fork", "a", "--keep-secrets"], "0 blue")] {
        let copy = home.ok(arguments);
        assert_eq!(home.ok(&["exec", &copy, "sh", "-c", has]), expected, "{arguments:?}");
    }
    home.ok(&["pause", "a"]);
    assert_eq!(home.ok(&["exec", "a", "sh", "-c", has]), "0 blue");
    for said in [
        home.ok(&["inspect", "a"]),
        home.ok(&["ps", "a"]),
        home.ok(&["events", "--after", "0", "--no-follow"]),
        text(&created.stdout),
    ] {
        assert!(!said.contains(value), "{said}");
    }
    let log = std::fs::read_to_string(home.0.path().join("logs/daemon.log")).unwrap();
    assert!(!log.contains(value));
    let refused = home.0.hearth(&["create", "--secret", "HEARTH_SURELY_UNSET"]);
    assert_code(&refused, 125);
    let refused =
        Running::start(home.0.command(&["create", "--json", "--secret", "BAD NAME=/dev/null"]).stdin(Stdio::null()))
            .finish();
    assert_code(&refused, 125);
    let error: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(error["error"]["field"], "secrets", "{error}");
}

#[test]
fn b33_who_sends_much_of_what_is_refused_hears_why() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let much = home.0.path().join("much");
    std::fs::write(&much, vec![0; 8 << 20]).unwrap();
    for (sandbox, path, code) in [
        ("a", "/etc/passwd/x", "not_a_directory"),
        ("a", "/etc", "is_a_directory"),
        ("nobody", "file", "unknown_sandbox"),
    ] {
        for _ in 0..6 {
            let mut command = home.0.command(&["file", "write", "--json", sandbox, path]);
            let refused = Running::start(command.stdin(std::fs::File::open(&much).unwrap())).finish();
            assert_eq!(refused.status.code(), Some(125), "{sandbox} {path}: {}", said(&refused));
            let error: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
            assert_eq!(error["error"]["code"], code, "{}", said(&refused));
        }
    }
    // Nobody waits for the rest of what is refused.
    let mut silent = home.0.command(&["file", "write", "nobody", "file"]);
    let mut silent = Running::start(silent.stdin(Stdio::piped()));
    let open = silent.child.stdin.take();
    assert_code(&silent.finish(), 125);
    drop(open);
    home.ok(&["rm", "a"]);
    home.0.assert_nothing_left();
}

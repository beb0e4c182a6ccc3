//! One operation beside others, and clients that come, go, or do not read.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Client, Served, WAYS, Way, unix};
use crate::support::{SOON, is_alive};

/// Code in a process of its own.
fn script(op_id: &str, text: &str) -> Value {
    json!({"action": "exec", "op_id": op_id, "language": "raw", "code": format!("#!/bin/sh\n{text}")})
}

/// A named pipe on which code waits until the test lets it go on.
struct Gate(PathBuf);

impl Gate {
    fn new(served: &Served, name: &str) -> Self {
        let path = served.home().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o666)).unwrap();
        Self(path)
    }

    /// Waits until the code waits, and lets it go on.
    fn open(&self) {
        fs::write(&self.0, "go\n").unwrap();
    }
}

/// Runs code that says its pid and then waits at `gate`; returns the pid.
fn wait_at_gate(client: &mut Client, op_id: &str, gate: &str, then: &str) -> u32 {
    client.send(&script(op_id, &format!("echo $$; read line < {gate}; {then}")));
    let message = client.receive();
    message["chunk"].as_str().unwrap_or_else(|| panic!("{message}")).trim().parse().unwrap()
}

#[test]
fn b06_pings_files_and_other_code_are_answered_while_code_runs() {
    let served = Served::start();
    for way in WAYS {
        let mut client = served.connect(way);
        let gate = Gate::new(&served, &format!("{way:?}"));
        wait_at_gate(&mut client, "long", &format!("{way:?}"), "echo through");
        client.assert_alive();
        client.send(&json!({"action": "list_files", "op_id": "list"}));
        assert_eq!(client.receive()["type"], "file_list");
        client.send(&json!({"action": "read_file", "op_id": "read", "path": "none"}));
        assert_eq!(client.receive()["error_type"], "io_error");
        assert_eq!(client.ask(&script("short", "echo short")).stdout, "short\n");
        gate.open();
        let outcome = client.outcome(&json!("long"));
        assert_eq!((outcome.stdout.as_str(), outcome.code()), ("through\n", 0));
    }
}

#[test]
fn b05_code_goes_on_without_its_client_and_the_next_client_is_served() {
    let served = Served::start();
    for way in WAYS {
        let mut client = served.connect(way);
        let name = format!("{way:?}");
        let gate = Gate::new(&served, &name);
        wait_at_gate(&mut client, "long", &name, &format!("echo done > {name}.done; sleep 100"));
        drop(client);
        let mut next = served.connect(way);
        assert_eq!(next.ask(&script("next", "echo next")).stdout, "next\n");
        gate.open();
        let done = served.home().join(format!("{name}.done"));
        served.wait_until("the code has gone on", || fs::read_to_string(&done).is_ok_and(|text| text == "done\n"));
    }
}

#[test]
fn code_whose_client_has_left_ends_at_its_timeout() {
    let served = Served::start();
    let mut client = served.connect(Way::Tcp);
    let _gate = Gate::new(&served, "gate");
    let mut request = script("long", "echo $$; while :; do echo more; sleep 0.05; done");
    request["timeout"] = json!(1);
    client.send(&request);
    let pid = client.receive()["chunk"].as_str().unwrap().lines().next().unwrap().parse().unwrap();
    assert!(is_alive(pid));
    drop(client);
    served.wait_until("its process is gone", || !is_alive(pid));
}

#[test]
fn code_is_cancelled_by_whoever_knows_its_name() {
    let served = Served::start();
    let mut client = served.connect(Way::Dual);
    let _gate = Gate::new(&served, "gate");
    let pid = wait_at_gate(&mut client, "long", "gate", "echo through");
    let mut other = served.connect(Way::Tcp);
    other.send(&json!({"action": "cancel", "op_id": "long"}));
    let outcome = client.outcome(&json!("long"));
    assert_eq!((outcome.error(), outcome.message()), ("execution_error", "cancelled"));
    assert!(!is_alive(pid));
    other.assert_alive();
    assert_eq!(other.ask(&json!({"action": "cancel", "op_id": "long"})).error(), "protocol_error");
}

#[test]
fn b45_a_client_that_does_not_read_holds_up_itself_alone() {
    let served = Served::start();
    fs::write(served.home().join("large"), vec![0x5a; 8 << 20]).unwrap();
    let noisy = "#!/bin/sh\nhead -c 8000000 /dev/urandom > noise; echo made";
    let made = served.connect(Way::Unix).ask(&json!({"action": "exec", "language": "raw", "op_id": 1, "code": noisy}));
    assert_eq!(made.stdout, "made\n");
    let stuck: Vec<Client> = WAYS
        .into_iter()
        .map(|way| {
            let mut client = served.connect(way);
            for number in 0..20 {
                client.send(&json!({"action": "read_file", "op_id": number, "path": "noise"}));
                client.send(&script(&format!("code {number}"), "head -c 900000 /dev/zero"));
                if number % 10 == 0 {
                    let (name, code) = (format!("shell {number}"), "head -c 900000 /dev/zero");
                    client.send(&json!({"action": "exec", "op_id": name, "language": "raw", "code": code}));
                }
            }
            client
        })
        .collect();
    let mut client = served.connect(Way::Tcp);
    for _ in 0..10 {
        client.assert_alive();
        assert_eq!(client.ask(&script("code", "echo fine")).stdout, "fine\n");
        let shell = json!({"action": "exec", "op_id": "shell", "language": "raw", "code": "echo fine"});
        let outcome = client.ask(&shell);
        assert_eq!(outcome.stdout, "fine\n", "{outcome:?}");
        let read = client.ask(&json!({"action": "read_file", "op_id": "file", "path": "noise"}));
        assert_eq!(read.last["size"], 8_000_000);
    }
    drop(stuck);
}

#[test]
fn a_client_that_listens_late_loses_nothing() {
    let served = Served::start();
    for way in WAYS {
        let mut client = served.connect(way);
        for number in 0..10 {
            client.send(&script(&format!("{number}"), &format!("head -c 900000 /dev/zero | tr '\\0' {number}")));
        }
        let mut found = [0; 10];
        let mut ended = 0;
        while ended < 10 {
            let message = client.receive();
            let number: usize = message["op_id"].as_str().unwrap().parse().unwrap();
            match message["chunk"].as_str() {
                Some(chunk) => found[number] += chunk.len(),
                None => ended += 1,
            }
        }
        assert_eq!(found, [900_000; 10]);
    }
}

#[test]
fn a_client_that_asks_no_more_hears_the_end_of_what_it_asked() {
    let served = Served::start();
    for way in [Way::Tcp, Way::Unix] {
        let mut client = served.connect(way);
        client.send(&script("code", "echo heard"));
        client.finish_sending();
        let outcome = client.outcome(&json!("code"));
        assert_eq!((outcome.stdout.as_str(), outcome.code()), ("heard\n", 0));
        assert!(client.next_message().is_none());
    }
}

#[test]
fn an_event_port_that_comes_again_hears_the_rest_and_a_command_port_that_does_is_served() {
    let served = Served::start();
    let gate = Gate::new(&served, "gate");
    let (mut commands, events) = (unix(&served.socket("cmd.sock")), unix(&served.socket("event.sock")));
    send(&mut commands, &script("code", "echo before; read line < gate; seq 100000"));
    assert_eq!(Listener::new(events).next()["chunk"], "before\n");
    // The event port comes anew, then the command port goes.
    let mut listener = Listener::new(unix(&served.socket("event.sock")));
    send(&mut commands, &json!({"action": "ping", "op_id": "there"}));
    assert_eq!(listener.next()["op_id"], "there");
    drop(commands);
    gate.open();
    let mut text = String::new();
    let last = loop {
        let message = listener.next();
        match message["chunk"].as_str() {
            Some(chunk) => text += chunk,
            None => break message,
        }
    };
    assert_eq!((&last["type"], &last["op_id"]), (&json!("complete"), &json!("code")));
    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert!(text == expected, "{} bytes", text.len());
    send(&mut unix(&served.socket("cmd.sock")), &json!({"action": "ping", "op_id": "again"}));
    assert_eq!(listener.next()["op_id"], "again");
}

#[test]
fn the_newest_event_port_is_the_one_that_is_told() {
    let served = Served::start();
    let mut commands = unix(&served.socket("cmd.sock"));
    let mut first = Listener::new(unix(&served.socket("event.sock")));
    send(&mut commands, &json!({"action": "ping", "op_id": 1}));
    assert_eq!(first.next()["op_id"], 1);
    let mut second = Listener::new(unix(&served.socket("event.sock")));
    // The first sees that it is over.
    assert!(first.ended());
    send(&mut commands, &json!({"action": "ping", "op_id": 2}));
    assert_eq!(second.next()["op_id"], 2);
}

#[test]
fn b46_what_was_said_to_one_pair_of_ports_is_not_said_to_the_next() {
    let served = Served::start();
    for way in WAYS {
        let mut client = served.connect(way);
        let gate = Gate::new(&served, &format!("{way:?}"));
        let pid = wait_at_gate(&mut client, "old", &format!("{way:?}"), "seq 100000");
        for number in 0..20 {
            client.send(&json!({"action": "ping", "op_id": format!("old {number}")}));
        }
        drop(client);
        gate.open();
        served.wait_until("the code has ended", || !is_alive(pid));
        let mut next = served.connect(way);
        next.assert_alive();
        assert_eq!(next.receive_after(&script("new", "echo new"))["op_id"], "new");
    }
}

#[test]
fn b18_a_line_over_the_limit_is_one_error_and_the_next_is_served() {
    let served = Served::start();
    let mut client = served.connect(Way::Tcp);
    let mut line = vec![b'x'; 16_000_000];
    line.push(b'\n');
    client.send_raw(&line);
    let message = client.receive();
    assert_eq!(message["error_type"], "request_error", "{message}");
    client.assert_alive();
    // As long as it may be.
    let mut longest =
        format!("{{\"action\":\"ping\",\"op_id\":\"alive\",\"padding\":\"{}", "x".repeat(15_000_000)).into_bytes();
    longest.resize(16_000_000 - 3, b'y');
    longest.extend_from_slice(b"\"}\n");
    client.send_raw(&longest);
    assert_eq!(client.receive()["type"], "pong");
    client.assert_alive();
}

#[test]
fn b45_code_whose_client_does_not_read_gives_its_turn_to_others_at_its_end_and_its_timeout() {
    let served = Served::start();
    for (way, ended) in WAYS.into_iter().flat_map(|way| [(way, true), (way, false)]) {
        let rest = if ended { "" } else { "; sleep 60" };
        let mut stuck = served.connect(way);
        let (code, timeout) = (format!("head -c 900000 /dev/zero | tr '\\0' x{rest}"), if ended { 60 } else { 1 });
        stuck.send(&json!({"action": "exec", "op_id": 1, "language": "raw", "code": code, "timeout": timeout}));
        let begun = Instant::now();
        let mut other = served.connect(Way::Unix);
        let outcome = other.ask(&json!({"action": "exec", "op_id": 2, "language": "raw", "code": "echo hi"}));
        assert_eq!((outcome.stdout.as_str(), outcome.code()), ("hi\n", 0));
        assert!(begun.elapsed() < SOON, "{way:?} {ended}: {:?}", begun.elapsed());
        // Whoever reads in the end is told all of it.
        let outcome = stuck.outcome(&json!(1));
        assert_eq!(outcome.stdout.len(), 900_000, "{way:?} {ended}");
        assert_eq!(outcome.last["error_type"], if ended { Value::Null } else { json!("timeout_error") });
    }
}

#[test]
fn operations_beyond_a_bound_are_refused_and_the_others_go_on() {
    let served = Served::start();
    let mut client = served.connect(Way::Dual);
    let gate = Gate::new(&served, "gate");
    for number in 0..64 {
        client.send(&script(&format!("{number}"), ": < gate"));
    }
    client.send(&script("too many", "echo"));
    let outcome = client.outcome(&json!("too many"));
    assert_eq!(outcome.error(), "request_error");
    client.assert_alive();
    let _open = fs::File::options().write(true).open(&gate.0).unwrap();
    let mut ended = 0;
    while ended < 64 {
        ended += usize::from(client.receive()["type"] == "complete");
    }
    assert_eq!(client.ask(&script("next", "echo next")).stdout, "next\n");
}

#[test]
fn a_silent_client_keeps_its_link() {
    let served = Served::start();
    let mut clients = WAYS.map(|way| served.connect(way));
    // The reference drops a link after 18 s of silence. Nothing tells that it is kept but time.
    let idle = unix(&served.socket("one.sock"));
    idle.set_read_timeout(Some(Duration::from_secs(19))).unwrap();
    let error = (&idle).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    clients.iter_mut().for_each(Client::assert_alive);
}

fn send(stream: &mut UnixStream, request: &Value) {
    std::io::Write::write_all(stream, format!("{request}\n").as_bytes()).unwrap();
}

/// One end of an event port.
struct Listener(std::io::BufReader<UnixStream>);

impl Listener {
    fn new(stream: UnixStream) -> Self {
        Self(std::io::BufReader::new(stream))
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut self.0, &mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn ended(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0))
    }
}

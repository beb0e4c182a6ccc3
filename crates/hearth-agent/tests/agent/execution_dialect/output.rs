//! Output: whole, in time, and no more than may be.

use serde_json::{Value, json};

use super::client::{Served, WAYS, Way};
use crate::support::{is_alive, number};

fn shell(text: &str) -> Value {
    json!({"action": "exec", "op_id": "code", "language": "raw", "code": format!("#!/bin/sh\n{text}")})
}

#[test]
fn b24_characters_arrive_whole_whatever_the_chunking() {
    let served = Served::start();
    let text = "中".repeat(40_000);
    for way in WAYS {
        let mut client = served.connect(way);
        let request = shell("i=0; while [ $i -lt 400 ]; do printf '中%.0s' $(seq 100); i=$((i+1)); done");
        let outcome = client.ask(&request);
        assert!(outcome.stdout == text, "{} bytes", outcome.stdout.len());
    }
}

#[test]
fn what_is_written_comes_while_the_code_runs() {
    let served = Served::start();
    let mut client = served.connect(Way::Dual);
    client.send(&shell("echo first; echo second >&2; read line < gate; echo third"));
    rustix::fs::mkfifoat(rustix::fs::CWD, served.home().join("gate"), rustix::fs::Mode::from_raw_mode(0o666)).unwrap();
    let (first, second) = (client.receive(), client.receive());
    assert_eq!((&first["type"], &first["chunk"]), (&json!("stdout"), &json!("first\n")));
    assert_eq!((&second["type"], &second["chunk"]), (&json!("stderr"), &json!("second\n")));
    std::fs::write(served.home().join("gate"), "go\n").unwrap();
    assert_eq!(client.outcome(&json!("code")).stdout, "third\n");
}

#[test]
fn many_small_writes_are_few_messages() {
    let served = Served::start();
    let mut client = served.connect(Way::Unix);
    client.send(&shell("i=0; while [ $i -lt 5000 ]; do echo $i; i=$((i+1)); done"));
    let mut messages = 0;
    while client.receive()["type"] == "stdout" {
        messages += 1;
    }
    assert!(messages < 500, "{messages} messages");
}

#[test]
fn a_flood_ends_the_code_and_not_the_session() {
    let served = Served::start();
    for (way, flood, limit) in [
        (Way::Tcp, "echo $$; exec yes", 1_000_000),
        (Way::Unix, "echo $$; exec tr '\\0' '\\001' < /dev/zero", 1_000_000),
        (Way::Dual, "echo $$; exec 1>&2; exec yes", 100_000),
    ] {
        let mut client = served.connect(way);
        let outcome = client.ask(&shell(flood));
        assert_eq!(outcome.error(), "output_limit_error", "{flood}");
        let length = if limit == 100_000 { outcome.stderr.len() } else { outcome.stdout.len() };
        assert_eq!(length, limit, "{flood}");
        let pid = number(outcome.stdout.lines().next().unwrap().as_bytes());
        assert!(!is_alive(pid), "{flood}");
        client.assert_alive();
        assert_eq!(client.ask(&shell("echo next")).stdout, "next\n");
    }
}

#[test]
fn output_up_to_the_limit_is_all_there() {
    let served = Served::start();
    let mut client = served.connect(Way::Tcp);
    let outcome = client.ask(&shell("yes | head -c 1000000; yes | head -c 100000 >&2; exit 4"));
    assert_eq!((outcome.stdout.len(), outcome.stderr.len(), outcome.code()), (1_000_000, 100_000, 4));
}

#[test]
fn b07_a_child_in_the_background_holds_nobody_and_lives_on() {
    let served = Served::start();
    let mut client = served.connect(Way::Unix);
    let outcome = client.ask(&shell("sleep 30 & echo $!"));
    assert_eq!(outcome.code(), 0);
    assert!(is_alive(number(outcome.stdout.as_bytes())));
}

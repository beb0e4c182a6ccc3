//! Code that names its own interpreter.

use std::path::Path;

use serde_json::{Value, json};

use super::client::{Served, Way};
use crate::support::{is_alive, number};

fn raw(code: &str, timeout: u64) -> Value {
    json!({"action": "exec", "op_id": "code", "language": "raw", "code": code, "timeout": timeout})
}

#[test]
fn any_interpreter_runs_in_the_home_and_nothing_of_it_is_left() {
    let served = Served::start();
    let mut client = served.connect(Way::Tcp);
    let outcome = client.ask(&raw("#!/bin/bash\npwd; echo $0; cat", 0));
    let (place, file) = outcome.stdout.split_once('\n').unwrap();
    assert_eq!(Path::new(place), served.home().canonicalize().unwrap());
    assert!(file.starts_with("/tmp/") && !Path::new(file.trim()).exists(), "{file}");
    let outcome = client.ask(&raw("#!/usr/bin/env python3\nimport sys; print(sys.argv[1:], end=''); sys.exit(5)", 0));
    assert_eq!((outcome.stdout.as_str(), outcome.code()), ("[]", 5), "{outcome:?}");
}

#[test]
fn b03_a_timeout_keeps_what_was_said_and_leaves_no_process() {
    let served = Served::start();
    let mut client = served.connect(Way::Dual);
    let outcome = client.ask(&raw("#!/bin/sh\necho partial; (sleep 77 & echo $! >&2; wait); sleep 78", 1));
    assert_eq!((outcome.stdout.as_str(), outcome.error()), ("partial\n", "timeout_error"));
    assert!(!is_alive(number(outcome.stderr.as_bytes())));
    assert_eq!(client.ask(&raw("#!/bin/sh\necho next", 1)).stdout, "next\n");
}

#[test]
fn code_that_takes_its_timeout_for_an_order_to_end_has_the_last_word() {
    let served = Served::start();
    let mut client = served.connect(Way::Unix);
    let polite = "#!/bin/bash\ntrap 'echo ending; exit 7' TERM\necho begun\nwhile :; do sleep 0.05; done";
    let outcome = client.ask(&raw(polite, 1));
    assert_eq!((outcome.stdout.as_str(), outcome.code()), ("begun\nending\n", 7));
}

#[test]
fn code_that_ignores_its_timeout_is_killed_after_the_grace() {
    let served = Served::start();
    let mut client = served.connect(Way::Tcp);
    let outcome = client.ask(&raw("#!/bin/bash\ntrap '' TERM\necho $$\nwhile :; do sleep 0.05; done", 1));
    assert_eq!(outcome.error(), "timeout_error");
    assert!(!is_alive(number(outcome.stdout.as_bytes())));
}

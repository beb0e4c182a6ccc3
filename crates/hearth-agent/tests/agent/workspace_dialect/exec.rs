//! Execs: the faults of the first agent, which this one must not have.

use std::time::Instant;

use serde_json::json;

use super::Rpc;
use crate::support::{SOON, is_alive};

fn lines(reply: &serde_json::Value) -> Vec<String> {
    reply["stdout"].as_str().unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn b3_a_timeout_keeps_what_was_written_and_ends_the_whole_tree() {
    let rpc = Rpc::start();
    let command = "echo partial; echo half >&2; (sleep 77 & echo $!; wait) & echo $!; sleep 77";
    let begun = Instant::now();
    let reply = rpc.ask(&json!({"command": command, "timeout_seconds": 1}));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let lines = lines(&reply);
    assert_eq!((lines[0].as_str(), lines.len()), ("partial", 3), "{reply}");
    for pid in &lines[1..] {
        assert!(!is_alive(pid.parse().unwrap()), "{pid}");
    }
    assert_eq!(reply["stderr"], "half\ncommand timed out after 1s");
    assert_eq!(reply["exit_code"], 124);
    let unfinished = rpc.ask(&json!({"command": "printf half >&2; sleep 77", "timeout_seconds": 1}));
    assert_eq!(unfinished["stderr"], "half\ncommand timed out after 1s");
}

#[test]
fn b2_output_that_is_no_text_is_replaced_and_the_command_runs_once() {
    let rpc = Rpc::start();
    let count = rpc.place("count");
    let reply = rpc.exec(&format!("echo x >> {}; printf '\\377a\\344\\270'; printf '\\344' >&2", count.display()));
    assert_eq!((&reply["stdout"], &reply["stderr"]), (&json!("\u{fffd}a\u{fffd}"), &json!("\u{fffd}")));
    assert_eq!(std::fs::read_to_string(count).unwrap(), "x\n");
}

#[test]
fn b7_a_background_child_that_holds_the_pipe_holds_nobody() {
    let rpc = Rpc::start();
    let begun = Instant::now();
    let reply = rpc.exec("sleep 30 & echo $!");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(is_alive(lines(&reply)[0].parse().unwrap()));
}

#[test]
fn b8_output_is_bounded_and_says_how_much_was_left_out() {
    let rpc = Rpc::start();
    let reply = rpc.exec("head -c 20000000 /dev/zero | tr '\\0' x; echo end; echo intact >&2");
    let stdout = reply["stdout"].as_str().unwrap();
    let (head, rest) = stdout.split_once("\n[hearth: ").expect("something was left out");
    let (left_out, tail) = rest.split_once(" bytes left out]\n").unwrap();
    let left_out: usize = left_out.parse().unwrap();
    assert!(head.len() >= 128 * 1024 && tail.len() >= 1024 * 1024 && tail.ends_with("xend\n"));
    assert_eq!(head.len() + left_out + tail.len(), 20_000_004);
    assert_eq!(reply["stderr"], "intact\n");
}

#[test]
fn output_that_fits_is_whole_whatever_the_characters() {
    let rpc = Rpc::start();
    let reply = rpc.exec("i=0; while [ $i -lt 4000 ]; do printf '中中中中中é😀\"\\\\'; i=$((i+1)); done");
    assert_eq!(reply["stdout"], "中中中中中é😀\"\\".repeat(4000));
}

#[test]
fn a_client_that_does_not_read_its_answer_holds_nobody() {
    let rpc = Rpc::start();
    let mut lazy = rpc.connect();
    lazy.send(b"{\"command\":\"head -c 1000000 /dev/zero | tr '\\\\0' x\"}\n");
    assert_eq!(rpc.exec("echo on")["stdout"], "on\n");
    assert_eq!(lazy.reply()["stdout"].as_str().unwrap().len(), 1_000_000);
}

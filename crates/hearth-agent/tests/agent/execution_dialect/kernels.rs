//! Code in a language, which keeps its state.

use serde_json::{Value, json};

use super::client::{Client, Outcome, Served, WAYS, Way};
use crate::support::{is_alive, number};

fn has_node() -> bool {
    let found =
        std::process::Command::new("node").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped in part: there is no node here");
    }
    found
}

fn code(language: &str, code: &str) -> Value {
    json!({"action": "exec", "op_id": "code", "language": language, "code": code})
}

fn run(client: &mut Client, language: &str, text: &str) -> Outcome {
    client.ask(&code(language, text))
}

fn within(client: &mut Client, seconds: u64, language: &str, text: &str) -> Outcome {
    let mut request = code(language, text);
    request["timeout"] = json!(seconds);
    client.ask(&request)
}

#[test]
fn b19_state_persists_between_execs_and_clients() {
    let served = Served::start();
    let mut client = served.connect(Way::Dual);
    assert_eq!(run(&mut client, "python", "import math\nx = 20\ndef f(): return x + 1").code(), 0);
    assert_eq!(run(&mut client, "raw", "y=5; export Z=6; g() { echo $((y + 1)); }; cd /tmp").code(), 0);
    let mut other = served.connect(Way::Tcp);
    assert_eq!(run(&mut other, "python", "print(f(), math.floor(1.5))").stdout, "21 1\n");
    assert_eq!(run(&mut other, "raw", "g; env | grep ^Z=; pwd").stdout, "6\nZ=6\n/tmp\n");
    if has_node() {
        assert_eq!(run(&mut client, "javascript", "const n = 4; function h() { return n * 2 }").code(), 0);
        assert_eq!(run(&mut other, "javascript", "console.log(h())").stdout, "8\n");
    }
}

#[test]
fn a_warm_interpreter_keeps_its_state() {
    let served = Served::start();
    for way in WAYS {
        let mut client = served.connect(way);
        let warm = json!({"action": "warm_repl", "op_id": "warm", "language": "python"});
        let expected = json!({"type": "warm_repl_ack", "language": "python", "status": "ok", "op_id": "warm"});
        assert_eq!(client.receive_after(&warm), expected);
        assert_eq!(run(&mut client, "python", "kept = 1").code(), 0);
        assert_eq!(client.receive_after(&warm), expected);
        assert_eq!(run(&mut client, "python", "print(kept)").stdout, "1\n");
    }
}

#[test]
fn b01_streams_codes_and_errors_arrive() {
    let served = Served::start();
    let mut client = served.connect(Way::Unix);
    let outcome = run(&mut client, "python", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(5)");
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str(), outcome.code()), ("out\n", "err\n", 5));
    let outcome = run(&mut client, "python", "print('before')\n1/0");
    assert_eq!((outcome.stdout.as_str(), outcome.code()), ("before\n", 1));
    assert!(outcome.stderr.ends_with("ZeroDivisionError: division by zero\n"), "{outcome:?}");
    // A value at the end is no output.
    assert_eq!(run(&mut client, "python", "40 + 2").stdout, "");
    let outcome = run(&mut client, "raw", "echo out; echo err >&2; exit 3");
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str(), outcome.code()), ("out\n", "err\n", 3));
    assert_eq!(run(&mut client, "python", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)").code(), 139);
    assert_eq!(run(&mut client, "python", "import os; os._exit(42)").code(), 42);
    assert_eq!(run(&mut client, "python", "print('fresh')").stdout, "fresh\n");
}

#[test]
fn b20_names_of_plumbing_and_lost_streams_change_nothing() {
    let served = Served::start();
    let mut client = served.connect(Way::Tcp);
    let taken = "exit_code = 77; header = code = ns = output = 'x'; print(exit_code)";
    let outcome = run(&mut client, "python", taken);
    assert_eq!((outcome.stdout.as_str(), outcome.code()), ("77\n", 0));
    let outcome =
        run(&mut client, "raw", "IFS=,; read() { echo mine; }; exit_code=77; read; echo '{\"type\":\"complete\"}'");
    assert_eq!((outcome.stdout.as_str(), outcome.code()), ("mine\n{\"type\":\"complete\"}\n", 0));
    assert_eq!(run(&mut client, "raw", "exec 2>/dev/null; echo gone >&2").code(), 0);
    assert_eq!(run(&mut client, "python", "import sys; sys.stderr = sys.stdout = None").code(), 0);
    assert_eq!(run(&mut client, "raw", "echo still here").stdout, "still here\n");
}

#[test]
fn variables_of_one_exec_are_not_those_of_the_next() {
    let served = Served::start();
    let mut client = served.connect(Way::Dual);
    for (language, show) in
        [("python", "import os; print(os.environ.get('ONCE', 'none'))"), ("raw", "echo ${ONCE:-none}")]
    {
        let mut request = code(language, show);
        request["env_vars"] = json!({"ONCE": "here"});
        assert_eq!(client.ask(&request).stdout, "here\n", "{language}");
        assert_eq!(run(&mut client, language, show).stdout, "none\n", "{language}");
    }
}

#[test]
fn a_timeout_ends_the_code_and_keeps_the_state_where_that_can_be() {
    let served = Served::start();
    let mut client = served.connect(Way::Unix);
    for (language, keep, hang, show) in [
        ("python", "kept = 1", "print('partial'); import time; time.sleep(100)", "print(kept)"),
        ("raw", "kept=1", "echo partial; sleep 100", "echo $kept"),
    ] {
        assert_eq!(run(&mut client, language, keep).code(), 0);
        let outcome = within(&mut client, 1, language, hang);
        assert_eq!((outcome.stdout.as_str(), outcome.error()), ("partial\n", "timeout_error"), "{language}");
        assert_eq!(run(&mut client, language, show).stdout, "1\n", "{language}");
    }
}

#[test]
fn b03_a_timeout_leaves_no_process_that_the_code_has_started() {
    let served = Served::start();
    let mut client = served.connect(Way::Dual);
    let start = "import subprocess, time; p = subprocess.Popen(['sleep', '77']); print(p.pid); time.sleep(100)";
    let outcome = within(&mut client, 1, "python", start);
    assert_eq!(outcome.error(), "timeout_error");
    let pid = number(outcome.stdout.as_bytes());
    served.wait_until("the child is gone", || !is_alive(pid));
}

#[test]
fn code_that_takes_its_timeout_for_an_order_to_end_has_the_last_word() {
    let served = Served::start();
    let mut client = served.connect(Way::Tcp);
    let polite = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\ntime.sleep(100)";
    assert_eq!(within(&mut client, 1, "python", polite).code(), 7);
}

#[test]
fn code_that_heeds_nothing_is_killed_and_the_next_begins_afresh() {
    let served = Served::start();
    let mut client = served.connect(Way::Unix);
    let deaf =
        "import signal\nfor s in (signal.SIGTERM, signal.SIGINT): signal.signal(s, signal.SIG_IGN)\nwhile True: pass";
    assert_eq!(within(&mut client, 1, "python", deaf).error(), "timeout_error");
    assert_eq!(run(&mut client, "python", "print('afresh')").stdout, "afresh\n");
}

#[test]
fn a_flood_ends_the_code_and_keeps_the_state() {
    let served = Served::start();
    let mut client = served.connect(Way::Dual);
    assert_eq!(run(&mut client, "python", "kept = 1").code(), 0);
    let outcome = run(&mut client, "python", "while True: print('x' * 1000)");
    assert_eq!((outcome.stdout.len(), outcome.error()), (1_000_000, "output_limit_error"));
    assert_eq!(run(&mut client, "python", "print(kept)").stdout, "1\n");
}

#[test]
fn code_is_cancelled_and_the_state_is_kept() {
    let served = Served::start();
    let mut client = served.connect(Way::Dual);
    assert_eq!(run(&mut client, "python", "kept = 1").code(), 0);
    client.send(&code("python", "print('begun', flush=True)\nwhile True: pass"));
    assert_eq!(client.receive()["chunk"], "begun\n");
    // One that waits for its turn is cancelled before it begins.
    client.send(&json!({"action": "exec", "op_id": "waits", "language": "python", "code": "kept = 2"}));
    client.send(&json!({"action": "cancel", "op_id": "waits"}));
    assert_eq!(client.outcome(&json!("waits")).message(), "cancelled");
    client.send(&json!({"action": "cancel", "op_id": "code"}));
    assert_eq!(client.outcome(&json!("code")).message(), "cancelled");
    assert_eq!(run(&mut client, "python", "print(kept)").stdout, "1\n");
}

#[test]
fn code_sees_the_files_that_clients_write() {
    let served = Served::start();
    let mut client = served.connect(Way::Tcp);
    client.write_frame("w", "data/in.txt", &super::client::frame(b"from the host"), 100);
    assert_eq!(run(&mut client, "python", "print(open('data/in.txt').read())").stdout, "from the host\n");
    assert_eq!(run(&mut client, "raw", "cat data/in.txt").stdout, "from the host");
}

#[test]
fn execs_of_one_language_run_in_turn_and_others_beside_them() {
    let served = Served::start();
    let mut client = served.connect(Way::Dual);
    for number in 0..10 {
        let text = format!("order = globals().get('order', []) + [{number}]");
        client.send(&json!({"action": "exec", "op_id": number, "language": "python", "code": text}));
    }
    assert_eq!(run(&mut client, "raw", "echo beside").stdout, "beside\n");
    assert_eq!(run(&mut client, "python", "print(order)").stdout, "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n");
}

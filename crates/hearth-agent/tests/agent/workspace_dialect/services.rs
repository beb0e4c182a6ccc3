//! Services: the faults of the first agent, which this one must not have.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Rpc;
use crate::support::{SOON, is_alive};

fn start(rpc: &Rpc, command: &str, more: Value) -> (Value, Duration) {
    let mut request =
        json!({"action": "start_service", "service_name": "s", "command": command, "ready_interval_ms": 20});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let begun = Instant::now();
    (rpc.ask(&request), begun.elapsed())
}

fn ask(rpc: &Rpc, action: &str) -> (Value, Duration) {
    let begun = Instant::now();
    (rpc.ask(&json!({"action": action, "service_name": "s"})), begun.elapsed())
}

fn pid(reply: &Value) -> u32 {
    reply["pid"].as_u64().unwrap().try_into().unwrap()
}

/// What a local port answers to everybody, as long as the test lives.
fn answering(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer);
        }
    });
    port
}

#[test]
fn b40_an_early_exit_is_seen_at_once_whatever_the_readiness() {
    let rpc = Rpc::start();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for readiness in [
        json!({"type": "file", "path": "never"}),
        json!({"type": "tcp", "address": format!("127.0.0.1:{closed}")}),
        json!({"type": "http", "url": format!("http://127.0.0.1:{closed}/")}),
        json!({"type": "command", "command": "sleep 300; false"}),
    ] {
        let (reply, took) = start(&rpc, "exit 7", json!({"readiness": readiness}));
        let ended = (reply["state"].as_str(), reply["stop_reason"].as_str(), reply["exit_code"].as_i64());
        assert_eq!(ended, (Some("failed"), Some("process_exited_before_ready"), Some(7)), "{reply}");
        assert!(took < SOON, "{took:?}");
    }
}

#[test]
fn b40_a_stop_takes_no_longer_than_the_service_does() {
    let rpc = Rpc::start();
    let (started, _) = start(&rpc, "sleep 100", json!({}));
    let (stopped, took) = ask(&rpc, "stop_service");
    assert_eq!((&stopped["state"], &stopped["stop_reason"]), (&json!("stopped"), &json!("sigterm")), "{stopped}");
    assert!(took < SOON, "{took:?}");
    assert!(!is_alive(pid(&started)));
    // One that does not heed TERM, and its children.
    let (started, _) = start(
        &rpc,
        "trap '' TERM; sleep 100 & echo $! > child; touch up; while :; do sleep 100; done",
        json!({"readiness": {"type": "file", "path": "up"}}),
    );
    let (stopped, took) = ask(&rpc, "stop_service");
    assert_eq!(stopped["stop_reason"], "sigkill", "{stopped}");
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&took), "{took:?}");
    let child = std::fs::read_to_string(rpc.place("child")).unwrap().trim().parse().unwrap();
    assert!(!is_alive(pid(&started)) && !is_alive(child));
}

#[test]
fn b40_an_exit_is_seen_at_once() {
    let rpc = Rpc::start();
    let (started, _) = start(
        &rpc,
        "touch up; while [ ! -e end ]; do read x < fifo; done; exit 5",
        json!({"readiness": {"type": "file", "path": "up"}}),
    );
    assert_eq!(started["state"], "running", "{started}");
    rpc.exec(&format!(
        "cd {0} && mkfifo fifo; touch end; kill -KILL {1}",
        rpc.agent.workspace().display(),
        pid(&started)
    ));
    let begun = Instant::now();
    while ask(&rpc, "status_service").0["state"] == "running" {
        assert!(begun.elapsed() < SOON);
        std::thread::yield_now();
    }
    let (status, _) = ask(&rpc, "status_service");
    assert_eq!(status["state"], "exited", "{status}");
    assert!(status["ended_at"].is_f64());
}

#[test]
fn b41_a_service_is_ready_when_its_port_or_page_is() {
    let rpc = Rpc::start();
    let (page, moved) = (
        answering(b"HTTP/1.0 200 OK\r\n\r\n"),
        answering(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"),
    );
    for readiness in [
        json!({"type": "tcp", "address": format!("127.0.0.1:{page}")}),
        json!({"type": "http", "url": format!("http://127.0.0.1:{page}/health")}),
        json!({"type": "http", "url": format!("http://127.0.0.1:{moved}")}),
    ] {
        let (reply, _) = start(&rpc, "sleep 100", json!({"readiness": readiness}));
        assert!(reply["state"] == "running" && reply["ready_at"].is_f64(), "{reply}");
        ask(&rpc, "stop_service");
    }
}

#[test]
fn b41_a_probe_that_fails_or_hangs_leaves_no_service_unknown() {
    let rpc = Rpc::start();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().port();
    let (strange, broken) = (answering(b"SSH-2.0-x\r\n"), answering(b"HTTP/1.0 500 No\r\n\r\n"));
    for readiness in [
        json!({"type": "http", "url": format!("http://127.0.0.1:{strange}/")}),
        json!({"type": "http", "url": format!("http://127.0.0.1:{broken}/")}),
        json!({"type": "http", "url": format!("http://127.0.0.1:{silent}/")}),
        json!({"type": "command", "command": "sleep 100"}),
    ] {
        let (reply, took) = start(&rpc, "sleep 100", json!({"readiness": readiness, "ready_timeout_seconds": 1}));
        assert_eq!(
            (&reply["state"], &reply["stop_reason"]),
            (&json!("failed"), &json!("readiness_timeout")),
            "{reply}"
        );
        assert!(took < SOON, "{took:?}");
        assert!(!is_alive(pid(&reply)));
        assert_eq!(ask(&rpc, "status_service").0["state"], "failed");
    }
    for readiness in [
        json!({"type": "file"}),
        json!({"type": "tcp", "address": "nowhere"}),
        json!({"type": "http", "url": "ftp://x"}),
        json!({}),
    ] {
        let (reply, _) = start(&rpc, "touch started; sleep 100", json!({"readiness": readiness}));
        assert!(reply["error"].is_string() && !rpc.place("started").exists(), "{reply}");
    }
}

#[test]
fn logs_keep_their_line_ends_and_are_bounded() {
    let rpc = Rpc::start();
    start(&rpc, "printf 'a\\r\\nb\\rc\\377'; exit 0", json!({"readiness": {"type": "file", "path": "never"}}));
    assert_eq!(ask(&rpc, "logs_service").0["stdout"], "a\r\nb\rc\u{fffd}");
    start(&rpc, "seq 1000000; exit 0", json!({"readiness": {"type": "file", "path": "never"}}));
    let (logs, _) = ask(&rpc, "logs_service");
    let text = logs["stdout"].as_str().unwrap();
    assert!(text.len() < 6_000_000 && text.ends_with("\n999999\n1000000\n"), "{}", text.len());
    let tail = rpc.ask(&json!({"action": "logs_service", "service_name": "s", "tail_lines": "2"}));
    assert_eq!(
        (&tail["stdout"], &tail["tail_lines"], &tail["truncated"]),
        (&json!("999999\n1000000\n"), &json!(2), &json!(true))
    );
}

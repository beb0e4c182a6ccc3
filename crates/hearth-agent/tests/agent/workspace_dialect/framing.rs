//! Connections: what comes before, behind and instead of a request.

use std::thread;

use serde_json::json;

use super::Rpc;

#[test]
fn a_connect_line_is_answered_first() {
    let rpc = Rpc::start();
    let mut connection = rpc.connect();
    connection.send(b"CONNECT 5005\n");
    assert_eq!(connection.line(), b"OK 5005");
    connection.send(b"{\"command\":\"echo hi\"}\n");
    assert_eq!(connection.reply()["stdout"], "hi\n");
    assert_eq!(connection.rest(), b"");
    // All at once, too.
    let mut connection = rpc.connect();
    connection.send(b"CONNECT 5005\n{\"command\":\"echo hi\"}\n");
    assert_eq!(connection.line(), b"OK 5005");
    assert_eq!(connection.reply()["stdout"], "hi\n");
}

#[test]
fn b18_what_is_no_request_gets_one_error_and_the_next_client_is_served() {
    let rpc = Rpc::start();
    let mut connection = rpc.connect();
    connection.send(&vec![b' '; 17 * 1024 * 1024]);
    assert_eq!(connection.reply(), json!({"error": "a request may have 16777216 bytes"}));
    drop(connection);
    for line in [b"\xff\xfe".as_slice(), b"{\"a\":\"\\ud800\"}", &[b'['; 100_000]] {
        let reply = rpc.ask_raw(line);
        assert!(reply["error"].as_str().unwrap().starts_with("request is not valid JSON"), "{reply}");
    }
    assert_eq!(rpc.exec("echo on")["stdout"], "on\n");
}

#[test]
fn a_request_may_end_with_the_connection_instead_of_a_newline() {
    let rpc = Rpc::start();
    let mut connection = rpc.connect();
    connection.send(b"{\"command\":\"echo hi\"}");
    connection.finish();
    assert_eq!(connection.reply()["stdout"], "hi\n");
    let mut silent = rpc.connect();
    silent.finish();
    assert_eq!(silent.rest(), b"");
}

#[test]
fn what_comes_behind_a_request_does_not_break_its_answer() {
    let rpc = Rpc::start();
    for _ in 0..50 {
        let mut connection = rpc.connect();
        connection.send(b"{\"command\":\"echo hi\"}\n\n{\"command\":\"echo ho\"}\n");
        assert_eq!(connection.reply()["stdout"], "hi\n");
        assert_eq!(connection.rest(), b"");
    }
}

#[test]
fn b5_clients_that_vanish_harm_nothing() {
    let rpc = Rpc::start();
    for request in [b"".as_slice(), b"{\"comm", b"{\"command\":\"sleep 0.1; touch done\"}\n", b"CONNECT 5005\n"] {
        rpc.connect().send(request);
    }
    let mut busy = rpc.connect();
    busy.send(b"{\"command\":\"head -c 3000000 /dev/zero\"}\n");
    drop(busy);
    assert_eq!(rpc.exec("echo on")["stdout"], "on\n");
}

#[test]
fn b6_many_clients_are_served_at_once() {
    let rpc = Rpc::start();
    let slow = format!("while [ ! -e {} ]; do sleep 0.1; done; echo slow", rpc.place("go").display());
    thread::scope(|scope| {
        let slow: Vec<_> = (0..20).map(|_| scope.spawn(|| rpc.exec(&slow))).collect();
        let mut silent = rpc.connect();
        silent.send(b"{\"command\":");
        // What the slow ones wait for comes while they wait, each in its own connection.
        assert_eq!(rpc.ask(&json!({"action": "write_workspace_file", "path": "go", "text": "x"}))["size_bytes"], 1);
        for reply in slow {
            assert_eq!(reply.join().unwrap()["stdout"], "slow\n");
        }
    });
}

//! The host's own client of the dialect, against the agent.

use std::time::Duration;

use hearth_channel::Endpoint;
use hearth_channel::lines::{LineChannel, LineEndpoints, LineOptions, reconnecting_channel};
use serde_json::json;

use super::client::Served;
use crate::support::HANG;

fn endpoints(served: &Served) -> [LineEndpoints; 3] {
    let expected_uid = rustix::process::geteuid().as_raw();
    let unix = |name: &str| Endpoint::Unix { path: served.socket(name), expected_uid };
    [
        LineEndpoints::One(Endpoint::Tcp { addr: served.tcp_address().parse().unwrap() }),
        LineEndpoints::One(unix("one.sock")),
        LineEndpoints::Dual { command: unix("cmd.sock"), event: unix("event.sock") },
    ]
}

#[tokio::test]
async fn the_hosts_client_speaks_with_it_over_every_way() {
    let served = Served::start();
    for endpoints in endpoints(&served) {
        let channel = LineChannel::new(endpoints, LineOptions::default());
        channel.connect(HANG).await.unwrap();
        let pong = channel.send_request(&json!({"action": "ping"}), HANG).await.unwrap();
        assert_eq!(pong["type"], "pong");
        let code = json!({"action": "exec", "language": "raw", "code": "#!/bin/sh\necho out; sleep 0.1; echo err >&2; exit 3"});
        let mut messages = channel.stream_messages(&code, HANG).await.unwrap();
        let (mut stdout, mut last) = (String::new(), json!(null));
        while let Some(message) = messages.next().await.unwrap() {
            if message["type"] == "stdout" {
                stdout += message["chunk"].as_str().unwrap();
            }
            last = message;
        }
        assert_eq!((stdout.as_str(), &last["exit_code"]), ("out\n", &json!(3)));
        drop(messages);
        channel.close().await;
    }
}

#[tokio::test]
async fn a_channel_that_reconnects_for_each_command_sees_nothing_of_the_one_before() {
    let served = Served::start();
    for endpoints in endpoints(&served) {
        let channel = LineChannel::new(endpoints, LineOptions::default());
        for _ in 0..20 {
            let fresh = reconnecting_channel(&channel, HANG).await.unwrap();
            fresh
                .send_command(&json!({"action": "exec", "language": "raw", "code": "#!/bin/sh\necho late"}))
                .await
                .unwrap();
            let pong = fresh.send_request(&json!({"action": "ping"}), Duration::from_secs(30)).await.unwrap();
            assert_eq!(pong["type"], "pong");
        }
    }
}

//! Secrets: where clients look for them, and their bounds.

use std::fs;
use std::path::Path;

use hearth_protocol::secrets::Secret;
use serde_json::{Value, json};

use super::Rpc;
use super::archives::tar;

const NAMED: &str = "/run/pyro-secrets";

fn install(rpc: &Rpc, made_by: &str) -> Value {
    let archive = tar(made_by);
    let mut connection = rpc.connect();
    let request = json!({"action": "install_secrets", "archive_size": archive.len()});
    connection.send(format!("{request}\n").as_bytes());
    connection.send(&archive);
    connection.reply()
}

#[test]
fn secrets_are_found_where_clients_look_for_them_and_go_with_the_agent() {
    let rpc = Rpc::start();
    let reply = install(&rpc, "printf a-secret-value > TOKEN");
    let real = rpc.exec("printf '%s' \"$HEARTH_SECRETS\"")["stdout"].as_str().unwrap().to_owned();
    if !fs::read_link(NAMED).is_ok_and(|target| target == Path::new(&real)) {
        eprintln!("{NAMED} is another agent's, or may not be made: not tried");
        assert_eq!(reply["destination"], real.as_str());
        return;
    }
    assert_eq!(reply["destination"], NAMED);
    assert_eq!(fs::read_to_string(format!("{NAMED}/TOKEN")).unwrap(), "a-secret-value");
    rpc.stop();
    assert!(fs::symlink_metadata(NAMED).is_err() && !Path::new(&real).exists());
}

#[test]
fn b43_agents_that_share_a_host_each_say_where_their_own_secrets_are() {
    let (one, other) = (Rpc::start(), Rpc::start());
    let held = [(one, "first-agent-value"), (other, "second-agent-value")].map(|(rpc, value)| {
        let reply = install(&rpc, &format!("printf {value} > TOKEN"));
        (rpc, value, reply["destination"].as_str().unwrap().to_owned())
    });
    for (rpc, value, destination) in &held {
        assert_eq!(fs::read_to_string(format!("{destination}/TOKEN")).unwrap(), *value);
        assert_eq!(rpc.exec(&format!("cat {destination}/TOKEN"))["stdout"], "[REDACTED]");
    }
}

#[tokio::test]
async fn a_set_takes_the_place_of_the_one_before_it_and_leaves_what_others_have_set() {
    let rpc = Rpc::start();
    let channel = rpc.agent.connect().await;
    let native = |name: &str, value: &str| Secret { name: name.into(), value: value.into(), file: true };
    channel
        .set_secrets(vec![native("NATIVE", "native-secret-value"), native("BOTH", "native-both-value")])
        .await
        .unwrap();
    install(&rpc, "printf first-secret-value > TOKEN; printf archived-both-value > BOTH");
    let names = || rpc.exec("ls \"$HEARTH_SECRETS\"; cat \"$HEARTH_SECRETS\"/*")["stdout"].as_str().unwrap().to_owned();
    assert_eq!(names(), "BOTH\nNATIVE\nTOKEN\n[REDACTED][REDACTED][REDACTED]");
    install(&rpc, "printf second-secret-value > OTHER");
    assert_eq!(names(), "NATIVE\nOTHER\n[REDACTED][REDACTED]");
    // Who says that these are all says it of everybody's.
    channel.replace_secrets(vec![native("ONLY", "only-secret-value")]).await.unwrap();
    assert_eq!(names(), "ONLY\n[REDACTED]");
}

#[test]
fn secrets_have_bounds() {
    let rpc = Rpc::start();
    let large = install(&rpc, "head -c 65537 /dev/zero > TOKEN");
    assert_eq!(large, json!({"error": "secret TOKEN has 65537 bytes, over the limit of 65536"}));
    for made_by in ["head -c 2000000 /dev/zero > TOKEN", "for i in $(seq 100); do echo secret-$i > S$i; done"] {
        let reply = install(&rpc, made_by);
        assert!(reply["error"].is_string(), "{reply}");
    }
    assert_eq!(rpc.exec("echo \"[$HEARTH_SECRETS]\"")["stdout"], "[]\n");
}

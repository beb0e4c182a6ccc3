//! What the audit log says of what was asked.

use hearth_client::api::audit::{FILE, Record, Who};
use hearth_client::api::exec::CommandLine;
use hearth_client::api::{CreateSandbox, ExecRequest};

use crate::support::{Daemon, body};

fn records(daemon: &Daemon) -> Vec<Record> {
    let log = std::fs::read_to_string(daemon.home.path().join("logs").join(FILE)).unwrap();
    log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn every_operation_is_noted_with_who_what_and_how_it_ended() {
    let daemon = Daemon::start();
    daemon.client.clone().via("mcp").health().await.unwrap();
    let mut create = CreateSandbox { name: Some("a".into()), ..CreateSandbox::default() };
    create.env.insert("GIVEN".into(), "contents-of-env".into());
    body(daemon.client.create(&create).await);
    let exec = ExecRequest::new(CommandLine::Shell("echo contents-of-command".into()));
    body(daemon.client.exec("nobody", &exec).await);
    body(daemon.client.hold("nobody", &exec).await);
    daemon.refused("GET", "/v1/sandboxes/x/services/web/logs?tail=contents-of-query", "").await;
    daemon.refused("GET", "/v1/sandboxes/%FF", "").await;
    daemon.refused("GET", "/v1/nothing", "").await;
    let mut told: Vec<_> = records(&daemon)
        .into_iter()
        .map(|record| (record.operation, record.via, record.sandbox, record.target, record.status, record.code))
        .collect();
    // Each is noted when it is over, and a WebSocket may be over a moment later.
    told.sort();
    let some = |text: &str| Some(text.to_owned());
    let wanted = [
        ("health_health", some("mcp"), None, None, 200, None),
        ("sandboxes_create", None, None, None, 404, some("unknown_image")),
        ("exec_one_shot", None, some("nobody"), None, 404, some("unknown_sandbox")),
        ("exec_held", None, some("nobody"), None, 101, some("unknown_sandbox")),
        ("services_logs", None, some("x"), some("web"), 400, some("invalid_request")),
        ("sandboxes_inspect", None, None, None, 400, some("invalid_request")),
    ];
    let mut wanted = wanted.map(|(operation, via, sandbox, target, status, code)| {
        (operation.to_owned(), via, sandbox, target, Some(status), code)
    });
    wanted.sort();
    assert_eq!(told, wanted);
    let (uid, pid) = (rustix::process::geteuid().as_raw(), Some(std::process::id() as i32));
    assert!(records(&daemon).iter().all(|record| record.who == Who::User { uid, pid }));
    let log = std::fs::read_to_string(daemon.home.path().join("logs").join(FILE)).unwrap();
    assert!(!log.contains("contents-of"), "{log}");
    assert!(daemon.client.metrics().await.unwrap().contains("hearth_audit_lost_total 0\n"));
}

//! What bad input gets from what is about a guest's workspace and its shells.

use hearth_client::api::history::{ApplyPatch, Since};
use hearth_client::api::protocol::history::Named;

use crate::support::{Daemon, body};

/// Asks of a sandbox that is not there, so that only what is refused first gets another answer.
async fn check(daemon: &Daemon, method: &str, below: &str, request: &str, code: &str, field: Option<&str>) {
    let path = format!("/v1/sandboxes/x{below}");
    let (status, error) = daemon.refused(method, &path, request).await;
    let found = (error.code.name(), error.field.clone());
    assert_eq!(found, (code.to_owned(), field.map(str::to_owned)), "{method} {path} {request}: {error:?}");
    assert_eq!(status, error.code.status(), "{method} {path} {request}");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_about_history_is_told_by_its_field() {
    let daemon = Daemon::start();
    for below in ["/diff", "/changes"] {
        check(&daemon, "GET", below, "", "unknown_sandbox", None).await;
        check(&daemon, "GET", &format!("{below}?since=a%2Fb"), "", "invalid_request", Some("since")).await;
        check(&daemon, "GET", &format!("{below}?since="), "", "invalid_request", Some("since")).await;
        check(&daemon, "GET", &format!("{below}?sicne=a"), "", "invalid_request", Some("sicne")).await;
        check(&daemon, "POST", below, "", "method_not_allowed", None).await;
    }
    check(&daemon, "POST", "/patch", "no patch", "unknown_sandbox", None).await;
    check(&daemon, "POST", "/patch?reverse=yes", "", "invalid_request", Some("reverse")).await;
    check(&daemon, "POST", "/patch?strip=-1", "", "invalid_request", Some("strip")).await;
    check(&daemon, "POST", "/patch?strip=65", "", "invalid_field", Some("strip")).await;
    check(&daemon, "POST", "/patch?dry_run=true", "", "invalid_request", Some("dry_run")).await;
    for below in ["/reset", "/checkpoints"] {
        check(&daemon, "POST", below, "{}", "unknown_sandbox", None).await;
        check(&daemon, "POST", below, r#"{"name": ""}"#, "invalid_request", Some("name")).await;
        check(&daemon, "POST", below, r#"{"name": 5}"#, "invalid_request", Some("name")).await;
        check(&daemon, "POST", below, r#"{"nmae": "a"}"#, "invalid_request", Some("nmae")).await;
        check(&daemon, "POST", below, r#"["a"]"#, "invalid_request", None).await;
    }
    check(&daemon, "GET", "/checkpoints", "", "unknown_sandbox", None).await;
    check(&daemon, "DELETE", "/checkpoints/a", "", "unknown_sandbox", None).await;
    check(&daemon, "DELETE", "/checkpoints/%2e%2e", "", "invalid_request", Some("name")).await;
}

#[tokio::test]
async fn the_client_gets_the_same_codes_about_history() {
    let daemon = Daemon::start();
    let (client, code) = (&daemon.client, "unknown_sandbox");
    assert_eq!(body(client.diff("x", &Since::default()).await).code.name(), code);
    assert_eq!(body(client.changes("x", &Since::default()).await).code.name(), code);
    assert_eq!(body(client.reset("x", &Named::default()).await).code.name(), code);
    assert_eq!(body(client.checkpoint("x", &Named::default()).await).code.name(), code);
    assert_eq!(body(client.checkpoints("x").await).code.name(), code);
    assert_eq!(body(client.remove_checkpoint("x", "a/b").await).field.as_deref(), Some("name"));
    let strip = ApplyPatch { strip: Some(65), ..ApplyPatch::default() };
    let text = || futures_util::stream::iter([Ok("x".into())]);
    assert_eq!(body(client.patch("x", &strip, text()).await).field.as_deref(), Some("strip"));
    assert_eq!(body(client.patch("x", &ApplyPatch::default(), text()).await).code.name(), code);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_about_shells_is_told_by_its_field() {
    let daemon = Daemon::start();
    check(&daemon, "GET", "/shells", "", "unknown_sandbox", None).await;
    check(&daemon, "POST", "/shells", "{}", "invalid_request", Some("name")).await;
    check(&daemon, "POST", "/shells", r#"{"name": "a/b"}"#, "invalid_request", Some("name")).await;
    check(&daemon, "POST", "/shells", r#"{"name": "a", "command": 5}"#, "invalid_request", Some("command")).await;
    check(&daemon, "POST", "/shells", r#"{"name": "a", "command": []}"#, "invalid_field", Some("command")).await;
    check(&daemon, "POST", "/shells", r#"{"name": "a", "pty": true}"#, "invalid_request", Some("pty")).await;
    let size = r#"{"name": "a", "size": {"columns": 0, "rows": 9}}"#;
    check(&daemon, "POST", "/shells", size, "invalid_field", Some("size")).await;
    check(&daemon, "POST", "/shells", r#"{"name": "a"}"#, "unknown_sandbox", None).await;
    for (method, below, request, code, field) in [
        ("GET", "output?limit=0", "", "invalid_field", Some("limit")),
        ("GET", "output?wait_ms=600001", "", "invalid_field", Some("wait_ms")),
        ("GET", "output?from=x", "", "invalid_request", Some("from")),
        ("GET", "output?since=5", "", "invalid_request", Some("since")),
        ("GET", "output", "", "unknown_sandbox", None),
        ("GET", "screen?limit=1048577", "", "invalid_field", Some("limit")),
        ("GET", "screen?from=5", "", "invalid_request", Some("from")),
        ("GET", "screen", "", "unknown_sandbox", None),
        ("POST", "input?wait_ms=600001", "x", "invalid_field", Some("wait_ms")),
        ("POST", "input?newline=maybe", "x", "invalid_request", Some("newline")),
        ("POST", "input", "x", "unknown_sandbox", None),
        ("POST", "wait", r#"{"quiet_ms": 0}"#, "invalid_field", Some("quiet_ms")),
        ("POST", "wait", r#"{"timeout_ms": 600001}"#, "invalid_field", Some("timeout_ms")),
        ("POST", "wait", r#"{"until": "never"}"#, "invalid_request", Some("until")),
        ("POST", "wait", "", "unknown_sandbox", None),
        ("POST", "signal", "{}", "invalid_request", Some("signal")),
        ("POST", "signal", r#"{"signal": "INT", "scope": "all"}"#, "invalid_request", Some("scope")),
        ("POST", "signal", r#"{"signal": "INT"}"#, "unknown_sandbox", None),
        ("POST", "resize", r#"{"columns": 80}"#, "invalid_request", Some("rows")),
        ("POST", "resize", r#"{"columns": 80, "rows": 0}"#, "invalid_field", Some("size")),
        ("POST", "resize", r#"{"columns": 80, "rows": 24}"#, "unknown_sandbox", None),
    ] {
        check(&daemon, method, &format!("/shells/a/{below}"), request, code, field).await;
    }
    check(&daemon, "GET", "/shells/%20/output", "", "invalid_request", Some("name")).await;
    check(&daemon, "DELETE", "/shells/a?grace_ms=99999999", "", "invalid_field", Some("grace_ms")).await;
    check(&daemon, "DELETE", "/shells/a?force=true", "", "invalid_request", Some("force")).await;
    check(&daemon, "DELETE", "/shells/a", "", "unknown_sandbox", None).await;
    let large = "x".repeat(5 << 20);
    for below in ["/shells/a/input", "/processes/5/input"] {
        let (status, error) = daemon.refused("POST", &format!("/v1/sandboxes/x{below}"), &large).await;
        assert_eq!((status, error.code.name().as_str()), (413, "body_too_large"), "{below}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_for_a_part_of_a_tree_is_told_by_its_field() {
    let daemon = Daemon::start();
    check(&daemon, "POST", "/archive", "a\0", "invalid_request", Some("path")).await;
    check(&daemon, "POST", "/archive?path=a&compression=lz", "", "invalid_request", Some("compression")).await;
    check(&daemon, "POST", "/archive?path=a&only=b", "", "invalid_request", Some("only")).await;
    check(&daemon, "POST", "/archive?path=a", "a\0", "unknown_sandbox", None).await;
}

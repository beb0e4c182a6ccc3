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

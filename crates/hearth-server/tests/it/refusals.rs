//! What bad input gets: a typed error that names the field, before anything has changed.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use hearth_client::api::exec::CommandLine;
use hearth_client::api::{ChangeSandbox, CreateSandbox, ExecRequest, ListSandboxes};
use hearth_engine::fleet::FleetLimits;

use crate::support::{Daemon, body, in_time};

#[tokio::test]
async fn every_refusal_names_its_code_and_its_field() {
    let daemon = Daemon::start();
    let sandboxes = "/v1/sandboxes";
    for (method, path, request, status, code, field) in [
        ("GET", "/", "", 404, "unknown_endpoint", None),
        ("GET", "/v2/sandboxes", "", 404, "unknown_endpoint", None),
        ("PUT", sandboxes, "", 405, "method_not_allowed", None),
        ("POST", sandboxes, "{", 400, "invalid_request", None),
        ("POST", sandboxes, "[]", 400, "invalid_request", None),
        ("POST", sandboxes, r#"{"memory": 5}"#, 400, "invalid_request", Some("memory")),
        ("POST", sandboxes, r#"{"cpus": "2"}"#, 400, "invalid_request", Some("cpus")),
        ("POST", sandboxes, r#"{"cpus": 65}"#, 400, "invalid_value", Some("cpus")),
        ("POST", sandboxes, r#"{"memory_mib": 1}"#, 400, "invalid_value", Some("memory_mib")),
        ("POST", sandboxes, r#"{"disk_mib": 1}"#, 400, "invalid_value", Some("disk_mib")),
        ("POST", sandboxes, r#"{"name": "a b"}"#, 400, "invalid_value", Some("name")),
        ("POST", sandboxes, r#"{"labels": {"": "x"}}"#, 400, "invalid_value", Some("labels")),
        ("POST", sandboxes, r#"{"ttl_seconds": 0}"#, 400, "invalid_value", Some("ttl_seconds")),
        ("POST", sandboxes, r#"{"memory_mib": 4096}"#, 429, "limit_reached", Some("memory_mib")),
        ("POST", sandboxes, r#"{"image": "nope"}"#, 404, "unknown_image", Some("image")),
        ("GET", "/v1/sandboxes?state=gone", "", 400, "invalid_value", Some("state")),
        ("GET", "/v1/sandboxes?colour=red", "", 400, "invalid_request", Some("colour")),
        ("GET", "/v1/health?verbose=1", "", 400, "invalid_request", Some("verbose")),
        ("DELETE", "/v1/sandboxes/x?force=true", "", 400, "invalid_request", Some("force")),
        ("POST", "/v1/sandboxes/x/pause?now=1", "", 400, "invalid_request", Some("now")),
        ("GET", "/v1/sandboxes/x/exec?tty=1", "", 400, "invalid_request", Some("tty")),
        ("GET", "/v1/sandboxes?state=running&state=paused", "", 400, "invalid_request", Some("state")),
        ("POST", "/v1/sandboxes/x/kernels/k/interrupt", r#"{"hard": true}"#, 400, "invalid_request", Some("hard")),
        ("POST", "/v1/sandboxes/x/services/s/restart", r#"{"hard": true}"#, 400, "invalid_request", Some("hard")),
        (
            "PUT",
            "/v1/sandboxes/x/secrets",
            r#"{"secrets": [{"name": "a", "value": {"hex": "ff", "x": 1}}]}"#,
            400,
            "invalid_request",
            Some("secrets[0].value"),
        ),
        ("GET", "/v1/events?after=x", "", 400, "invalid_request", Some("after")),
        ("GET", "/v1/sandboxes/x", "", 404, "unknown_sandbox", None),
        ("DELETE", "/v1/sandboxes/x", "", 404, "unknown_sandbox", None),
        ("PATCH", "/v1/sandboxes/x", r#"{"naem": "y"}"#, 400, "invalid_request", Some("naem")),
        ("PATCH", "/v1/sandboxes/x", r#"{"lifespan": "long"}"#, 400, "invalid_request", Some("lifespan")),
        ("PATCH", "/v1/sandboxes/x", r#"{"lifespan": "connection"}"#, 400, "invalid_value", Some("lifespan")),
        ("GET", "/v1/sandboxes/x/logs", "", 404, "unknown_sandbox", None),
        ("GET", "/v1/sandboxes/x/exec", "", 400, "invalid_request", None),
        ("POST", "/v1/sandboxes/x/exec", "{}", 400, "invalid_request", Some("command")),
        (
            "POST",
            "/v1/sandboxes/x/exec",
            r#"{"command": "x", "timeout_ms": 0}"#,
            400,
            "invalid_field",
            Some("timeout_ms"),
        ),
        (
            "POST",
            sandboxes,
            r#"{"idle": {"action": "nap", "after_seconds": 5}}"#,
            400,
            "invalid_request",
            Some("idle.action"),
        ),
        ("POST", sandboxes, r#"{"idle": {"action": "pause"}}"#, 400, "invalid_request", Some("idle.after_seconds")),
        (
            "POST",
            sandboxes,
            r#"{"idle": {"action": "pause", "after_seconds": 0}}"#,
            400,
            "invalid_value",
            Some("idle.after_seconds"),
        ),
        (
            "POST",
            sandboxes,
            r#"{"idle": {"action": "pause", "after_seconds": 9}, "start": "boot"}"#,
            400,
            "invalid_value",
            Some("idle"),
        ),
        ("POST", "/v1/sandboxes/x/pause", "", 404, "unknown_sandbox", None),
        ("POST", "/v1/sandboxes/x/pause", r#"{"hard": true}"#, 400, "invalid_request", Some("hard")),
        ("POST", "/v1/sandboxes/x/resume", "", 404, "unknown_sandbox", None),
        ("POST", "/v1/sandboxes/x/fork", r#"{"copies": -1}"#, 400, "invalid_request", Some("copies")),
        ("POST", "/v1/sandboxes/x/fork", "{}", 404, "unknown_sandbox", None),
        ("POST", sandboxes, r#"{"env": {"A=B": "c"}}"#, 400, "invalid_value", Some("env")),
        ("POST", sandboxes, r#"{"secrets": [{"name": "a b", "value": "x"}]}"#, 400, "invalid_value", Some("secrets")),
        ("POST", sandboxes, r#"{"ports": [{"listen": "x"}]}"#, 400, "invalid_request", Some("ports[0].listen")),
        ("GET", "/v1/run", "", 400, "invalid_request", None),
        ("GET", "/v1/sandboxes/x/services", "", 404, "unknown_sandbox", None),
        ("POST", "/v1/sandboxes/x/services", r#"{"name": "a"}"#, 400, "invalid_request", Some("command")),
        ("POST", "/v1/sandboxes/x/services/a/stop", r#"{"grace_ms": -1}"#, 400, "invalid_request", Some("grace_ms")),
        ("GET", "/v1/sandboxes/x/services/a/logs?tail=5", "", 400, "invalid_request", Some("tail")),
        ("POST", "/v1/sandboxes/x/ports", "{}", 400, "invalid_request", Some("guest_port")),
        ("DELETE", "/v1/sandboxes/x/ports/http", "", 400, "invalid_value", Some("port")),
        ("PUT", "/v1/sandboxes/x/secrets", "{}", 400, "invalid_request", Some("secrets")),
        ("GET", "/v1/sandboxes/x/fork", "", 405, "method_not_allowed", None),
        ("GET", "/v1/sandboxes/x/processes", "", 404, "unknown_sandbox", None),
        ("GET", "/v1/sandboxes/x/processes/5/output?wait_ms=600001", "", 400, "invalid_value", Some("wait_ms")),
        ("GET", "/v1/sandboxes/x/processes/5/output?stream=out", "", 400, "invalid_request", Some("stream")),
        ("POST", "/v1/sandboxes/x/processes/5/signal", r#"{"signal": "NO"}"#, 400, "invalid_request", Some("signal")),
        ("POST", "/v1/sandboxes/x/processes", r#"{"command": "x", "stdin": ""}"#, 400, "invalid_value", Some("stdin")),
        ("POST", "/v1/sandboxes/x/files/stat", "{}", 400, "invalid_request", Some("path")),
        ("POST", "/v1/sandboxes/x/files/list", r#"{"path": "a", "dept": 1}"#, 400, "invalid_request", Some("dept")),
        ("GET", "/v1/sandboxes/x/files/content", "", 400, "invalid_request", Some("path")),
        ("PUT", "/v1/sandboxes/x/files/content?path=a&mode=x", "", 400, "invalid_request", Some("mode")),
        ("GET", "/v1/sandboxes/x/archive?path=a&compression=lz", "", 400, "invalid_request", Some("compression")),
        ("PUT", "/v1/sandboxes/x/archive?path=a", "", 404, "unknown_sandbox", None),
        ("POST", "/v1/sandboxes/x/exec", r#"{"command": "x"}"#, 404, "unknown_sandbox", None),
        ("POST", "/v1/sandboxes/x/packages", r#"{"language": "python"}"#, 400, "invalid_request", Some("packages")),
        (
            "POST",
            "/v1/sandboxes/x/packages",
            r#"{"language": "perl", "packages": ["a==1"]}"#,
            400,
            "invalid_request",
            Some("language"),
        ),
        (
            "POST",
            "/v1/sandboxes/x/packages",
            r#"{"language": "python", "packages": ["six"]}"#,
            400,
            "invalid_field",
            Some("packages"),
        ),
        (
            "POST",
            "/v1/sandboxes/x/packages",
            r#"{"language": "python", "packages": ["six==1"], "index": "x"}"#,
            400,
            "invalid_request",
            Some("index"),
        ),
        (
            "POST",
            "/v1/sandboxes/x/packages",
            r#"{"language": "python", "packages": ["six==1"]}"#,
            404,
            "unknown_sandbox",
            None,
        ),
        ("GET", "/v1/snapshots?name=x", "", 400, "invalid_request", Some("name")),
        ("GET", "/v1/snapshots/x", "", 404, "unknown_snapshot", None),
        ("GET", "/v1/snapshots/..%2Fx", "", 400, "invalid_value", Some("name")),
        ("DELETE", "/v1/snapshots/x", "", 404, "unknown_snapshot", None),
        ("GET", "/v1/snapshots/x/archive", "", 404, "unknown_snapshot", None),
        ("PUT", "/v1/snapshots/x/archive", "hello", 400, "invalid_value", None),
        ("PUT", "/v1/snapshots/x/archive", "", 400, "invalid_value", None),
        ("PUT", "/v1/snapshots/..%2Fx/archive", "hello", 400, "invalid_value", Some("name")),
        ("PUT", "/v1/snapshots/x/archive?name=y", "hello", 400, "invalid_request", Some("name")),
        ("POST", "/v1/snapshots", "", 405, "method_not_allowed", None),
        ("POST", sandboxes, r#"{"snapshot": "x"}"#, 404, "unknown_snapshot", Some("snapshot")),
        ("POST", "/v1/templates", r#"{"memory": 5}"#, 400, "invalid_request", Some("memory")),
        ("POST", "/v1/templates", r#"{"memory_mib": 5}"#, 400, "invalid_value", Some("memory_mib")),
        ("POST", "/v1/templates", r#"{"disk_mib": 0}"#, 400, "invalid_value", Some("disk_mib")),
        ("POST", "/v1/templates", r#"{"cpus": 9}"#, 429, "limit_reached", Some("cpus")),
        ("POST", "/v1/templates", r#"{"image": "nowhere"}"#, 404, "unknown_image", Some("image")),
        ("DELETE", "/v1/templates/0", "", 404, "unknown_template", None),
        ("GET", "/v1/images/nowhere", "", 404, "unknown_image", None),
        ("GET", "/v1/images/No%20Name", "", 400, "invalid_value", None),
        ("DELETE", "/v1/images/nowhere", "", 404, "unknown_image", None),
    ] {
        let (found, error) = daemon.refused(method, path, request).await;
        let found = (found, error.code.name(), error.field.as_deref().map(str::to_owned));
        assert_eq!(found, (status, code.to_owned(), field.map(str::to_owned)), "{method} {path} {request}: {error:?}");
    }
    assert!(daemon.client.list(&ListSandboxes::default()).await.unwrap().sandboxes.is_empty());
    for empty in ["run", "snapshots", "templates"] {
        assert_eq!(std::fs::read_dir(daemon.home.path().join(empty)).map_or(0, Iterator::count), 0, "{empty}");
    }
}

#[tokio::test]
async fn bodies_that_are_too_large_or_of_another_type_are_refused() {
    let daemon = Daemon::start();
    let (status, error) = daemon.refused("POST", "/v1/sandboxes", &" ".repeat(5 << 20)).await;
    assert_eq!((status, error.code.name().as_str()), (413, "body_too_large"));
    let head = "POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: text/xml";
    let (status, said) = daemon.raw(&format!("{head}\r\ncontent-length: 4\r\n\r\n<a/>")).await;
    assert_eq!(status, 415, "{said}");
    let (status, _) = daemon.raw("no HTTP at all\r\n\r\n").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn limits_refuse_before_anything_is_made() {
    let daemon = Daemon::with(FleetLimits { sandboxes: 0, memory_mib: 2048, cpus: 8 }, None);
    let error = body(daemon.client.create(&CreateSandbox::default()).await);
    assert_eq!(error.code.name(), "limit_reached");
    assert!(error.hint.is_some());
}

#[tokio::test]
async fn the_client_gets_the_same_codes() {
    let daemon = Daemon::start();
    let exec = ExecRequest::new(CommandLine::Shell("true".into()));
    assert_eq!(body(daemon.client.hold("x", &exec).await).code.name(), "unknown_sandbox");
    assert_eq!(body(daemon.client.exec("../x", &exec).await).message, "there is no sandbox \"../x\"");
    assert_eq!(body(daemon.client.change("x", &ChangeSandbox::default()).await).code.name(), "unknown_sandbox");
    let nowhere = hearth_client::Client::new(daemon.home.path().join("no.sock"));
    assert!(matches!(nowhere.health().await, Err(hearth_client::ClientError::NotRunning { .. })));
}

#[tokio::test]
async fn what_cannot_be_made_frees_its_name_and_its_place() {
    let daemon = Daemon::with(FleetLimits { sandboxes: 1, memory_mib: 512, cpus: 8 }, None);
    let request = CreateSandbox { name: Some("a".into()), ..CreateSandbox::default() };
    for _ in 0..2 {
        assert_eq!(body(daemon.client.create(&request).await).code.name(), "unknown_image");
    }
    assert_eq!(daemon.client.health().await.unwrap().memory_mib, 0);
    assert!(daemon.client.metrics().await.unwrap().contains("hearth_sandboxes{state=\"running\"} 0\n"));
    assert_eq!(daemon.client.version().await.unwrap().version, "1.2.3");
}

#[tokio::test]
async fn another_user_is_hung_up_on_even_where_the_socket_lets_him_in() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let daemon = Daemon::start();
    let open = |path: &std::path::Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    open(daemon.home.path(), 0o755);
    open(&daemon.socket(), 0o666);
    let mut stranger = Command::new("setpriv");
    let address = format!("UNIX-CONNECT:{}", daemon.socket().display());
    stranger.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "socat", "-t5", "-", &address]);
    stranger.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let asked = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        let mut stranger = stranger.spawn().unwrap();
        // It may be hung up on before it has said all.
        let _ = stranger.stdin.take().unwrap().write_all(b"GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n");
        stranger.wait_with_output().unwrap()
    });
    assert_eq!(in_time(asked).await.unwrap().stdout, b"");
    assert!(daemon.client.health().await.is_ok());
}

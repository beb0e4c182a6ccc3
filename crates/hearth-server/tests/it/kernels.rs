//! What bad requests about kernels get, before a guest is asked.

use hearth_client::api::protocol::kernel::{KernelExec, KernelLanguage, KernelStart};

use crate::support::{Daemon, body};

#[tokio::test]
async fn refusals_about_kernels_name_code_and_field() {
    let daemon = Daemon::start();
    let kernels = "/v1/sandboxes/x/kernels";
    let exec = format!("{kernels}/one/exec");
    for (method, path, request, status, code, field) in [
        ("GET", kernels, "", 404, "unknown_sandbox", None),
        ("PUT", kernels, "", 405, "method_not_allowed", None),
        ("POST", kernels, "{}", 400, "invalid_request", Some("language")),
        ("POST", kernels, r#"{"language": "ruby"}"#, 400, "invalid_request", Some("language")),
        ("POST", kernels, r#"{"language": "bash", "name": "a/b"}"#, 400, "invalid_field", Some("name")),
        ("POST", kernels, r#"{"language": "bash", "imports": ["os"]}"#, 400, "invalid_field", Some("imports")),
        ("POST", kernels, r#"{"language": "python", "colour": 1}"#, 400, "invalid_request", Some("colour")),
        ("POST", kernels, r#"{"language": "python"}"#, 404, "unknown_sandbox", None),
        ("GET", &exec, "", 405, "method_not_allowed", None),
        ("POST", &exec, r#"{"language": "python"}"#, 400, "invalid_request", Some("code")),
        ("POST", &exec, r#"{"language": "python", "code": " \n"}"#, 400, "invalid_field", Some("code")),
        ("POST", &exec, r#"{"language": "python", "code": "a\u0000"}"#, 400, "invalid_field", Some("code")),
        ("POST", &exec, r#"{"language": "python", "code": "1", "name": "b"}"#, 400, "invalid_value", Some("name")),
        (
            "POST",
            &exec,
            r#"{"language": "python", "code": "1", "timeout_ms": 0}"#,
            400,
            "invalid_field",
            Some("timeout_ms"),
        ),
        (
            "POST",
            &exec,
            r#"{"language": "python", "code": "1", "env": {"A": 5}}"#,
            400,
            "invalid_request",
            Some("env.A"),
        ),
        ("POST", &exec, r#"{"language": "python", "code": "1"}"#, 404, "unknown_sandbox", None),
        (
            "POST",
            &format!("{kernels}/a%2Fb/exec"),
            r#"{"language": "bash", "code": "1"}"#,
            400,
            "invalid_field",
            Some("name"),
        ),
        ("POST", &format!("{kernels}/one/interrupt"), "", 404, "unknown_sandbox", None),
        ("POST", &format!("{kernels}/one/restart"), "", 404, "unknown_sandbox", None),
        ("DELETE", &format!("{kernels}/one"), "", 404, "unknown_sandbox", None),
        ("POST", &format!("{kernels}/one/dance"), "", 404, "unknown_endpoint", None),
    ] {
        let (found, error) = daemon.refused(method, path, request).await;
        let found = (found, error.code.name(), error.field.as_deref().map(str::to_owned));
        assert_eq!(found, (status, code.to_owned(), field.map(str::to_owned)), "{method} {path} {request}: {error:?}");
    }
    // Too long for a kernel, and not for a request.
    let long = serde_json::json!({ "language": "bash", "code": "#".repeat((1 << 20) + 1) }).to_string();
    let (status, error) = daemon.refused("POST", &exec, &long).await;
    assert_eq!((status, error.field.as_deref()), (413, Some("code")), "{error:?}");
}

#[tokio::test]
async fn the_client_gets_the_same_codes_about_kernels() {
    let daemon = Daemon::start();
    let exec = KernelExec { code: Some("1".into()), ..KernelExec::new(KernelLanguage::Python) };
    let refused = [
        body(daemon.client.exec_in_kernel("x", "one", &exec).await),
        body(daemon.client.start_kernel("x", &KernelStart::new(KernelLanguage::Bash)).await),
        body(daemon.client.kernels("x").await),
        body(daemon.client.interrupt_kernel("x", "one").await),
        body(daemon.client.restart_kernel("x", "one").await),
        body(daemon.client.remove_kernel("x", "one").await),
    ];
    assert!(refused.iter().all(|error| error.code.name() == "unknown_sandbox"), "{refused:?}");
    let blank = KernelExec { code: Some(" ".into()), ..exec };
    assert_eq!(body(daemon.client.exec_in_kernel("x", "one", &blank).await).field.as_deref(), Some("code"));
}

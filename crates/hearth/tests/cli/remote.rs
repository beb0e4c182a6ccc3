//! The daemon over TCP: keys, TLS, and who is refused. The foreign client is curl.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{HANG, Home, Running, assert_code, said, text};

/// A daemon that listens on TCP as well.
pub(crate) struct Listening {
    pub(crate) home: Home,
    daemon: Option<Running>,
    /// The line that tells where.
    told: String,
}

impl Listening {
    pub(crate) fn start(home: Home, arguments: &[&str]) -> Self {
        let mut command = home.command(&[&["daemon", "--listen", "127.0.0.1:0"], arguments].concat());
        let mut daemon = Running::start(&mut command);
        let mut stderr = daemon.child.stderr.take().unwrap();
        let (mut said, mut byte) = (Vec::new(), [0]);
        let told = loop {
            assert_eq!(stderr.read(&mut byte).unwrap(), 1, "it ended: {}", text(&said));
            said.push(byte[0]);
            if let Some(line) = text(&said).lines().find(|line| byte == *b"\n" && line.contains("listens on http")) {
                break line.to_owned();
            }
        };
        // What it still says must have somewhere to go.
        std::thread::spawn(move || stderr.read_to_end(&mut Vec::new()));
        Self { home, daemon: Some(daemon), told }
    }

    pub(crate) fn url(&self) -> &str {
        self.told.split("listens on ").nth(1).unwrap().split([',', ' ']).next().unwrap()
    }

    fn address(&self) -> SocketAddr {
        self.url().rsplit('/').next().unwrap().parse().unwrap()
    }

    fn fingerprint(&self) -> &str {
        self.told.split("certificate ").nth(1).unwrap()
    }

    pub(crate) fn key(&self, name: &str) -> String {
        let made = self.home.hearth(&["key", "create", name]);
        assert_code(&made, 0);
        text(&made.stdout).trim_end().to_owned()
    }

    /// Asks as a stranger would, and returns status and body.
    fn curl(&self, path: &str, key: Option<&str>, arguments: &[&str]) -> (u16, Value) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}"]).args(arguments);
        if self.url().starts_with("https") {
            curl.arg("--cacert").arg(self.home.path().join("tls/certificate.pem"));
        }
        if let Some(key) = key {
            curl.args(["--header", &format!("Authorization: Bearer {key}")]);
        }
        let output = curl.arg(format!("{}{path}", self.url())).output().unwrap();
        let answer = text(&output.stdout);
        let (body, status) = answer.rsplit_once('\n').unwrap_or_else(|| panic!("{}", said(&output)));
        (status.parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
    }

    #[track_caller]
    fn check(&self, path: &str, key: Option<&str>, arguments: &[&str], wanted: (u16, Option<&str>, Option<&str>)) {
        let (status, body) = self.curl(path, key, arguments);
        assert_eq!((status, body["code"].as_str(), body["field"].as_str()), wanted, "{path} {arguments:?}: {body}");
    }

    /// A command of somebody elsewhere, with a home of his own.
    pub(crate) fn elsewhere(&self, key: &str, arguments: &[&str]) -> Command {
        let mut command = self.home.command(arguments);
        command.env("HEARTH_HOME", "/nonexistent").env("HEARTH_HOST", self.url()).env("HEARTH_API_KEY", key);
        command
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let left = self.home.hearth(&["rm", "--all"]);
        let daemon = self.daemon.take().unwrap();
        daemon.signal(Signal::TERM);
        let ended = daemon.finish();
        if !std::thread::panicking() {
            assert_code(&left, 0);
            assert_code(&ended, 0);
        }
    }
}

const REFUSED: (u16, Option<&str>, Option<&str>) = (401, Some("unauthorized"), Some("authorization"));
const UPGRADE: [&str; 8] = [
    "--header",
    "Connection: Upgrade",
    "--header",
    "Upgrade: websocket",
    "--header",
    "Sec-WebSocket-Version: 13",
    "--header",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
];

#[test]
fn over_tls_a_key_opens_the_api_until_it_is_removed_and_nothing_else_does() {
    let there = Listening::start(Home::empty(), &["--tls"]);
    let (key, other) = (there.key("ci"), there.key("other"));
    there.check("/v1/health", Some(&key), &[], (200, None, None));
    there.check("/v1/health", Some(&key), &["--tls-max", "1.2"], (200, None, None));
    there.check("/metrics", Some(&key), &[], (200, None, None));
    let long: Vec<String> = (0..8).map(|number| format!("X-Long-{number}: {}", "x".repeat(100_000))).collect();
    let long: Vec<&str> = long.iter().flat_map(|header| ["--header", header]).collect();
    // The connection is closed on what is still being sent, which may take the answer with it.
    let (status, _) = there.curl("/v1/health", Some(&key), &long);
    assert!([431, 0].contains(&status), "{status}");
    let wrong = format!("hearth_{}", "0".repeat(64));
    for path in ["/v1/health", "/metrics", "/", "/v1/sandboxes", "/nothing", "/v1/run"] {
        there.check(path, None, &[], REFUSED);
        there.check(path, Some(&wrong), &[], REFUSED);
        there.check(path, None, &UPGRADE, REFUSED);
    }
    there.check("/v1/sandboxes", None, &["--data", "{\"name\": \"a\"}"], REFUSED);
    there.check("/v1/sandboxes/x", Some(&key), &[], (404, Some("unknown_sandbox"), None));
    assert_code(&there.home.hearth(&["key", "rm", "ci"]), 0);
    there.check("/v1/health", Some(&key), &[], REFUSED);
    there.check("/v1/health", Some(&other), &[], (200, None, None));
    let refused = there.home.hearth(&["key", "rm", "other", "nobody"]);
    assert_code(&refused, 125);
    let listed: Value = serde_json::from_slice(&there.home.hearth(&["key", "ls", "--json"]).stdout).unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["name"]), (1, &"other".into()));
}

#[test]
fn what_comes_by_mcp_is_written_down_as_the_key_holders_and_nobody_else_can_claim_that() {
    let there = Listening::start(Home::empty(), &["--tls"]);
    let key = there.key("ci");
    let call = r#"{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "sandbox_remove", "arguments": {"sandbox": "none"},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "curl", "version": "8"}, "io.modelcontextprotocol/clientCapabilities": {}}}}"#;
    let head = [
        "--header",
        "Accept: application/json, text/event-stream",
        "--header",
        "Content-Type: application/json",
        "--header",
        "MCP-Protocol-Version: 2026-07-28",
        "--header",
        "Mcp-Method: tools/call",
        "--header",
        "Mcp-Name: sandbox_remove",
        "--data",
        call,
    ];
    let (status, body) = there.curl("/mcp", Some(&key), &head);
    assert_eq!(status, 200, "{body}");
    there.check(
        "/v1/sandboxes/x",
        Some(&key),
        &["--header", "hearth-for-key: other"],
        (404, Some("unknown_sandbox"), None),
    );
    let log = there.home.hearth(&["audit", "--json"]);
    let lines: Vec<Value> = text(&log.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let by_mcp: Vec<&Value> = lines.iter().filter(|line| line["via"] == "mcp").collect();
    assert!(!by_mcp.is_empty() && by_mcp.iter().all(|line| line["who"]["key"] == "ci"), "{lines:?}");
    assert!(lines.iter().all(|line| line["who"]["key"] != "other"), "{lines:?}");
}

#[test]
fn a_browser_that_was_led_here_is_refused() {
    let there = Listening::start(Home::empty(), &["--tls", "--host-name", "box.example"]);
    let key = there.key("ci");
    let ask = |headers: &[&str], wanted| {
        let arguments: Vec<&str> = headers.iter().flat_map(|header| ["--header", header]).collect();
        there.check("/v1/health", Some(&key), &arguments, wanted);
        // As a WebSocket it is refused before it is one.
        let upgrade = [&arguments[..], &UPGRADE].concat();
        let of_socket = if wanted.0 == 200 { (404, Some("unknown_endpoint"), None) } else { wanted };
        there.check("/v1/nothing", Some(&key), &upgrade, of_socket);
    };
    let own = format!("Origin: {}", there.url());
    ask(&[&own], (200, None, None));
    ask(&["Host: box.example"], (200, None, None));
    ask(&["Host: localhost:5", "Origin: https://localhost:5"], (200, None, None));
    ask(&["Host: evil.example"], (403, Some("forbidden"), Some("host")));
    ask(&["Host: evil.example", "Origin: https://evil.example"], (403, Some("forbidden"), Some("host")));
    ask(&["Origin: https://evil.example"], (403, Some("forbidden"), Some("origin")));
    ask(&["Origin: null"], (403, Some("forbidden"), Some("origin")));
}

#[test]
fn commands_reach_it_from_elsewhere_and_trust_no_other_certificate() {
    let there = Listening::start(Home::empty(), &["--tls"]);
    let key = there.key("laptop");
    let authority = there.home.path().join("tls/certificate.pem");
    let run = |command: &mut Command| Running::start(command).finish();
    let ls = ["ls", "--json"];
    let pinned = run(there.elsewhere(&key, &ls).env("HEARTH_FINGERPRINT", there.fingerprint()));
    assert_code(&pinned, 0);
    assert_eq!(text(&pinned.stdout).trim(), "[]");
    assert_code(&run(there.elsewhere(&key, &ls).env("HEARTH_CA", &authority)), 0);
    let flag = ["--host", &there.url().replace("127.0.0.1", "localhost"), "ls"];
    assert_code(&run(there.elsewhere(&key, &flag).env("HEARTH_CA", &authority).env("HEARTH_HOST", "http://x")), 0);

    let other = format!("sha256:{}", "0".repeat(64));
    for (variable, value, named) in [
        ("HEARTH_FINGERPRINT", other.as_str(), "another fingerprint"),
        ("HEARTH_FINGERPRINT", "sha256:1", "is no fingerprint"),
        ("HEARTH_CA", "/dev/null", "no certificate"),
        ("HEARTH_HOST", "box", "https://"),
        ("HEARTH_HOST", "http://10.255.255.1:7070", "HEARTH_INSECURE"),
    ] {
        let refused = run(there.elsewhere(&key, &["ls"]).env(variable, value));
        assert_code(&refused, 125);
        assert!(text(&refused.stderr).contains(named), "{variable}={value}: {}", said(&refused));
    }
    let refused = run(there.elsewhere("hearth_no", &ls).env("HEARTH_CA", &authority));
    assert_code(&refused, 125);
    let error: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(error["error"]["code"], "unauthorized", "{error}");
    for here_only in [&["image", "build"][..], &["key", "ls"], &["daemon"]] {
        let refused = run(&mut there.elsewhere(&key, here_only));
        assert_code(&refused, 125);
        assert!(text(&refused.stderr).contains("on this machine only"), "{}", said(&refused));
    }
}

#[test]
fn without_tls_it_listens_on_loopback_alone_unless_that_is_meant() {
    let home = Home::empty();
    for (arguments, named) in [
        (&["--listen", "0.0.0.0:0"][..], "--tls"),
        (&["--listen", "[::]:0"], "--no-tls"),
        (&["--listen", "localhost"], "localhost"),
        (&["--tls"], "--listen"),
        (&["--listen", "127.0.0.1:0", "--tls-cert", "/dev/null", "--tls-key", "/dev/null"], "/dev/null"),
    ] {
        let refused = home.hearth(&[&["daemon"], arguments].concat());
        assert_code(&refused, 125);
        assert!(text(&refused.stderr).contains(named), "{arguments:?}: {}", said(&refused));
    }
    let there = Listening::start(home, &[]);
    let key = there.key("ci");
    there.check("/v1/health", Some(&key), &[], (200, None, None));
    there.check("/v1/health", None, &[], REFUSED);
}

fn connect(there: &Listening, said: &str) -> TcpStream {
    let mut stream = TcpStream::connect(there.address()).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream.write_all(said.as_bytes()).unwrap();
    stream
}

/// What is answered until the connection ends.
fn answer(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // One that is hung up on may find it reset.
    let _ = stream.read_to_end(&mut answer);
    text(&answer)
}

#[test]
fn a_stranger_who_shows_no_key_in_time_is_hung_up_on_and_one_with_a_wrong_key_at_once() {
    let there = Listening::start(Home::empty(), &[]);
    let key = there.key("ci");
    let known = format!("GET /v1/health HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n\r\n");
    let mut kept = connect(&there, &known);
    let begun = Instant::now();
    let wrong = known.replace(&key, &format!("hearth_{}", "0".repeat(64)));
    for refused in [wrong.as_str(), "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", "GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
        // The second is not even looked at.
        let said = answer(connect(&there, &format!("{refused}{known}")));
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{said}");
        assert!(said.starts_with("HTTP/1.1 40") && said.contains("connection: close\r\n"), "{said}");
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    for silent in ["", "GET /v1/health HTTP/1.1\r\nhost: loc"] {
        assert_eq!(answer(connect(&there, silent)), "");
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    // Who has shown one may stay, though it says nothing for as long.
    kept.write_all(known.as_bytes()).unwrap();
    let (mut answers, mut piece) = (String::new(), [0; 4096]);
    while answers.matches("HTTP/1.1 200").count() < 2 {
        let count = kept.read(&mut piece).unwrap();
        assert_ne!(count, 0, "{answers}");
        answers.push_str(&text(&piece[..count]));
    }
}

#[test]
fn a_crowd_of_strangers_keeps_out_nobody_who_comes_from_elsewhere() {
    let there = Listening::start(Home::empty(), &[]);
    let key = there.key("ci");
    let begun = Instant::now();
    let crowd: Vec<TcpStream> = (0..600).map(|_| connect(&there, "")).collect();
    assert_code(&there.home.hearth(&["ls"]), 0);
    // To the daemon this is another host.
    there.check("/v1/health", Some(&key), &["--interface", "127.0.0.2"], (200, None, None));
    // Those for whom there is no room are not kept waiting for as long as the others.
    let is_kept = |mut stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        matches!(stream.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let kept = crowd.iter().filter(|stream| is_kept(stream)).count();
    assert!(kept <= 64, "{kept}");
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[test]
fn a_sandbox_is_made_used_and_removed_from_elsewhere() {
    let Some(home) = Home::with_images() else { return };
    let there = Listening::start(home, &["--tls"]);
    let key = there.key("laptop");
    let fingerprint = there.fingerprint().to_owned();
    let run = |arguments: &[&str]| {
        let output = Running::start(there.elsewhere(&key, arguments).env("HEARTH_FINGERPRINT", &fingerprint)).finish();
        assert_code(&output, 0);
        text(&output.stdout).trim_end().to_owned()
    };
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.txt"), "from here").unwrap();
    // More than a body that is read whole may have.
    let large: Vec<u8> = (0..9_000_000_u32).map(|number| (number % 251) as u8).collect();
    fs::write(directory.path().join("large"), &large).unwrap();
    let seed = directory.path().to_str().unwrap();
    run(&["create", "--name", "far", "--seed", seed]);
    assert_eq!(run(&["exec", "far", "cat", "a.txt"]), "from here");
    let mut command = there.elsewhere(&key, &["exec", "-i", "far", "sh", "-c", "cat; exit 3"]);
    command.env("HEARTH_FINGERPRINT", &fingerprint).stdin(Stdio::piped());
    let mut exec = Running::start(&mut command);
    exec.child.stdin.take().unwrap().write_all(b"typed").unwrap();
    let output = exec.finish();
    assert_code(&output, 3);
    assert_eq!(output.stdout, b"typed");
    let back = directory.path().join("back.txt");
    run(&["cp", "far:a.txt", back.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&back).unwrap(), "from here");
    run(&["cp", "far:large", back.to_str().unwrap()]);
    assert!(fs::read(back).unwrap() == large);
    assert_eq!(run(&["run", "--", "echo", "once"]), "once");
    run(&["rm", "far"]);
    // That of the run goes behind its back.
    assert!(!run(&["ls"]).contains("far"));
}

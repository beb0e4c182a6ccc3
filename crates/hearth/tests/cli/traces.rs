//! Traces: what a collector gets of what the daemon does. The collector is Python's, with OpenTelemetry's own reading of spans.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::held::Daemon;
use crate::python::Python;
use crate::remote::Listening;
use crate::support::{HANG, Home, Running, assert_code, said, text};

/// A collector that runs.
struct Collector {
    running: Running,
    url: String,
}

impl Collector {
    fn start() -> Option<Self> {
        let mut command = Python::found()?.plain();
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces/collector.py"));
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = Running::start(piped);
        let url = running.read_until("\n").trim_end().to_owned();
        assert!(url.starts_with("http://"), "{}", said(&running.finish()));
        Some(Self { running, url })
    }

    /// All that it got.
    fn end(mut self) -> Spans {
        drop(self.running.child.stdin.take());
        let ended = self.running.finish();
        assert_code(&ended, 0);
        Spans(text(&ended.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }
}

struct Spans(Vec<Value>);

impl Spans {
    /// The only one with a name.
    #[track_caller]
    fn only(&self, name: &str) -> &Value {
        let all: Vec<&Value> = self.0.iter().filter(|span| span["name"] == name).collect();
        assert_eq!(all.len(), 1, "{name}: {:#?}", self.0);
        all[0]
    }

    /// The names of those right below one, in the order in which they began, each checked to lie within it.
    #[track_caller]
    fn below(&self, above: &Value) -> Vec<&str> {
        let mut all: Vec<&Value> = self.0.iter().filter(|span| span["parent"] == above["id"]).collect();
        all.sort_by_key(|span| span["begun"].as_u64());
        for span in &all {
            assert_eq!(span["trace"], above["trace"], "{span:#}");
            let time = |span: &Value, what: &str| span[what].as_u64().unwrap();
            assert!(time(span, "begun") >= time(above, "begun"), "{span:#}{above:#}");
            assert!(time(span, "begun") <= time(span, "ended"), "{span:#}");
        }
        all.iter().map(|span| span["name"].as_str().unwrap()).collect()
    }
}

#[test]
fn a_collector_gets_each_operation_with_the_work_that_it_took_and_nothing_that_was_sent() {
    let Some(Daemon(home)) = Daemon::with_images() else { return };
    let Some(collector) = Collector::start() else { return };
    let mut creating = home.command(&["create", "--name", "a", "--secret", "TOKEN", "-e", "GIVEN=hidden-variable"]);
    // The daemon that it starts has them as well.
    creating.env("TOKEN", "hidden-secret").env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url);
    creating.env("OTEL_EXPORTER_OTLP_HEADERS", "x-tests=yes");
    let created = Running::start(&mut creating).finish();
    assert_code(&created, 0);
    let home = Daemon(home);
    let id = home.json(&["inspect", "a"])["id"].as_str().unwrap().to_owned();
    home.ok(&["file", "ls", "a", "."]);
    let mut curl = Command::new("curl");
    curl.arg("--silent").arg("--unix-socket").arg(home.0.path().join("hearth.sock"));
    curl.args(["--header", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]);
    curl.args(["--header", "content-type: application/json"]);
    curl.args(["--data", r#"{"command": "echo hidden-argument > hidden-file"}"#]);
    let asked = curl.arg("http://hearth/v1/sandboxes/a/exec").output().unwrap();
    assert!(text(&asked.stdout).contains("\"exit_code\":0"), "{}", said(&asked));
    home.ok(&["snapshot", "create", "a", "kept"]);
    home.ok(&["fork", "a", "--name", "b"]);
    home.ok(&["pause", "a"]);
    home.ok(&["resume", "a"]);
    home.ok(&["run", "--", "true"]);
    home.ok(&["rm", "--all"]);
    // What was not sent yet is sent before it ends.
    home.end(Signal::TERM);
    let spans = collector.end();

    let create = spans.only("sandboxes_create");
    let about = &create["attributes"];
    assert_eq!((&create["kind"], &create["service"], &create["header"]), (&2.into(), &"hearth".into(), &"yes".into()));
    assert_eq!(about["hearth.made"], id.as_str(), "{create:#}");
    assert_eq!((&about["http.request.method"], &about["http.response.status_code"]), (&"POST".into(), &201.into()));
    assert_eq!(spans.below(create), ["queue", "create"]);
    let phases = |name: &str| {
        let all: Vec<&Value> = spans.0.iter().filter(|span| span["name"] == name).collect();
        // A template is made where there is none yet.
        let below = |span| spans.below(span).into_iter().filter(|name| *name != "make template").collect::<Vec<_>>();
        all.into_iter().map(below).collect::<Vec<_>>()
    };
    let from_template = ["template", "prepared", "started", "connected", "ready"];
    // One for `create`, one for `run`.
    assert_eq!(phases("create"), [from_template, from_template]);
    assert_eq!(spans.below(spans.only("exec_run")), ["queue", "create"]);

    let exec = spans.only("exec_one_shot");
    assert_eq!(exec["trace"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!((&exec["parent"], &exec["attributes"]["hearth.sandbox"]), (&"b7ad6b7169203331".into(), &id.into()));

    assert_eq!(spans.below(spans.only("sandboxes_snapshot")), ["snapshot"]);
    assert_eq!(spans.below(spans.only("snapshot")), ["standstill", "write"]);
    assert_eq!(spans.below(spans.only("fork")), ["standstill", "copy"]);
    assert_eq!(spans.below(spans.only("copy")), ["started", "connected", "ready"]);
    assert_eq!(spans.below(spans.only("sandboxes_pause")), ["pause"]);
    assert_eq!(spans.below(spans.only("pause")), ["standstill", "capture", "write", "end"]);
    assert_eq!(spans.below(spans.only("resume")), ["load", "started", "connected", "ready"]);

    // What begins a trace is what was asked for, and nobody's library says anything.
    let roots: BTreeSet<&str> = spans.0.iter().filter(|span| span["parent"] == "").map(name).collect();
    assert!(roots.iter().all(|root| root.contains('_')), "{roots:?}");
    assert!(spans.0.iter().all(|span| span["events"] == 0 && span["failed"] == false));
    let all = Value::from(spans.0.clone()).to_string();
    assert!(!all.contains("hidden") && !all.contains("echo"), "{all}");
}

fn name(span: &Value) -> &str {
    span["name"].as_str().unwrap()
}

#[test]
fn a_span_says_whose_key_it_was_and_why_it_failed() {
    let Some(collector) = Collector::start() else { return };
    let there = Listening::start(Home::empty(), &["--otlp-endpoint", &collector.url]);
    let key = there.key("laptop");
    assert_code(&Running::start(&mut there.elsewhere(&key, &["inspect", "nobody"])).finish(), 125);
    drop(there);
    let spans = collector.end();
    let about = &spans.only("sandboxes_inspect")["attributes"];
    let told = ["hearth.key", "hearth.sandbox", "error.type"].map(|name| about[name].as_str());
    assert_eq!(told, [Some("laptop"), Some("nobody"), Some("unknown_sandbox")], "{about:#}");
}

#[test]
fn a_collector_that_is_not_there_holds_nothing_up_and_is_told_of_once() {
    let home = Home::empty();
    let log = home.path().join("said");
    let mut command = home.command(&["daemon", "--otlp-endpoint", "http://127.0.0.1:1"]);
    // So that it finds out more than once.
    command.env("OTEL_BSP_SCHEDULE_DELAY", "10").env("OTEL_EXPORTER_OTLP_TIMEOUT", "10");
    let daemon = Running::start(command.stderr(File::create(&log).unwrap()));
    let begun = Instant::now();
    let read = || fs::read_to_string(&log).unwrap();
    let wait_for = |what: &str| {
        while !read().contains(what) {
            assert!(begun.elapsed() < HANG, "{}", read());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait_for("listens, process");
    let list = || assert_code(&home.hearth(&["ls"]), 0);
    list();
    wait_for("do not reach their collector");
    (0..20).for_each(|_| list());
    let ending = Instant::now();
    daemon.signal(Signal::TERM);
    assert_code(&daemon.finish(), 0);
    assert!(ending.elapsed() < Duration::from_secs(10), "{:?}", ending.elapsed());
    assert_eq!(read().matches("collector").count(), 1, "{}", read());
    assert!(read().contains("cannot connect to http://127.0.0.1:1"), "{}", read());
}

#[test]
fn what_is_no_url_is_no_collector() {
    let home = Home::empty();
    for endpoint in ["collector:4318", "ftp://collector", "http://", "nonsense"] {
        let refused = home.hearth(&["daemon", "--otlp-endpoint", endpoint]);
        assert_code(&refused, 125);
        assert!(text(&refused.stderr).contains("cannot send traces to"), "{}", said(&refused));
    }
}

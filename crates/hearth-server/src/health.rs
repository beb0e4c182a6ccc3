//! Whether the daemon is there, what it is, and its figures.

use std::fmt::Write;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use hearth_api::{Health, Version};
use hearth_engine::fleet::{self, Filter};

use crate::App;

pub(crate) async fn health(State(app): State<App>) -> Json<Health> {
    let usage = app.fleet().usage();
    Json(Health {
        sandboxes: usage.sandboxes,
        sandboxes_limit: usage.limits.sandboxes,
        memory_mib: usage.memory_mib,
        memory_limit_mib: usage.limits.memory_mib,
    })
}

pub(crate) async fn version(State(app): State<App>) -> Json<Version> {
    Json(Version { version: app.version().to_owned(), api: hearth_api::VERSION, pid: std::process::id() })
}

/// The text format of Prometheus, version 0.0.4.
pub(crate) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], figures(&app))
}

fn figures(app: &App) -> String {
    let (usage, views) = (app.fleet().usage(), app.fleet().list(&Filter::default()));
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, values: &[(String, u64)]| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP hearth_{name} {help}\n# TYPE hearth_{name} gauge");
        for (labels, value) in values {
            let _ = writeln!(text, "hearth_{name}{labels} {value}");
        }
    };
    let count = |state: fleet::State| views.iter().filter(|view| view.state == state).count() as u64;
    let states: Vec<(String, u64)> =
        fleet::State::ALL.iter().map(|state| (format!("{{state=\"{state}\"}}"), count(*state))).collect();
    let one = |value: u64| vec![(String::new(), value)];
    gauge("sandboxes", "Sandboxes by state.", &states);
    gauge("sandboxes_limit", "The most sandboxes there may be.", &one(usage.limits.sandboxes as u64));
    gauge("guest_memory_mebibytes", "Memory of the guests that have a machine.", &one(usage.memory_mib));
    gauge("guest_memory_limit_mebibytes", "The most that they may have.", &one(usage.limits.memory_mib));
    gauge("events_position", "Position of the newest event.", &one(app.fleet().events().newest()));
    text
}

//! Whether the daemon is there, what it is, and its figures.

use std::fmt::Write;

use axum::Json;
use axum::extract::State;
use hearth_api::{Health, Version};
use hearth_engine::fleet::{self, Filter};

use crate::answer::{Content, Figures};
use crate::{App, pool};

pub(crate) async fn health(State(app): State<App>) -> Json<Health> {
    let usage = app.fleet().usage();
    Json(Health {
        sandboxes: usage.sandboxes,
        sandboxes_limit: usage.limits.sandboxes,
        memory_mib: usage.memory_mib,
        memory_limit_mib: usage.limits.memory_mib,
        cpus: usage.cpus,
        cpus_limit: usage.limits.cpus,
        waiting: usage.waiting,
    })
}

pub(crate) async fn version(State(app): State<App>) -> Json<Version> {
    Json(Version { version: app.version().to_owned(), api: hearth_api::VERSION, pid: std::process::id() })
}

pub(crate) async fn metrics(State(app): State<App>) -> Content<Figures> {
    Content::new(figures(&app))
}

fn figures(app: &App) -> String {
    let (usage, views) = (app.fleet().usage(), app.fleet().list(&Filter::default()));
    let mut text = String::new();
    let mut figure = |kind: &str, name: &str, help: &str, values: &[(String, u64)]| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP hearth_{name} {help}\n# TYPE hearth_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(text, "hearth_{name}{labels} {value}");
        }
    };
    let mut gauge = |name: &str, help: &str, values: &[(String, u64)]| figure("gauge", name, help, values);
    let count = |state: fleet::State| views.iter().filter(|view| view.state == state).count() as u64;
    let states: Vec<(String, u64)> =
        fleet::State::ALL.iter().map(|state| (format!("{{state=\"{state}\"}}"), count(*state))).collect();
    let one = |value: u64| vec![(String::new(), value)];
    gauge("sandboxes", "Sandboxes by state.", &states);
    gauge("sandboxes_limit", "The most sandboxes there may be.", &one(usage.limits.sandboxes as u64));
    gauge("guest_memory_mebibytes", "Memory of the guests that have a machine.", &one(usage.memory_mib));
    gauge("guest_memory_limit_mebibytes", "The most that they may have.", &one(usage.limits.memory_mib));
    gauge("guest_cpus", "Processors of the guests that have a machine.", &one(usage.cpus));
    gauge("guest_cpus_limit", "The most that they may have.", &one(usage.limits.cpus));
    gauge("waiting_requests", "Requests for a sandbox that wait for room.", &one(usage.waiting as u64));
    gauge("events_position", "Position of the newest event.", &one(app.fleet().events().newest()));
    let resident = app.fleet().engine().templates_in_memory().iter().map(|template| template.resident).sum();
    gauge("template_memory_bytes", "Sealed memory of the templates in use.", &one(resident));
    figure(
        "counter",
        "audit_lost_total",
        "Operations that could not be written to the audit log.",
        &one(app.audit().lost()),
    );
    let mut gauge = |name: &str, help: &str, values: &[(String, u64)]| figure("gauge", name, help, values);
    let pool = pool::info(app);
    let ready = pool.kinds.iter().map(|kind| kind.ready as u64).sum();
    let standby = pool.kinds.iter().map(|kind| kind.standby as u64).sum();
    let making = pool.kinds.iter().map(|kind| kind.making as u64).sum();
    gauge(
        "pool_machines",
        "Machines of the warm pool.",
        &[("ready", ready), ("standby", standby), ("making", making)]
            .map(|(state, count)| (format!("{{state=\"{state}\"}}"), count)),
    );
    gauge("pool_pressed", "Whether the pool holds nothing because memory is short.", &one(pool.is_pressed.into()));
    let outcomes = [("claimed", pool.claimed), ("standby", pool.standby), ("missed", pool.missed)];
    let fates = [("made", pool.made), ("failed", pool.failed), ("lost", pool.lost), ("drained", pool.drained)];
    let labelled = |label: &str, values: &[(&str, u64)]| -> Vec<(String, u64)> {
        values.iter().map(|(name, value)| (format!("{{{label}=\"{name}\"}}"), *value)).collect()
    };
    figure("counter", "pool_requests_total", "Requests that a pool could serve.", &labelled("outcome", &outcomes));
    figure("counter", "pool_machines_total", "What became of the pool's machines.", &labelled("fate", &fates));
    text
}

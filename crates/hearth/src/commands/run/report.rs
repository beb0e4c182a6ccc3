//! What is told of a run: its sandbox, its times, its console.

use std::time::{Duration, Instant};

use hearth_client::api::SandboxInfo;
use hearth_engine::{Directories, Sandbox};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::output;

/// What a report says of the sandbox.
pub(super) struct Summary {
    id: String,
    accelerator: String,
    board: String,
    jail_warning: Option<String>,
    phases: Vec<(String, Duration)>,
}

impl Summary {
    pub(super) fn of(sandbox: &Sandbox) -> Self {
        Self {
            id: sandbox.id().to_string(),
            accelerator: sandbox.accelerator().to_owned(),
            board: sandbox.board().to_owned(),
            jail_warning: sandbox.jail().warning(),
            phases: sandbox.phases().iter().map(|(phase, time)| (phase.name().to_owned(), *time)).collect(),
        }
    }

    pub(super) fn of_info(info: &SandboxInfo) -> Self {
        let phases = info.phases.iter().map(|phase| (phase.name.clone(), Duration::from_micros(phase.reached_us)));
        Self {
            id: info.id.clone(),
            accelerator: info.accelerator.clone().unwrap_or_default(),
            board: info.board.clone().unwrap_or_default(),
            jail_warning: info.jail_warning.clone(),
            phases: phases.collect(),
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "id": self.id, "accelerator": self.accelerator, "board": self.board, "jail_warning": self.jail_warning,
            "phases_us": microseconds(self.phases.iter().map(|(name, time)| (name.as_str(), *time))),
        })
    }
}

fn microseconds<'a>(times: impl Iterator<Item = (&'a str, Duration)>) -> Map<String, Value> {
    times.map(|(name, time)| (name.to_owned(), u64::try_from(time.as_micros()).unwrap_or(u64::MAX).into())).collect()
}

/// When this process has seen what, counted from when it asked.
pub(super) struct Timings {
    begun: Instant,
    seen: Vec<(&'static str, Duration)>,
}

impl Timings {
    pub(super) fn since(begun: Instant) -> Self {
        Self { begun, seen: Vec::new() }
    }

    pub(super) fn note(&mut self, what: &'static str) {
        self.seen.push((what, self.begun.elapsed()));
    }

    pub(super) fn json(&self) -> Value {
        Value::Object(microseconds(self.seen.iter().copied()))
    }

    /// Says all times: those of the sandbox's making, and those of this end.
    pub(super) fn say(&self, summary: Option<&Summary>) {
        let line = |who: &str, what: &str, time: Duration| {
            output::say(&format!("hearth: {:>9.3} ms  {who} {what}", time.as_secs_f64() * 1000.0));
        };
        for (phase, time) in summary.iter().flat_map(|summary| &summary.phases) {
            line("sandbox", &output::plain(phase), *time);
        }
        self.seen.iter().for_each(|(what, time)| line("program", what, *time));
    }
}

/// Says what a person should know of a new sandbox. A report in JSON has the warning in it.
pub(super) fn tell_of_start(summary: &Summary, failed_before: &[String], json: bool) {
    for failed in failed_before {
        output::say(&format!("hearth: {}; using {} from now on", output::plain(failed), summary.accelerator));
    }
    if let Some(warning) = summary.jail_warning.as_ref().filter(|_| !json) {
        output::say(&format!("hearth: warning: {}", output::plain(warning)));
    }
}

/// Writes a guest's console to a file of its own, and tells which.
pub(super) fn keep_console(directories: &Directories, name: &str, console: &str) -> Result<String, Failure> {
    let path = directories.logs().join(format!("{name}.console"));
    std::fs::write(&path, console).map_err(|error| Failure::host(format!("write {}: {error}", path.display())))?;
    Ok(path.display().to_string())
}

/// Keeps the console of a guest that did not come up.
pub(super) fn keep_failed_console(directories: &Directories, console: &str) {
    match keep_console(directories, &format!("failed-{}", std::process::id()), console) {
        Ok(path) => output::say(&format!("hearth: the guest's console is in {path}")),
        Err(failure) => drop(failure.report(false)),
    }
}

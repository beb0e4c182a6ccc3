//! How a failure reaches a person or a program: kind, message, hint, exit code. The one place for it.

use std::io;
use std::process::ExitCode;

use hearth_engine::channel::ChannelError;
use hearth_engine::protocol::{ErrorCode, Outcome};
use hearth_engine::{EngineError, Kind, chain, image};
use serde_json::json;

use crate::output;

/// The exit code of Hearth's own failures.
pub(crate) const OWN: i32 = 125;
/// The exit code when a command cannot be executed, as in a shell.
const NOT_EXECUTABLE: i32 = 126;
/// The exit code when there is no such command, as in a shell.
const NOT_FOUND: i32 = 127;
/// The lines that are shown of a dead guest's console or a failed tool's output: the last.
const DETAIL_LINES: usize = 20;

/// A failure, ready to be told.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: &'static str,
    message: String,
    hint: Option<String>,
    outcome: Option<Outcome>,
    detail: Option<String>,
    code: i32,
}

impl Failure {
    fn new(kind: Kind, message: String) -> Self {
        Self { kind: kind.name(), message, hint: None, outcome: None, detail: None, code: OWN }
    }

    /// Something that was given cannot be.
    pub(crate) fn invalid(message: String) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// The host is in the way.
    pub(crate) fn host(message: String) -> Self {
        Self::new(Kind::Host, message)
    }

    /// The machine or its guest broke.
    pub(crate) fn machine(message: String) -> Self {
        Self::new(Kind::Machine, message)
    }

    /// Adds what somebody else said of it, in many lines.
    pub(crate) fn with_detail(mut self, detail: String) -> Self {
        self.detail = Some(detail);
        self
    }

    /// The runtime cannot be made.
    pub(crate) fn runtime(error: io::Error) -> Self {
        Self::host(format!("cannot start the runtime: {error}"))
    }

    /// Adds what to do about it.
    pub(crate) fn with_hint(mut self, hint: &str) -> Self {
        self.hint = Some(hint.to_owned());
        self
    }

    /// Tells it, and returns the exit code: on standard error for people, on standard output for programs.
    pub(crate) fn report(&self, json: bool) -> i32 {
        if json {
            let error = json!({
                "kind": self.kind, "message": self.message, "hint": self.hint, "outcome": self.outcome, "detail": self.detail,
            });
            if let Err(unwritten) = output::print_json(&json!({ "error": error })) {
                unwritten.tell();
            }
        } else {
            self.tell();
        }
        self.code
    }

    fn tell(&self) {
        if let Some(detail) = &self.detail {
            let lines: Vec<&str> = detail.lines().collect();
            let last = &lines[lines.len().saturating_sub(DETAIL_LINES)..];
            output::say(&format!("  {}", last.join("\n  ")));
        }
        output::say(&format!("hearth: {} error: {}", self.kind, self.message));
        if let Some(hint) = &self.hint {
            output::say(&format!("hint: {hint}"));
        }
    }
}

/// Tells what clap found, or shows help or the version, in clap's own words.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    // Where standard output is gone, so is whom to tell.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(OWN as u8) } else { ExitCode::SUCCESS }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let mut failure = Self::new(error.kind(), chain(&error));
        failure.hint = error.hint();
        failure.detail = error.detail().map(str::to_owned);
        failure
    }
}

impl From<image::ImageError> for Failure {
    fn from(error: image::ImageError) -> Self {
        EngineError::Image(error).into()
    }
}

impl From<image::NameError> for Failure {
    fn from(error: image::NameError) -> Self {
        Self::invalid(chain(&error))
    }
}

impl From<ChannelError> for Failure {
    /// What the agent refuses is about the command; all else is about the machine.
    fn from(error: ChannelError) -> Self {
        let outcome = Some(error.outcome());
        let ChannelError::Fault { source } = &error else {
            return Self { outcome, ..Self::new(Kind::Machine, chain(&error)) };
        };
        let code = match source.code {
            ErrorCode::CommandNotFound => NOT_FOUND,
            ErrorCode::CommandNotExecutable => NOT_EXECUTABLE,
            _ => OWN,
        };
        Self { outcome, code, ..Self::new(Kind::Invalid, source.message.clone()) }
    }
}

//! How a failure reaches a person or a program: kind, message, hint, exit code. The one place for it.

use std::io;
use std::process::ExitCode;

use hearth_client::ClientError;
use hearth_client::api::{Code, ErrorBody, OwnCode};
use hearth_engine::channel::ChannelError;
use hearth_engine::protocol::{ErrorCode, ExitStatus, Outcome};
use hearth_engine::{EngineError, Kind, chain, image};
use serde_json::json;

use crate::output;

/// The exit code of Hearth's own failures.
pub(crate) const OWN: i32 = 125;
/// The exit code when the deadline passed.
pub(crate) const TIMED_OUT: i32 = 124;
/// The exit code when nobody reads the output any more, as a program in a pipe has it.
pub(crate) const BROKEN_PIPE: i32 = 141;
/// The exit code when a command cannot be executed, as in a shell.
const NOT_EXECUTABLE: i32 = 126;
/// The exit code when there is no such command, as in a shell.
const NOT_FOUND: i32 = 127;
/// The lines that are shown of a dead guest's console or a failed tool's output: the last.
const DETAIL_LINES: usize = 20;

/// The exit code that a program's end gives this one.
pub(crate) fn exit_code_of(status: &ExitStatus) -> i32 {
    if status.timed_out { TIMED_OUT } else { status.shell_code() }
}

/// What the daemon says of a refusal beside the rest.
#[derive(Debug)]
struct Refused {
    code: String,
    field: Option<String>,
}

/// A failure, ready to be told.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    refused: Option<Box<Refused>>,
    message: String,
    hint: Option<String>,
    outcome: Option<Outcome>,
    detail: Option<String>,
    code: i32,
}

impl Failure {
    fn new(kind: Kind, message: String) -> Self {
        Self { kind, refused: None, message, hint: None, outcome: None, detail: None, code: OWN }
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

    /// What it says.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Tells it, and returns the exit code: on standard error for people, on standard output for programs.
    pub(crate) fn report(&self, json: bool) -> i32 {
        if json {
            let refused = self.refused.as_ref();
            let code = refused.map_or_else(|| self.usual_code().name(), |refused| refused.code.clone());
            let error = json!({
                "kind": self.kind.name(), "code": code, "field": refused.and_then(|refused| refused.field.as_ref()), "message": self.message, "hint": self.hint,
                "outcome": self.outcome, "detail": self.detail,
            });
            if let Err(unwritten) = output::print_json(&json!({ "error": error })) {
                unwritten.tell();
            }
        } else {
            self.tell();
        }
        self.code
    }

    /// The code of what only the command knows.
    fn usual_code(&self) -> Code {
        let code = match self.kind {
            Kind::Invalid => OwnCode::InvalidValue,
            Kind::Missing => OwnCode::Missing,
            Kind::Resources => OwnCode::Resources,
            Kind::Host => OwnCode::Host,
            Kind::Machine => OwnCode::Machine,
        };
        code.into()
    }

    fn tell(&self) {
        if let Some(detail) = &self.detail {
            let lines: Vec<&str> = detail.lines().collect();
            let last = &lines[lines.len().saturating_sub(DETAIL_LINES)..];
            output::say(&format!("  {}", last.join("\n  ")));
        }
        output::say(&format!("hearth: {} error: {}", self.kind.name(), output::plain(&self.message)));
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
        Self { kind: error.kind(), ..hearth_server::error_body(&error).into() }
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
        let refused = ErrorBody::from(source.clone());
        let refused = Some(Box::new(Refused { code: refused.code.name(), field: refused.field }));
        Self { outcome, code, refused, ..Self::new(kind(Code::Guest(source.code)), source.message.clone()) }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused { body } => (*body).into(),
            ClientError::InvalidHost { .. } | ClientError::InvalidKey | ClientError::InvalidFingerprint { .. } => {
                Self::invalid(chain(&error))
            }
            ClientError::NotRunning { .. }
            | ClientError::Connect { .. }
            | ClientError::WrongPeer { .. }
            | ClientError::Authorities { .. }
            | ClientError::Unreachable { .. } => Self::host(chain(&error)),
            _ => Self { outcome: Some(Outcome::MayHaveRun), ..Self::host(chain(&error)) },
        }
    }
}

impl From<Failure> for ErrorBody {
    /// What a client is told that speaks to the daemon through this process, and does not get that far.
    fn from(failure: Failure) -> Self {
        let code = match failure.kind {
            Kind::Invalid => OwnCode::InvalidValue,
            Kind::Missing => OwnCode::Missing,
            Kind::Resources => OwnCode::Resources,
            _ => OwnCode::Host,
        };
        Self::new(code, failure.message).with_hint(failure.hint)
    }
}

impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Self {
        let code = match body.code {
            Code::Guest(ErrorCode::CommandNotFound) => NOT_FOUND,
            Code::Guest(ErrorCode::CommandNotExecutable) => NOT_EXECUTABLE,
            _ => OWN,
        };
        Self {
            refused: Some(Box::new(Refused { code: body.code.name(), field: body.field })),
            hint: body.hint,
            outcome: body.outcome,
            detail: body.detail,
            code,
            ..Self::new(kind(body.code), body.message)
        }
    }
}

/// The kind of what the daemon or a guest refuses.
fn kind(code: Code) -> Kind {
    match code {
        Code::Own(OwnCode::Missing | OwnCode::UnknownImage | OwnCode::UnknownSnapshot | OwnCode::UnknownTemplate) => {
            Kind::Missing
        }
        Code::Own(OwnCode::Resources | OwnCode::LimitReached) => Kind::Resources,
        Code::Own(OwnCode::Host | OwnCode::Ending | OwnCode::Bug | OwnCode::Forbidden | OwnCode::Unauthorized) => {
            Kind::Host
        }
        Code::Own(OwnCode::Machine | OwnCode::NoAnswer | OwnCode::SandboxRemoved) => Kind::Machine,
        Code::Guest(ErrorCode::NoSpace) => Kind::Resources,
        Code::Guest(ErrorCode::Unavailable) => Kind::Missing,
        Code::Guest(ErrorCode::Io | ErrorCode::Internal) => Kind::Machine,
        Code::Own(_) | Code::Guest(_) => Kind::Invalid,
    }
}

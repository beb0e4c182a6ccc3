//! What is answered when something fails.

use std::fmt;

use hearth_protocol::{ErrorCode, Fault, Outcome};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a request failed. Stable: the same on HTTP, in `--json` and in MCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Code {
    /// The host's end says so.
    Own(OwnCode),
    /// The guest says so.
    Guest(ErrorCode),
}

/// What the host's end can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OwnCode {
    /// The request is not what it must be: no JSON, a field missing, unknown or of the wrong type.
    InvalidRequest,
    /// A value is out of range, or breaks a rule.
    InvalidValue,
    /// There is nothing at this path of the API.
    UnknownEndpoint,
    /// There is something at this path, and not with this method.
    MethodNotAllowed,
    /// The body is larger than a limit.
    BodyTooLarge,
    /// The body is not of the type it must be.
    UnsupportedMediaType,
    /// No sandbox is meant.
    UnknownSandbox,
    /// More than one sandbox is meant.
    AmbiguousSandbox,
    /// No such port is published.
    UnknownPort,
    /// There is no such snapshot.
    UnknownSnapshot,
    /// There is no such template, or more than one is meant.
    UnknownTemplate,
    /// Another sandbox, or another snapshot, has the name.
    NameTaken,
    /// The sandbox's state does not allow it.
    WrongState,
    /// It was removed meanwhile.
    SandboxRemoved,
    /// A limit of the daemon's is reached.
    LimitReached,
    /// The daemon is ending.
    Ending,
    /// There is no such image.
    UnknownImage,
    /// Something that must be installed or built first is not there.
    Missing,
    /// The host has too little of something.
    Resources,
    /// The host's files or permissions are in the way.
    Host,
    /// The machine or its guest did not come up, or broke.
    Machine,
    /// The guest did not answer in time.
    NoAnswer,
    /// Whoever asked has not shown a key that counts.
    Unauthorized,
    /// Whoever asked may not.
    Forbidden,
    /// A bug in the daemon: please report it.
    Bug,
}

impl OwnCode {
    const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::InvalidValue => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::UnknownEndpoint | Self::UnknownPort | Self::UnknownSandbox | Self::UnknownImage => 404,
            Self::UnknownSnapshot | Self::UnknownTemplate => 404,
            Self::MethodNotAllowed => 405,
            Self::AmbiguousSandbox | Self::NameTaken | Self::WrongState => 409,
            Self::SandboxRemoved => 410,
            Self::BodyTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::LimitReached => 429,
            Self::Ending | Self::Missing | Self::Resources | Self::Host => 503,
            Self::Machine => 502,
            Self::NoAnswer => 504,
            Self::Bug => 500,
        }
    }
}

impl Code {
    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::Own(code) => code.status(),
            Self::Guest(code) => guest_status(code),
        }
    }

    /// The code as it stands in JSON.
    pub fn name(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => name,
            _ => "unknown".to_owned(),
        }
    }
}

fn guest_status(code: ErrorCode) -> u16 {
    use ErrorCode as C;
    match code {
        C::NotFound | C::UnknownProcess | C::UnknownName | C::CommandNotFound | C::UnknownUser => 404,
        C::AlreadyExists | C::NotRunning | C::NotEmpty | C::PatchConflict | C::NotATerminal => 409,
        C::OutsideRoot | C::PermissionDenied => 403,
        C::Busy => 429,
        C::TooLarge => 413,
        C::NoSpace => 507,
        C::TimedOut | C::ConnectionFailed => 504,
        C::Internal | C::Unknown | C::UnsupportedVersion | C::DuplicateRequest => 502,
        C::Io | C::SpawnFailed | C::Unavailable | C::Cancelled => 503,
        _ => 400,
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl From<OwnCode> for Code {
    fn from(code: OwnCode) -> Self {
        Self::Own(code)
    }
}

/// The body of every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error, JsonSchema)]
#[error("{message}")]
pub struct ErrorBody {
    /// Why, for programs.
    pub code: Code,
    /// Why, for people.
    pub message: String,
    /// What to do about it, where there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Which field of the request is to blame, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Whether a retry is safe, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// What somebody else said of it, in many lines: the console of a guest that did not come up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl ErrorBody {
    /// Makes one with a code and a message.
    pub fn new(code: impl Into<Code>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), hint: None, field: None, outcome: None, detail: None }
    }

    /// Names the field that is to blame.
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says what to do about it.
    pub fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }
}

impl From<Fault> for ErrorBody {
    fn from(fault: Fault) -> Self {
        let is_rule = matches!(fault.code, ErrorCode::InvalidField | ErrorCode::TooLarge);
        let field = is_rule.then(|| field(&fault.message)).flatten();
        let mut body = Self::new(Code::Guest(fault.code), fault.message);
        body.field = field.map(str::to_owned);
        body.outcome = Some(fault.outcome);
        body
    }
}

/// The fields with which the wire's own rules begin, as `timeout_ms must be …` does.
const FIELDS: [&str; 31] = [
    "code",
    "command",
    "depth",
    "directory",
    "edits",
    "env",
    "grace_ms",
    "imports",
    "limit",
    "limit_bytes",
    "limits",
    "mode",
    "name",
    "packages",
    "path",
    "pattern",
    "pty",
    "quiet_ms",
    "ready_interval_ms",
    "ready_timeout_ms",
    "secrets",
    "size",
    "stream",
    "strip",
    "tail_lines",
    "target",
    "timeout_ms",
    "user",
    "wait_ms",
    "offset",
    "length",
];
/// How the rules begin that say it otherwise, with the field that each is about.
const OTHERWISE: [(&str, &str); 6] = [
    ("a readiness", "readiness"),
    ("a tag", "tag"),
    ("secret ", "secrets"),
    ("service name", "name"),
    ("terminal columns", "pty"),
    ("the variable", "env"),
];

/// The field that a rule of the wire is about.
fn field(rule: &str) -> Option<&'static str> {
    let first = rule.split([' ', '.', ':']).next().unwrap_or_default();
    let otherwise = || OTHERWISE.iter().find(|(beginning, _)| rule.starts_with(beginning)).map(|(_, field)| *field);
    let of_path = || rule.contains(": the path ").then_some("path");
    FIELDS.into_iter().find(|field| *field == first).or_else(otherwise).or_else(of_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: impl Into<Code>, json: &str, status: u16) {
        let code = code.into();
        assert_eq!(serde_json::to_string(&code).unwrap(), json);
        assert_eq!(serde_json::from_str::<Code>(json).unwrap(), code);
        assert_eq!(code.status(), status);
    }

    #[test]
    fn codes_are_plain_words_whoever_says_them() {
        check(OwnCode::UnknownSandbox, "\"unknown_sandbox\"", 404);
        check(OwnCode::LimitReached, "\"limit_reached\"", 429);
        check(Code::Guest(ErrorCode::CommandNotFound), "\"command_not_found\"", 404);
        check(Code::Guest(ErrorCode::InvalidField), "\"invalid_field\"", 400);
    }

    #[test]
    fn a_code_of_a_newer_daemon_is_read_as_unknown() {
        assert_eq!(serde_json::from_str::<Code>("\"of_tomorrow\"").unwrap(), Code::Guest(ErrorCode::Unknown));
    }

    #[test]
    fn a_rule_of_the_wires_names_its_field() {
        for (rule, field) in [
            ("timeout_ms must be 1 to 5", Some("timeout_ms")),
            ("limits.pids must be at least 1", Some("limits")),
            ("size: columns and rows of a shell must be 1 to 512", Some("size")),
            ("secret name \"a b\" must be a letter", Some("secrets")),
            ("remove x: the path is /workspace itself, or ends in a dot", Some("path")),
            ("something else", None),
        ] {
            let body = ErrorBody::from(Fault::never_started(ErrorCode::InvalidField, rule));
            assert_eq!(body.field.as_deref(), field, "{rule}");
        }
        let body = ErrorBody::from(Fault::never_started(ErrorCode::NotFound, "path must not be looked at"));
        assert_eq!(body.field, None);
    }

    #[test]
    fn what_is_not_said_is_not_there() {
        let body = ErrorBody::new(OwnCode::Ending, "hearth is ending");
        assert_eq!(serde_json::to_string(&body).unwrap(), r#"{"code":"ending","message":"hearth is ending"}"#);
    }
}

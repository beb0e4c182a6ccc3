//! Requests and replies: what travels on the control lane.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::archive::{ArchiveRequest, ArchiveResult};
use crate::dial::{DialRequest, DialResult};
use crate::files::{FileRequest, FileResult};
use crate::secrets::{SecretRequest, SecretResult, SecretValue, validate_secret_name};
use crate::service::{ServiceRequest, ServiceResult};
use crate::{Command, ErrorCode, Fault, RawString, Renew, Signal, StreamName, limits};

/// Names a request within a session, and its streams. Chosen by the host; free again once the request has had its last reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

/// Names a process for as long as the agent lives. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessId(pub u64);

/// One line from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The request's own id; for [`RequestBody::Credit`] and [`RequestBody::Detach`] the id of the request they are about.
    pub id: RequestId,
    /// What is asked.
    #[serde(flatten)]
    pub body: RequestBody,
}

/// What a host may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum RequestBody {
    /// Asks whether the agent is there. Reply: [`ReplyBody::Pong`].
    Ping {},
    /// Asks what the guest is. Reply: [`ReplyBody::Info`].
    Info {},
    /// Makes the guest this sandbox's own. Reply: [`ReplyBody::Done`], before which no other work should be asked.
    Renew(Renew),
    /// Starts a process. Replies: [`ReplyBody::Started`], then, when attached, its streams and [`ReplyBody::Exit`].
    Start(Start),
    /// Follows a process that is there already. Replies: as for an attached [`RequestBody::Start`].
    Attach(Attach),
    /// Stops following; the process goes on. The followed request gets [`ReplyBody::Done`] and nothing after it.
    Detach {},
    /// Sends a signal. Reply: [`ReplyBody::Done`].
    Signal {
        /// To which process.
        process: ProcessId,
        /// Which.
        signal: Signal,
        /// To it alone, or to all it has started.
        #[serde(default)]
        scope: SignalScope,
    },
    /// Changes the size of a process's terminal. Reply: [`ReplyBody::Done`].
    Resize {
        /// Whose terminal.
        process: ProcessId,
        /// To what.
        size: PtySize,
    },
    /// Lists the processes, the ended ones that are still remembered included, at most [`limits::LISTED`] at a time. Reply:
    /// [`ReplyBody::Processes`].
    List {
        /// Goes on behind this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<ProcessId>,
    },
    /// Allows more bytes of one of this request's output streams. No reply.
    Credit {
        /// Which stream.
        stream: StreamName,
        /// How many more.
        bytes: u64,
    },
    /// Does something with files.
    File(FileRequest),
    /// Connects to something inside the guest.
    Dial(DialRequest),
    /// Does something with secrets. It is done before the next request is looked at.
    Secret(SecretRequest),
    /// Does something with services.
    Service(ServiceRequest),
    /// Moves a directory tree as an archive.
    Archive(ArchiveRequest),
    /// Ends everything: stops all processes, writes back disks, powers off (or, outside a VM, exits). Reply: [`ReplyBody::Done`], just before.
    Shutdown {},
}

/// The size of a terminal in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PtySize {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// How output reaches a follower that is slower than the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// The process waits, as it would for a slow pipe. Nothing is lost while this follower stays.
    Lossless,
    /// The process never waits. What no longer fits the ring is dropped; the follower sees the jump in [`crate::ChunkHeader::at`].
    #[default]
    Bounded,
}

/// Which processes a signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalScope {
    /// The process itself.
    #[default]
    Process,
    /// The process and everything it has started, what has left its process group or lost its parent included.
    Tree,
}

/// A process to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// What to run.
    pub command: Command,
    /// Where; by default the workspace, or the user's home where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<RawString>,
    /// Variables beside the user's HOME, USER, LOGNAME, SHELL, the PATH and LANG; they override these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, RawString>,
    /// More variables, whose values are secrets: the names of these by the names of those.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Values to hide in its output as secrets are, beside these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<SecretValue>,
    /// The user to run as, a name or a number; by default the agent's default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether the host will send input. Without it input is at its end from the start. A terminal always takes input.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    /// Runs it on a terminal of this size; its output and error output are then one stream, `stdout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<PtySize>,
    /// The deadline in milliseconds of guest time. The whole process tree is stopped then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The time between TERM and KILL in milliseconds; [`limits::DEFAULT_GRACE_MS`] by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    /// Follows the process from its first byte on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<Delivery>,
}

impl Start {
    /// Makes the plainest start of `command`: nobody attached, no input, no deadline.
    pub fn new(command: Command) -> Self {
        Self {
            command,
            cwd: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            redact: Vec::new(),
            user: None,
            stdin: false,
            pty: None,
            timeout_ms: None,
            grace_ms: None,
            attach: None,
        }
    }

    /// Checks what types alone do not.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] naming the field and the rule.
    pub fn validate(&self) -> Result<(), Fault> {
        let invalid = |message: String| Err(Fault::never_started(ErrorCode::InvalidField, message));
        if let Command::Argv(argv) = &self.command {
            if argv.first().is_none_or(|program| program.as_bytes().is_empty()) {
                return invalid("command.argv must name a program".into());
            }
            if argv.len() > limits::ARGUMENTS {
                return invalid(format!(
                    "command.argv has {} entries, over the limit of {}",
                    argv.len(),
                    limits::ARGUMENTS
                ));
            }
        }
        if self.env.len() > limits::ARGUMENTS {
            return invalid(format!("env has {} entries, over the limit of {}", self.env.len(), limits::ARGUMENTS));
        }
        validate_variables(self.env.keys().chain(self.secrets.keys()))?;
        if let Some(name) = self.secrets.keys().find(|name| self.env.contains_key(*name)) {
            return invalid(format!("{name} is in env and in secrets"));
        }
        self.secrets.values().try_for_each(|name| validate_secret_name(name))?;
        for (field, length, limit) in
            [("secrets", self.secrets.len(), limits::SECRETS), ("redact", self.redact.len(), limits::REDACTED_VALUES)]
        {
            if length > limit {
                return invalid(format!("{field} has {length} entries, over the limit of {limit}"));
            }
        }
        if self.timeout_ms.is_some_and(|ms| ms == 0 || ms > limits::TIMEOUT_MS) {
            return invalid(format!("timeout_ms must be 1 to {}", limits::TIMEOUT_MS));
        }
        if self.grace_ms.is_some_and(|ms| ms > limits::GRACE_MS) {
            return invalid(format!("grace_ms must be at most {}", limits::GRACE_MS));
        }
        self.pty.map_or(Ok(()), PtySize::validate)
    }
}

/// Checks the names of variables.
pub(crate) fn validate_variables<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<(), Fault> {
    match names.into_iter().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        None => Ok(()),
        Some(name) => {
            let message = format!("env name {name:?} is empty or holds '=' or NUL");
            Err(Fault::never_started(ErrorCode::InvalidField, message))
        }
    }
}

impl PtySize {
    /// Checks both sides against 1 to [`limits::PTY_CELLS`].
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`].
    pub fn validate(self) -> Result<(), Fault> {
        let fits = |cells: u16| (1..=limits::PTY_CELLS).contains(&cells);
        if fits(self.columns) && fits(self.rows) {
            return Ok(());
        }
        let message = format!("terminal columns and rows must be 1 to {}", limits::PTY_CELLS);
        Err(Fault::never_started(ErrorCode::InvalidField, message))
    }
}

/// A process to follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// Which.
    pub process: ProcessId,
    /// The first byte of `stdout` that is wanted. Bytes that are gone already show as a jump.
    #[serde(default)]
    pub stdout: u64,
    /// The first byte of `stderr` that is wanted.
    #[serde(default)]
    pub stderr: u64,
    /// What happens when the follower is slow.
    #[serde(default)]
    pub delivery: Delivery,
}

/// One line from the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request that is answered; `None` when the line could not be read far enough to know.
    pub id: Option<RequestId>,
    /// The answer.
    #[serde(flatten)]
    pub body: ReplyBody,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ReplyBody {
    /// Answers a ping.
    Pong {},
    /// Describes the guest.
    Info(Info),
    /// It is done, and there is nothing more to say. The last reply.
    Done {},
    /// The process runs.
    Started {
        /// Its name.
        process: ProcessId,
        /// Its number in the guest.
        pid: u32,
    },
    /// The process has ended. The last reply, but stream data up to these totals may still follow on the bulk lane.
    Exit {
        /// How it ended.
        status: ExitStatus,
        /// Where its streams end.
        output: OutputTotals,
    },
    /// The processes there are.
    Processes {
        /// In the order of their start.
        processes: Vec<ProcessInfo>,
        /// Whether there are more behind the last.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        more: bool,
    },
    /// More input may be sent.
    Credit {
        /// Which stream: [`StreamName::Stdin`].
        stream: StreamName,
        /// How many more bytes.
        bytes: u64,
    },
    /// An operation has ended well. The last reply, but stream data up to these totals may still follow on the bulk lane.
    Finished {
        /// What came of it.
        result: Finished,
        /// Where its streams end.
        #[serde(default, skip_serializing_if = "OutputTotals::is_zero")]
        output: OutputTotals,
    },
    /// It did not succeed. The last reply.
    Error(Fault),
}

/// What came of an operation, by its group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finished {
    /// Of [`RequestBody::File`].
    File(FileResult),
    /// Of [`RequestBody::Dial`].
    Dial(DialResult),
    /// Of [`RequestBody::Secret`].
    Secret(SecretResult),
    /// Of [`RequestBody::Service`].
    Service(ServiceResult),
    /// Of [`RequestBody::Archive`].
    Archive(ArchiveResult),
}

/// What the guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The agent's version.
    pub agent: String,
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// The host name.
    pub hostname: String,
    /// Seconds since boot.
    pub uptime_seconds: u64,
    /// The guest's memory in bytes.
    pub memory_bytes: u64,
    /// The agent's own resident memory in bytes.
    pub agent_resident_bytes: u64,
    /// How process trees are tracked and stopped: `cgroup`, or why not.
    pub process_trees: String,
}

/// How a process ended. Exactly one of `code` and `signal` is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// The code it exited with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The number of the signal that killed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether its deadline passed and it was stopped for that.
    pub timed_out: bool,
    /// Whether the kernel killed a process of its tree for want of memory.
    pub out_of_memory: bool,
    /// From its start to its end in microseconds, as the agent saw it.
    pub duration_us: u64,
    /// The processor time of it and the children it waited for, in microseconds.
    pub cpu_us: u64,
    /// The largest resident memory of it or a child it waited for, in bytes.
    pub peak_memory_bytes: u64,
}

impl ExitStatus {
    /// The code a shell would report: 128 + n for signal n.
    pub fn shell_code(&self) -> i32 {
        self.code.or_else(|| self.signal.map(|signal| 128 + signal)).unwrap_or(255)
    }
}

/// The length of each output stream in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OutputTotals {
    /// Bytes written to `stdout`, or to the terminal.
    pub stdout: u64,
    /// Bytes written to `stderr`.
    pub stderr: u64,
    /// Bytes of `data`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub data: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl OutputTotals {
    fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// The length of one stream; `None` for `stdin`, which goes the other way.
    pub fn get(&self, stream: StreamName) -> Option<u64> {
        match stream {
            StreamName::Stdin => None,
            StreamName::Stdout => Some(self.stdout),
            StreamName::Stderr => Some(self.stderr),
            StreamName::Data => Some(self.data),
        }
    }
}

/// A process in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its name.
    pub process: ProcessId,
    /// Its number in the guest, as it was when it ran.
    pub pid: u32,
    /// What it runs, cut to [`limits::LISTED_COMMAND`] bytes of JSON.
    pub command: Command,
    /// Whether it runs.
    pub state: ProcessState,
    /// What it has written so far.
    pub output: OutputTotals,
}

/// Whether a process runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// It runs.
    Running,
    /// It ended, so.
    Exited(ExitStatus),
}

#[derive(Deserialize)]
struct Peek {
    #[serde(default)]
    id: Option<RequestId>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

const KNOWN: &[&str] = &[
    "ping", "info", "renew", "start", "attach", "detach", "signal", "resize", "list", "credit", "shutdown", "file",
    "dial", "secret", "service", "archive",
];

/// Reads one line of the control lane.
///
/// # Errors
/// The reply to send instead, with the id where the line had a readable one: malformed, unknown, or an invalid field by name.
pub fn parse_request(line: &[u8]) -> Result<Request, Box<Reply>> {
    let refused =
        |id, code, message: String| Box::new(Reply { id, body: ReplyBody::Error(Fault::never_started(code, message)) });
    let request = serde_json::from_slice::<Request>(line).or_else(|error| {
        let object = line.trim_ascii_start().starts_with(b"{");
        let peek: Peek = serde_json::from_slice(if object { line } else { b"" }).map_err(|_| {
            refused(
                None,
                ErrorCode::MalformedRequest,
                "a request is a JSON object with a number `id` and a string `type`".into(),
            )
        })?;
        Err(match peek.kind {
            Some(kind) if !KNOWN.contains(&kind.as_str()) => {
                refused(peek.id, ErrorCode::UnknownRequest, format!("there is no request of type {kind:?}"))
            }
            _ => refused(peek.id, ErrorCode::InvalidField, without_values(&error.to_string())),
        })
    })?;
    match &request.body {
        RequestBody::Start(start) => start.validate(),
        RequestBody::Resize { size, .. } => size.validate(),
        RequestBody::Dial(dial) => dial.validate(),
        RequestBody::File(request) => request.validate(),
        RequestBody::Renew(renew) => renew.validate(),
        RequestBody::Secret(request) => request.validate(),
        RequestBody::Service(request) => request.validate(),
        RequestBody::Archive(archive) => archive.validate(),
        _ => Ok(()),
    }
    .map_err(|fault| Box::new(Reply { id: Some(request.id), body: ReplyBody::Error(fault) }))?;
    Ok(request)
}

/// Takes the value out of what `serde` says about one that it could not use: it may be one that nobody should see.
fn without_values(message: &str) -> String {
    let kind = ["invalid type", "invalid value"].into_iter().find(|kind| message.starts_with(kind));
    match kind.zip(message.rfind(", expected ")) {
        Some((kind, expected)) => format!("{kind}{}", &message[expected..]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_cannot_be_used_is_not_repeated() {
        for line in [
            r#"{"id":1,"type":"secret","op":"set","secrets":"hunter2"}"#,
            r#"{"id":1,"type":"secret","op":"set","secrets":["hunter2"]}"#,
            r#"{"id":1,"type":"secret","op":"set","secrets":[{"name":"A","value":["hunter2"]}]}"#,
            r#"{"id":1,"type":"secret","op":"set","secrets":[{"name":"A","value":{"hex":"hunter2"}}]}"#,
            r#"{"id":1,"type":"secret","op":"set","secrets":[{"name":"A","value":"b","file":"hunter2"}]}"#,
            r#"{"id":1,"type":"renew","secrets":"hunter2, expected "}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"redact":"hunter2"}"#,
        ] {
            let refusal = parse_request(line.as_bytes()).expect_err("refused");
            assert!(!format!("{refusal:?}").contains("hunter2"), "{refusal:?}");
            assert_eq!(code(line), ErrorCode::InvalidField);
        }
    }

    fn code(line: &str) -> ErrorCode {
        match parse_request(line.as_bytes()).expect_err("refused").body {
            ReplyBody::Error(fault) => fault.code,
            other => panic!("not an error: {other:?}"),
        }
    }

    #[test]
    fn each_kind_of_bad_request_has_its_own_code() {
        for line in ["", "[1]", "[1,\"ping\"]", "nonsense", "{\"id\":", "7", "{\"id\":\"x\"}"] {
            assert_eq!(code(line), ErrorCode::MalformedRequest, "{line:?}");
        }
        assert_eq!(code(r#"{"id":1,"type":"dance"}"#), ErrorCode::UnknownRequest);
        for line in [
            r#"{"id":1}"#,
            r#"{"id":1,"type":"ping","extra":1}"#,
            r#"{"id":1,"type":"start"}"#,
            r#"{"id":1,"type":"start","command":{"argv":[]}}"#,
            r#"{"id":1,"type":"start","command":{"argv":["a\u0000"]}}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"nonsense":1}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"env":{"A=B":"c"}}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"timeout_ms":0}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"pty":{"columns":0,"rows":1}}"#,
        ] {
            assert_eq!(code(line), ErrorCode::InvalidField, "{line:?}");
        }
    }

    #[test]
    fn requests_are_readable_json_and_bytes_round_trip() {
        let mut start = Start::new(Command::Argv(vec!["printf".into(), RawString::from(b"\xff".as_slice())]));
        start.attach = Some(Delivery::Lossless);
        let request = Request { id: RequestId(7), body: RequestBody::Start(start) };
        let line = serde_json::to_string(&request).unwrap();
        let golden = r#"{"id":7,"type":"start","command":{"argv":["printf",{"hex":"ff"}]},"attach":"lossless"}"#;
        assert_eq!(line, golden);
        assert_eq!(parse_request(line.as_bytes()).unwrap(), request);
    }
}

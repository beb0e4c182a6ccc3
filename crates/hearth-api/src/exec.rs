//! Programs: run to their end, or held over a WebSocket.
//!
//! # Over a WebSocket
//! The client's first message is text: an [`ExecRequest`] (or, where it attaches to a process, none). From then on *binary* messages are
//! bytes of a stream, behind one byte that names it ([`STDIN`], [`STDOUT`], [`STDERR`]), and *text* messages are a [`FromClient`] or a
//! [`FromServer`] in JSON. The last message is [`FromServer::Exit`] or [`FromServer::Error`].
//!
//! The server holds at most [`STDIN_WINDOW`] bytes of input that the program has not taken, and then reads no more, signals included: a
//! client that sends no more than that beyond what [`FromServer::Taken`] tells is never held up.
//!
//! A client that goes detaches: the program runs on, and another can attach to it.

use std::collections::BTreeMap;

use hearth_protocol::{
    Command, Delivery, ExitStatus, OutputTotals, ProcessId, PtySize, RawString, ResourceLimits, Signal, SignalScope,
    Start, StreamName, Tag,
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::{Captured, CreateSandbox, ErrorBody, OwnCode, SandboxInfo};

/// The byte before input.
pub const STDIN: u8 = 0;
/// The byte before output.
pub const STDOUT: u8 = 1;
/// The byte before error output.
pub const STDERR: u8 = 2;
/// The bytes of input that the server holds at most.
pub const STDIN_WINDOW: u64 = 1024 * 1024;
/// The largest message either way, in bytes.
pub const MESSAGE: usize = 1024 * 1024 + 1024;
/// The most output of each stream that an [`ExecResult`] has where nothing is asked, in bytes.
pub const DEFAULT_OUTPUT: u64 = 1024 * 1024;
/// The most output of each stream that can be asked for, in bytes.
pub const MOST_OUTPUT: u64 = 16 * 1024 * 1024;

/// What to run: in JSON an array, program and arguments, or a string, for `/bin/sh -c`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum CommandLine {
    /// A program, looked for in `PATH` where it has no slash, and its arguments.
    Argv(Vec<RawString>),
    /// Text for a shell.
    Shell(RawString),
}

impl<'de> Deserialize<'de> for CommandLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Argv(Vec<RawString>),
            Shell(RawString),
        }
        match Form::deserialize(deserializer) {
            Ok(Form::Argv(argv)) => Ok(Self::Argv(argv)),
            Ok(Form::Shell(text)) => Ok(Self::Shell(text)),
            // That it is missing at all, serde says better.
            Err(error) if error.to_string().starts_with("missing field") => Err(error),
            Err(_) => Err(D::Error::custom(
                "must be an array of strings, program and arguments, or a string for a shell, without NUL",
            )),
        }
    }
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// What.
    pub command: CommandLine,
    /// Where; the workspace by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<RawString>,
    /// Variables beside those of the user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, RawString>,
    /// More variables, whose values are secrets: names of secrets by names of variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// The user, a name or number; `user` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its deadline in milliseconds: it is ended then, with all it has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The time between TERM and KILL in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    /// A name under which the process can be found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// What it and all it starts may use.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: ResourceLimits,
    /// Text for its standard input. Not over a WebSocket, where messages carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// The most that the answer has of each stream, in bytes: half of it from the beginning, half from the end. Not over a WebSocket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_bytes: Option<u64>,
    /// Over a WebSocket: runs it on a terminal of this size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<PtySize>,
    /// Over a WebSocket: whether input will come. A terminal always takes some.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interactive: bool,
    /// Over a WebSocket: what happens when the client is slow. The program waits, by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
}

impl From<Start> for ExecRequest {
    /// What asks for just this over a WebSocket.
    fn from(start: Start) -> Self {
        let command = match start.command {
            Command::Argv(argv) => CommandLine::Argv(argv),
            Command::Shell(text) => CommandLine::Shell(text),
        };
        Self {
            cwd: start.cwd,
            env: start.env,
            secrets: start.secrets,
            user: start.user,
            timeout_ms: start.timeout_ms,
            grace_ms: start.grace_ms,
            tag: start.tag,
            limits: start.limits,
            pty: start.pty,
            interactive: start.stdin,
            delivery: start.attach,
            ..Self::new(command)
        }
    }
}

impl ExecRequest {
    /// Makes the plainest request.
    pub fn new(command: CommandLine) -> Self {
        Self {
            command,
            cwd: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            user: None,
            timeout_ms: None,
            grace_ms: None,
            tag: None,
            limits: ResourceLimits::default(),
            stdin: None,
            max_output_bytes: None,
            pty: None,
            interactive: false,
            delivery: None,
        }
    }

    /// How much of each stream the answer is to have.
    ///
    /// # Errors
    /// [`OwnCode::InvalidValue`] for more than [`MOST_OUTPUT`].
    pub fn output_limit(&self) -> Result<u64, ErrorBody> {
        output_limit(self.max_output_bytes)
    }

    /// What the guest is asked, for a program that is run to its end.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn one_shot(self) -> Result<Start, ErrorBody> {
        for (field, given) in
            [("pty", self.pty.is_some()), ("interactive", self.interactive), ("delivery", self.delivery.is_some())]
        {
            if given {
                let message = format!("{field} needs a WebSocket");
                return Err(ErrorBody::new(OwnCode::InvalidValue, message).with_field(field));
            }
        }
        let has_input = self.stdin.is_some();
        let mut start = self.plain();
        start.stdin = has_input;
        start.attach = Some(Delivery::Lossless);
        checked(start)
    }

    /// What the guest is asked, for a program that is held over a WebSocket.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn held(self) -> Result<Start, ErrorBody> {
        for (field, given) in [("stdin", self.stdin.is_some()), ("max_output_bytes", self.max_output_bytes.is_some())] {
            if given {
                let message = format!("{field} is not for a WebSocket");
                return Err(ErrorBody::new(OwnCode::InvalidValue, message).with_field(field));
            }
        }
        let (pty, interactive, delivery) = (self.pty, self.interactive, self.delivery);
        let mut start = self.plain();
        start.pty = pty;
        start.stdin = interactive;
        start.attach = Some(delivery.unwrap_or(Delivery::Lossless));
        checked(start)
    }

    fn plain(self) -> Start {
        let mut start = Start::new(match self.command {
            CommandLine::Argv(argv) => Command::Argv(argv),
            CommandLine::Shell(text) => Command::Shell(text),
        });
        start.cwd = self.cwd;
        start.env = self.env;
        start.secrets = self.secrets;
        start.user = self.user;
        start.timeout_ms = self.timeout_ms;
        start.grace_ms = self.grace_ms;
        start.tag = self.tag;
        start.limits = self.limits;
        start
    }
}

pub(crate) fn output_limit(max_output_bytes: Option<u64>) -> Result<u64, ErrorBody> {
    match max_output_bytes {
        None => Ok(DEFAULT_OUTPUT),
        Some(bytes) if bytes <= MOST_OUTPUT => Ok(bytes),
        Some(_) => {
            let message = format!("max_output_bytes must be at most {MOST_OUTPUT}");
            Err(ErrorBody::new(OwnCode::InvalidValue, message).with_field("max_output_bytes"))
        }
    }
}

fn checked(start: Start) -> Result<Start, ErrorBody> {
    start.validate().map(|()| start).map_err(ErrorBody::from)
}

/// How a program has ended, and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecResult {
    /// Its name in the guest.
    pub process: ProcessId,
    /// What a shell would report: its code, or 128 + n for signal n.
    pub exit_code: i32,
    /// How it ended.
    #[serde(flatten)]
    pub status: ExitStatus,
    /// What it wrote.
    pub stdout: Captured,
    /// What it wrote to its error output.
    pub stderr: Captured,
}

/// A sandbox for one program: the first message over the WebSocket of `GET /run`. The server answers it with [`FromServer::Ready`], and
/// from then on all is as for a program in a sandbox that was there. The sandbox goes with the connection, and so does the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// The sandbox.
    #[serde(default)]
    pub sandbox: CreateSandbox,
    /// The program.
    pub exec: ExecRequest,
}

/// What a client says in text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromClient {
    /// The terminal here has another size.
    Resize {
        /// Which.
        size: PtySize,
    },
    /// A signal for the program.
    Signal {
        /// Which.
        signal: Signal,
        /// For it alone, for all it has started, or for the job in the foreground of its terminal.
        #[serde(default)]
        scope: SignalScope,
    },
    /// That was all of the input.
    CloseStdin {},
}

/// What the server says in text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromServer {
    /// The sandbox of a run takes requests. The first message, of a run alone.
    Ready {
        /// What it is.
        sandbox: Box<SandboxInfo>,
    },
    /// The program runs.
    Started {
        /// Its name.
        process: ProcessId,
        /// Its number in the guest.
        pid: u32,
    },
    /// So many bytes of input have been taken, from the first on: they reach the program even if the client goes.
    Taken {
        /// How many.
        bytes: u64,
        /// Whether the end of the input was taken too.
        end: bool,
    },
    /// Bytes of an output stream were dropped in the guest, between what came before and what comes next.
    Dropped {
        /// Which stream.
        stream: StreamName,
        /// How many.
        bytes: u64,
    },
    /// The program has ended, and all its output was sent. The last message.
    Exit {
        /// How.
        status: ExitStatus,
        /// How long its streams are.
        output: OutputTotals,
    },
    /// It cannot be run, or is lost. The last message.
    Error {
        /// Why.
        error: ErrorBody,
    },
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: &str) -> Result<ExecRequest, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_command_is_an_array_or_a_text_for_a_shell() {
        let argv = request(r#"{"command": ["echo", {"hex": "ff"}]}"#).unwrap().one_shot().unwrap();
        assert_eq!(argv.command, Command::Argv(vec!["echo".into(), vec![0xff].into()]));
        let shell = request(r#"{"command": "echo hi"}"#).unwrap().one_shot().unwrap();
        assert_eq!(shell.command, Command::Shell("echo hi".into()));
        for bad in [r#"{"command": 5}"#, r#"{"command": [5]}"#, r#"{"command": ["a\u0000"]}"#, "{}"] {
            assert!(request(bad).is_err(), "{bad}");
        }
    }

    #[track_caller]
    fn check_refused(json: &str, field: &str) {
        let refused = request(json).unwrap().one_shot().unwrap_err();
        assert_eq!(refused.field.as_deref(), Some(field), "{refused:?}");
        assert_eq!(refused.code.status(), 400);
    }

    #[test]
    fn refusals_name_the_field() {
        check_refused(r#"{"command": []}"#, "command");
        check_refused(r#"{"command": "x", "timeout_ms": 0}"#, "timeout_ms");
        check_refused(r#"{"command": "x", "env": {"A=B": "c"}}"#, "env");
        check_refused(r#"{"command": "x", "pty": {"columns": 1, "rows": 1}}"#, "pty");
        check_refused(r#"{"command": "x", "limits": {"pids": 0}}"#, "limits");
        assert!(request(r#"{"command": "x", "timeout": 5}"#).unwrap_err().contains("`timeout`"));
    }

    #[test]
    fn input_is_at_its_end_unless_some_is_given() {
        assert!(!request(r#"{"command": "cat"}"#).unwrap().one_shot().unwrap().stdin);
        assert!(request(r#"{"command": "cat", "stdin": ""}"#).unwrap().one_shot().unwrap().stdin);
    }

    #[test]
    fn messages_are_tagged_and_strict() {
        let signal: FromClient = serde_json::from_str(r#"{"type": "signal", "signal": "INT"}"#).unwrap();
        assert_eq!(signal, FromClient::Signal { signal: Signal::Int, scope: SignalScope::Process });
        assert!(serde_json::from_str::<FromClient>(r#"{"type": "close_stdin", "now": true}"#).is_err());
    }
}

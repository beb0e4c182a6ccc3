//! Shells of a guest: programs on a terminal that have a name and outlive whoever talks to them.
//!
//! A shell is a process too: its output can be followed by the id that it was opened with, as any process's can.

use std::collections::BTreeMap;

use hearth_protocol::shell::{self, Idle, PlainRead, ShellInfo, ShellName, ShellRequest};
use hearth_protocol::{Command, PtySize, RawString, ResourceLimits, Signal, SignalScope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exec::CommandLine;
use crate::{ErrorBody, OwnCode};

/// A shell to start. The name of one that has ended is free again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenShell {
    /// Its name: 1 to 64 letters, digits, `.`, `_` and `-`, the first a letter or digit.
    pub name: ShellName,
    /// What to run; the user's own shell by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandLine>,
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
    /// The size of its terminal; 120 columns and 30 rows by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<PtySize>,
    /// What it and all it starts may use.
    #[serde(default)]
    pub limits: ResourceLimits,
}

impl OpenShell {
    /// Makes the plainest shell.
    pub fn new(name: ShellName) -> Self {
        let (env, secrets) = (BTreeMap::new(), BTreeMap::new());
        let limits = ResourceLimits::default();
        Self { name, command: None, cwd: None, env, secrets, user: None, size: None, limits }
    }

    /// What the guest is asked.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn open(self) -> Result<shell::OpenShell, ErrorBody> {
        let usual = shell::OpenShell::new(self.name);
        let open = shell::OpenShell {
            command: self.command.map(|command| match command {
                CommandLine::Argv(argv) => Command::Argv(argv),
                CommandLine::Shell(text) => Command::Shell(text),
            }),
            cwd: self.cwd,
            env: self.env,
            secrets: self.secrets,
            user: self.user,
            size: self.size.unwrap_or(usual.size),
            limits: self.limits,
            ..usual
        };
        checked(open, ShellRequest::Open)
    }
}

/// The shells that were not closed, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShellList {
    /// Each of them.
    pub shells: Vec<ShellInfo>,
}

/// A piece of what was written to a shell's terminal, byte for byte, as a query. The answer is bytes, with [`AT`](crate::process::AT),
/// [`TOTAL`](crate::process::TOTAL) and [`ENDED`](crate::process::ENDED) as headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadShell {
    /// The position of the first byte that is wanted; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// The most bytes; 65,536 by default, at most 1,048,576.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// How long to wait for the first byte or the end, in milliseconds; not at all by default, at most 600,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

impl ReadShell {
    /// What the guest is asked.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn read(self, name: ShellName) -> Result<shell::ReadShell, ErrorBody> {
        let mut read = shell::ReadShell::new(name);
        read.from = self.from.unwrap_or(read.from);
        read.limit = self.limit.unwrap_or(read.limit);
        read.wait_ms = self.wait_ms.unwrap_or(read.wait_ms);
        checked(read, ShellRequest::Read)
    }
}

/// The lines of a shell's screen that have changed, as a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadScreen {
    /// The `next` of an earlier read: lines that have not changed since are left out. 0, for all there is, by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The most bytes of text; 65,536 by default, at most 1,048,576. A single longer line comes whole all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// How long to wait for a change or the end, in milliseconds; not at all by default, at most 600,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

impl ReadScreen {
    /// What the guest is asked.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn read(self, name: ShellName) -> Result<shell::ReadPlain, ErrorBody> {
        let mut read = shell::ReadPlain::new(name);
        read.since = self.since.unwrap_or(read.since);
        read.limit = self.limit.unwrap_or(read.limit);
        read.wait_ms = self.wait_ms.unwrap_or(read.wait_ms);
        checked(read, ShellRequest::ReadPlain)
    }
}

/// What a shell's screen shows, and showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Screen {
    /// Which lines these are.
    #[serde(flatten)]
    pub read: PlainRead,
    /// The lines, with a newline between two. They come from the guest: escape them.
    pub text: String,
}

/// How to type at a shell, as a query; the body is what is typed. The answer is [`hearth_protocol::process::Written`]: what a terminal does with
/// the bytes that it is given, and which it drops, stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteShell {
    /// Whether a newline follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newline: Option<bool>,
    /// How long to wait for a job that does not read, in milliseconds; 1,000 by default, at most 600,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

impl WriteShell {
    /// What the guest is asked, but for the text.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn write(self, name: ShellName) -> Result<shell::WriteShell, ErrorBody> {
        let wait_ms = self.wait_ms.unwrap_or(hearth_protocol::limits::DEFAULT_WRITE_WAIT_MS);
        let write = shell::WriteShell { name, text: None, newline: self.newline.unwrap_or(false), wait_ms };
        checked(write, ShellRequest::Write)
    }
}

/// A wait for a shell to come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitShell {
    /// How long it must have said nothing, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_ms: Option<u64>,
    /// The bound on the whole wait, in milliseconds; at most 600,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What to wait for: `quiet`, whoever is in the foreground, by default; `prompt`, the shell's own.
    #[serde(default)]
    pub until: Idle,
}

impl WaitShell {
    /// What the guest is asked.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn wait(self, name: ShellName) -> Result<shell::WaitIdle, ErrorBody> {
        let mut wait = shell::WaitIdle::new(name, self.until);
        wait.quiet_ms = self.quiet_ms.unwrap_or(wait.quiet_ms);
        wait.timeout_ms = self.timeout_ms.unwrap_or(wait.timeout_ms);
        checked(wait, ShellRequest::WaitIdle)
    }
}

/// A signal for a shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalShell {
    /// Which: a name with or without `SIG`, or a number.
    pub signal: Signal,
    /// To whom of it: the job in the `foreground`, as Ctrl-C, by default.
    #[serde(default = "foreground")]
    pub scope: SignalScope,
}

fn foreground() -> SignalScope {
    SignalScope::Foreground
}

/// How a shell is ended, as a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CloseShell {
    /// The time between HUP and KILL in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

impl CloseShell {
    /// What the guest is asked.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn close(self, name: ShellName) -> Result<shell::CloseShell, ErrorBody> {
        checked(shell::CloseShell { name, grace_ms: self.grace_ms }, ShellRequest::Close)
    }
}

/// Checks a new size for a shell's terminal.
///
/// # Errors
/// A refusal that names the field.
pub fn resized(name: ShellName, size: PtySize) -> Result<shell::ResizeShell, ErrorBody> {
    checked(shell::ResizeShell { name, size }, ShellRequest::Resize)
}

/// Reads the name of a shell that stands in a path, with the refusal that it would get in a body.
///
/// # Errors
/// [`OwnCode::InvalidRequest`].
pub fn shell_name(name: &str) -> Result<ShellName, ErrorBody> {
    ShellName::new(name).map_err(|fault| ErrorBody::new(OwnCode::InvalidRequest, fault.message).with_field("name"))
}

fn checked<T: Clone>(asked: T, request: impl FnOnce(T) -> ShellRequest) -> Result<T, ErrorBody> {
    let valid = request(asked.clone()).validate();
    valid.map(|()| asked).map_err(ErrorBody::from)
}

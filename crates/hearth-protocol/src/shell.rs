//! Shells: processes on a terminal that have a name. Group `shell`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::process::{OutputRead, Written, check_read, check_wait, is_zero, read_limit, write_wait};
use crate::secrets::SecretValue;
use crate::start::invalid;
use crate::{
    Command, ErrorCode, ExitStatus, Fault, ProcessId, PtySize, RawString, ResourceLimits, Signal, SignalScope, Start,
    limits,
};

/// The name of a shell: 1 to [`limits::NAME`] letters, digits, `.`, `_` and `-`, the first a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct ShellName(String);

impl ShellName {
    /// Takes a name.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`].
    pub fn new(name: impl Into<String>) -> Result<Self, Fault> {
        let name = name.into();
        let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if begins && fits && name.len() <= limits::NAME {
            return Ok(Self(name));
        }
        let message = format!(
            "a shell's name must have 1 to {} letters, digits, '.', '_' and '-', and begin with a letter or digit",
            limits::NAME
        );
        Err(Fault::never_started(ErrorCode::InvalidField, message))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ShellName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(|fault| D::Error::custom(fault.message))
    }
}

/// What may be asked of shells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ShellRequest {
    /// Starts one. The name of one that has ended is free again. Result: [`ShellResult::Opened`].
    Open(OpenShell),
    /// Lists all that were not closed. Result: [`ShellResult::List`].
    List(NoFields),
    /// Types at a shell. Result: [`ShellResult::Written`].
    Write(WriteShell),
    /// Reads what was written to its terminal, byte for byte, as `data`. Result: [`ShellResult::Read`].
    Read(ReadShell),
    /// Reads what its screen shows and showed, as text, as `data`: the lines that have changed. Result: [`ShellResult::Plain`].
    ReadPlain(ReadPlain),
    /// Waits until a shell has nothing more to say for now. Result: [`ShellResult::Idle`].
    WaitIdle(WaitIdle),
    /// Sends a signal, by default to the job in the foreground. Result: [`ShellResult::Done`].
    Signal(SignalShell),
    /// Changes the size of the terminal. Result: [`ShellResult::Done`].
    Resize(ResizeShell),
    /// Ends a shell and all it has started: HUP, a grace, KILL. Its name is free then. Result: [`ShellResult::Closed`].
    Close(CloseShell),
}

/// Nothing beside the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoFields {}

/// A shell to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenShell {
    /// What to call it.
    pub name: ShellName,
    /// What to run; by default the user's own shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    /// Where; by default as for any process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<RawString>,
    /// Variables, as for any process.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, RawString>,
    /// More variables, whose values are secrets, as for any process.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Values to hide in all that it shows, as secrets are, beside these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<SecretValue>,
    /// The user to run as; by default the agent's default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The size of its terminal: at most [`limits::SHELL_CELLS`] each way.
    #[serde(default = "default_size")]
    pub size: PtySize,
    /// What it and all it starts may use.
    #[serde(default, skip_serializing_if = "ResourceLimits::is_empty")]
    pub limits: ResourceLimits,
}

/// Something to type at a shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteShell {
    /// At which.
    pub name: ShellName,
    /// What, where it fits a line and holds no NUL. Without it the request's `stdin` stream carries the bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<RawString>,
    /// Whether a newline follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub newline: bool,
    /// How long to wait for the job to take what does not fit in the agent, in milliseconds; at most [`limits::WAIT_MS`].
    #[serde(default = "write_wait")]
    pub wait_ms: u64,
}

/// A piece of what was written to a shell's terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadShell {
    /// Of which shell.
    pub name: ShellName,
    /// The position of the first byte that is wanted.
    #[serde(default)]
    pub from: u64,
    /// The most bytes wanted, 1 to [`limits::READ`].
    #[serde(default = "read_limit")]
    pub limit: u64,
    /// How long to wait for the first byte or the end, in milliseconds; at most [`limits::WAIT_MS`]. By default not at all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wait_ms: u64,
}

/// The lines of a shell that have changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadPlain {
    /// Of which shell.
    pub name: ShellName,
    /// The `next` of an earlier read: lines that have not changed since are left out. 0 reads all there is.
    #[serde(default)]
    pub since: u64,
    /// The most bytes of text wanted, 1 to [`limits::READ`]; a single longer line comes whole all the same.
    #[serde(default = "read_limit")]
    pub limit: u64,
    /// How long to wait for a change or the end, in milliseconds; at most [`limits::WAIT_MS`]. By default not at all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wait_ms: u64,
}

/// A wait for a shell to come to rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitIdle {
    /// Which shell.
    pub name: ShellName,
    /// How long it must have said nothing, in milliseconds; [`limits::QUIET_MS`] to [`limits::WAIT_MS`].
    #[serde(default = "default_quiet")]
    pub quiet_ms: u64,
    /// The bound on the whole wait, in milliseconds; at most [`limits::WAIT_MS`].
    #[serde(default = "default_timeout")]
    pub timeout_ms: u64,
    /// What to wait for.
    #[serde(default)]
    pub until: Idle,
}

/// What a shell comes to rest with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "ShellIdle"))]
#[serde(rename_all = "snake_case")]
pub enum Idle {
    /// It has been quiet, whoever is in the foreground: a job may sleep.
    #[default]
    Quiet,
    /// It has been quiet, no job is in the foreground, and the shell waits for input.
    Prompt,
}

/// A signal for a shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalShell {
    /// Which shell.
    pub name: ShellName,
    /// Which signal.
    pub signal: Signal,
    /// To whom of it.
    #[serde(default = "foreground")]
    pub scope: SignalScope,
}

/// A new size for a shell's terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeShell {
    /// Which shell.
    pub name: ShellName,
    /// At most [`limits::SHELL_CELLS`] each way.
    pub size: PtySize,
}

/// A shell to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloseShell {
    /// Which.
    pub name: ShellName,
    /// The time between HUP and KILL in milliseconds, at most [`limits::GRACE_MS`]; [`limits::DEFAULT_GRACE_MS`] by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

/// What comes of a request about shells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShellResult {
    /// It is done.
    Done {},
    /// It runs.
    Opened(Opened),
    /// Those there are, by name.
    List(Vec<ShellInfo>),
    /// What was taken will be delivered to the terminal, in order, as long as the job reads. What that does with it: [`Written`].
    Written(Written),
    /// The bytes are the request's `data`.
    Read(OutputRead),
    /// The text is the request's `data`: lines with a newline between two.
    Plain(PlainRead),
    /// The wait is over.
    Idle(IdleEnd),
    /// It has ended, so.
    Closed(ExitStatus),
}

/// A shell that was started. As a process it can be followed like any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Opened {
    /// Its id as a process.
    pub process: ProcessId,
    /// Its number in the guest.
    pub pid: u32,
}

/// A shell in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ShellInfo {
    /// Its name.
    pub name: ShellName,
    /// Its id as a process.
    pub process: ProcessId,
    /// Its number in the guest, as it was when it ran.
    pub pid: u32,
    /// The size of its terminal.
    pub size: PtySize,
    /// Milliseconds since it was opened.
    pub age_ms: u64,
    /// The bytes written to its terminal.
    pub output: u64,
    /// How it ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitStatus>,
}

/// Which lines of a shell were sent as `data`. Of lines that changed more than once only the newest state is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlainRead {
    /// The `since` of the next read.
    pub next: u64,
    /// How many lines were sent.
    pub lines: u64,
    /// The number of the first of them, counted from the first line there ever was: whether it is new or was read before. Of a screen
    /// that a program has to itself, counted from its top.
    pub first: u64,
    /// Whether there are more that have changed than the limit let through.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// Whether lines that had changed since are gone: more has scrolled off than is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gap: bool,
    /// Whether a program has the screen to itself (an editor, a pager): the lines are that screen's, and go with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alternate: bool,
    /// Whether the shell has ended, and this is its last word.
    pub ended: bool,
}

/// Why a wait for rest was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IdleEnd {
    /// Why.
    pub reason: IdleReason,
    /// Whether a job of the shell's is in the foreground, not the shell itself.
    pub job: bool,
}

/// What ended a wait for rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum IdleReason {
    /// What was waited for.
    Idle,
    /// The bound on the wait.
    Timeout,
    /// The shell has ended.
    Ended,
}

impl OpenShell {
    /// Makes the plainest shell.
    pub fn new(name: ShellName) -> Self {
        Self {
            name,
            command: None,
            cwd: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            redact: Vec::new(),
            user: None,
            size: default_size(),
            limits: ResourceLimits::default(),
        }
    }

    /// The process that runs `command` for it.
    pub fn start(&self, command: Command) -> Start {
        Start {
            cwd: self.cwd.clone(),
            env: self.env.clone(),
            secrets: self.secrets.clone(),
            redact: self.redact.clone(),
            user: self.user.clone(),
            pty: Some(self.size),
            limits: self.limits,
            ..Start::new(command)
        }
    }
}

impl ReadShell {
    /// Makes a read of the first bytes, without a wait.
    pub fn new(name: ShellName) -> Self {
        Self { name, from: 0, limit: read_limit(), wait_ms: 0 }
    }
}

impl ReadPlain {
    /// Makes a read of all lines, without a wait.
    pub fn new(name: ShellName) -> Self {
        Self { name, since: 0, limit: read_limit(), wait_ms: 0 }
    }
}

impl WaitIdle {
    /// Makes a wait with the default bounds.
    pub fn new(name: ShellName, until: Idle) -> Self {
        Self { name, quiet_ms: default_quiet(), timeout_ms: default_timeout(), until }
    }
}

impl ShellRequest {
    /// Checks what types alone do not.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] naming the field and the rule.
    pub fn validate(&self) -> Result<(), Fault> {
        match self {
            Self::Open(open) => {
                check_size(open.size)?;
                open.start(open.command.clone().unwrap_or(Command::Shell(":".into()))).validate()
            }
            Self::Write(write) => check_wait("wait_ms", write.wait_ms),
            Self::Read(read) => check_read(read.limit).and(check_wait("wait_ms", read.wait_ms)),
            Self::ReadPlain(read) => check_read(read.limit).and(check_wait("wait_ms", read.wait_ms)),
            Self::WaitIdle(wait) => check_quiet(wait.quiet_ms).and(check_wait("timeout_ms", wait.timeout_ms)),
            Self::Resize(resize) => check_size(resize.size),
            Self::Close(close) if close.grace_ms.is_some_and(|ms| ms > limits::GRACE_MS) => {
                Err(invalid(format!("grace_ms must be at most {}", limits::GRACE_MS)))
            }
            Self::List(_) | Self::Signal(_) | Self::Close(_) => Ok(()),
        }
    }
}

fn check_quiet(milliseconds: u64) -> Result<(), Fault> {
    if (limits::QUIET_MS..=limits::WAIT_MS).contains(&milliseconds) {
        return Ok(());
    }
    Err(invalid(format!("quiet_ms must be {} to {}", limits::QUIET_MS, limits::WAIT_MS)))
}

fn check_size(size: PtySize) -> Result<(), Fault> {
    let fits = |cells: u16| (1..=limits::SHELL_CELLS).contains(&cells);
    if fits(size.columns) && fits(size.rows) {
        return Ok(());
    }
    Err(invalid(format!("size: columns and rows of a shell must be 1 to {}", limits::SHELL_CELLS)))
}

fn default_size() -> PtySize {
    PtySize { columns: 120, rows: 30 }
}

fn default_quiet() -> u64 {
    limits::DEFAULT_QUIET_MS
}

fn default_timeout() -> u64 {
    limits::DEFAULT_IDLE_TIMEOUT_MS
}

fn foreground() -> SignalScope {
    SignalScope::Foreground
}

//! What a process is started with.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::secrets::{SecretValue, validate_secret_name};
use crate::{Command, ErrorCode, Fault, RawString, limits};

/// The size of a terminal in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PtySize {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
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

/// How output reaches a follower that is slower than the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// The process waits, as it would for a slow pipe. Nothing is lost while this follower stays.
    Lossless,
    /// The process never waits. What no longer fits the ring is dropped; the follower sees the jump in [`crate::ChunkHeader::at`].
    #[default]
    Bounded,
}

/// A name that people give to a process. Unique among those that run; of those that have ended it names the newest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Tag(String);

impl Tag {
    /// Takes a name of 1 to [`limits::TAG`] bytes without control characters.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`].
    pub fn new(name: impl Into<String>) -> Result<Self, Fault> {
        let name = name.into();
        if (1..=limits::TAG).contains(&name.len()) && !name.chars().any(char::is_control) {
            return Ok(Self(name));
        }
        let message = format!("a tag must have 1 to {} bytes and no control characters", limits::TAG);
        Err(Fault::never_started(ErrorCode::InvalidField, message))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(|fault| D::Error::custom(fault.message))
    }
}

/// How much of one output stream is kept once it is longer than both together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// The bytes kept from its start, at most [`limits::KEPT_MOST`].
    pub head: u64,
    /// The bytes kept from its end, [`limits::KEPT_LEAST_TAIL`] to [`limits::KEPT_MOST`].
    pub tail: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { head: limits::KEPT_HEAD, tail: limits::KEPT_TAIL }
    }
}

/// The budgets of a process's output streams: of each its own, so that neither crowds out the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// Of `stdout`, or of what a terminal shows.
    pub stdout: Budget,
    /// Of `stderr`.
    pub stderr: Budget,
}

impl Keep {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn validate(&self) -> Result<(), Fault> {
        for (name, budget) in [("stdout", self.stdout), ("stderr", self.stderr)] {
            if budget.head > limits::KEPT_MOST {
                return Err(invalid(format!("keep.{name}.head must be at most {}", limits::KEPT_MOST)));
            }
            if !(limits::KEPT_LEAST_TAIL..=limits::KEPT_MOST).contains(&budget.tail) {
                let (least, most) = (limits::KEPT_LEAST_TAIL, limits::KEPT_MOST);
                return Err(invalid(format!("keep.{name}.tail must be {least} to {most}")));
            }
        }
        Ok(())
    }
}

/// What a process and all it starts may use together. What is not named is not limited.
///
/// Needs a control group of its own for the process, with the controllers in question; where there is none the start is refused with
/// [`ErrorCode::Unavailable`] and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ResourceLimits {
    /// Memory in bytes, at least 1 MiB. A tree that needs more is killed as a whole, and its end says out of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processes and threads alive at once; the next fork fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Processor time, in hundredths of one processor: 150 is one and a half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
}

impl ResourceLimits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn validate(&self) -> Result<(), Fault> {
        if self.memory_bytes.is_some_and(|bytes| bytes < 1024 * 1024 || bytes > i64::MAX as u64) {
            return Err(invalid(format!("limits.memory_bytes must be {} to {}", 1024 * 1024, i64::MAX)));
        }
        if self.pids == Some(0) {
            return Err(invalid("limits.pids must be at least 1".to_owned()));
        }
        if self.cpu_percent.is_some_and(|percent| !(1..=100_000).contains(&percent)) {
            return Err(invalid("limits.cpu_percent must be 1 to 100000".into()));
        }
        Ok(())
    }
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
    /// Forgets the process as soon as it has ended: only whoever follows it then learns of its end and its output.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forget: bool,
    /// Follows the process from its first byte on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<Delivery>,
    /// A name for people, under which it can be found. Refused while a process runs that bears it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// How much of its output is kept.
    #[serde(default, skip_serializing_if = "Keep::is_default")]
    pub keep: Keep,
    /// What it and all it starts may use.
    #[serde(default, skip_serializing_if = "ResourceLimits::is_empty")]
    pub limits: ResourceLimits,
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
            forget: false,
            attach: None,
            tag: None,
            keep: Keep::default(),
            limits: ResourceLimits::default(),
        }
    }

    /// Checks what types alone do not.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] naming the field and the rule.
    pub fn validate(&self) -> Result<(), Fault> {
        if let Command::Argv(argv) = &self.command {
            if argv.first().is_none_or(|program| program.as_bytes().is_empty()) {
                return Err(invalid("command.argv must name a program".to_owned()));
            }
            if argv.len() > limits::ARGUMENTS {
                return Err(invalid(format!(
                    "command.argv has {} entries, over the limit of {}",
                    argv.len(),
                    limits::ARGUMENTS
                )));
            }
        }
        if self.env.len() > limits::ARGUMENTS {
            return Err(invalid(format!(
                "env has {} entries, over the limit of {}",
                self.env.len(),
                limits::ARGUMENTS
            )));
        }
        validate_variables(self.env.keys().chain(self.secrets.keys()))?;
        if let Some(name) = self.secrets.keys().find(|name| self.env.contains_key(*name)) {
            return Err(invalid(format!("{name} is in env and in secrets")));
        }
        self.secrets.values().try_for_each(|name| validate_secret_name(name))?;
        for (field, length, limit) in
            [("secrets", self.secrets.len(), limits::SECRETS), ("redact", self.redact.len(), limits::REDACTED_VALUES)]
        {
            if length > limit {
                return Err(invalid(format!("{field} has {length} entries, over the limit of {limit}")));
            }
        }
        if self.timeout_ms.is_some_and(|ms| ms == 0 || ms > limits::TIMEOUT_MS) {
            return Err(invalid(format!("timeout_ms must be 1 to {}", limits::TIMEOUT_MS)));
        }
        if self.grace_ms.is_some_and(|ms| ms > limits::GRACE_MS) {
            return Err(invalid(format!("grace_ms must be at most {}", limits::GRACE_MS)));
        }
        self.keep.validate()?;
        self.limits.validate()?;
        self.pty.map_or(Ok(()), PtySize::validate)
    }
}

/// Checks the names of variables.
pub(crate) fn validate_variables<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<(), Fault> {
    match names.into_iter().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        None => Ok(()),
        Some(name) => Err(invalid(format!("env name {name:?} is empty or holds '=' or NUL"))),
    }
}

pub(crate) fn invalid(message: String) -> Fault {
    Fault::never_started(ErrorCode::InvalidField, message)
}

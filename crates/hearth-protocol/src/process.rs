//! Processes that are there: how they are named, followed, signalled, listed; how they end; reads and writes, group `process`.

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::start::invalid;
use crate::{Command, Delivery, Fault, RawString, StreamName, Tag, limits};

/// Names a process for as long as the agent lives. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct ProcessId(pub u64);

/// Which process: on the wire a number, its id, or a string, its tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum ProcessRef {
    /// By the id that the agent gave it.
    Id(ProcessId),
    /// By the tag that its start gave it.
    Tag(Tag),
}

impl<'de> Deserialize<'de> for ProcessRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Id(u64),
            Tag(String),
        }
        match Form::deserialize(deserializer) {
            Ok(Form::Id(id)) => Ok(Self::Id(ProcessId(id))),
            Ok(Form::Tag(tag)) => {
                Tag::new(tag).map(Self::Tag).map_err(|fault| D::Error::custom(format!("process: {}", fault.message)))
            }
            Err(_) => Err(D::Error::custom("process: expected a number, its id, or a string, its tag")),
        }
    }
}

impl From<ProcessId> for ProcessRef {
    fn from(id: ProcessId) -> Self {
        Self::Id(id)
    }
}

impl From<Tag> for ProcessRef {
    fn from(tag: Tag) -> Self {
        Self::Tag(tag)
    }
}

/// A process to follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// Which.
    pub process: ProcessRef,
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

/// Which processes a signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SignalScope {
    /// The process itself.
    #[default]
    Process,
    /// The process and everything it has started, what has left its process group or lost its parent included.
    Tree,
    /// The process group in the foreground of its terminal: what Ctrl-C reaches.
    Foreground,
}

/// How a process ended. Exactly one of `code` and `signal` is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// The most memory that it took, in bytes; left out where that is not known.
    ///
    /// Where the guest has control groups with the controller `memory`, all that was charged to its tree at once: what files it has read or written
    /// take in memory included. Elsewhere the largest resident memory of it or a child it waited for, known only if it is more than the agent's own
    /// ever was: the kernel counts the agent's, which a process begins in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
}

impl ExitStatus {
    /// The code a shell would report: 128 + n for signal n.
    pub fn shell_code(&self) -> i32 {
        self.code.or_else(|| self.signal.map(|signal| 128 + signal)).unwrap_or(255)
    }
}

/// The length of each output stream in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OutputTotals {
    /// Bytes written to `stdout`, or to the terminal.
    pub stdout: u64,
    /// Bytes written to `stderr`.
    pub stderr: u64,
    /// Bytes of `data`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub data: u64,
    /// How many of `stdout`'s bytes are no longer kept: those between its head and its tail.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stdout_dropped: u64,
    /// How many of `stderr`'s bytes are no longer kept.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stderr_dropped: u64,
}

impl OutputTotals {
    pub(crate) fn is_zero(&self) -> bool {
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProcessInfo {
    /// Its name.
    pub process: ProcessId,
    /// Its number in the guest, as it was when it ran.
    pub pid: u32,
    /// The name that its start gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// What it runs, cut to [`limits::LISTED_COMMAND`] bytes of JSON.
    pub command: Command,
    /// Whether it runs.
    pub state: ProcessState,
    /// Whether it runs and only waits for more to do: a kernel without code, or a shell at its prompt, and nothing that they have started runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waiting: bool,
    /// How many processes run that it has left behind when it exited.
    #[serde(default, skip_serializing_if = "is_none")]
    pub left_running: u32,
    /// What it has written so far.
    pub output: OutputTotals,
}

fn is_none(count: &u32) -> bool {
    *count == 0
}

/// Whether a process runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// It runs.
    Running,
    /// It ended, so.
    Exited(ExitStatus),
}

/// What may be asked of a process that is there: group `process`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ProcessRequest {
    /// Reads a piece of an output stream, as `data`, without following the process. Result: [`ProcessResult::Read`].
    Read(ReadOutput),
    /// Writes to a process's input, or types at its terminal, whoever has started it. Result: [`ProcessResult::Written`].
    Write(WriteInput),
    /// Ends a process's input behind what was written; at a terminal that is Ctrl-D, twice in a line that has begun. Result: [`ProcessResult::Done`].
    CloseStdin(CloseStdin),
}

/// A piece of an output stream: the bytes from a position on that are kept, as far as they go without a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadOutput {
    /// Of which process.
    pub process: ProcessRef,
    /// Which stream: `stdout`, also what a terminal shows, or `stderr`.
    #[serde(default = "stdout", skip_serializing_if = "is_stdout")]
    pub stream: StreamName,
    /// The position of the first byte that is wanted.
    #[serde(default)]
    pub from: u64,
    /// The most bytes wanted, 1 to [`limits::READ`].
    #[serde(default = "read_limit")]
    pub limit: u64,
    /// How long to wait for the first byte or the end of the stream, in milliseconds; at most [`limits::WAIT_MS`]. By default not at all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wait_ms: u64,
}

/// Something to write to a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteInput {
    /// To which.
    pub process: ProcessRef,
    /// The bytes, where they fit a line and hold no NUL. Without it the request's `stdin` stream carries them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<RawString>,
    /// How long to wait for the process to take what does not fit in the agent, in milliseconds; at most [`limits::WAIT_MS`].
    #[serde(default = "write_wait")]
    pub wait_ms: u64,
}

/// A process whose input is to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloseStdin {
    /// Which.
    pub process: ProcessRef,
}

/// What comes of a request about a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessResult {
    /// It is done.
    Done {},
    /// The bytes are the request's `data`.
    Read(OutputRead),
    /// What was taken will be delivered, in order, as long as the process reads; at a terminal, to the terminal ([`Written`]).
    Written(Written),
}

/// Which bytes of a stream were sent as `data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRead {
    /// The position of the first byte sent. What lies between it and the position that was asked for was dropped.
    pub at: u64,
    /// How many were sent. The next read begins at `at + length`.
    pub length: u64,
    /// The length of the stream so far.
    pub total: u64,
    /// Whether the stream has ended, with its process or before it, and nothing of it lies behind what was sent.
    pub ended: bool,
}

/// What came of a write.
///
/// A pipe delivers every byte that was taken. A terminal is given every byte, and does with it what it is set to do at that moment: act on it
/// (Ctrl-C, erase), translate it, or drop it. While it gathers lines (canonical mode, `stty icanon`: as it is for `cat`, and is not for a
/// shell that edits its line) it keeps the first 4,095 bytes of a line and drops the rest up to the newline, telling neither side.
/// How it will be set then cannot be known when a byte is taken, so `accepted` counts these bytes too: a longer line needs a pipe, or
/// `stty -icanon`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Written {
    /// The bytes that were taken: all, unless the process did not read.
    pub accepted: u64,
}

impl ReadOutput {
    /// Makes a read of the first bytes of `process`'s standard output, without a wait.
    pub fn new(process: impl Into<ProcessRef>) -> Self {
        Self { process: process.into(), stream: StreamName::Stdout, from: 0, limit: read_limit(), wait_ms: 0 }
    }
}

impl WriteInput {
    /// Makes a write of `text`, or, without one, of what the `stdin` stream will carry.
    pub fn new(process: impl Into<ProcessRef>, text: Option<RawString>) -> Self {
        Self { process: process.into(), text, wait_ms: write_wait() }
    }
}

impl ProcessRequest {
    pub(crate) fn validate(&self) -> Result<(), Fault> {
        match self {
            Self::Read(read) if !matches!(read.stream, StreamName::Stdout | StreamName::Stderr) => {
                Err(invalid("stream must be stdout or stderr".to_owned()))
            }
            Self::Read(read) => check_read(read.limit).and(check_wait("wait_ms", read.wait_ms)),
            Self::Write(write) => check_wait("wait_ms", write.wait_ms),
            Self::CloseStdin(_) => Ok(()),
        }
    }
}

/// Checks how much a read wants.
pub(crate) fn check_read(limit: u64) -> Result<(), Fault> {
    if (1..=limits::READ).contains(&limit) {
        return Ok(());
    }
    Err(invalid(format!("limit must be 1 to {}", limits::READ)))
}

/// Checks how long a request wants to wait.
pub(crate) fn check_wait(field: &str, milliseconds: u64) -> Result<(), Fault> {
    if milliseconds <= limits::WAIT_MS {
        return Ok(());
    }
    Err(invalid(format!("{field} must be at most {}", limits::WAIT_MS)))
}

fn stdout() -> StreamName {
    StreamName::Stdout
}

fn is_stdout(stream: &StreamName) -> bool {
    *stream == StreamName::Stdout
}

pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

pub(crate) fn read_limit() -> u64 {
    limits::DEFAULT_READ
}

pub(crate) fn write_wait() -> u64 {
    limits::DEFAULT_WRITE_WAIT_MS
}

//! Processes of a guest: listed, read, written to, signalled.

use hearth_protocol::{Delivery, ProcessId, ProcessInfo, Signal, SignalScope, StreamName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A process that was started and is not waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessStarted {
    /// Its name.
    pub process: ProcessId,
    /// Its number in the guest.
    pub pid: u32,
}

/// The processes that a guest's agent knows, those that have ended included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessList {
    /// Each of them. What it runs comes from the guest: escape it.
    pub processes: Vec<ProcessInfo>,
}

/// A signal to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalProcess {
    /// Which: a name with or without `SIG`, or a number.
    pub signal: Signal,
    /// To the process alone, to all it has started, or to the job in the foreground of its terminal.
    #[serde(default)]
    pub scope: SignalScope,
}

/// A piece of an output stream that is wanted, as a query. The answer is bytes, with [`AT`], [`TOTAL`] and [`ENDED`] as headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadProcess {
    /// Which stream: `stdout`, by default, or `stderr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamName>,
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

/// The header with the position of the first byte sent.
pub const AT: &str = "hearth-at";
/// The header with the length of the stream so far.
pub const TOTAL: &str = "hearth-total";
/// The header that says whether nothing lies behind what was sent, nor ever will.
pub const ENDED: &str = "hearth-ended";

/// How to write to a process, as a query; the body is what is written. The answer is [`hearth_protocol::process::Written`]: what a terminal does
/// with the bytes that it is given stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteProcess {
    /// How long to wait for a process that does not read, in milliseconds; 1,000 by default, at most 600,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// Whether this is all of its input. It is only then if all was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close: Option<bool>,
}

/// From where to follow a process over a WebSocket, as a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachProcess {
    /// The first byte of its output that is wanted; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<u64>,
    /// The first byte of its error output that is wanted; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<u64>,
    /// What happens when the client is slow; the process waits, by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
}

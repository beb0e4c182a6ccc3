//! What sandboxes cost the host at a moment.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::SandboxState;

/// All sandboxes, the oldest first, and the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UsageList {
    /// When this was measured, in microseconds by a clock that only goes on: the difference of two is the time between them.
    pub at_us: u64,
    /// The host.
    pub host: HostUsage,
    /// Each sandbox.
    pub sandboxes: Vec<SandboxUsage>,
}

/// The host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostUsage {
    /// Its processors.
    pub cpus: u64,
    /// Its memory in bytes, where it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What of that programs could still have, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_bytes: Option<u64>,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxUsage {
    /// Its id.
    pub id: String,
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its state.
    pub state: SandboxState,
    /// When it was asked for.
    pub created_unix_ms: u64,
    /// Its processors.
    pub cpus: u32,
    /// Its memory in MiB, as its guest sees it.
    pub memory_mib: u32,
    /// What its machine takes, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineUsage>,
}

/// What a machine takes of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MachineUsage {
    /// The processor time that it has used since it was started, in microseconds. A sandbox that was paused has another machine.
    pub cpu_us: u64,
    /// Its memory in bytes; what it shares with others is divided among them.
    pub memory_bytes: u64,
    /// What of it belongs to it alone: what its guest has changed, and QEMU's own.
    pub own_bytes: u64,
}

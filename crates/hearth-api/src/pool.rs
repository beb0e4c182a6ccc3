//! The warm pool: machines that are ready before anybody asks for them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the pool may hold, holds, and has done since the daemon began.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct PoolInfo {
    /// Ready machines that are to be there of each kind; 0 where there is no pool.
    pub ready_limit: usize,
    /// QEMUs of each kind that are to wait for their guest, for whoever comes while no machine is ready.
    #[serde(default)]
    pub standby_limit: usize,
    /// Kinds that are kept: those that were asked for last.
    pub kinds_limit: usize,
    /// How long a kind is kept that nobody asks for.
    pub idle_seconds: u64,
    /// Memory of the host's below which the pool gives back what it has.
    pub floor_mib: u64,
    /// Whether it holds nothing because the host's memory is short.
    pub is_pressed: bool,
    /// The kinds, the one asked for last first.
    pub kinds: Vec<PoolKindInfo>,
    /// Ready machines handed out.
    pub claimed: u64,
    /// QEMUs handed out that waited for their guest.
    #[serde(default)]
    pub standby: u64,
    /// Requests for which there was neither.
    pub missed: u64,
    /// What was made, of either.
    pub made: u64,
    /// What could not be made.
    pub failed: u64,
    /// What died while it waited, or was of a QEMU that has been replaced.
    pub lost: u64,
    /// What was let go: nobody wanted it, or the memory was short.
    pub drained: u64,
}

/// Machines of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolKindInfo {
    /// The image's digest.
    pub image: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The size of the disk in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u32>,
    /// Machines that are ready.
    pub ready: usize,
    /// QEMUs that wait for their guest.
    #[serde(default)]
    pub standby: usize,
    /// How many of either are being made.
    pub making: usize,
}

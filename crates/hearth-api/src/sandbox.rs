//! Sandboxes: made, listed, changed.

use std::collections::BTreeMap;

use hearth_protocol::RawString;
use hearth_protocol::secrets::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::services::PublishPort;

/// A sandbox to make. What is left out is as `hearth create` has it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSandbox {
    /// What it is called: 1 to 63 letters, digits, `_`, `.`, `-`, beginning with a letter or digit and not with `sb-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The image, by name or by the beginning of its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Processors, 1 to 64; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory in MiB, 96 to 65536; 512 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    /// A disk of this size in MiB for what the guest writes; without it, that stays in its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u32>,
    /// What runs the guest's instructions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub accelerator: Accelerator,
    /// What its guest starts from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start: StartFrom,
    /// The snapshot that it goes on from. Image, sizes and accelerator are then those of the snapshot, and may not be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Variables of all its programs, at most 63.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, RawString>,
    /// Secrets: files in the directory that programs know as `HEARTH_SECRETS`, and variables of the programs that ask for them. Nothing shows their values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Secret>,
    /// Ports of this host's that lead into it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PublishPort>,
    /// Notes for filters: at most 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// It is removed after this many seconds; never by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// What becomes of it when nobody uses it and nothing runs in it; nothing by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    /// What else its life hangs on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lifespan: Lifespan,
}

/// What becomes of a sandbox that nobody uses. Requests to its guest are use, as long as they last, and so are programs that run in
/// it, but for kernels without code and shells at their prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Idle {
    /// What.
    pub action: IdleAction,
    /// After this time without use, in seconds.
    pub after_seconds: u64,
}

/// What can become of an idle sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdleAction {
    /// It is paused; the next request wakes it.
    Pause,
    /// It is removed.
    Remove,
}

/// What the life of a sandbox hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lifespan {
    /// On nothing but its removal.
    #[default]
    Kept,
    /// On the connection that this request came over: when that ends, the sandbox is removed.
    Connection,
    /// The same, until a change that comes over the same connection says that it is kept: for one that is not done yet.
    Provisional,
}

/// What a guest starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartFrom {
    /// A guest that was booted before and saved, which is made where there is none.
    #[default]
    Template,
    /// Its kernel's first instruction.
    Boot,
}

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// KVM where it has been seen to work, else software emulation.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// What to change of a sandbox. What is left out stays; `null` takes a name, a lifetime or what becomes of it when idle away.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeSandbox {
    /// Another name.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub name: Option<Option<String>>,
    /// Labels in place of those there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// It is removed after this many seconds, counted from now.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<Option<u64>>,
    /// Something else that becomes of it when nobody uses it.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub idle: Option<Option<Idle>>,
    /// `kept` lets one live on that was made as `provisional` over the same connection. It can be made nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifespan: Option<Lifespan>,
}

/// Copies to make of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkSandbox {
    /// How many, 1 to 100; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<usize>,
    /// What the copy is called. Of more than one, each has its number behind it: `name-1`, `name-2`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Notes for filters; by default those of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Each is removed after this many seconds; never by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// What becomes of each when nobody uses it; nothing by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    /// Whether they keep the secrets that the source was given. What a running program has read it keeps in any case.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secrets: bool,
}

/// Saves a sandbox under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SaveSandbox {
    /// The snapshot's name; the rule is that of sandboxes.
    pub name: String,
}

/// A snapshot that was just taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SavedSandbox {
    /// The snapshot's name.
    pub name: String,
    /// What it takes on disk, without its template, in bytes.
    pub bytes: u64,
    /// For how long the sandbox's programs stood still.
    pub stopped_us: u64,
}

/// What a fork has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForkedSandboxes {
    /// The copies.
    pub sandboxes: Vec<SandboxInfo>,
    /// For how long the source's programs stood still, in microseconds.
    pub stopped_us: u64,
    /// What the source had changed of its template's memory, in bytes: each copy has so much of its own.
    pub changed_bytes: u64,
}

/// What a pause has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PausedSandbox {
    /// The sandbox.
    pub sandbox: SandboxInfo,
    /// How long it took until its machine was gone, in microseconds.
    pub took_us: u64,
}

/// Tells a `null` from nothing at all.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Which sandboxes to list, as a query: those that fit all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListSandboxes {
    /// A part of the name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels, separated by commas: `key` or `key=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// States, separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// The sandboxes there are, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxList {
    /// Each of them.
    pub sandboxes: Vec<SandboxInfo>,
}

/// Where a sandbox stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// Its machine is being made.
    Creating,
    /// A daemon before this one has left it, and it is being taken over.
    Adopting,
    /// It takes requests.
    Running,
    /// It is being forked or saved, and runs on.
    Capturing,
    /// It is being written to disk.
    Pausing,
    /// It is on disk.
    Paused,
    /// It is being brought back from disk.
    Resuming,
    /// Its machine has ended by itself; it is kept for its console to be read.
    Failed,
    /// It is being removed.
    Removing,
    /// Nothing of it is left.
    Removed,
    /// A state that this client does not know.
    #[serde(other)]
    Unknown,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxInfo {
    /// Its id.
    pub id: String,
    /// What it is called.
    pub name: Option<String>,
    /// Its state.
    pub state: SandboxState,
    /// Why it is in that state, where there is more to say. May come from outside: escape it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is in that state.
    pub since_unix_ms: u64,
    /// When it was asked for.
    pub created_unix_ms: u64,
    /// When it will be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_ms: Option<u64>,
    /// What becomes of it when nobody uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    /// What of its memory lies on disk, in bytes, while it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_bytes: Option<u64>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its image, as it was asked for.
    pub image: String,
    /// Its processors.
    pub cpus: u32,
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Its disk in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u32>,
    /// What runs it: `kvm` or `tcg`; once it has run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// Its board, once it has run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board: Option<String>,
    /// What its jail lacks on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jail_warning: Option<String>,
    /// What was tried first, and did not run it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_before: Vec<String>,
    /// When each phase of its creation was reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
}

/// A phase of a sandbox's creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Phase {
    /// Which.
    pub name: String,
    /// When it was reached, in microseconds from the beginning.
    pub reached_us: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plainest_request_is_an_empty_object() {
        assert_eq!(serde_json::from_str::<CreateSandbox>("{}").unwrap(), CreateSandbox::default());
        assert_eq!(serde_json::to_string(&CreateSandbox::default()).unwrap(), "{}");
    }

    #[test]
    fn unknown_fields_are_refused_by_name() {
        let error = serde_json::from_str::<CreateSandbox>(r#"{"memory": 512}"#).unwrap_err().to_string();
        assert!(error.contains("`memory`"), "{error}");
    }

    #[test]
    fn a_null_takes_away_and_nothing_leaves_as_it_is() {
        let change: ChangeSandbox = serde_json::from_str(r#"{"name": null, "ttl_seconds": 5}"#).unwrap();
        assert_eq!((change.name, change.labels, change.ttl_seconds), (Some(None), None, Some(Some(5))));
        assert_eq!(serde_json::from_str::<ChangeSandbox>("{}").unwrap(), ChangeSandbox::default());
    }
}

//! Sandboxes: made, listed, changed, removed; saved, copied, put on disk.

use std::collections::BTreeMap;

use hearth_client::api::protocol::history::Named;
use hearth_client::api::{
    ChangeSandbox, CreateSandbox, ForkSandbox, Idle, IdleAction, ListSandboxes, SandboxInfo, SaveSandbox, StartSandbox,
    StopSandbox,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::refused::Refused;
use crate::tool::{Call, Effect, Entry, Profile};

pub(crate) fn tools() -> Vec<Entry> {
    use Effect::{Adds, Changes, Reads};
    use Profile::{Core, Full};
    vec![
        Entry::new(
            Core,
            "sandbox_create",
            "Make a sandbox that stays: a virtual machine with Linux, of which /workspace is the working \
            directory. Returns once it takes requests. Remove it with sandbox_remove when it is of no more use.",
            Adds,
            create,
        ),
        Entry::new(
            Core,
            "sandbox_list",
            "List the sandboxes there are, with name, state and sizes, the oldest first.",
            Reads,
            list,
        ),
        Entry::new(
            Core,
            "sandbox_remove",
            "Remove a sandbox with everything in it. This cannot be undone.",
            Changes,
            remove,
        ),
        Entry::new(
            Full,
            "sandbox_update",
            "Give a sandbox another name, other labels or more time before it is removed. What is left out stays.",
            Changes,
            update,
        ),
        Entry::new(
            Full,
            "sandbox_pause",
            "Put a sandbox on disk with all its programs, which go on later from where they were. The next \
            request to it wakes it.",
            Adds,
            pause,
        ),
        Entry::new(
            Full,
            "sandbox_resume",
            "Let a paused sandbox go on. Any other request to it does the same.",
            Adds,
            resume,
        ),
        Entry::new(
            Full,
            "sandbox_stop",
            "End all programs of a sandbox and its machine, and keep its files; sandbox_start boots it again. Only \
            for a sandbox that has a disk (`disk_mib`).",
            Changes,
            stop,
        ),
        Entry::new(
            Full,
            "sandbox_start",
            "Boot a stopped sandbox, or one whose machine has failed, on its disk: its files are there, no program of before runs.",
            Adds,
            start,
        ),
        Entry::new(
            Full,
            "sandbox_fork",
            "Copy a running sandbox with all its programs and files, from this very moment. Good for trying \
            several ways from one state.",
            Adds,
            fork,
        ),
        Entry::new(
            Full,
            "snapshot_create",
            "Save a running sandbox under a name, programs included; it goes on. sandbox_create with \
            `snapshot` begins from there, any number of times.",
            Adds,
            snapshot,
        ),
        Entry::new(
            Full,
            "snapshot_list",
            "List the snapshots there are, in the order of their names.",
            Reads,
            snapshots,
        ),
        Entry::new(
            Full,
            "snapshot_remove",
            "Remove a snapshot. Sandboxes that began from it go on. This cannot be undone.",
            Changes,
            remove_snapshot,
        ),
    ]
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Create {
    /// Its name: 1 to 63 letters, digits, `_`, `.`, `-`, beginning with a letter or digit and not with `sb-`.
    #[schemars(length(min = 1, max = 63))]
    name: Option<String>,
    /// The image to start from; `debian` by default.
    #[schemars(length(min = 1, max = 128))]
    image: Option<String>,
    /// The snapshot to go on from, in place of an image and sizes.
    #[schemars(length(min = 1, max = 63))]
    snapshot: Option<String>,
    /// Processors; 1 by default.
    #[schemars(range(min = 1, max = 64))]
    cpus: Option<u32>,
    /// Memory in MiB; 512 by default.
    #[schemars(range(min = 96, max = 65_536))]
    memory_mib: Option<u32>,
    /// A disk of this size in MiB for what is written in it; without, that takes its memory.
    #[schemars(range(min = 1))]
    disk_mib: Option<u32>,
    /// Variables of all its programs.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Notes to find it by.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// It is removed after this many seconds; never by default.
    #[schemars(range(min = 1))]
    ttl_seconds: Option<u64>,
    /// It is paused when it was not used for so many seconds and nothing runs in it; never by default.
    #[schemars(range(min = 1))]
    pause_after_seconds: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct List {
    /// A part of the name or id.
    name: Option<String>,
    /// Labels, separated by commas: `key` or `key=value`.
    label: Option<String>,
    /// States, separated by commas, such as `running,paused`.
    state: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Which {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Update {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// Its new name.
    #[schemars(length(min = 1, max = 63))]
    name: Option<String>,
    /// Labels in place of those it has.
    labels: Option<BTreeMap<String, String>>,
    /// It is removed after this many seconds, counted from now.
    #[schemars(range(min = 1))]
    ttl_seconds: Option<u64>,
    /// It is no longer removed by itself.
    #[serde(default)]
    keep: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NamedSnapshot {
    /// The snapshot's name.
    #[schemars(length(min = 1, max = 63))]
    name: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Stop {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The time that its programs have to end, in seconds; 10 by default.
    #[schemars(range(max = 300))]
    timeout_seconds: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fork {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// How many copies; 1 by default.
    #[schemars(range(min = 1, max = 100))]
    copies: Option<usize>,
    /// What the copy is called. Of more than one, each has its number behind it: `name-1`, `name-2`, …
    #[schemars(length(min = 1, max = 63))]
    name: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Snapshot {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The snapshot's name; the rule is that of sandboxes.
    #[schemars(length(min = 1, max = 63))]
    name: String,
}

/// A sandbox.
#[derive(Debug, Serialize, JsonSchema)]
struct Sandbox {
    /// Its id.
    id: String,
    /// What it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Where it stands: `creating`, `running`, `paused`, `stopped`, `failed` and others.
    state: String,
    /// Why it is in that state, where there is more to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Its image.
    image: String,
    /// Its processors.
    cpus: u32,
    /// Its memory in MiB.
    memory_mib: u32,
    /// When it was asked for, in milliseconds since 1970.
    created_unix_ms: u64,
    /// When it will be removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_unix_ms: Option<u64>,
    /// Its labels.
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Stopped {
    /// The sandbox.
    sandbox: Sandbox,
    /// Why it did not end in order, if it did not: what was not on its disk by then is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    unclean: Option<String>,
    /// The secrets that it had, by their names, which are gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost_secrets: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Sandboxes {
    /// Each of them.
    sandboxes: Vec<Sandbox>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Removed {
    /// What was removed, as it was named.
    removed: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Saved {
    /// The snapshot's name.
    snapshot: String,
    /// What it takes on disk, in bytes.
    bytes: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Snapshots {
    /// Each of them.
    snapshots: Vec<Saved>,
}

impl From<SandboxInfo> for Sandbox {
    fn from(info: SandboxInfo) -> Self {
        let state = match serde_json::to_value(info.state) {
            Ok(Value::String(state)) => state,
            _ => "unknown".to_owned(),
        };
        Self {
            id: info.id,
            name: info.name,
            state,
            reason: info.reason,
            image: info.image,
            cpus: info.cpus,
            memory_mib: info.memory_mib,
            created_unix_ms: info.created_unix_ms,
            expires_unix_ms: info.expires_unix_ms,
            labels: info.labels,
        }
    }
}

async fn create(call: Call, asked: Create) -> Result<Sandbox, Refused> {
    let request = CreateSandbox {
        name: asked.name,
        image: asked.image,
        snapshot: asked.snapshot,
        cpus: asked.cpus,
        memory_mib: asked.memory_mib,
        disk_mib: asked.disk_mib,
        env: asked.env.into_iter().map(|(name, value)| (name, value.into_bytes().into())).collect(),
        labels: asked.labels,
        ttl_seconds: asked.ttl_seconds,
        idle: asked.pause_after_seconds.map(|after_seconds| Idle { action: IdleAction::Pause, after_seconds }),
        ..CreateSandbox::default()
    };
    // A snapshot has what checkpoints there were; else an empty workspace is what diff and reset begin from.
    let has_baseline = request.snapshot.is_some();
    let made = call.client.create_provisional(&request).await?;
    if !has_baseline {
        call.client.checkpoint(&made.info.id, &Named::default()).await?;
    }
    Ok(made.keep().await?.into())
}

async fn list(call: Call, asked: List) -> Result<Sandboxes, Refused> {
    let query = ListSandboxes { name: asked.name, label: asked.label, state: asked.state };
    let sandboxes = call.client.list(&query).await?.sandboxes;
    Ok(Sandboxes { sandboxes: sandboxes.into_iter().map(Into::into).collect() })
}

async fn remove(call: Call, asked: Which) -> Result<Removed, Refused> {
    call.client.remove(&asked.sandbox).await?;
    Ok(Removed { removed: asked.sandbox })
}

async fn update(call: Call, asked: Update) -> Result<Sandbox, Refused> {
    if asked.keep && asked.ttl_seconds.is_some() {
        return Err(Refused::invalid("keep", "keep and ttl_seconds exclude each other"));
    }
    let ttl_seconds = if asked.keep { Some(None) } else { asked.ttl_seconds.map(Some) };
    let changes =
        ChangeSandbox { name: asked.name.map(Some), labels: asked.labels, ttl_seconds, ..ChangeSandbox::default() };
    Ok(call.client.change(&asked.sandbox, &changes).await?.into())
}

async fn pause(call: Call, asked: Which) -> Result<Sandbox, Refused> {
    Ok(call.client.pause(&asked.sandbox).await?.sandbox.into())
}

async fn resume(call: Call, asked: Which) -> Result<Sandbox, Refused> {
    Ok(call.client.resume(&asked.sandbox).await?.into())
}

async fn stop(call: Call, asked: Stop) -> Result<Stopped, Refused> {
    let request = StopSandbox { timeout_seconds: asked.timeout_seconds };
    let stopped = call.client.stop_sandbox(&asked.sandbox, &request).await?;
    let (unclean, lost_secrets) = (stopped.unclean, stopped.lost_secrets);
    Ok(Stopped { sandbox: stopped.sandbox.into(), unclean, lost_secrets })
}

async fn start(call: Call, asked: Which) -> Result<Sandbox, Refused> {
    Ok(call.client.start_sandbox(&asked.sandbox, &StartSandbox::default()).await?.into())
}

async fn fork(call: Call, asked: Fork) -> Result<Sandboxes, Refused> {
    let request = ForkSandbox { copies: asked.copies, name: asked.name, ..ForkSandbox::default() };
    let forked = call.client.fork(&asked.sandbox, &request).await?;
    Ok(Sandboxes { sandboxes: forked.sandboxes.into_iter().map(Into::into).collect() })
}

async fn snapshot(call: Call, asked: Snapshot) -> Result<Saved, Refused> {
    let saved = call.client.snapshot(&asked.sandbox, &SaveSandbox { name: asked.name }).await?;
    Ok(Saved { snapshot: saved.name, bytes: saved.bytes })
}

async fn snapshots(call: Call, _: Nothing) -> Result<Snapshots, Refused> {
    let snapshots = call.client.snapshots().await?.snapshots;
    Ok(Snapshots {
        snapshots: snapshots.into_iter().map(|saved| Saved { snapshot: saved.name, bytes: saved.bytes }).collect(),
    })
}

async fn remove_snapshot(call: Call, asked: NamedSnapshot) -> Result<Removed, Refused> {
    call.client.remove_snapshot(&asked.name).await?;
    Ok(Removed { removed: asked.name })
}

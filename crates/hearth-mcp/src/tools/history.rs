//! What has changed in a sandbox's workspace, patches for it, and the way back.

use futures_util::stream;
use hearth_client::api::Encoding;
use hearth_client::api::history::{ApplyPatch, Since, checkpoint_name};
use hearth_client::api::protocol::RawString;
use hearth_client::api::protocol::history::{ChangeKind, Named};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::files::{all, decode};
use crate::output::{encode, whole_end};
use crate::refused::Refused;
use crate::schema;
use crate::tool::{Call, Effect, Entry, Profile};

/// The bytes of a patch in a result where the call does not say.
const PATCH: u64 = 64 * 1024;
/// The most changes that are listed.
const CHANGES: usize = 1000;

pub(crate) fn tools() -> Vec<Entry> {
    use Effect::{Adds, Changes, Reads};
    use Profile::{Core, Full};
    vec![
        Entry::new(
            Core,
            "diff",
            "Show what has changed in a sandbox's workspace since it was made or seeded, or since a checkpoint: a list, \
            and a patch that `git apply` takes.",
            Reads,
            diff,
        ),
        Entry::new(
            Core,
            "patch",
            "Apply a unified diff, as git writes it, to a sandbox's workspace: all of it or nothing. One that does not \
            fit is refused with the file and the hunk.",
            Changes,
            patch,
        ),
        Entry::new(
            Core,
            "reset",
            "Make a sandbox's workspace what it was when it was made or seeded, or at a checkpoint. What was changed \
            since is lost.",
            Changes,
            reset,
        ),
        Entry::new(
            Full,
            "checkpoint",
            "Remember a sandbox's workspace as it is now, under a name that diff and reset take; in the place of a \
            checkpoint of that name.",
            Adds,
            checkpoint,
        ),
    ]
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Diff {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The checkpoint to compare with; the beginning by default.
    #[schemars(length(min = 1, max = 64))]
    since: Option<String>,
    /// Only lists what has changed.
    #[serde(default)]
    list_only: bool,
    /// The most bytes of the patch; 65536 by default.
    #[schemars(range(min = 4, max = 4_194_304))]
    max_patch_bytes: Option<u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Diffed {
    /// How many files are new.
    created: u64,
    /// How many are other than they were.
    modified: u64,
    /// How many are gone.
    deleted: u64,
    /// How many of these no patch can carry, such as FIFOs and very large files.
    left_out: u64,
    /// What has changed, by path.
    changes: Vec<Changed>,
    /// How many changes are not in the list: too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes_omitted: Option<usize>,
    /// The patch, or its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    /// How `patch` is to be read: base64 where a file in it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::encoding")]
    patch_encoding: Option<Encoding>,
    /// The length of the whole patch in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_bytes: Option<u64>,
    /// How to get all of the patch, if this is not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_rest: Option<String>,
}

/// Something that has changed.
#[derive(Debug, Serialize, JsonSchema)]
struct Changed {
    /// Where, from the workspace.
    #[schemars(schema_with = "schema::raw")]
    path: RawString,
    /// `created`, `modified`, `mode`, `replaced` or `deleted`.
    #[schemars(schema_with = "schema::text")]
    change: ChangeKind,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Patch {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The patch.
    #[schemars(length(min = 1, max = 2_000_000))]
    patch: String,
    /// How `patch` is to be read; `utf-8` by default.
    #[serde(default)]
    #[schemars(schema_with = "schema::encoding")]
    encoding: Option<Encoding>,
    /// The directory of the workspace that its paths begin at; the workspace itself by default.
    #[schemars(length(max = 4096))]
    path: Option<String>,
    /// How many names to take off the front of each path; 1 by default, for the `a/` and `b/` of git.
    #[schemars(range(max = 64))]
    strip: Option<u32>,
    /// Undoes it instead.
    #[serde(default)]
    reverse: bool,
    /// Only finds out whether it applies.
    #[serde(default)]
    check: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Patched {
    /// Whether it was applied, and not only tried.
    applied: bool,
    /// How many files it is about.
    files: u64,
    /// How many hunks there are in them.
    hunks: u64,
    /// How many of these matched elsewhere than they said.
    moved: u64,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Reset {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The checkpoint to go back to; the beginning by default.
    #[schemars(length(min = 1, max = 64))]
    to: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ResetDone {
    /// How many files, directories and links were made again.
    restored: u64,
    /// How many were removed.
    removed: u64,
    /// How many were given their permissions or times back alone.
    adjusted: u64,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Checkpoint {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The checkpoint's name: letters, digits, `.`, `_` and `-`.
    #[schemars(length(min = 1, max = 64))]
    name: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Taken {
    /// The checkpoint's name.
    name: String,
    /// How many files are in it.
    files: u64,
    /// The length of them all in bytes.
    bytes: u64,
}

fn named(name: Option<String>, field: &str) -> Result<Named, Refused> {
    Ok(match name {
        Some(name) => Named { name: checkpoint_name(&name, field)? },
        None => Named::default(),
    })
}

async fn diff(call: Call, asked: Diff) -> Result<Diffed, Refused> {
    let since = Since { since: asked.since.map(|name| checkpoint_name(&name, "since")).transpose()? };
    let mut listed = call.client.changes(&asked.sandbox, &since).await?;
    let omitted = listed.changes.len().saturating_sub(CHANGES);
    listed.changes.truncate(CHANGES);
    let patch = match asked.list_only {
        true => None,
        false => {
            let most = asked.max_patch_bytes.unwrap_or(PATCH);
            let (bytes, total) = all(call.client.diff(&asked.sandbox, &since).await?, most).await?;
            let is_cut = total > most;
            let (encoding, text) = encode(if is_cut { whole_end(&bytes) } else { &bytes });
            Some((encoding, text, total, is_cut))
        }
    };
    let rest = "call again with a larger max_patch_bytes, or read the resource hearth://sandboxes/{sandbox}/diff";
    Ok(Diffed {
        created: listed.totals.created,
        modified: listed.totals.modified,
        deleted: listed.totals.deleted,
        left_out: listed.totals.left_out,
        changes: listed
            .changes
            .into_iter()
            .map(|change| Changed { path: change.path, change: change.change })
            .collect(),
        changes_omitted: (omitted > 0).then_some(omitted),
        patch_encoding: patch.as_ref().map(|(encoding, ..)| *encoding),
        patch_bytes: patch.as_ref().map(|(_, _, total, _)| *total),
        patch_rest: patch.as_ref().and_then(|(.., is_cut)| is_cut.then(|| rest.to_owned())),
        patch: patch.map(|(_, text, ..)| text),
    })
}

async fn patch(call: Call, asked: Patch) -> Result<Patched, Refused> {
    let apply =
        ApplyPatch { path: asked.path, strip: asked.strip, reverse: Some(asked.reverse), check: Some(asked.check) };
    let text = stream::iter([Ok(bytes::Bytes::from(decode(asked.encoding, asked.patch, "patch")?))]);
    let patched = call.client.patch(&asked.sandbox, &apply, text).await?;
    Ok(Patched { applied: !asked.check, files: patched.files, hunks: patched.hunks, moved: patched.moved })
}

async fn reset(call: Call, asked: Reset) -> Result<ResetDone, Refused> {
    let done = call.client.reset(&asked.sandbox, &named(asked.to, "to")?).await?;
    Ok(ResetDone { restored: done.restored, removed: done.removed, adjusted: done.adjusted })
}

async fn checkpoint(call: Call, asked: Checkpoint) -> Result<Taken, Refused> {
    let taken = call.client.checkpoint(&asked.sandbox, &named(Some(asked.name), "name")?).await?;
    Ok(Taken { name: taken.name, files: taken.files, bytes: taken.bytes })
}

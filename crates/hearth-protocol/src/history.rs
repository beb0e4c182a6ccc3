//! Requests about the workspace's history: group `history`.
//!
//! A *checkpoint* is the workspace as it was at one moment, under a name; the one called [`BASELINE`] is what is meant where none is named.

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::files::FileKind;
use crate::{ErrorCode, Fault, RawString, limits};

/// The checkpoint that is meant where none is named.
pub const BASELINE: &str = "baseline";

/// The name of a checkpoint: 1 to [`limits::NAME`] letters, digits, `.`, `_` and `-`, the first a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct CheckpointName(String);

impl CheckpointName {
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
            "a checkpoint's name must have 1 to {} letters, digits, '.', '_' and '-', and begin with a letter or digit",
            limits::NAME
        );
        Err(Fault::never_started(ErrorCode::InvalidField, message))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for CheckpointName {
    fn default() -> Self {
        Self(BASELINE.to_owned())
    }
}

impl<'de> Deserialize<'de> for CheckpointName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(|fault| D::Error::custom(fault.message))
    }
}

/// What may be asked about history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum HistoryRequest {
    /// Takes a checkpoint of the workspace, in the place of one of the same name. Result: [`HistoryResult::Taken`].
    Checkpoint(Named),
    /// Lists the checkpoints, the oldest first: a [`Checkpoint`] a line, as `data`. Result: [`HistoryResult::Listed`].
    List(NoFields),
    /// Removes a checkpoint. Result: [`HistoryResult::Removed`].
    Remove(Named),
    /// Sends what has changed since a checkpoint as a patch, as `data`. Result: [`HistoryResult::Diffed`].
    Diff(Named),
    /// Sends what has changed since a checkpoint: a [`Change`] a line, as `data`. Result: [`HistoryResult::Diffed`].
    Changes(Named),
    /// Applies the patch that comes as `stdin`, all of it or nothing. Result: [`HistoryResult::Patched`].
    Patch(Patch),
    /// Makes the workspace what it was at a checkpoint, all of it or nothing. Result: [`HistoryResult::Reset`].
    Reset(Named),
}

/// Nothing beside the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoFields {}

/// Something about one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Which; [`BASELINE`] where none is named.
    #[serde(default, skip_serializing_if = "is_default")]
    pub name: CheckpointName,
}

/// A patch to apply: unified, as `git diff`, `git format-patch` and `diff -ru` write it.
///
/// Each hunk must match to the letter, where it says or, failing that, nearest to there. A path that leads outside, or through a symbolic
/// link, refuses it all; so does a hunk that matches nowhere, which the error names with its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// The directory of the workspace that the patch's paths begin at.
    #[serde(default, skip_serializing_if = "is_default")]
    pub path: RawString,
    /// How many names to take off the front of each path: 1 for the `a/` and `b/` of git.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub strip: u32,
    /// Undoes it instead.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reverse: bool,
    /// Only finds out whether it applies.
    #[serde(default, skip_serializing_if = "is_default")]
    pub check: bool,
}

impl Default for Patch {
    fn default() -> Self {
        Self { path: RawString::default(), strip: 1, reverse: false, check: false }
    }
}

fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_one(strip: &u32) -> bool {
    *strip == 1
}

/// A checkpoint that there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Checkpoint {
    /// Its name.
    pub name: String,
    /// When it was taken, in milliseconds since 1970 by the guest's clock.
    pub taken_ms: u64,
    /// How many files are in it.
    pub files: u64,
    /// The length of them all.
    pub bytes: u64,
    /// How many could not be read, or are mount points: a diff and a reset leave them alone.
    #[serde(default, skip_serializing_if = "is_default")]
    pub skipped: u64,
}

/// What has become of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It was not there.
    Created,
    /// It has other content, and may have other permissions.
    Modified,
    /// It has other permissions alone.
    Mode,
    /// Something of another kind is in its place.
    Replaced,
    /// It is not there any more.
    Deleted,
    /// A kind that this end does not know, from a newer peer.
    #[serde(other)]
    Unknown,
}

/// Something that has changed. Directories are not told of, but for what is in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Change {
    /// Where, from the workspace.
    pub path: RawString,
    /// What became of it.
    pub change: ChangeKind,
    /// What it is; for what was deleted, what it was.
    pub kind: FileKind,
    /// Its length before, in bytes, where it was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_before: Option<u64>,
    /// Its length now, in bytes, where it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// A diff's sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Diffed {
    /// How many files, links and FIFOs are new.
    pub created: u64,
    /// How many are other than they were.
    pub modified: u64,
    /// How many are gone.
    pub deleted: u64,
    /// How many of these no patch can carry: FIFOs, sockets, devices, files over [`limits::PATCHED_FILE`], files that cannot be read, and what
    /// is in a `.git`, of which git takes nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub left_out: u64,
    /// How many things could not be looked at: directories that may not be read, mount points.
    #[serde(default, skip_serializing_if = "is_default")]
    pub skipped: u64,
}

/// A patch that was applied, or could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Patched {
    /// How many files it is about.
    pub files: u64,
    /// How many hunks there are in them, a binary one counted as one.
    pub hunks: u64,
    /// How many of these matched elsewhere than they said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub moved: u64,
}

/// A reset that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ResetDone {
    /// How many files, directories, links and FIFOs were made, or made again.
    pub restored: u64,
    /// How many were removed, a directory with all that is in it counted as one.
    pub removed: u64,
    /// How many were given other permissions, owners or times alone.
    pub adjusted: u64,
    /// How many are not as they were and could not be made so: sockets, devices, and what could not be read when the checkpoint was taken.
    #[serde(default, skip_serializing_if = "is_default")]
    pub left_out: u64,
}

/// What comes of a request about history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryResult {
    /// There is this checkpoint.
    Taken(Checkpoint),
    /// They were sent.
    Listed {},
    /// It is gone.
    Removed {},
    /// What has changed was sent.
    Diffed(Diffed),
    /// It applies, and unless that was only to be found out it was applied.
    Patched(Patched),
    /// The workspace is as it was.
    Reset(ResetDone),
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl HistoryRequest {
    /// Checks what types alone do not.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] naming the field and the rule.
    pub fn validate(&self) -> Result<(), Fault> {
        match self {
            Self::Patch(Patch { strip, .. }) if *strip > limits::STRIP => {
                let message = format!("strip must be at most {}", limits::STRIP);
                Err(Fault::never_started(ErrorCode::InvalidField, message))
            }
            _ => Ok(()),
        }
    }
}

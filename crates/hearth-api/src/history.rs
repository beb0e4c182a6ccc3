//! The history of a guest's workspace: checkpoints, what has changed since one, patches, and the way back.
//!
//! What names a checkpoint in a body is the wire's own [`Named`](hearth_protocol::history::Named); where none is named, the one called `baseline` is meant.

use hearth_protocol::RawString;
use hearth_protocol::history::{Change, Checkpoint, CheckpointName, Diffed, HistoryRequest, Patch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ErrorBody, OwnCode};

/// Since when, as a query.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Since {
    /// The checkpoint to compare the workspace with; `baseline` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<CheckpointName>,
}

/// What has changed, by path. Paths come from the guest: escape them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeList {
    /// Each change.
    pub changes: Vec<Change>,
    /// Their sums, with what no patch can carry.
    pub totals: Diffed,
}

/// The checkpoints there are, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckpointList {
    /// Each of them.
    pub checkpoints: Vec<Checkpoint>,
}

/// How to apply a patch, as a query; the body is its text. All of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyPatch {
    /// The directory of the workspace that the patch's paths begin at; the workspace itself by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How many names to take off the front of each path, at most 64; 1 by default, for the `a/` and `b/` of git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strip: Option<u32>,
    /// Undoes it instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse: Option<bool>,
    /// Only finds out whether it applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<bool>,
}

impl ApplyPatch {
    /// What the guest is asked.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn patch(self) -> Result<Patch, ErrorBody> {
        let usual = Patch::default();
        let patch = Patch {
            path: self.path.map_or(usual.path, |path| RawString::from(path.into_bytes())),
            strip: self.strip.unwrap_or(usual.strip),
            reverse: self.reverse.unwrap_or(usual.reverse),
            check: self.check.unwrap_or(usual.check),
        };
        let request = HistoryRequest::Patch(patch.clone());
        request.validate().map(|()| patch).map_err(ErrorBody::from)
    }
}

/// Reads the name of a checkpoint that stands in a path or on a command line, with the refusal that it would get in a body.
///
/// # Errors
/// [`OwnCode::InvalidRequest`], naming `field`.
pub fn checkpoint_name(name: &str, field: &str) -> Result<CheckpointName, ErrorBody> {
    CheckpointName::new(name).map_err(|fault| ErrorBody::new(OwnCode::InvalidRequest, fault.message).with_field(field))
}

//! What has happened to sandboxes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::SandboxState;

/// Which events to follow, as a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FollowEvents {
    /// Those behind this position; 0 for all that are kept. By default only what happens from now on. The header `Last-Event-ID` says the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Whether to end once there are no more, in place of waiting for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Its position. Counts from 1 and anew with each daemon.
    pub position: u64,
    /// When.
    pub at_unix_ms: u64,
    /// To which sandbox.
    pub sandbox: String,
    /// What that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happening {
    /// It has come into a state.
    State {
        /// Which.
        state: SandboxState,
        /// Why, where there is more to say. May come from outside: escape it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Its name, labels or lifetime have changed.
    Changed {},
    /// A daemon before this one had left it, and it was taken over.
    Adopted {
        /// What was under way then and was finished or undone, and what of it is lost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        told: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_object() {
        let what = Happening::State { state: SandboxState::Running, reason: None };
        let event = Event { position: 7, at_unix_ms: 5, sandbox: "sb-1".into(), name: None, what };
        let json = r#"{"position":7,"at_unix_ms":5,"sandbox":"sb-1","event":"state","state":"running"}"#;
        assert_eq!(serde_json::to_string(&event).unwrap(), json);
        assert_eq!(serde_json::from_str::<Event>(json).unwrap(), event);
    }
}

//! The audit log: who has asked for what, a JSON object a line.
//!
//! It is in the home's `logs` directory, the daemon's to write and its owner's to read, not served over the API. No value of a secret, no
//! content, argument or variable is ever in it.

use serde::{Deserialize, Serialize};

/// The log's file in the directory of logs. The one before it has `.1` behind its name.
pub const FILE: &str = "audit.jsonl";
/// The header in which a client that acts for somebody else says what it is: `mcp`.
pub const VIA: &str = "hearth-via";
/// The header in which the daemon itself, as a client of its own, says for the holder of which key it asks. Nobody else's is believed.
pub const FOR_KEY: &str = "hearth-for-key";

/// Who has asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Who {
    /// A process of the daemon's own user, over the socket.
    User {
        /// The user's number.
        uid: u32,
        /// The process that connected.
        pid: Option<i32>,
    },
    /// The holder of a key, over TCP.
    Key {
        /// The key's name.
        key: String,
    },
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it began.
    pub at_unix_ms: u64,
    /// Who has asked for it.
    pub who: Who,
    /// By what, if the client said so: `mcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// What: its `operationId` in the API's description.
    pub operation: String,
    /// In which sandbox: its id, or what was asked for where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// Of what in it: the name or number in the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The ids of the sandboxes that it made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<String>,
    /// The status of its answer; `None` where whoever asked did not wait for it.
    pub status: Option<u16>,
    /// Why it failed, or a WebSocket ended, as in [`crate::ErrorBody`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// How long it took, in microseconds: to its answer's beginning, and to its end for a WebSocket.
    pub duration_us: u64,
}

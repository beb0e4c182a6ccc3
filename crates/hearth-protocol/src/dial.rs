//! Requests for a byte stream to something inside the guest: group `dial`.

use serde::{Deserialize, Serialize};

use crate::{ErrorCode, Fault, RawString, limits};

/// What may be dialled.
///
/// The stream goes both ways as the request's `stdin` and `data`. The end of `stdin` ends the guest's reading and nothing else (half-close);
/// the guest's own end is [`DialResult`], which comes when both ways have ended. The first credit for `stdin` says that the
/// connection is made; a fault before it that there is none. One behind it, [`ErrorCode::ConnectionFailed`] with [`crate::Outcome::Failed`], says
/// that the guest's side broke the connection (a reset), which ends both ways at once; what came before is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum DialRequest {
    /// A TCP port.
    Tcp {
        /// An IP address of the guest's, or one that the guest can reach; its own loopback, 127.0.0.1 and then ::1, by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// The port.
        port: u16,
        /// The time to connect in milliseconds; [`limits::CONNECT_MS`] by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
    /// A Unix socket.
    Unix {
        /// Its absolute path.
        path: RawString,
    },
}

/// What comes of a dialled stream, once both ways have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DialResult {
    /// It ended.
    Ended {
        /// The bytes that the guest took.
        sent: u64,
    },
}

impl DialRequest {
    /// Checks what types alone do not.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] naming the field and the rule.
    pub fn validate(&self) -> Result<(), Fault> {
        let invalid = |message: String| Err(Fault::never_started(ErrorCode::InvalidField, message));
        match self {
            Self::Tcp { port: 0, .. } => invalid("port must be 1 to 65535".into()),
            Self::Tcp { host: Some(host), .. } if host.parse::<std::net::IpAddr>().is_err() => {
                invalid(format!("host must be an IP address, not {host:?}"))
            }
            Self::Tcp { timeout_ms: Some(0), .. } => invalid("timeout_ms must not be 0".into()),
            Self::Tcp { timeout_ms: Some(ms), .. } if *ms > limits::TIMEOUT_MS => {
                invalid(format!("timeout_ms must be at most {}", limits::TIMEOUT_MS))
            }
            Self::Unix { path } if !path.as_bytes().starts_with(b"/") => invalid("path must be absolute".into()),
            Self::Tcp { .. } | Self::Unix { .. } => Ok(()),
        }
    }
}

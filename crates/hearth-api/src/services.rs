//! Services of a guest, and ports of this host's that lead into it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use hearth_protocol::service::{LogPositions, Readiness, RestartPolicy, ServiceInfo, ServiceStart};
use hearth_protocol::{RawString, ResourceLimits, Start, StreamName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ErrorBody;
use crate::exec::{CommandLine, ExecRequest};

/// A service to start: a program with a name, a readiness and a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartService {
    /// Its name: a letter or digit, then at most 63 letters, digits, `.`, `_` and `-`. One of this name that has ended is replaced.
    pub name: String,
    /// What to run.
    pub command: CommandLine,
    /// Where; the workspace by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<RawString>,
    /// Variables beside those of the user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, RawString>,
    /// More variables, whose values are secrets: names of secrets by names of variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// The user, a name or number; `user` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What it and all it starts may use.
    #[serde(default)]
    pub limits: ResourceLimits,
    /// The time between TERM and KILL in milliseconds, whenever it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    /// What shows that it is ready; without it, that it has run for a moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// How long it may take to become ready, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_timeout_ms: Option<u64>,
    /// The time between two looks at its readiness, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_interval_ms: Option<u64>,
    /// What happens when it ends, or does not become ready.
    #[serde(default)]
    pub restart: RestartPolicy,
}

impl StartService {
    /// Makes the plainest start.
    pub fn new(name: impl Into<String>, command: CommandLine) -> Self {
        Self {
            name: name.into(),
            command,
            cwd: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            user: None,
            limits: ResourceLimits::default(),
            grace_ms: None,
            readiness: None,
            ready_timeout_ms: None,
            ready_interval_ms: None,
            restart: RestartPolicy::No,
        }
    }

    /// What the guest is asked.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn start(self) -> Result<ServiceStart, ErrorBody> {
        let exec = ExecRequest {
            cwd: self.cwd,
            env: self.env,
            secrets: self.secrets,
            user: self.user,
            limits: self.limits,
            grace_ms: self.grace_ms,
            ..ExecRequest::new(self.command)
        };
        let process = Start { attach: None, ..exec.held()? };
        let start = ServiceStart {
            process,
            readiness: self.readiness,
            ready_timeout_ms: self.ready_timeout_ms,
            ready_interval_ms: self.ready_interval_ms,
            restart: self.restart,
            ..ServiceStart::new(self.name, hearth_protocol::Command::Shell("true".into()))
        };
        // What is left without a field quotes what was to be connected to.
        let refused = |body: ErrorBody| if body.field.is_some() { body } else { body.with_field("readiness") };
        start.validate().map(|()| start).map_err(|fault| refused(fault.into()))
    }
}

/// The services of a guest, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceList {
    /// Each of them. What it runs comes from the guest: escape it.
    pub services: Vec<ServiceInfo>,
}

/// How a service is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopService {
    /// The time between TERM and KILL in milliseconds, in place of the service's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

/// Which part of a service's log is wanted, as a query. The answer is bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadServiceLog {
    /// Which stream; both by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamName>,
    /// The last so many lines of each stream; all that is kept by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail_lines: Option<u64>,
    /// What comes at or behind this position of `stdout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_stdout: Option<u64>,
    /// What comes at or behind this position of `stderr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_stderr: Option<u64>,
    /// Whether to go on with what is written, until the service has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
}

impl ReadServiceLog {
    /// The positions, if any are named.
    pub fn since(&self) -> Option<LogPositions> {
        let is_named = self.since_stdout.is_some() || self.since_stderr.is_some();
        is_named
            .then(|| LogPositions { stdout: self.since_stdout.unwrap_or(0), stderr: self.since_stderr.unwrap_or(0) })
    }
}

/// A port of this host's to publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishPort {
    /// Where to listen on this host, such as `127.0.0.1:8080`; any free port of 127.0.0.1 by default. Port 0 is any that is free.
    #[serde(default = "any_port")]
    pub listen: SocketAddr,
    /// The port in the guest.
    pub guest_port: u16,
    /// The address in the guest; its loopback by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_host: Option<String>,
    /// The service that it is for: it is closed when that is stopped or removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// The ports that are published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortList {
    /// Each with the address that it listens on.
    pub ports: Vec<PublishPort>,
}

/// Secrets to add, or to give new values. All or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSecrets {
    /// Which.
    pub secrets: Vec<hearth_protocol::secrets::Secret>,
}

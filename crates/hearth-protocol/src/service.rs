//! Requests about services, processes with a name, a readiness and a log: group `service`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Command, ErrorCode, ExitStatus, Fault, ProcessId, RawString, Start, limits};

/// What may be asked about services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum ServiceRequest {
    /// Starts a service. One of this name that has ended is replaced. Result, once it is ready, has failed, or is to be tried again:
    /// [`ServiceResult::Service`].
    Start(Box<ServiceStart>),
    /// Describes a service. Result: [`ServiceResult::Service`].
    Status {
        /// Which.
        name: String,
    },
    /// Lists the services by name, as `data`: a [`ServiceInfo`] a line. Result: [`ServiceResult::Done`].
    List {},
    /// Sends the log of a service as `stdout` and `stderr`. Result: [`ServiceResult::Logs`].
    Logs(ServiceLogs),
    /// Stops a service and all that it has started. Result, once nothing of it is left: [`ServiceResult::Service`]. One that has ended stays
    /// as it is.
    Stop {
        /// Which.
        name: String,
        /// The time between TERM and KILL in milliseconds, in place of the service's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace_ms: Option<u64>,
    },
    /// Stops a service if it runs, and starts it as it was started. Its log goes on. Result: as for a start.
    Restart {
        /// Which.
        name: String,
    },
    /// Stops a service if it runs, and forgets it and its log. Result: [`ServiceResult::Done`].
    Remove {
        /// Which.
        name: String,
    },
}

/// A service to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceStart {
    /// Its name: a letter or digit, then at most 63 letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// What to run: without input, terminal, deadline or follower. Its grace is the time between TERM and KILL whenever the service is stopped,
    /// [`limits::SERVICE_GRACE_MS`] by default.
    pub process: Start,
    /// What shows that it is ready. Without it, it is ready when it has run for [`limits::SETTLED_MS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// How long it may take to become ready, in milliseconds; it is stopped then. [`limits::READY_TIMEOUT_MS`] by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_timeout_ms: Option<u64>,
    /// The time from the end of one look at the readiness to the next, in milliseconds; [`limits::READY_INTERVAL_MS`] by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_interval_ms: Option<u64>,
    /// What happens when it ends, or does not become ready.
    #[serde(default, skip_serializing_if = "RestartPolicy::is_no")]
    pub restart: RestartPolicy,
}

/// What shows that a service is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Readiness {
    /// Something is at a path.
    File {
        /// The path, relative to the service's working directory.
        path: RawString,
    },
    /// A TCP port takes a connection within a second.
    Tcp {
        /// An IP address or `localhost`, a colon, and the port.
        address: String,
    },
    /// An HTTP server answers a GET within two seconds with a status from 200 to 399.
    Http {
        /// The URL: `http://`, an IP address or `localhost`, perhaps a port and a path.
        url: String,
    },
    /// A command, run as the service is, exits with 0 within ten seconds.
    Command {
        /// What to run.
        command: Command,
    },
}

/// What happens when a service ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RestartPolicy {
    /// It stays as it is.
    #[default]
    No,
    /// It is started again when it exited with a code other than 0, was killed, or did not become ready.
    OnFailure(Backoff),
    /// It is started again.
    Always(Backoff),
}

/// How soon a service is started again, and how often. The wait doubles each time; both start anew when it was ready for
/// [`limits::HEALTHY_MS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    /// The first wait in milliseconds; [`limits::BACKOFF_MS`] by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_ms: Option<u64>,
    /// The longest wait in milliseconds; [`limits::LONGEST_BACKOFF_MS`] by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_ms: Option<u64>,
    /// How many times in a row at most; without end by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// Which part of a log is wanted. All that is kept by default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceLogs {
    /// Whose.
    pub name: String,
    /// The last so many lines of each stream; 0 for none of what is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail_lines: Option<u64>,
    /// What comes at or after these positions, as an earlier [`ServiceResult::Logs`] named them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<LogPositions>,
    /// Goes on with what is written, until the service has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
}

/// A place, or a number of bytes, in each of a log's streams. Restarts do not begin anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LogPositions {
    /// In what it wrote to `stdout`.
    pub stdout: u64,
    /// In what it wrote to `stderr`.
    pub stderr: u64,
}

/// What comes of a request about services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceResult {
    /// It is done.
    Done {},
    /// The service as it is now.
    Service(Box<ServiceInfo>),
    /// The log was sent.
    Logs {
        /// The positions behind the last bytes that were sent.
        next: LogPositions,
        /// The bytes that were asked for but no longer kept.
        dropped: LogPositions,
    },
}

/// A service as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServiceInfo {
    /// Its name.
    pub name: String,
    /// What it runs, cut to [`limits::LISTED_COMMAND`] bytes of JSON.
    pub command: Command,
    /// Where, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<RawString>,
    /// What shows that it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// Whether it runs.
    pub state: ServiceState,
    /// Why it was stopped, or has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ServiceReason>,
    /// Why it could not be started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The process, or the last one there was.
    pub process: ProcessId,
    /// Its number in the guest.
    pub pid: u32,
    /// When it was started, in milliseconds since 1970 by the guest's clock, as are the others.
    pub started_unix_ms: u64,
    /// When it became ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_unix_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_unix_ms: Option<u64>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitStatus>,
    /// How often it was started again by itself.
    pub restarts: u64,
    /// Where its log ends.
    pub log: LogPositions,
}

/// Whether a service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// It runs and is not ready yet.
    Starting,
    /// It runs and is ready.
    Running,
    /// It has ended and will be started again.
    Restarting,
    /// It has ended by itself.
    Exited,
    /// It was asked to stop, and has.
    Stopped,
    /// It did not become ready, or ended too often.
    Failed,
}

impl ServiceState {
    /// Whether nothing more happens to it unless it is asked for.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Exited | Self::Stopped | Self::Failed)
    }
}

/// Why a service was stopped, or has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ServiceReason {
    /// It ended before it was ready.
    ProcessExitedBeforeReady,
    /// It was not ready in time.
    ReadinessTimeout,
    /// It could not be started again.
    StartFailed,
    /// It ended as often as its policy allows.
    TooManyRestarts,
    /// It was asked to stop, and TERM ended it.
    Sigterm,
    /// It was asked to stop, and outlived its grace.
    Sigkill,
}

impl RestartPolicy {
    fn is_no(&self) -> bool {
        *self == Self::No
    }

    fn backoff(&self) -> Option<&Backoff> {
        match self {
            Self::No => None,
            Self::OnFailure(backoff) | Self::Always(backoff) => Some(backoff),
        }
    }
}

impl ServiceRequest {
    /// Checks what types alone do not.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] naming the field and the rule.
    pub fn validate(&self) -> Result<(), Fault> {
        match self {
            Self::Start(start) => start.validate(),
            Self::Stop { name, grace_ms } => validate_name(name).and_then(|()| validate_grace(*grace_ms)),
            Self::Logs(ServiceLogs { name, tail_lines: Some(_), since: Some(_), .. }) => {
                validate_name(name)?;
                Err(invalid("tail_lines and since exclude each other".into()))
            }
            Self::Status { name } | Self::Restart { name } | Self::Remove { name } => validate_name(name),
            Self::Logs(logs) => validate_name(&logs.name),
            Self::List {} => Ok(()),
        }
    }
}

impl ServiceStart {
    /// Makes the plainest start of a service.
    pub fn new(name: impl Into<String>, command: Command) -> Self {
        Self {
            name: name.into(),
            process: Start::new(command),
            readiness: None,
            ready_timeout_ms: None,
            ready_interval_ms: None,
            restart: RestartPolicy::No,
        }
    }

    /// Checks what types alone do not.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] naming the field and the rule.
    pub fn validate(&self) -> Result<(), Fault> {
        validate_name(&self.name)?;
        let process = &self.process;
        process.validate()?;
        let is_followed = process.stdin || process.pty.is_some() || process.attach.is_some();
        if is_followed || process.timeout_ms.is_some() || process.forget {
            return Err(invalid("the process of a service has no stdin, pty, timeout_ms, forget or attach".into()));
        }
        let times = [("ready_timeout_ms", self.ready_timeout_ms), ("ready_interval_ms", self.ready_interval_ms)];
        let backoff = self.restart.backoff().copied().unwrap_or_default();
        let waits = [("restart first_ms", backoff.first_ms), ("restart longest_ms", backoff.longest_ms)];
        for (field, ms) in times.into_iter().chain(waits) {
            if ms.is_some_and(|ms| !(1..=limits::TIMEOUT_MS).contains(&ms)) {
                return Err(invalid(format!("{field} must be 1 to {}", limits::TIMEOUT_MS)));
            }
        }
        self.readiness.as_ref().map_or(Ok(()), Readiness::validate)
    }
}

impl Readiness {
    fn validate(&self) -> Result<(), Fault> {
        let length = match self {
            Self::File { path } => path.as_bytes().len(),
            Self::Tcp { address } => address.len(),
            Self::Http { url } => url.len(),
            Self::Command { command: Command::Shell(text) } => text.as_bytes().len(),
            Self::Command { command: Command::Argv(argv) } => argv.iter().map(|word| word.as_bytes().len() + 1).sum(),
        };
        if length == 0 || length > limits::READINESS {
            return Err(invalid(format!("a readiness must have 1 to {} bytes", limits::READINESS)));
        }
        match self {
            Self::Tcp { address } => Endpoint::parse(address, None).map(drop),
            Self::Http { url } => HttpTarget::parse(url).map(drop),
            Self::Command { command } => Start::new(command.clone()).validate(),
            Self::File { .. } => Ok(()),
        }
    }
}

/// Where a readiness looks for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The addresses to try in turn.
    pub hosts: Vec<IpAddr>,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// Reads `HOST:PORT`; where there is a `default`, also `HOST`. A host is an IP address, in brackets when it has colons, or `localhost`.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`].
    pub fn parse(text: &str, default: Option<u16>) -> Result<Self, Fault> {
        Self::read(text, default).ok_or_else(|| {
            let port = if default.is_some() { "perhaps with" } else { "with" };
            let rule = "is no server to probe: that is an IP address or localhost, since names are not looked up,";
            invalid(format!("{text:?} {rule} {port} a colon and a port from 1 to 65535"))
        })
    }

    fn read(text: &str, default: Option<u16>) -> Option<Self> {
        let bare = text.ends_with(']') || !text.contains(':');
        let (host, port) = match text.rsplit_once(':').filter(|_| !bare) {
            Some((host, port)) => (host, port.parse().ok().filter(|&port| port > 0)?),
            None => (text, default?),
        };
        let hosts = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => vec![IpAddr::V6(host.parse().ok()?)],
            None if host.eq_ignore_ascii_case("localhost") => {
                vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16])]
            }
            None => vec![IpAddr::V4(host.parse().ok()?)],
        };
        Some(Self { hosts, port })
    }
}

/// What a readiness asks an HTTP server for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget {
    /// The server.
    pub endpoint: Endpoint,
    /// The server as the URL names it.
    pub authority: String,
    /// The path and query.
    pub path: String,
}

impl HttpTarget {
    /// Reads an `http` URL.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`].
    pub fn parse(url: &str) -> Result<Self, Fault> {
        let scheme = url.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
        let rest = scheme.map(|scheme| &url[scheme.len()..]);
        let rest = rest.ok_or_else(|| invalid(format!("{url:?} does not begin with http://")))?;
        if rest.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(invalid(format!("{url:?} holds blanks, control or non-ASCII characters")));
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let endpoint = Endpoint::parse(authority, Some(80))?;
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self { endpoint, authority: authority.to_owned(), path: format!("{slash}{path}") })
    }
}

/// Checks the name of a service.
///
/// # Errors
/// [`ErrorCode::InvalidField`].
fn validate_name(name: &str) -> Result<(), Fault> {
    let fits =
        |(index, byte): (usize, u8)| byte.is_ascii_alphanumeric() || (index > 0 && matches!(byte, b'.' | b'_' | b'-'));
    if (1..=limits::SERVICE_NAME).contains(&name.len()) && name.bytes().enumerate().all(fits) {
        return Ok(());
    }
    let most = limits::SERVICE_NAME - 1;
    let rule = format!("must be a letter or digit, then at most {most} letters, digits, '.', '_' and '-'");
    Err(invalid(format!("service name {name:?} {rule}")))
}

fn validate_grace(grace_ms: Option<u64>) -> Result<(), Fault> {
    match grace_ms {
        Some(ms) if ms > limits::GRACE_MS => Err(invalid(format!("grace_ms must be at most {}", limits::GRACE_MS))),
        _ => Ok(()),
    }
}

fn invalid(message: String) -> Fault {
    Fault::never_started(ErrorCode::InvalidField, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(change: impl FnOnce(&mut ServiceStart)) {
        let mut start = ServiceStart::new("web", Command::Shell("true".into()));
        start.validate().unwrap();
        change(&mut start);
        assert_eq!(start.validate().unwrap_err().code, ErrorCode::InvalidField);
    }

    #[test]
    fn what_a_service_cannot_have_is_refused() {
        for name in ["", "../x", "-a", "a b", "a/b", &"a".repeat(65)] {
            refused(|start| start.name = name.into());
        }
        refused(|start| start.process.stdin = true);
        refused(|start| start.process.timeout_ms = Some(1));
        refused(|start| start.ready_interval_ms = Some(0));
        refused(|start| start.restart = RestartPolicy::Always(Backoff { first_ms: Some(0), ..Backoff::default() }));
        for readiness in [
            Readiness::File { path: "".into() },
            Readiness::Tcp { address: "example.com:80".into() },
            Readiness::Tcp { address: "127.0.0.1".into() },
            Readiness::Tcp { address: "127.0.0.1:0".into() },
            Readiness::Http { url: "https://127.0.0.1/".into() },
            Readiness::Http { url: "http://127.0.0.1/a b".into() },
            Readiness::Http { url: "http://user@127.0.0.1/".into() },
            Readiness::Command { command: Command::Argv(vec![]) },
        ] {
            refused(|start| start.readiness = Some(readiness));
        }
    }

    #[test]
    fn servers_are_named_by_address_or_as_localhost() {
        let parsed =
            |text| Endpoint::parse(text, Some(80)).map(|found| (found.hosts[0].to_string(), found.port)).unwrap();
        assert_eq!(parsed("127.0.0.1:81"), ("127.0.0.1".to_owned(), 81));
        assert_eq!(parsed("localhost"), ("127.0.0.1".to_owned(), 80));
        assert_eq!(parsed("[::1]:81"), ("::1".to_owned(), 81));
        assert_eq!(parsed("[::1]"), ("::1".to_owned(), 80));
        let target = |url| HttpTarget::parse(url).map(|target| (target.authority, target.path)).unwrap();
        assert_eq!(target("http://localhost:8080"), ("localhost:8080".to_owned(), "/".to_owned()));
        assert_eq!(target("HTTP://127.0.0.1/a?b#c"), ("127.0.0.1".to_owned(), "/a?b".to_owned()));
        assert_eq!(target("http://127.0.0.1?b"), ("127.0.0.1".to_owned(), "/?b".to_owned()));
    }
}

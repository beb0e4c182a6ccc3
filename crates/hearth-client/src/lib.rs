//! Speaks the daemon's API over its Unix socket, or over TCP: one typed call an endpoint.
//!
//! The binary's commands use it, and so can any Rust program. What must stay true:
//!
//! - *Nothing is sent to a stranger.* The socket's owner is asked of the kernel before a byte goes out; over TLS the certificate is checked.
//! - *Nothing is sent twice.* No retry; an error says whether the request may have had an effect.
//! - Dropping a call gives it up: the daemon sees its connection end. What is in a guest by then goes on.

mod connection;
mod endpoint;
mod error;
mod events;
mod guest;
mod held;
mod history;
mod home;
mod http;
mod kernels;
mod shells;

use std::path::PathBuf;

use bytes::Bytes;
use hearth_api::exec::RunRequest;
use hearth_api::process::{
    AT, AttachProcess, ENDED, ProcessList, ProcessStarted, ReadProcess, SignalProcess, TOTAL, WriteProcess,
};
use hearth_api::protocol::process::OutputRead;
use hearth_api::usage::UsageList;
use hearth_api::{
    ChangeSandbox, CreateSandbox, ExecRequest, ExecResult, FollowEvents, ForkSandbox, ForkedSandboxes, Health,
    Lifespan, ListSandboxes, PausedSandbox, PoolInfo, SandboxInfo, SandboxList, SaveSandbox, SavedSandbox,
    StartSandbox, StopSandbox, StoppedSandbox, Version,
};
use hyper::{HeaderMap, Method};
use serde::Serialize;
use serde::de::DeserializeOwned;

use connection::whole;
use endpoint::Endpoint;

pub use connection::Connection;
pub use endpoint::Trust;
pub use error::ClientError;
pub use events::{Followed, Item};
pub use guest::Download;
pub use hearth_api as api;
pub use held::{Held, HeldEvent, HeldInput};
pub use http::HttpPlace;
pub use kernels::KernelRun;

/// A daemon, found by its socket or its host. Each call has a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
}

/// A sandbox that is bound to a connection: dropping this removes it.
#[derive(Debug)]
pub struct BoundSandbox {
    /// What it is.
    pub info: SandboxInfo,
    connection: Connection,
}

impl BoundSandbox {
    /// Lets it live on, if it is provisional.
    ///
    /// # Errors
    /// Any [`ClientError`]; the sandbox is removed then.
    pub async fn keep(mut self) -> Result<SandboxInfo, ClientError> {
        let change = ChangeSandbox { lifespan: Some(Lifespan::Kept), ..ChangeSandbox::default() };
        self.connection.json(Method::PATCH, &path(&self.info.id, ""), Some(&change)).await
    }
}

/// A sandbox for one program, which is about to be started. Dropping this, or the program when it is held, removes the sandbox.
#[derive(Debug)]
pub struct Run {
    /// The sandbox.
    pub info: SandboxInfo,
    held: Held,
}

impl Run {
    /// Waits until the program runs.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn started(self) -> Result<Held, ClientError> {
        self.held.started().await
    }
}

impl Client {
    /// Names the daemon that listens at `socket`. Connects to nothing yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { endpoint: Endpoint::socket(socket.into()) }
    }

    /// Names the daemon at `https://HOST[:PORT]`, or `http://…` where nobody can read along, with a key that it has given out. Connects to
    /// nothing yet.
    ///
    /// # Errors
    /// [`ClientError::InvalidHost`], [`ClientError::InvalidKey`], [`ClientError::InvalidFingerprint`], [`ClientError::Authorities`].
    pub fn remote(url: &str, key: Option<&str>, trust: &Trust) -> Result<Self, ClientError> {
        Ok(Self { endpoint: Endpoint::remote(url, key, trust)? })
    }

    /// Has the daemon's audit log say what acts here for somebody else, as `mcp` does: visible ASCII.
    pub fn via(self, what: &'static str) -> Self {
        Self { endpoint: self.endpoint.via(what) }
    }

    /// Has the audit log say for the holder of which key this asks. Believed only of the daemon's own process.
    pub fn for_key(self, name: &str) -> Self {
        Self { endpoint: self.endpoint.for_key(name) }
    }

    /// Tells whether the daemon can be connected to. What is asked next goes over that connection, if it is asked soon.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn reach(&self) -> Result<(), ClientError> {
        self.endpoint.reach().await
    }

    /// Connects, for more than one call in a row.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] where nobody listens, [`ClientError::WrongPeer`], [`ClientError::Connect`], [`ClientError::Unreachable`].
    pub async fn connect(&self) -> Result<Connection, ClientError> {
        Connection::open(&self.endpoint).await
    }

    /// Asks whether the daemon is there.
    ///
    /// # Errors
    /// Any [`ClientError`]; so have all calls.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.get("/v1/health").await
    }

    /// Asks what the daemon is.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn version(&self) -> Result<Version, ClientError> {
        self.get("/v1/version").await
    }

    /// Asks what the warm pool holds.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn pool(&self) -> Result<PoolInfo, ClientError> {
        self.get("/v1/pool").await
    }

    /// Measures what sandboxes cost the host.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn usage(&self) -> Result<UsageList, ClientError> {
        self.get("/v1/usage").await
    }

    /// Makes a sandbox, and returns once it takes requests. Dropping the call removes it.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn create(&self, request: &CreateSandbox) -> Result<SandboxInfo, ClientError> {
        self.connect().await?.json(Method::POST, "/v1/sandboxes", Some(request)).await
    }

    /// Makes a sandbox that lives no longer than what is returned, or this process.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn create_bound(&self, request: &CreateSandbox) -> Result<BoundSandbox, ClientError> {
        self.bind(CreateSandbox { lifespan: Lifespan::Connection, ..request.clone() }).await
    }

    /// The same, until it is [kept](BoundSandbox::keep): for one that is not done yet.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn create_provisional(&self, request: &CreateSandbox) -> Result<BoundSandbox, ClientError> {
        self.bind(CreateSandbox { lifespan: Lifespan::Provisional, ..request.clone() }).await
    }

    async fn bind(&self, request: CreateSandbox) -> Result<BoundSandbox, ClientError> {
        let mut connection = self.connect().await?;
        let info = connection.json(Method::POST, "/v1/sandboxes", Some(&request)).await?;
        Ok(BoundSandbox { info, connection })
    }

    /// Lists sandboxes, the oldest first.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn list(&self, query: &ListSandboxes) -> Result<SandboxList, ClientError> {
        self.get(&with_query("/v1/sandboxes", query)).await
    }

    /// Describes a sandbox.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn inspect(&self, sandbox: &str) -> Result<SandboxInfo, ClientError> {
        self.get(&path(sandbox, "")).await
    }

    /// Changes name, labels or lifetime of a sandbox.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn change(&self, sandbox: &str, changes: &ChangeSandbox) -> Result<SandboxInfo, ClientError> {
        self.connect().await?.json(Method::PATCH, &path(sandbox, ""), Some(changes)).await
    }

    /// Puts a sandbox on disk. The next request to its guest wakes it.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn pause(&self, sandbox: &str) -> Result<PausedSandbox, ClientError> {
        self.connect().await?.json(Method::POST, &path(sandbox, "/pause"), None::<&()>).await
    }

    /// Lets a paused sandbox go on.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn resume(&self, sandbox: &str) -> Result<SandboxInfo, ClientError> {
        self.connect().await?.json(Method::POST, &path(sandbox, "/resume"), None::<&()>).await
    }

    /// Ends a sandbox's guest in order, and keeps what is on its disk.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn stop_sandbox(&self, sandbox: &str, request: &StopSandbox) -> Result<StoppedSandbox, ClientError> {
        self.connect().await?.json(Method::POST, &path(sandbox, "/stop"), Some(request)).await
    }

    /// Boots a stopped sandbox, or one that has failed, on its disk.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn start_sandbox(&self, sandbox: &str, request: &StartSandbox) -> Result<SandboxInfo, ClientError> {
        self.connect().await?.json(Method::POST, &path(sandbox, "/start"), Some(request)).await
    }

    /// Copies a running sandbox. Dropping the call removes the copies.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn fork(&self, sandbox: &str, request: &ForkSandbox) -> Result<ForkedSandboxes, ClientError> {
        self.connect().await?.json(Method::POST, &path(sandbox, "/fork"), Some(request)).await
    }

    /// Saves a sandbox under a name. It goes on.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn snapshot(&self, sandbox: &str, request: &SaveSandbox) -> Result<SavedSandbox, ClientError> {
        self.connect().await?.json(Method::POST, &path(sandbox, "/snapshot"), Some(request)).await
    }

    /// Removes a sandbox, and returns once nothing of it is left.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn remove(&self, sandbox: &str) -> Result<(), ClientError> {
        self.connect().await?.bytes(Method::DELETE, &path(sandbox, "")).await.map(drop)
    }

    /// The end of a sandbox's console, escaped for a terminal.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn logs(&self, sandbox: &str) -> Result<String, ClientError> {
        let bytes: Bytes = self.connect().await?.bytes(Method::GET, &path(sandbox, "/logs")).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn exec(&self, sandbox: &str, request: &ExecRequest) -> Result<ExecResult, ClientError> {
        self.connect().await?.json(Method::POST, &path(sandbox, "/exec"), Some(request)).await
    }

    /// Starts a program and holds it: its output as it comes, input, signals.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn hold(&self, sandbox: &str, request: &ExecRequest) -> Result<Held, ClientError> {
        let mut held = Held::open(&self.endpoint, &path(sandbox, "/exec")).await?;
        held.ask(request).await?;
        held.started().await
    }

    /// Lists the programs that a sandbox's agent knows, those that have ended included.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn processes(&self, sandbox: &str) -> Result<ProcessList, ClientError> {
        self.get(&path(sandbox, "/processes")).await
    }

    /// Starts a program, and does not wait for it.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn start(&self, sandbox: &str, request: &ExecRequest) -> Result<ProcessStarted, ClientError> {
        self.connect().await?.json(Method::POST, &path(sandbox, "/processes"), Some(request)).await
    }

    /// Follows a program that is there already, by id or tag.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn attach(&self, sandbox: &str, process: &str, from: &AttachProcess) -> Result<Held, ClientError> {
        let path = path(sandbox, &format!("/processes/{}/attach", escaped(process)));
        Held::open(&self.endpoint, &with_query(&path, from)).await?.started().await
    }

    /// Reads a piece of what a program wrote, whether it runs or has ended, and tells where it lies.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn read_process(
        &self,
        sandbox: &str,
        process: &str,
        read: &ReadProcess,
    ) -> Result<(OutputRead, Bytes), ClientError> {
        let path = path(sandbox, &format!("/processes/{}/output", escaped(process)));
        self.read_output(&with_query(&path, read)).await
    }

    /// Reads a piece of a stream, whose place stands in the answer's headers.
    async fn read_output(&self, path: &str) -> Result<(OutputRead, Bytes), ClientError> {
        let mut connection = self.connect().await?;
        let answer = connection.send(Method::GET, path, None).await?;
        let headers = answer.headers().clone();
        let bytes = whole(answer).await?;
        let (at, total, ended) = (header(&headers, AT)?, header(&headers, TOTAL)?, header(&headers, ENDED)?);
        Ok((OutputRead { at, length: bytes.len() as u64, total, ended }, bytes))
    }

    /// Sends a program a signal.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn signal(&self, sandbox: &str, process: &str, request: &SignalProcess) -> Result<(), ClientError> {
        let path = path(sandbox, &format!("/processes/{}/signal", escaped(process)));
        self.connect().await?.send_json(Method::POST, &path, request).await
    }

    /// Says that a program has had all of its input.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn close_input(&self, sandbox: &str, process: &str) -> Result<(), ClientError> {
        let write = WriteProcess { close: Some(true), ..WriteProcess::default() };
        let path = with_query(&path(sandbox, &format!("/processes/{}/input", escaped(process))), &write);
        self.connect().await?.bytes(Method::POST, &path).await.map(drop)
    }

    /// Makes a sandbox for one program, which begins at once.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn run(&self, request: &RunRequest) -> Result<Run, ClientError> {
        let mut held = Held::open(&self.endpoint, "/v1/run").await?;
        held.ask(request).await?;
        Ok(Run { info: held.ready().await?, held })
    }

    /// Follows what happens to sandboxes.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn events(&self, query: &FollowEvents) -> Result<Followed, ClientError> {
        let connection = self.connect().await?;
        Followed::open(connection, &with_query("/v1/events", query)).await
    }

    /// The daemon's figures, in Prometheus' text format.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let bytes: Bytes = self.connect().await?.bytes(Method::GET, "/metrics").await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.connect().await?.json(Method::GET, path, None::<&()>).await
    }
}

/// The path of a sandbox, and of what is below it.
fn path(sandbox: &str, below: &str) -> String {
    format!("/v1/sandboxes/{}{below}", escaped(sandbox))
}

/// Escapes all that is not plain, so that a reference is one part of a path whatever it holds.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn header<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Result<T, ClientError> {
    let value = headers.get(name).and_then(|value| value.to_str().ok()).and_then(|value| value.parse().ok());
    value.ok_or_else(|| ClientError::BadAnswer { what: format!("without a header {name}") })
}

fn with_query(path: &str, query: &impl Serialize) -> String {
    match serde_urlencoded::to_string(query) {
        Ok(query) if !query.is_empty() => format!("{path}?{query}"),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_one_part_of_a_path_whatever_it_holds() {
        assert_eq!(path("web-1", "/exec"), "/v1/sandboxes/web-1/exec");
        assert_eq!(path("../x?y z", ""), "/v1/sandboxes/%2E%2E%2Fx%3Fy%20z");
    }

    #[test]
    fn a_query_has_what_is_given() {
        assert_eq!(with_query("/p", &ListSandboxes::default()), "/p");
        let query = ListSandboxes { label: Some("a=b,c".into()), ..ListSandboxes::default() };
        assert_eq!(with_query("/p", &query), "/p?label=a%3Db%2Cc");
    }
}

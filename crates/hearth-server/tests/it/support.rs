//! A daemon's API in this process, on a socket of its own.

use std::path::PathBuf;
use std::time::Duration;

use hearth_client::api::ErrorBody;
use hearth_client::{Client, ClientError};
use hearth_engine::fleet::{Fleet, FleetLimits};
use hearth_engine::vmm::Launcher;
use hearth_engine::{Directories, Engine};
use hearth_server::{App, Audit, Ended, Listeners, Socket, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A bound on everything that a test waits for: reached only by a hang.
pub(crate) const HANG: Duration = Duration::from_secs(30);

pub(crate) struct Daemon {
    pub(crate) home: tempfile::TempDir,
    pub(crate) client: Client,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Ended<()>>,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::with(FleetLimits { sandboxes: 4, memory_mib: 2048, cpus: 8 }, None)
    }

    pub(crate) fn with(limits: FleetLimits, idle: Option<Duration>) -> Self {
        let home = tempfile::Builder::new().prefix("hearth-").tempdir().unwrap();
        let launcher = Launcher { program: "/bin/false".into(), arguments: Vec::new() };
        let engine = Engine::open(Directories::below(home.path()), launcher, None).unwrap();
        let socket = Socket::bind(&home.path().join("hearth.sock")).unwrap();
        let listeners = Listeners { socket, remote: None };
        let audit = Audit::in_directory(&home.path().join("logs"));
        let (stop, stopped) = oneshot::channel();
        let told = async move {
            // Dropped, it never tells.
            if stopped.await.is_err() {
                std::future::pending().await
            }
        };
        let serving = tokio::spawn(serve(listeners, App::new(Fleet::new(engine, limits), "1.2.3", audit), idle, told));
        Self { client: Client::new(home.path().join("hearth.sock")), home, stop, serving }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("hearth.sock")
    }

    /// Tells it to end, and waits until it has.
    pub(crate) async fn end(self) -> Ended<()> {
        self.stop.send(()).unwrap();
        in_time(self.serving).await.unwrap()
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(self) -> Ended<()> {
        let _stop = self.stop;
        in_time(self.serving).await.unwrap()
    }

    /// Sends bytes as they are, and returns status and body of the answer.
    pub(crate) async fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        // What is refused by its head may be hung up on before all of it is said.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        // A reset behind the answer says that not all of the request was read.
        let _ = in_time(stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        (status, body)
    }

    /// Asks with a body of JSON, or of what should be JSON.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: hearth\r\nconnection: close\r\ncontent-length: {length}");
        self.raw(&format!("{head}\r\n\r\n{body}")).await
    }

    /// Asks for something that is refused.
    pub(crate) async fn refused(&self, method: &str, path: &str, body: &str) -> (u16, ErrorBody) {
        let (status, said) = self.ask(method, path, body).await;
        let error = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{method} {path}: {status} {said:?}"));
        (status, error)
    }
}

pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, work).await.expect("it hangs")
}

/// The error body of a call that is refused.
#[track_caller]
pub(crate) fn body<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ErrorBody {
    match result {
        Err(ClientError::Refused { body }) => *body,
        other => panic!("not refused: {other:?}"),
    }
}

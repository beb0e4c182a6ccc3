//! The two ways to a client: this process's standard streams, and HTTP.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rmcp::ServiceExt;
use rmcp::transport::io::stdio_pipes;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::server::{Connect, Server};
use crate::sessions::Sessions;
use crate::tool::Profile;

/// How long the calls of a client that is gone have to stop what they began.
const FAREWELL: Duration = Duration::from_secs(10);
/// The clients of each profile that are served at once over HTTP.
const SESSIONS: usize = 256;

/// Serves the client at standard input and output until it is gone, or `told` says to end, and returns what that says. Either way its calls stop
/// what they began.
///
/// # Errors
/// When the first thing that it says is nothing of the protocol's.
pub async fn stdio<T>(connect: Connect, profile: Profile, told: impl Future<Output = T>) -> io::Result<Option<T>> {
    let server = Server::new(connect, profile, None);
    let calls = server.calls.clone();
    let mut told = pin!(told);
    let running = tokio::select! {
        running = server.serve(stdio_pipes()) => running.map_err(io::Error::other)?,
        told = &mut told => return Ok(Some(told)),
    };
    let stop = running.cancellation_token();
    let told = tokio::select! {
        ended = running.waiting() => ended.map(|_| None).map_err(io::Error::other)?,
        told = told => Some(told),
    };
    stop.cancel();
    calls.close();
    // Those that have not stopped by then are dropped.
    let _ = tokio::time::timeout(FAREWELL, calls.wait()).await;
    Ok(told)
}

/// Serves clients over streamable HTTP: a tower service for one path.
pub type HttpService = StreamableHttpService<Server, Sessions>;

/// Makes the service of a profile, for clients of the daemon that `connect` finds. Sessions end with `ended`. Needs a tokio runtime.
///
/// Who may connect, and what a browser may send, is for whoever mounts it to check.
pub fn http(connect: Connect, profile: Profile, ended: impl Future<Output = ()> + Send + 'static) -> HttpService {
    let places = Arc::new(Semaphore::new(SESSIONS));
    let make = move || match places.clone().try_acquire_owned() {
        Ok(place) => Ok(Server::new(connect.clone(), profile, Some(place))),
        Err(_) => Err(io::Error::other(format!("{SESSIONS} clients are served already"))),
    };
    let ending = CancellationToken::new();
    let end = ending.clone();
    tokio::spawn(async move {
        ended.await;
        end.cancel();
    });
    let config = StreamableHttpServerConfig::default().disable_allowed_hosts().with_cancellation_token(ending);
    StreamableHttpService::new(make, Arc::new(Sessions::new()), config)
}

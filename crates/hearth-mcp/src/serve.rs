//! The two ways to a client: this process's standard streams, and HTTP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rmcp::ServiceExt;
use rmcp::transport::io::stdio_pipes;
use rmcp::transport::streamable_http_server::session::local::{LocalSessionManager, SessionConfig};
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::server::{Connect, Server};
use crate::tool::Profile;

/// How long the calls of a client that is gone have to stop what they began.
const FAREWELL: Duration = Duration::from_secs(10);
/// The clients of each profile that are served at once over HTTP.
const SESSIONS: usize = 256;
/// How long a session over HTTP stays without a word from its client: longer than the longest call.
const SESSION_IDLE: Duration = Duration::from_secs(60 * 60);

/// Serves the client at standard input and output until it is gone.
///
/// # Errors
/// When the first thing that it says is nothing of the protocol's.
pub async fn stdio(connect: Connect, profile: Profile) -> io::Result<()> {
    let server = Server::new(connect, profile, None);
    let calls = server.calls.clone();
    let running = server.serve(stdio_pipes()).await.map_err(io::Error::other)?;
    running.waiting().await.map_err(io::Error::other)?;
    calls.close();
    // Those that have not stopped by then are dropped.
    let _ = tokio::time::timeout(FAREWELL, calls.wait()).await;
    Ok(())
}

/// Serves clients over streamable HTTP: a tower service for one path.
pub type HttpService = StreamableHttpService<Server, LocalSessionManager>;

/// Makes the service of a profile, for clients of the daemon that `connect` finds. Sessions end with `ended`. Needs a tokio runtime.
///
/// Who may connect, and what a browser may send, is for whoever mounts it to check.
pub fn http(connect: Connect, profile: Profile, ended: impl Future<Output = ()> + Send + 'static) -> HttpService {
    let places = Arc::new(Semaphore::new(SESSIONS));
    let make = move || match places.clone().try_acquire_owned() {
        Ok(place) => Ok(Server::new(connect.clone(), profile, Some(place))),
        Err(_) => Err(io::Error::other(format!("{SESSIONS} clients are served already"))),
    };
    let mut session = SessionConfig::default();
    session.keep_alive = Some(SESSION_IDLE);
    let mut sessions = LocalSessionManager::default();
    sessions.session_config = session;
    let ending = CancellationToken::new();
    let end = ending.clone();
    tokio::spawn(async move {
        ended.await;
        end.cancel();
    });
    let config = StreamableHttpServerConfig::default().disable_allowed_hosts().with_cancellation_token(ending);
    StreamableHttpService::new(make, Arc::new(sessions), config)
}

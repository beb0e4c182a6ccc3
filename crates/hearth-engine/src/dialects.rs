//! The two earlier protocols at a sandbox's door: sockets on the host, each connection of which is dialled on to the agent's own
//! listener inside the guest, which then speaks. Nothing is understood here.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_channel::Channel;
use hearth_protocol::dial::DialRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::EngineError;
use crate::forward::{Until, carry};

/// What the guest's agent is told, on its kernel's command line, so that it listens.
pub(crate) const WORD: &str = "hearth.dialects";
/// Where in the guest it listens: the directory is root's alone.
const GUEST: &str = "/run/hearth";
/// The socket of the workspace agent's protocol, on both sides.
const WORKSPACE: &str = "workspace.sock";
/// The sockets of the execution channel, on both sides.
const COMMAND: &str = "cmd.sock";
const EVENT: &str = "event.sock";
/// The execution channel's port in the guest.
const PORT: u16 = 5000;
/// The connections of one sandbox that are carried at once; more wait to be accepted.
const CONNECTIONS: usize = 64;

/// Where a sandbox speaks the earlier protocols.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialectAddresses {
    /// The workspace agent: one JSON request a connection, with or without a `CONNECT 5005` line before it.
    pub workspace: PathBuf,
    /// The execution channel's command port.
    pub command: PathBuf,
    /// The execution channel's event port.
    pub event: PathBuf,
    /// The execution channel on one connection, on 127.0.0.1, where that was asked for.
    pub port: Option<u16>,
}

/// The listeners of one sandbox. Dropping it ends them and every connection.
#[derive(Debug)]
pub(crate) struct Dialects {
    pub(crate) addresses: DialectAddresses,
    _tasks: JoinSet<()>,
}

impl Dialects {
    /// Begins to listen in `directory`, which is its owner's alone, and on `port` (0: any) if there is one.
    pub(crate) async fn open(channel: &Arc<Channel>, directory: &Path, port: Option<u16>) -> Result<Self, EngineError> {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut tasks = JoinSet::new();
        let mut socket = |name: &str| {
            let path = directory.join(name);
            let listener =
                UnixListener::bind(&path).map_err(|source| EngineError::Directory { path: path.clone(), source })?;
            let to = DialRequest::Unix { path: format!("{GUEST}/{name}").into() };
            tasks
                .spawn(accept(Listener::Unix(listener), Door { channel: channel.clone(), places: places.clone(), to }));
            Ok::<_, EngineError>(path)
        };
        let (workspace, command, event) = (socket(WORKSPACE)?, socket(COMMAND)?, socket(EVENT)?);
        let port = match port {
            None => None,
            Some(wanted) => {
                let failed = |source| EngineError::Listen { port: wanted, source };
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).await.map_err(failed)?;
                let bound = listener.local_addr().map_err(failed)?.port();
                let to = DialRequest::Tcp { host: None, port: PORT, timeout_ms: None };
                tasks.spawn(accept(Listener::Tcp(listener), Door { channel: channel.clone(), places, to }));
                Some(bound)
            }
        };
        let addresses = DialectAddresses { workspace, command, event, port };
        Ok(Self { addresses, _tasks: tasks })
    }
}

/// Where the connections of one listener lead.
struct Door {
    channel: Arc<Channel>,
    places: Arc<Semaphore>,
    to: DialRequest,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

type Halves = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

impl Listener {
    async fn accept(&self) -> io::Result<Halves> {
        match self {
            Self::Unix(listener) => {
                let (reader, writer) = listener.accept().await?.0.into_split();
                Ok((Box::new(reader), Box::new(writer)))
            }
            Self::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                // Where latency cannot be had, it works all the same.
                let _ = stream.set_nodelay(true);
                let (reader, writer) = stream.into_split();
                Ok((Box::new(reader), Box::new(writer)))
            }
        }
    }
}

async fn accept(listener: Listener, door: Door) {
    let mut connections = JoinSet::new();
    loop {
        let place = door.places.clone().acquire_owned().await;
        let Ok((reader, writer)) = listener.accept().await else {
            // There are no descriptors left: a connection that ends gives some back.
            drop(place);
            if connections.join_next().await.is_none() {
                return;
            }
            continue;
        };
        while connections.try_join_next().is_some() {}
        let (channel, to) = (door.channel.clone(), door.to.clone());
        connections.spawn(async move {
            let _place = place;
            // Why a connection ended is told to its client by its end: there is nobody else to tell. The guest's end of the conversation is the
            // end of it: what a client might still say, nobody hears.
            if let Ok(stream) = channel.dial(to).await {
                let _ = carry(&stream, reader, writer, Until::GuestIsDone).await;
            }
        });
    }
}

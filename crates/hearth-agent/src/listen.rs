//! Listeners: connections of any kind, handed to whoever speaks on them.
//!
//! [`serve`](crate::serve) and [`boot`](crate::boot) choose the addresses and what is spoken there. Each listener has a bound of its own on
//! the connections it serves at once, so that a crowd at one dialect keeps nobody from the agent's own protocol.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener, VsockStream};

use crate::session::{Reader, Writer};

/// The connections of one listener that are served at once; more wait in its queue.
const CONNECTIONS: usize = 512;
/// How long to wait for another connection to end before an accept that failed is tried again.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);

/// What is spoken on a connection, from its first byte to its last.
pub(crate) type Service = Rc<dyn Fn(Reader, Writer) -> Pin<Box<dyn Future<Output = ()>>>>;

/// Makes a service of a function that serves one connection.
pub(crate) fn service<F: Future<Output = ()> + 'static>(serve: impl Fn(Reader, Writer) -> F + 'static) -> Service {
    Rc::new(move |reader, writer| Box::pin(serve(reader, writer)))
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp(String),
    Vsock(u32),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp:{host}"),
            Self::Vsock(port) => write!(f, "vsock:{port}"),
        }
    }
}

impl Address {
    /// Reads `unix:PATH`, `tcp:HOST:PORT` or `vsock:PORT`.
    ///
    /// # Errors
    /// A sentence, for anything else.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, String> {
        let shown = text.to_string_lossy().into_owned();
        let split = text.as_bytes().split_at_checked(text.as_bytes().iter().position(|&b| b == b':').unwrap_or(0) + 1);
        match split {
            Some((b"unix:", path)) if !path.is_empty() => Ok(Self::Unix(OsString::from_vec(path.to_vec()).into())),
            Some((b"tcp:", _)) => Ok(Self::Tcp(shown["tcp:".len()..].to_owned())),
            Some((b"vsock:", _)) => {
                let port = shown["vsock:".len()..].parse();
                port.map(Self::Vsock).map_err(|_| format!("{shown:?}: a vsock port is a number"))
            }
            _ => Err(format!("{shown:?} is not unix:PATH, tcp:HOST:PORT or vsock:PORT")),
        }
    }

    /// Starts to serve, and returns the address: with the port that the system chose, where it was to choose one.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub(crate) async fn listen(&self, service: Service) -> io::Result<Self> {
        match self {
            Self::Unix(path) => {
                let listener = bind_unix(path)?;
                accept(service, async move || {
                    let (reader, writer) = hearth_socket::split(listener.accept().await?.0)?;
                    Ok((Box::new(reader) as Reader, Box::new(writer) as Writer))
                });
                Ok(self.clone())
            }
            Self::Tcp(host) => {
                let listener = TcpListener::bind(host).await?;
                let bound = Self::Tcp(listener.local_addr()?.to_string());
                accept(service, async move || {
                    let (stream, _) = listener.accept().await?;
                    // Latency is what a control lane is for; where it cannot be had, it works all the same.
                    let _ = stream.set_nodelay(true);
                    Ok(split(stream, TcpStream::into_split))
                });
                Ok(bound)
            }
            Self::Vsock(port) => {
                let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, *port))?;
                let bound = Self::Vsock(listener.local_addr()?.port());
                accept(service, async move || Ok(split(listener.accept().await?.0, VsockStream::into_split)));
                Ok(bound)
            }
        }
    }

    /// Removes what listening left behind.
    pub(crate) fn remove(&self) {
        if let Self::Unix(path) = self {
            let _ = fs::remove_file(path);
        }
    }
}

fn split<S, R, W>(stream: S, split: impl FnOnce(S) -> (R, W)) -> (Reader, Writer)
where
    R: tokio::io::AsyncRead + Unpin + 'static,
    W: tokio::io::AsyncWrite + Unpin + 'static,
{
    let (reader, writer) = split(stream);
    (Box::new(reader), Box::new(writer))
}

/// Serves whoever connects, as long as the agent lives.
fn accept(service: Service, next: impl AsyncFn() -> io::Result<(Reader, Writer)> + 'static) {
    let places = Rc::<Places>::default();
    tokio::task::spawn_local(async move {
        loop {
            let place = places.take().await;
            let Ok((reader, writer)) = next().await else {
                places.wait_for_room().await;
                continue;
            };
            let (serve, places) = (service(reader, writer), Rc::clone(&places));
            tokio::task::spawn_local(async move {
                serve.await;
                places.give_back(place);
            });
        }
    });
}

/// The places for connections.
struct Places {
    free: Arc<Semaphore>,
    ended: Notify,
}

impl Default for Places {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(CONNECTIONS)), ended: Notify::new() }
    }
}

impl Places {
    /// Waits for a place for one more connection.
    async fn take(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Waits, after an accept that found no descriptors or memory, until a connection has ended or some time has passed: what
    /// else may have freed some tells nobody.
    async fn wait_for_room(&self) {
        let _ = tokio::time::timeout(ROOM_PATIENCE, self.ended.notified()).await;
    }

    fn give_back(&self, place: OwnedSemaphorePermit) {
        drop(place);
        self.ended.notify_waiters();
    }
}

/// Binds a socket for its owner alone. A socket that nobody serves any more is replaced; anything else is left as it is.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let stale = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if stale {
        fs::remove_file(path)?;
    }
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(old);
    let listener = listener?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

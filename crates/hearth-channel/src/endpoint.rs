//! Where a guest can be reached, and the one attempt to get there.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time;
use tokio_vsock::{VsockAddr, VsockStream};

use crate::connection::Connection;
use crate::error::ConnectError;
use crate::text::tame_bytes;

/// The longest path of a Unix socket in bytes; `sockaddr_un` has 108 with the NUL.
pub const SOCKET_PATH_LIMIT: usize = 107;

/// The longest answer to `CONNECT`, in bytes.
const ANSWER_LIMIT: usize = 256;

/// A place where one byte stream to a guest can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket, such as that of a virtio-serial port.
    Unix {
        /// The socket, a path of at most [`SOCKET_PATH_LIMIT`] bytes.
        path: PathBuf,
        /// The user that must be serving it.
        expected_uid: u32,
    },
    /// A TCP port. Nothing proves who serves it: only for loopback, and a guest of one's own.
    Tcp {
        /// The address.
        addr: SocketAddr,
    },
    /// A port of a guest that has an `AF_VSOCK` device.
    Vsock {
        /// The guest's context id.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// A guest's vsock ports behind one Unix socket, as Firecracker and vhost-user-vsock have it: the client names the port first.
    VsockUnix {
        /// The socket, a path of at most [`SOCKET_PATH_LIMIT`] bytes.
        path: PathBuf,
        /// The port.
        port: u32,
        /// The user that must be serving the socket.
        expected_uid: u32,
    },
}

/// The two places where a session's lanes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// The control lane's.
    pub control: Endpoint,
    /// The bulk lane's.
    pub bulk: Endpoint,
}

impl Endpoints {
    /// Uses one listener for both lanes, which it tells apart by their hellos.
    pub fn both(endpoint: Endpoint) -> Self {
        Self { control: endpoint.clone(), bulk: endpoint }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
            Self::Tcp { addr } => write!(f, "tcp:{addr}"),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::VsockUnix { path, port, .. } => write!(f, "vsock-unix:{}:{port}", path.display()),
        }
    }
}

impl Endpoint {
    /// Connects, once. No byte is sent before the peer's user is verified, where the transport can tell it.
    ///
    /// # Errors
    /// Any [`ConnectError`] but those of the handshake.
    pub async fn connect(&self, timeout: Duration) -> Result<Connection, ConnectError> {
        match time::timeout(timeout, self.dial()).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::TimedOut { endpoint: self.to_string(), after: timeout }),
        }
    }

    async fn dial(&self) -> Result<Connection, ConnectError> {
        let failed = |source| ConnectError::Dial { endpoint: self.to_string(), source };
        match self {
            Self::Unix { path, expected_uid } => self.dial_unix(path, *expected_uid).await?.try_into().map_err(failed),
            Self::Tcp { addr } => {
                let stream = TcpStream::connect(addr).await.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                Ok(stream.into())
            }
            Self::Vsock { cid, port } => {
                VsockStream::connect(VsockAddr::new(*cid, *port)).await.map(Connection::new).map_err(failed)
            }
            Self::VsockUnix { path, port, expected_uid } => {
                let mut stream = self.dial_unix(path, *expected_uid).await?;
                self.ask_for_port(&mut stream, *port).await?;
                stream.try_into().map_err(failed)
            }
        }
    }

    async fn dial_unix(&self, path: &Path, expected_uid: u32) -> Result<UnixStream, ConnectError> {
        let length = path.as_os_str().as_bytes().len();
        if length > SOCKET_PATH_LIMIT {
            return Err(ConnectError::SocketPathTooLong { path: path.to_owned(), length });
        }
        let failed = |source| ConnectError::Dial { endpoint: self.to_string(), source };
        let stream = UnixStream::connect(path).await.map_err(failed)?;
        let found_uid = stream.peer_cred().map_err(failed)?.uid();
        if found_uid != expected_uid {
            return Err(ConnectError::WrongPeer { path: path.to_owned(), expected_uid, found_uid });
        }
        Ok(stream)
    }

    async fn ask_for_port(&self, stream: &mut UnixStream, port: u32) -> Result<(), ConnectError> {
        let failed = |source| ConnectError::Dial { endpoint: self.to_string(), source };
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.map_err(failed)?;
        let answer = read_answer(stream).await.map_err(failed)?;
        if answer == b"OK" || answer.starts_with(b"OK ") {
            return Ok(());
        }
        Err(ConnectError::PortRefused { endpoint: self.to_string(), answer: tame_bytes(&answer) })
    }
}

/// Reads one line byte by byte: what follows it belongs to the session.
async fn read_answer(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    while answer.len() < ANSWER_LIMIT {
        match stream.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) => answer.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

//! A byte stream in both directions, whatever carries it.

use std::fmt;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

pub(crate) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
pub(crate) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// An open byte stream to a guest, not yet greeted.
///
/// Comes from [`crate::Endpoint::connect`], or from a stream that is there already (an inherited socket, say), for which the
/// caller then vouches.
pub struct Connection {
    pub(crate) read: ReadHalf,
    pub(crate) write: WriteHalf,
}

impl Connection {
    /// Takes over any stream.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self { read: Box::new(read), write: Box::new(write) }
    }
}

impl TryFrom<UnixStream> for Connection {
    type Error = io::Error;

    fn try_from(stream: UnixStream) -> io::Result<Self> {
        let (read, write) = hearth_socket::split(stream)?;
        Ok(Self { read: Box::new(read), write: Box::new(write) })
    }
}

impl From<TcpStream> for Connection {
    fn from(stream: TcpStream) -> Self {
        let (read, write) = stream.into_split();
        Self { read: Box::new(read), write: Box::new(write) }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

//! The socket on which the daemon listens: its owner's alone.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, chmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use tokio::net::{UnixListener, UnixStream};

/// The connections that may wait to be accepted.
const BACKLOG: i32 = 512;

/// The socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}", path.display())]
pub struct SocketError {
    /// Where it was to be.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// A listening socket. Its name is gone once this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens at `path`, in place of whatever is there: whoever calls this holds the lock of the directory.
    ///
    /// The socket gets its name when it listens and is its owner's alone, so nobody ever finds one that is not ready. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let listener = listen_at(path).map_err(|source| SocketError { path: path.to_owned(), source })?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Waits for the next connection of this process's own user, and says which process it is; others are hung up on.
    pub(crate) async fn accept(&self) -> io::Result<(UnixStream, Option<i32>)> {
        let own = rustix::process::geteuid().as_raw();
        loop {
            let (stream, _) = self.listener.accept().await?;
            if let Some(peer) = stream.peer_cred().ok().filter(|peer| peer.uid() == own) {
                return Ok((stream, peer.pid()));
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Where it cannot be removed, the next daemon puts its own in its place.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let unnamed = path.with_extension(format!("{}.new", std::process::id()));
    let _ = std::fs::remove_file(&unnamed);
    let socket: OwnedFd =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    bind(&socket, &SocketAddrUnix::new(&unnamed)?)?;
    let named = chmod(&unnamed, Mode::RUSR | Mode::WUSR)
        .and_then(|()| listen(&socket, BACKLOG))
        .map_err(io::Error::from)
        .and_then(|()| std::fs::rename(&unnamed, path));
    if let Err(error) = named {
        let _ = std::fs::remove_file(&unnamed);
        return Err(error);
    }
    UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn the_socket_is_its_owners_alone_and_takes_the_place_of_a_dead_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hearth.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (accepted, connected) = tokio::join!(socket.accept(), UnixStream::connect(&path));
        assert!(accepted.is_ok() && connected.is_ok());
        drop(socket);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

//! The machine's Unix sockets: made and listening before QEMU exists, so that a connect is never too early and never
//! has to be repeated, and checked for who serves them before a byte is sent.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use tokio::net::UnixStream;

/// The longest path that fits a socket address, in bytes (`sun_path` less its final zero).
pub const MAX_SOCKET_PATH: usize = 107;

/// Checks that a directory is the caller's own and closed to everyone else.
pub(crate) fn check_directory(path: &Path) -> Result<(), SocketError> {
    let metadata =
        std::fs::symlink_metadata(path).map_err(|source| SocketError::Directory { path: path.to_owned(), source })?;
    let private = metadata.is_dir()
        && metadata.uid() == geteuid().as_raw()
        && metadata.permissions().mode() & 0o077 == 0
        && path.is_absolute();
    if private { Ok(()) } else { Err(SocketError::DirectoryNotPrivate { path: path.to_owned() }) }
}

/// A listening socket and its file, which is removed with it.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    file: SocketFile,
}

impl Listener {
    pub(crate) fn bind(path: PathBuf) -> Result<Self, SocketError> {
        check_length(&path)?;
        let listener = UnixListener::bind(&path).map_err(|source| SocketError::Bind { path: path.clone(), source })?;
        Ok(Self { listener, file: SocketFile { path, keep: false } })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Connects to it, and takes up the connection as QEMU would: the client's end, and QEMU's.
    pub(crate) async fn connected(&self) -> Result<(UnixStream, OwnedFd), SocketError> {
        let client = connect_checked(self.path()).await?;
        let failed = |source| SocketError::Connect { path: self.path().to_owned(), source };
        let (server, _) = self.listener.accept().map_err(failed)?;
        server.set_nonblocking(true).map_err(failed)?;
        Ok((client, server.into()))
    }

    /// Closes this process's copy once QEMU has its own; the file stays until the value returned is dropped.
    pub(crate) fn handed_over(self) -> SocketFile {
        self.file
    }
}

pub(crate) fn check_length(path: &Path) -> Result<(), SocketError> {
    let length = path.as_os_str().len();
    if length <= MAX_SOCKET_PATH { Ok(()) } else { Err(SocketError::PathTooLong { path: path.to_owned(), length }) }
}

/// A socket's file, removed on drop.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    keep: bool,
}

impl SocketFile {
    /// Names one that somebody else has made.
    pub(crate) fn there(path: PathBuf) -> Self {
        Self { path, keep: false }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the file behind, for a machine that outlives its owner.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.keep {
            // A directory already removed by its owner took the file along.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Connects to a socket of ours and checks who serves it before anything is sent.
///
/// The credentials a client sees are those of the process that called `listen`. That is the owner, before QEMU ran; QEMU
/// is kept from calling it again (see the jail's system call filter), so it must be our own user id in every case.
pub(crate) async fn connect_checked(path: &Path) -> Result<UnixStream, SocketError> {
    let stream =
        UnixStream::connect(path).await.map_err(|source| SocketError::Connect { path: path.to_owned(), source })?;
    check_peer(&stream, path, geteuid().as_raw())?;
    Ok(stream)
}

fn check_peer(stream: &UnixStream, path: &Path, expected: u32) -> Result<(), SocketError> {
    let credentials = socket_peercred(stream)
        .map_err(|error| SocketError::Connect { path: path.to_owned(), source: error.into() })?;
    let uid = credentials.uid.as_raw();
    if uid == expected { Ok(()) } else { Err(SocketError::ForeignPeer { path: path.to_owned(), uid, expected }) }
}

/// A socket that could not be made, reached or trusted.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The machine's directory is not there.
    #[error("cannot use the machine's directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The machine's directory is open to others.
    #[error("the machine's directory {} must be an absolute path to a directory of this user's own with mode 0700", path.display())]
    DirectoryNotPrivate {
        /// The directory.
        path: PathBuf,
    },
    /// The path does not fit a socket address.
    #[error("socket path {} has {length} bytes: at most {MAX_SOCKET_PATH} fit; use a shorter directory", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// The socket could not be made.
    #[error("cannot listen at {}", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket could not be reached.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else serves the socket; nothing was sent.
    #[error("{} is served by user {uid}, not by user {expected}: nothing was sent", path.display())]
    ForeignPeer {
        /// The path.
        path: PathBuf,
        /// Who serves it.
        uid: u32,
        /// Who should.
        expected: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn private_directory() -> tempfile::TempDir {
        tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap()
    }

    #[test]
    fn directory_open_to_others_is_refused() {
        let directory = private_directory();
        assert!(check_directory(directory.path()).is_ok());
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o750)).unwrap();
        assert!(matches!(check_directory(directory.path()), Err(SocketError::DirectoryNotPrivate { .. })));
        assert!(matches!(check_directory(Path::new("/nonexistent")), Err(SocketError::Directory { .. })));
    }

    #[test]
    fn path_over_107_bytes_is_refused_with_its_length() {
        let longest = PathBuf::from(format!("/{}", "x".repeat(106)));
        assert!(check_length(&longest).is_ok());
        let error = Listener::bind(PathBuf::from(format!("/{}", "x".repeat(107)))).unwrap_err();
        assert!(matches!(error, SocketError::PathTooLong { length: 108, .. }), "{error}");
    }

    #[tokio::test]
    async fn socket_of_another_user_is_refused() {
        let directory = private_directory();
        let listener = Listener::bind(directory.path().join("s")).unwrap();
        let stream = connect_checked(&listener.file.path).await.unwrap();
        let foreign = geteuid().as_raw() + 1;
        let error = check_peer(&stream, &listener.file.path, foreign).unwrap_err();
        assert!(matches!(error, SocketError::ForeignPeer { expected, .. } if expected == foreign));
    }

    #[test]
    fn socket_file_goes_with_its_owner_unless_kept() {
        let directory = private_directory();
        let path = directory.path().join("s");
        drop(Listener::bind(path.clone()).unwrap().handed_over());
        assert!(!path.exists());
        let mut file = Listener::bind(path.clone()).unwrap().handed_over();
        file.keep();
        drop(file);
        assert!(path.exists());
    }
}

//! The API over TCP, for whoever has a key: who may ask, and what of a stranger's is bounded.
//!
//! What must stay true:
//!
//! - *No request gets past the [`Gate`] unasked,* whatever its path: it stands before the router, not in it.
//! - *A stranger costs little.* Who has shown no key has one of a few places, fewer of them for one network, and is hung up on when it shows none in
//!   time or a wrong one. It takes no place of those who have shown theirs, nor of the socket's.
//! - *Without TLS nobody listens where others could read along,* unless somebody says that it is meant.

mod gate;
mod identity;
mod keys;
mod strangers;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

pub(crate) use gate::{Caller, Gate};
pub use keys::{KeyError, KeyInfo, Keys};
pub(crate) use strangers::{Stranger, Strangers};

/// How long a connection has to shake hands and to show a key.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may be silent before the kernel asks whether it is still there, and how often it asks.
const KEEPALIVE: Duration = Duration::from_secs(30);
const PROBES: Duration = Duration::from_secs(10);
const MOST_PROBES: u32 = 3;

/// How a connection over TCP is kept private.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Privacy {
    /// By a certificate of the daemon's own, which is made at first use and kept.
    OwnCertificate,
    /// By a certificate and its key, PEM files.
    Certificate {
        /// The certificate, and those between it and its authority.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// Not at all, on an address that only this machine reaches.
    Loopback,
    /// Not at all, and that is meant.
    None,
}

/// What is asked of a listener.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Where it listens; port 0 for any that is free.
    pub address: SocketAddr,
    /// How connections are kept private.
    pub privacy: Privacy,
    /// The names by which clients know this host, beside its address and `localhost`.
    pub names: Vec<String>,
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// Others could read along.
    #[error("{address} can be reached from elsewhere, and without TLS keys and contents could be read on the way")]
    InTheClear {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where it was to listen.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A file with a certificate or its key cannot be read.
    #[error("cannot read {}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: tokio_rustls::rustls::pki_types::pem::Error,
    },
    /// The certificate and the key are of no use.
    #[error("cannot use the certificate in {} with its key", path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: tokio_rustls::rustls::Error,
    },
    /// A certificate of the daemon's own cannot be made.
    #[error("cannot make a certificate")]
    Make {
        /// Why.
        source: rcgen::Error,
    },
    /// It cannot be kept.
    #[error("cannot write {}", path.display())]
    Keep {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl RemoteError {
    /// What to do about it, where that is plain.
    pub fn hint(&self) -> Option<&'static str> {
        matches!(self, Self::InTheClear { .. }).then_some(
            "use --tls, or --tls-cert and --tls-key; --no-tls if something else keeps it private; or listen on 127.0.0.1",
        )
    }
}

/// A listener on TCP.
pub struct Remote {
    listener: TcpListener,
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    fingerprint: Option<String>,
    gate: Arc<Gate>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Remote {
    /// Listens. Keys, and a certificate of the daemon's own, are below `home`. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn bind(home: &Path, options: RemoteOptions) -> Result<Self, RemoteError> {
        let RemoteOptions { address, privacy, names } = options;
        let identity = match &privacy {
            Privacy::OwnCertificate => Some(identity::own(home, address.ip(), &names)?),
            Privacy::Certificate { certificate, key } => Some(identity::load(certificate, key)?),
            Privacy::Loopback if !address.ip().is_loopback() => return Err(RemoteError::InTheClear { address }),
            Privacy::Loopback | Privacy::None => None,
        };
        let failed = |source| RemoteError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (acceptor, fingerprint) = identity.map(|identity| (identity.acceptor, identity.fingerprint)).unzip();
        let gate = Gate::new(address.ip(), names, acceptor.is_some(), Keys::below(home));
        Ok(Self { listener, address, acceptor, fingerprint, gate: Arc::new(gate) })
    }

    /// Where clients find it: `https://` or `http://`, address and port.
    pub fn url(&self) -> String {
        let scheme = if self.acceptor.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// What clients may know its certificate by: `sha256:` and the digest of its DER form in hex; `None` without TLS.
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    pub(crate) fn gate(&self) -> Arc<Gate> {
        self.gate.clone()
    }

    pub(crate) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.acceptor.clone()
    }

    /// Waits for the next connection.
    pub(crate) async fn accept(&self) -> io::Result<(TcpStream, IpAddr)> {
        let (stream, address) = self.listener.accept().await?;
        // A client whose host has died is found out: sandboxes may be bound to its connection. Where that cannot be asked for, it is a client still.
        let _ = stream.set_nodelay(true);
        let _ = sockopt::set_socket_keepalive(&stream, true);
        let _ = sockopt::set_tcp_keepidle(&stream, KEEPALIVE);
        let _ = sockopt::set_tcp_keepintvl(&stream, PROBES);
        let _ = sockopt::set_tcp_keepcnt(&stream, MOST_PROBES);
        Ok((stream, address.ip()))
    }
}

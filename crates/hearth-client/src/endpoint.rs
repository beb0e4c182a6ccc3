//! Where a daemon is, and the way there: a socket of this host's, or TCP, with TLS or without.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hearth_api::audit::{FOR_KEY, VIA};
use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::ClientError;

/// The authorities that this system trusts, where Debian and its kin keep them.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What names a fingerprint's kind.
const SHA256: &str = "sha256:";

/// Whose certificate a client takes for the daemon's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// One for its name that an authority of this system's has signed.
    #[default]
    System,
    /// One for its name that an authority in a PEM file has signed, or that is in it itself.
    Authorities(PathBuf),
    /// This one, whatever it says: `sha256:` and the digest of its DER form in hex, as the daemon tells it.
    Fingerprint(String),
    /// None is needed: what is said to the daemon, a key included, may go over `http://` to another machine, for all on the way to read.
    InTheClear,
}

/// How long a daemon elsewhere may take to answer a connection, and to show who it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// For how long a connection that was made ahead is as good as a new one: the daemon may be another by then.
const FRESH: Duration = Duration::from_secs(1);

/// A connection, whatever it is made of.
pub(crate) type Wire = Box<dyn Bytestream>;

pub(crate) trait Bytestream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytestream for T {}

/// Where a daemon is, and as what this client comes to it.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    place: Place,
    via: Option<&'static str>,
    for_key: Option<HeaderValue>,
    ahead: Ahead,
}

/// A connection that was made before there was anything to ask, and when.
#[derive(Clone, Default)]
struct Ahead(Arc<Mutex<Option<(Instant, Wire)>>>);

impl fmt::Debug for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ahead").finish_non_exhaustive()
    }
}

impl Ahead {
    fn keep(&self, wire: Wire) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), wire));
    }

    fn take(&self) -> Option<Wire> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.and_then(|(made, wire)| (made.elapsed() < FRESH).then_some(wire))
    }
}

#[derive(Debug, Clone)]
enum Place {
    Socket(PathBuf),
    Remote(Arc<Remote>),
}

impl Endpoint {
    pub(crate) fn socket(path: PathBuf) -> Self {
        Self { place: Place::Socket(path), via: None, for_key: None, ahead: Ahead::default() }
    }

    pub(crate) fn via(self, what: &'static str) -> Self {
        Self { via: Some(what), ..self }
    }

    /// A name that no header can have is not said.
    pub(crate) fn for_key(self, name: &str) -> Self {
        Self { for_key: HeaderValue::from_str(name).ok(), ..self }
    }

    /// Reads `https://HOST[:PORT]` or `http://HOST[:PORT]`.
    pub(crate) fn remote(url: &str, key: Option<&str>, trust: &Trust) -> Result<Self, ClientError> {
        let place = Place::Remote(Arc::new(Remote::new(url, key, trust)?));
        Ok(Self { place, via: None, for_key: None, ahead: Ahead::default() })
    }

    /// Connects, and keeps the connection for the next [`Self::dial`] if that comes soon.
    pub(crate) async fn reach(&self) -> Result<(), ClientError> {
        self.ahead.keep(self.connect().await?);
        Ok(())
    }

    pub(crate) async fn dial(&self) -> Result<Wire, ClientError> {
        match self.ahead.take() {
            Some(wire) => Ok(wire),
            None => self.connect().await,
        }
    }

    async fn connect(&self) -> Result<Wire, ClientError> {
        match &self.place {
            Place::Socket(path) => Ok(Box::new(dial(path).await?)),
            Place::Remote(remote) => {
                remote.dial().await.map_err(|source| ClientError::Unreachable { url: remote.url.clone(), source })
            }
        }
    }

    /// What stands in a request's `Host`.
    pub(crate) fn authority(&self) -> &str {
        match &self.place {
            Place::Socket(_) => "hearth",
            Place::Remote(remote) => &remote.authority,
        }
    }

    /// Adds what says who asks: the key, and what acts for its holder.
    pub(crate) fn sign(&self, headers: &mut HeaderMap) {
        if let Some(via) = self.via {
            headers.insert(VIA, HeaderValue::from_static(via));
        }
        if let Some(name) = &self.for_key {
            headers.insert(FOR_KEY, name.clone());
        }
        if let Place::Remote(remote) = &self.place
            && let Some(key) = &remote.key
        {
            headers.insert(AUTHORIZATION, key.clone());
        }
    }
}

/// A daemon behind TCP.
pub(crate) struct Remote {
    url: String,
    authority: String,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    key: Option<HeaderValue>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Remote {
    fn new(url: &str, key: Option<&str>, trust: &Trust) -> Result<Self, ClientError> {
        let invalid = |what: &str| ClientError::InvalidHost { url: url.to_owned(), what: what.to_owned() };
        let uri: Uri = url.parse().map_err(|_| invalid("it is no URL"))?;
        let (is_tls, usual) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            _ => return Err(invalid("it must begin with https:// or http://")),
        };
        let authority = uri.authority().ok_or_else(|| invalid("it names no host"))?;
        if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(invalid("it must be a host and a port, and nothing else"));
        }
        let name = authority.host();
        let host = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name).to_owned();
        let tls = if is_tls {
            let name = ServerName::try_from(host.clone()).map_err(|_| invalid("its host is no name and no address"))?;
            Some((connector(trust)?, name))
        } else {
            match trust {
                Trust::System if key.is_some() && !is_this_machine(&host) => {
                    return Err(invalid(
                        "a key would go there for all to read: use https://, or say that it may with HEARTH_INSECURE=1",
                    ));
                }
                Trust::System | Trust::InTheClear => None,
                Trust::Authorities(_) | Trust::Fingerprint(_) => {
                    return Err(invalid("only with https:// has a daemon a certificate to check"));
                }
            }
        };
        let key = key.map(|key| {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| ClientError::InvalidKey)?;
            value.set_sensitive(true);
            Ok::<_, ClientError>(value)
        });
        let (authority, port) = (authority.as_str().to_owned(), authority.port_u16().unwrap_or(usual));
        Ok(Self { url: url.to_owned(), authority, host, port, key: key.transpose()?, tls })
    }

    async fn dial(&self) -> io::Result<Wire> {
        let connected = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            stream.set_nodelay(true)?;
            Ok::<Wire, io::Error>(match &self.tls {
                None => Box::new(stream),
                Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?),
            })
        };
        tokio::time::timeout(PATIENCE, connected).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Whether nobody else can listen to what is said to a host.
fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Connects to a socket that this user serves.
async fn dial(path: &Path) -> Result<UnixStream, ClientError> {
    let stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning { path: path.to_owned() },
        _ => ClientError::Connect { path: path.to_owned(), source },
    })?;
    let failed = |source| ClientError::Connect { path: path.to_owned(), source };
    let (found, expected) = (stream.peer_cred().map_err(failed)?.uid(), rustix::process::geteuid().as_raw());
    if found == expected { Ok(stream) } else { Err(ClientError::WrongPeer { path: path.to_owned(), found, expected }) }
}

fn connector(trust: &Trust) -> Result<TlsConnector, ClientError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has a cipher suite for each version");
    let config = match trust {
        Trust::System | Trust::InTheClear => {
            builder.with_root_certificates(authorities(Path::new(SYSTEM_AUTHORITIES))?)
        }
        Trust::Authorities(path) => builder.with_root_certificates(authorities(path)?),
        Trust::Fingerprint(text) => {
            let digest = fingerprint(text).ok_or_else(|| ClientError::InvalidFingerprint { text: text.clone() })?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Pinned { digest, provider }))
        }
    };
    Ok(TlsConnector::from(Arc::new(config.with_no_client_auth())))
}

fn authorities(path: &Path) -> Result<RootCertStore, ClientError> {
    let unread = |source| ClientError::Authorities { path: path.to_owned(), source: Box::new(source) };
    let mut store = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    store.add_parsable_certificates(certificates.map_err(unread)?);
    if store.is_empty() {
        let source = Box::new(io::Error::other("it holds no certificate"));
        return Err(ClientError::Authorities { path: path.to_owned(), source });
    }
    Ok(store)
}

fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix(SHA256)?.as_bytes();
    let mut digest = [0; 32];
    if digits.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |index: usize| char::from(pair[index]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(digest)
}

/// Takes one certificate and no other. Whoever shows it must still have its key.
#[derive(Debug)]
struct Pinned {
    digest: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match Sha256::digest(shown)[..] == self.digest {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::General("its certificate has another fingerprint".to_owned())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, wanted: Option<(&str, &str, u16)>) {
        let pinned = Trust::Fingerprint(format!("{SHA256}{}", "0f".repeat(32)));
        let trust = if url.starts_with("http://") { Trust::System } else { pinned };
        let remote = Remote::new(url, Some("hearth_1"), &trust).ok();
        let found = remote.as_ref().map(|remote| (remote.authority.as_str(), remote.host.as_str(), remote.port));
        assert_eq!(found, wanted, "{url}");
    }

    #[test]
    fn a_host_is_a_scheme_a_name_and_a_port() {
        check("https://box.example", Some(("box.example", "box.example", 443)));
        check("http://127.0.0.1:7070/", Some(("127.0.0.1:7070", "127.0.0.1", 7070)));
        check("https://[::1]:7070", Some(("[::1]:7070", "::1", 7070)));
        for bad in [
            "",
            "box:7070",
            "ftp://box",
            "https://",
            "https://box/path",
            "https://a@box",
            "https://box?x=y",
            "https://a_ b",
            // A key would go there in the clear.
            "http://10.0.0.5:7070",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn a_fingerprint_is_a_digest_in_hex() {
        assert_eq!(fingerprint(&format!("sha256:{}", "0F".repeat(32))), Some([15; 32]));
        for bad in ["", "sha256:", "sha256:0f", &"0f".repeat(32), &format!("sha256:{}", "0g".repeat(32))] {
            assert_eq!(fingerprint(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_key_shows_in_no_debug_text() {
        let endpoint = Endpoint::remote("http://localhost", Some("hearth_secret"), &Trust::System).unwrap();
        assert!(!format!("{endpoint:?}").contains("secret"));
    }
}

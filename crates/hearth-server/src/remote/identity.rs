//! What a daemon proves itself with: a certificate and its key, given or made.

use std::fs::{DirBuilder, File};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::RemoteError;
use super::keys::hex;

/// A certificate, ready for use.
pub(super) struct Identity {
    pub(super) acceptor: TlsAcceptor,
    pub(super) fingerprint: String,
}

/// Reads a certificate with those between it and its authority, and its key.
pub(super) fn load(certificate: &Path, key: &Path) -> Result<Identity, RemoteError> {
    let unread = |path: &Path| {
        let path = path.to_owned();
        move |source| RemoteError::Pem { path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(unread(certificate))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(unread(key))?;
    let fingerprint = chain.first().map(|first| format!("sha256:{}", hex(&Sha256::digest(first)))).unwrap_or_default();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|source| RemoteError::Certificate { path: certificate.to_owned(), source })?;
    Ok(Identity { acceptor: TlsAcceptor::from(Arc::new(config)), fingerprint })
}

/// The daemon's own certificate, which it has signed itself. Made where there is none, for the names of that time.
pub(super) fn own(home: &Path, address: IpAddr, names: &[String]) -> Result<Identity, RemoteError> {
    let directory = home.join("tls");
    let (certificate, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
    if !certificate.exists() {
        let unkept = |source| RemoteError::Keep { path: directory.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(unkept)?;
        let all = [address.to_string(), "localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let made = rcgen::generate_simple_self_signed([all.as_slice(), names].concat());
        let made = made.map_err(|source| RemoteError::Make { source })?;
        // The certificate comes last: where it is, its key is too.
        keep(&key, &made.signing_key.serialize_pem())?;
        keep(&certificate, &made.cert.pem())?;
    }
    load(&certificate, &key)
}

fn keep(path: &Path, text: &str) -> Result<(), RemoteError> {
    let unkept = |source| RemoteError::Keep { path: path.to_owned(), source };
    let part = path.with_extension("new");
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&part).map_err(unkept)?;
    file.write_all(text.as_bytes()).and_then(|()| std::fs::rename(&part, path)).map_err(unkept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_certificate_of_ones_own_is_made_once_and_kept_private() {
        let home = tempfile::tempdir().unwrap();
        let address = IpAddr::from([127, 0, 0, 1]);
        let first = own(home.path(), address, &["box".to_owned()]).unwrap().fingerprint;
        assert_eq!((own(home.path(), address, &[]).unwrap().fingerprint, first.len()), (first.clone(), 71));
        let mode = std::fs::metadata(home.path().join("tls/key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_file(home.path().join("tls/certificate.pem")).unwrap();
        assert_ne!(own(home.path(), address, &[]).unwrap().fingerprint, first);
    }

    #[test]
    fn what_is_no_certificate_or_no_key_of_it_is_refused_by_its_file() {
        let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for home in [&home, &other] {
            own(home.path(), IpAddr::from([127, 0, 0, 1]), &[]).unwrap();
        }
        let file = |home: &tempfile::TempDir, name: &str| home.path().join("tls").join(name);
        let (certificate, key) = (file(&home, "certificate.pem"), file(&home, "key.pem"));
        let stranger = load(&certificate, &file(&other, "key.pem"));
        assert!(matches!(stranger, Err(RemoteError::Certificate { path, .. }) if path == certificate));
        assert!(matches!(load(&home.path().join("x"), &key), Err(RemoteError::Pem { .. })));
        assert!(matches!(load(&certificate, &certificate), Err(RemoteError::Pem { path, .. }) if path == certificate));
        assert!(matches!(load(&key, &key), Err(RemoteError::Certificate { .. })));
    }
}

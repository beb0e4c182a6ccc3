//! What concerns who may ask: where the daemon listens, who has a key, and who has asked for what.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

// Where a daemon listens beside its socket, and how that is kept private.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListenOptions {
    /// Serve the API over TCP as well, to whoever has a key (hearth key): an address and a port, 0 for any
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Use TLS with a certificate of the daemon's own, which is made at first use; its fingerprint is told
    #[arg(long, requires = "listen")]
    pub(crate) tls: bool,
    /// Use TLS with this certificate, a PEM file with those between it and its authority
    #[arg(long, value_name = "FILE", requires = "listen", requires = "tls_key", conflicts_with = "tls")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key, a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Use no TLS even where others can reach the address: what goes between is then kept private by something else, or by nothing
    #[arg(long, requires = "listen", conflicts_with_all = ["tls", "tls_cert"])]
    pub(crate) no_tls: bool,
    /// A name by which clients know this machine, beside its address and localhost
    #[arg(long, value_name = "NAME", requires = "listen")]
    pub(crate) host_name: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AuditOptions {
    /// Go on with what comes
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Print a JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key, and print it: the only time that it is shown
    #[command(after_help = "\
  hearth daemon --listen 10.0.0.5:7070 --tls
  hearth key create laptop
  HEARTH_HOST=https://10.0.0.5:7070 HEARTH_API_KEY=hearth_… HEARTH_FINGERPRINT=sha256:… hearth ls")]
    Create {
        /// Name for the key: who or what it is for
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List keys, by their names
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove keys: they open nothing from then on
    Rm {
        /// Print errors as JSON
        #[arg(long)]
        json: bool,
        /// Keys
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

impl KeyCommand {
    pub(super) fn wants_json(&self) -> bool {
        matches!(self, Self::Create { json: true, .. } | Self::Ls { json: true } | Self::Rm { json: true, .. })
    }
}

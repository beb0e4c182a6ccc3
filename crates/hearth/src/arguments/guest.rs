//! What can be typed about what is in a sandbox.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use hearth_client::api::protocol::{Signal, packages};

use crate::values::{EnvVar, Publish, Ready, Seconds};

#[derive(Debug, Args)]
pub(crate) struct SandboxOptions {
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit code: the program's, as for hearth exec. Ctrl-C reaches the program; a second one, or any other end of this command, lets go of it, and it goes on.")]
pub(crate) struct AttachOptions {
    /// Pass standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Print errors as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
    /// Program: its number or tag, as hearth ps shows it
    pub(crate) process: String,
}

#[derive(Debug, Args)]
pub(crate) struct KillOptions {
    /// Signal to send, a name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "TERM", value_parser = parse_signal)]
    pub(crate) signal: Signal,
    /// To this program alone, not to all it has started
    #[arg(long)]
    pub(crate) alone: bool,
    /// Print errors as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
    /// Program: its number or tag, as hearth ps shows it
    pub(crate) process: String,
}

fn parse_signal(text: &str) -> Result<Signal, String> {
    let value = text.parse::<i32>().map_or_else(|_| text.into(), serde_json::Value::from);
    serde_json::from_value(value).map_err(|error| error.to_string())
}

#[derive(Debug, Subcommand)]
pub(crate) enum FileCommand {
    /// List a directory
    Ls {
        /// List what is in the directories in it too
        #[arg(short, long)]
        recursive: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Sandbox: an id, a name, or the beginning of an id
        sandbox: String,
        /// Path, absolute or in /workspace
        #[arg(default_value = ".")]
        path: OsString,
    },
    /// Write a file to standard output
    Read {
        /// Print errors as JSON
        #[arg(long)]
        json: bool,
        /// Sandbox: an id, a name, or the beginning of an id
        sandbox: String,
        /// Path, absolute or in /workspace
        path: OsString,
    },
    /// Write standard input to a file, whole or not at all
    Write {
        /// Permissions of a new file, in octal
        #[arg(long, value_name = "MODE", value_parser = parse_mode)]
        mode: Option<u32>,
        /// Add to what is there
        #[arg(long)]
        append: bool,
        /// Print errors as JSON
        #[arg(long)]
        json: bool,
        /// Sandbox: an id, a name, or the beginning of an id
        sandbox: String,
        /// Path, absolute or in /workspace
        path: OsString,
    },
    /// Remove a file
    Rm {
        /// Remove a directory with all in it
        #[arg(short, long)]
        recursive: bool,
        /// Print errors as JSON
        #[arg(long)]
        json: bool,
        /// Sandbox: an id, a name, or the beginning of an id
        sandbox: String,
        /// Path, absolute or in /workspace
        path: OsString,
    },
}

impl FileCommand {
    pub(super) fn wants_json(&self) -> bool {
        let (Self::Ls { json, .. } | Self::Read { json, .. } | Self::Write { json, .. } | Self::Rm { json, .. }) = self;
        *json
    }
}

fn parse_mode(text: &str) -> Result<u32, &'static str> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or("a mode is three octal digits, such as 644")
}

#[derive(Debug, Args)]
pub(crate) struct ExportOptions {
    /// Compress it with gzip
    #[arg(short = 'z', long)]
    pub(crate) gzip: bool,
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Print errors as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
    /// Directory or file, absolute or in /workspace
    #[arg(default_value = ".")]
    pub(crate) path: OsString,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each package has a version. A sandbox has no network: copy wheels or tarballs into it and name their directory. Its image must have pip, or npm: \
hearth image build tools --packages python3-pip,npm. Ctrl-C ends the installer, whose exit code is this command's; 124 when --timeout passed.

  hearth cp wheels box:wheels
  hearth install box --from wheels numpy==2.1 'six>=1.16,<2'
  hearth install box --language javascript --from tarballs lodash@^4.17")]
pub(crate) struct InstallOptions {
    /// Whose packages they are
    #[arg(short, long, value_enum, default_value_t = PackageLanguage::Python)]
    pub(crate) language: PackageLanguage,
    /// Directory in the sandbox with the packages as files, wheels or tarballs: only they are used then
    #[arg(long, value_name = "DIR")]
    pub(crate) from: Option<OsString>,
    /// Directory whose node_modules JavaScript's go to [default: /workspace]
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<OsString>,
    /// Set a variable of the installer's; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(EnvVar::parse))]
    pub(crate) env: Vec<EnvVar>,
    /// End the installer after this time, in seconds or with a unit: 90, 1.5s, 5m, 2h
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<Seconds>,
    /// Print one JSON object in place of what the installer says
    #[arg(long)]
    pub(crate) json: bool,
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
    /// Packages: names with versions
    #[arg(required = true, value_name = "PACKAGE")]
    pub(crate) packages: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PackageLanguage {
    /// Python, by pip
    Python,
    /// JavaScript, by npm
    Javascript,
}

impl From<PackageLanguage> for packages::PackageLanguage {
    fn from(language: PackageLanguage) -> Self {
        match language {
            PackageLanguage::Python => Self::Python,
            PackageLanguage::Javascript => Self::Javascript,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Start a service, and wait until it is ready
    Start(ServiceStartOptions),
    /// List services
    Ls(SandboxOptions),
    /// Show a service as JSON
    Inspect(ServiceOptions),
    /// Show what a service has written
    Logs {
        /// Go on with what it writes, until it ends
        #[arg(short, long)]
        follow: bool,
        /// The last so many lines of each stream
        #[arg(short = 'n', long, value_name = "LINES")]
        tail: Option<u64>,
        #[command(flatten)]
        service: ServiceOptions,
    },
    /// Stop a service, and close its published ports
    Stop {
        /// Time between TERM and KILL
        #[arg(long, value_name = "TIME")]
        grace: Option<Seconds>,
        #[command(flatten)]
        service: ServiceOptions,
    },
    /// Stop a service, and start it as it was started
    Restart(ServiceOptions),
    /// Stop a service, and forget it
    Rm(ServiceOptions),
}

impl ServiceCommand {
    pub(super) fn wants_json(&self) -> bool {
        match self {
            Self::Inspect(_) => true,
            Self::Ls(options) => options.json,
            Self::Start(ServiceStartOptions { service, .. })
            | Self::Logs { service, .. }
            | Self::Stop { service, .. }
            | Self::Restart(service)
            | Self::Rm(service) => service.json,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ServiceOptions {
    /// Print JSON, errors as well
    #[arg(long)]
    pub(crate) json: bool,
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
    /// Service
    pub(crate) name: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
  hearth service start web api --ready tcp:127.0.0.1:8000 --publish 8080:8000 -- python3 -m http.server 8000")]
pub(crate) struct ServiceStartOptions {
    /// What shows that it is ready: tcp:ADDRESS:PORT, http://…, file:PATH, command:TEXT
    #[arg(long, value_name = "PROBE")]
    pub(crate) ready: Option<Ready>,
    /// How long it may take to become ready
    #[arg(long, value_name = "TIME")]
    pub(crate) ready_timeout: Option<Seconds>,
    /// Start it again when it ends badly
    #[arg(long)]
    pub(crate) restart_on_failure: bool,
    /// Publish a port of it: closed when it is stopped
    #[arg(short, long, value_name = "[ADDR:]HOST:GUEST")]
    pub(crate) publish: Vec<Publish>,
    /// Set a variable; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(EnvVar::parse))]
    pub(crate) env: Vec<EnvVar>,
    /// Directory to start in [default: /workspace]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<OsString>,
    /// User to run as, by name or number, of those in its /etc/passwd [default: user]
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    #[command(flatten)]
    pub(crate) service: ServiceOptions,
    /// Command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct PortOptions {
    /// Publish a port, and show what was published alone
    #[arg(short, long, value_name = "[ADDR:]HOST:GUEST")]
    pub(crate) publish: Vec<Publish>,
    /// Close a port of this host's
    #[arg(long, value_name = "PORT")]
    pub(crate) close: Vec<u16>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
}

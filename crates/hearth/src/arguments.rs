//! What can be typed. Help texts are for a person in a hurry.

mod guest;
mod history;
mod kernel;
mod mcp;
mod remote;
mod sandbox;
mod transfer;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::values::{Disk, EnvVar, Memory, Seconds, SecretSource};

pub(crate) use guest::{
    AttachOptions, ExportOptions, FileCommand, InstallOptions, KillOptions, PortOptions, SandboxOptions,
    ServiceCommand, ServiceOptions, ServiceStartOptions,
};
pub(crate) use history::{CheckpointCommand, DiffOptions, PatchOptions, ResetOptions};
pub(crate) use kernel::{KernelCommand, KernelOptions, KernelRunOptions};
pub(crate) use mcp::{McpClient, McpCommand, McpInstallOptions, McpOptions, McpScope};
pub(crate) use remote::{AuditOptions, KeyCommand, ListenOptions};
pub(crate) use sandbox::{
    CreateOptions, DaemonOptions, EventOptions, ExecOptions, ForkOptions, ListOptions, PauseOptions, RemoveOptions,
    ShellOptions, StartOptions, StopOptions, TopOptions, UpdateOptions,
};
pub(crate) use transfer::{CopyOptions, SyncOptions};

/// Disposable computers for code you do not trust: a microVM that does what it is told and is thrown away.
#[derive(Debug, Parser)]
#[command(
    name = "hearth",
    version,
    max_term_width = 100,
    after_help = "\
Hearth keeps images and sandboxes in /var/lib/hearth (root) or ~/.local/share/hearth; HEARTH_HOME names another directory, \
HEARTH_QEMU another QEMU, \
HEARTH_TEMPLATE_SPACE what templates may take on disk (4G). Without KVM a sandbox begins in a copy of a QEMU that has translated what \
guests do first; with HEARTH_FRESH_QEMU=1 a daemon has each start a new one, slower and with a memory layout of its own.

HEARTH_HOST names another machine's daemon (https://box.example:7070) and HEARTH_API_KEY a key of its; its certificate is \
checked by the system's authorities, by those in the file HEARTH_CA, or by its HEARTH_FINGERPRINT (sha256:…). A key goes over http:// to this machine only, unless \
HEARTH_INSECURE is set."
)]
pub(crate) struct Arguments {
    /// Daemon to use, in place of this machine's: https://HOST:PORT [default: HEARTH_HOST]
    #[arg(long, value_name = "URL")]
    pub(crate) host: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// Reads what this process was given, its own name first.
    pub(crate) fn read(given: &[OsString]) -> Result<Self, clap::Error> {
        match Self::read_exec(given) {
            Some(arguments) => Ok(arguments),
            None => Self::try_parse_from(given),
        }
    }

    /// `hearth exec`, which programs call again and again, without a description of all the other commands, which is some 60 pages of memory to
    /// touch. `None` for what is something else or is refused, which the whole has better words for.
    fn read_exec(given: &[OsString]) -> Option<Self> {
        let given = given.get(1..).filter(|given| given.first().is_some_and(|name| name == "exec"))?;
        let matches = ExecOptions::augment_args(clap::Command::new("exec")).try_get_matches_from(given).ok()?;
        let options = ExecOptions::from_arg_matches(&matches).ok()?;
        Some(Self { host: None, command: Command::Exec(options) })
    }
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Run a command in a new sandbox, and throw the sandbox away
    Run(RunOptions),
    /// Make a sandbox that stays
    Create(CreateOptions),
    /// List sandboxes
    #[command(visible_alias = "list")]
    Ls(ListOptions),
    /// Show a sandbox as JSON
    Inspect {
        /// Print JSON, which it does in any case
        #[arg(long)]
        json: bool,
        /// Sandbox: an id, a name, or the beginning of an id
        sandbox: String,
    },
    /// Run a command in a sandbox
    Exec(ExecOptions),
    /// Open a shell in a sandbox, on a terminal
    Shell(ShellOptions),
    /// List the programs of a sandbox
    Ps(SandboxOptions),
    /// Follow a program that runs in a sandbox, from its first byte on
    Attach(AttachOptions),
    /// Send a program of a sandbox a signal
    Kill(KillOptions),
    /// List, read, write and remove files of a sandbox
    #[command(subcommand)]
    File(FileCommand),
    /// Fetch a directory of a sandbox as a tar archive
    Export(ExportOptions),
    /// Copy files and directories between here and a sandbox
    Cp(CopyOptions),
    /// Make a directory in a sandbox like one here, or one here like it: only what is other is sent
    Sync(SyncOptions),
    /// Show what has changed in a sandbox's workspace, as a patch
    Diff(DiffOptions),
    /// Apply a patch to a sandbox's workspace, all of it or nothing
    Patch(PatchOptions),
    /// Make a sandbox's workspace what it was
    Reset(ResetOptions),
    /// States of a sandbox's workspace to compare with, and to go back to
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Programs of a sandbox with a name, a readiness and a log
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Code with state: interpreters of a sandbox that remember what they ran
    #[command(subcommand)]
    Kernel(KernelCommand),
    /// Install packages of a language in a sandbox
    Install(InstallOptions),
    /// Ports of this host that lead into a sandbox
    Ports(PortOptions),
    /// Change a sandbox's name, labels or lifetime
    Update(UpdateOptions),
    /// Put sandboxes on disk until they are needed
    Pause(PauseOptions),
    /// Let paused sandboxes go on
    Resume(PauseOptions),
    /// End the programs and machines of sandboxes, and keep their disks
    Stop(StopOptions),
    /// Boot stopped sandboxes on their disks
    Start(StartOptions),
    /// Copy a running sandbox
    Fork(ForkOptions),
    /// Save running sandboxes under a name, to start others from
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Remove sandboxes
    Rm(RemoveOptions),
    /// Show the end of a sandbox's console
    Logs {
        /// Sandbox: an id, a name, or the beginning of an id
        sandbox: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Watch what sandboxes take of this machine
    Top(TopOptions),
    /// Follow what happens to sandboxes
    Events(EventOptions),
    /// Hold sandboxes: the process behind create, exec and the others
    Daemon(DaemonOptions),
    /// Serve sandboxes to a program that speaks the Model Context Protocol
    Mcp(McpOptions),
    /// Show who has asked the daemon for what
    Audit(AuditOptions),
    /// Keys that let others use the daemon over TCP
    #[command(subcommand)]
    Key(KeyCommand),
    /// Show the machines that are ready before anybody asks for them
    Pool(PoolOptions),
    /// Build and manage images: what sandboxes start from
    #[command(subcommand)]
    Image(ImageCommand),
    /// Manage templates: guests that were booted once, and are restored ever after
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Run the guest agent right here, without a machine: in a container or VM of your own
    #[command(disable_help_flag = true)]
    Agent {
        /// Arguments of the agent's own; --help tells
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<OsString>,
    },
    /// Check what this machine has and lacks
    Doctor(DoctorOptions),
    /// Print the description of the daemon's HTTP API, OpenAPI 3.1 in JSON
    Openapi,
    /// Print what makes a shell complete these commands
    #[command(after_help = "  source <(hearth completions bash)")]
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
    /// Write man pages of these commands into a directory
    #[command(after_help = "  hearth man ~/.local/share/man/man1 && man hearth-run")]
    Man {
        /// Directory, made where it is missing
        directory: PathBuf,
    },
}

impl Command {
    /// Whether errors are to be JSON as well.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Run(options) => options.json,
            Self::Create(options) => options.json,
            Self::Ls(options) => options.json,
            Self::Inspect { .. } => true,
            Self::Exec(options) => options.json,
            Self::Ps(options) => options.json,
            Self::Attach(options) => options.json,
            Self::Kill(options) => options.json,
            Self::Export(options) => options.json,
            Self::File(command) => command.wants_json(),
            Self::Cp(options) => options.json,
            Self::Sync(options) => options.json,
            Self::Diff(options) => options.json,
            Self::Patch(options) => options.json,
            Self::Reset(options) => options.json,
            Self::Checkpoint(command) => command.wants_json(),
            Self::Service(command) => command.wants_json(),
            Self::Kernel(command) => command.wants_json(),
            Self::Install(options) => options.json,
            Self::Ports(options) => options.json,
            Self::Update(options) => options.json,
            Self::Pause(options) | Self::Resume(options) => options.json,
            Self::Stop(options) => options.json,
            Self::Start(options) => options.json,
            Self::Fork(options) => options.json,
            Self::Snapshot(command) => command.wants_json(),
            Self::Rm(options) => options.json,
            Self::Logs { json, .. } => *json,
            Self::Top(options) => options.json,
            Self::Events(options) => options.json,
            Self::Shell(_) | Self::Daemon(_) | Self::Mcp(_) => false,
            Self::Audit(options) => options.json,
            Self::Key(command) => command.wants_json(),
            Self::Pool(options) => options.json,
            Self::Image(ImageCommand::Build(options)) => options.json,
            Self::Image(ImageCommand::List { json } | ImageCommand::Rm { json, .. }) => *json,
            Self::Image(ImageCommand::Inspect { json, .. }) => *json,
            Self::Template(TemplateCommand::List { json } | TemplateCommand::Rm { json, .. }) => *json,
            Self::Template(TemplateCommand::Build(options)) => options.json,
            Self::Agent { .. } | Self::Openapi | Self::Completions { .. } | Self::Man { .. } => false,
            Self::Doctor(options) => options.json,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Standard input, output and error are the program's own, byte for byte. Ctrl-C reaches the program; a second one ends the \
sandbox. With -t every key goes to the program.

Exit code: the program's; 128+n when signal n killed it; 124 when --timeout passed; 125 when Hearth itself failed; 126 when \
the command cannot be executed, 127 when there is none; 130 after a second Ctrl-C.

  hearth run -- python3 -c 'print(6 * 7)'
  tar c . | hearth run --memory 1G --timeout 5m -- sh -c 'tar x && python3 -m unittest'
  hearth run -t -- bash")]
pub(crate) struct RunOptions {
    /// Image to start from, a name or the beginning of a digest
    #[arg(long, value_name = "IMAGE", default_value = hearth_engine::DEFAULT_IMAGE)]
    pub(crate) image: String,
    /// Number of processors
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) cpus: u32,
    /// Memory, in MiB or with a unit: 512, 512M, 2G
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    pub(crate) memory: Memory,
    /// Put what the guest writes on a disk of this size, not into its memory
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk: Option<Disk>,
    /// End the program after this time, in seconds or with a unit: 90, 1.5s, 5m, 2h
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<Seconds>,
    /// Set a variable; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(EnvVar::parse))]
    pub(crate) env: Vec<EnvVar>,
    /// Give the program a secret, as a variable and a file, the value of the variable NAME here or of a file; nothing shows it
    #[arg(long, value_name = "NAME[=FILE]")]
    pub(crate) secret: Vec<SecretSource>,
    /// Directory to start in [default: /workspace]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<OsString>,
    /// User to run as, by name or number, of those in its /etc/passwd [default: user]
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// What runs the guest's instructions
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub(crate) accel: Accel,
    /// Boot the guest afresh, in place of restoring one that was booted before
    #[arg(long)]
    pub(crate) boot: bool,
    /// Give the program a terminal, when input and output here are one
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Print one JSON object in place of the program's output
    #[arg(long)]
    pub(crate) json: bool,
    /// Speak the workspace agent's and the execution channel's protocols too, on sockets, and say where
    #[arg(long)]
    pub(crate) dialects: bool,
    /// Speak the execution channel's on a port of 127.0.0.1 as well (0: any): every user of this host can then use the sandbox
    #[arg(long, value_name = "PORT", requires = "dialects")]
    pub(crate) dialect_port: Option<u16>,
    /// Keep the guest's console, and say where
    #[arg(long)]
    pub(crate) keep_logs: bool,
    /// Say when each phase of the run was reached
    #[arg(long)]
    pub(crate) timings: bool,
    /// Use no daemon: slower, and nothing stays when the run is over
    #[arg(long)]
    pub(crate) no_daemon: bool,
    /// Command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// KVM where it has been seen to work, else software emulation
    Auto,
    /// KVM or nothing
    Kvm,
    /// Software emulation: slower, and works everywhere
    Tcg,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Build an image from Debian packages
    Build(BuildOptions),
    /// List images
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show an image as JSON
    Inspect {
        /// Print errors as JSON too
        #[arg(long)]
        json: bool,
        /// Name, or the beginning of a digest
        image: String,
    },
    /// Remove an image
    Rm {
        /// Names, or the beginnings of digests
        #[arg(required = true)]
        images: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BuildOptions {
    /// Name of the image
    #[arg(default_value = hearth_engine::DEFAULT_IMAGE)]
    pub(crate) name: String,
    /// Packages beside bash, coreutils, git, python3, ca-certificates and sudo
    #[arg(long, value_name = "PACKAGE,...", value_delimiter = ',')]
    pub(crate) packages: Vec<String>,
    /// Debian suite
    #[arg(long, value_name = "SUITE", default_value = "bookworm")]
    pub(crate) suite: String,
    /// Kernel of your own, a bzImage or ELF, in place of Debian's cloud kernel
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// The kernel's modules: its lib/modules/RELEASE
    #[arg(long, value_name = "DIR", requires = "kernel")]
    pub(crate) modules: Option<PathBuf>,
    /// Debian mirror
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Option<String>,
    /// Do nothing if the image of this name is just this one already
    #[arg(long)]
    pub(crate) if_missing: bool,
    /// Print the image as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The daemon keeps machines ready of the kinds that were asked for last: image, size and accelerator. Creating such a sandbox then takes \
milliseconds. They are let go when nobody asks for ten minutes, and first of all when memory gets short.")]
pub(crate) struct PoolOptions {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Save a running sandbox, which goes on; hearth create --snapshot NAME starts others from there
    Create {
        /// Sandbox: an id, a name, or the beginning of an id
        sandbox: String,
        /// Name for the snapshot
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List snapshots
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a snapshot as JSON
    Inspect {
        /// Print JSON, which it does in any case
        #[arg(long)]
        json: bool,
        /// Snapshot
        name: String,
    },
    /// Remove snapshots; sandboxes that were started from them go on
    Rm {
        /// Print errors as JSON
        #[arg(long)]
        json: bool,
        /// Snapshots
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Write a snapshot, with all it needs but the image, to one file
    Export {
        /// Print errors as JSON
        #[arg(long)]
        json: bool,
        /// Snapshot
        name: String,
        /// File to write
        file: PathBuf,
    },
    /// Read a snapshot from a file that export has written
    Import {
        /// Print errors as JSON
        #[arg(long)]
        json: bool,
        /// File to read
        file: PathBuf,
        /// Name for the snapshot
        name: String,
    },
}

impl SnapshotCommand {
    fn wants_json(&self) -> bool {
        match self {
            Self::Inspect { .. } => true,
            Self::Create { json, .. } | Self::Ls { json } | Self::Rm { json, .. } => *json,
            Self::Export { json, .. } | Self::Import { json, .. } => *json,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// List templates
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make the template for a kind of sandbox, unless it is there, and print its name: otherwise its first use does
    Build(TemplateBuildOptions),
    /// Remove templates that nothing needs
    Rm {
        /// Templates: names, or the beginnings of names
        #[arg(required_unless_present = "unused", value_name = "TEMPLATE")]
        templates: Vec<String>,
        /// All that no process has loaded and no snapshot lies on
        #[arg(long, conflicts_with = "templates")]
        unused: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TemplateBuildOptions {
    /// Image to start from, a name or the beginning of a digest
    #[arg(long, value_name = "IMAGE", default_value = hearth_engine::DEFAULT_IMAGE)]
    pub(crate) image: String,
    /// Number of processors
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) cpus: u32,
    /// Memory, in MiB or with a unit: 512, 512M, 2G
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    pub(crate) memory: Memory,
    /// A disk of this size for what the guest writes
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk: Option<Disk>,
    /// What runs the guest's instructions
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub(crate) accel: Accel,
    /// Print the template as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorOptions {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn exec_by_itself_is_read_as_in_the_whole() {
        let lines = [
            "exec web true",
            "exec web -- sh -c ls",
            "exec -it --user root -e A=b --secret T=token web sh --help",
            "exec --json --timeout 1.5s --memory 64M --cpus 0.5 -w /tmp -d web -- sleep 9",
            "exec -- web -x",
        ];
        for line in lines {
            let given: Vec<OsString> = ["hearth"].into_iter().chain(line.split(' ')).map(Into::into).collect();
            let whole = format!("{:?}", Arguments::try_parse_from(&given).expect(line));
            assert_eq!(format!("{:?}", Arguments::read_exec(&given).expect(line)), whole);
        }
        for line in [
            "exec",
            "exec --help",
            "exec -h web true",
            "exec --no-such web true",
            "exec web",
            "--host x exec web true",
            "ls",
            "",
            "help exec",
        ] {
            let given: Vec<OsString> = ["hearth"].into_iter().chain(line.split_whitespace()).map(Into::into).collect();
            assert!(Arguments::read_exec(&given).is_none(), "{line}");
        }
    }
}

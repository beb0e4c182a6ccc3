//! What can be typed about sandboxes that the daemon holds.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use super::Accel;
use super::ListenOptions;
use crate::values::{Disk, EnvVar, Idle, Label, Memory, Processors, Publish, Seconds, SecretSource};

#[derive(Debug, Args)]
#[command(after_help = "\
The sandbox lives until it is removed or its --ttl is over, and outlives the daemon. Prints its id.

  hearth create --name web --memory 1G --ttl 2h
  hearth create --name fix --seed . --tracked
  hearth exec web -- python3 -c 'print(6 * 7)'")]
pub(crate) struct CreateOptions {
    /// Name for it, unique among the sandboxes there are
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
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
    /// Go on from where a saved sandbox was, with its image and sizes; variables and secrets of new programs are given anew
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = ["image", "cpus", "memory", "disk", "accel", "boot"])]
    pub(crate) snapshot: Option<String>,
    /// Fill its workspace from a directory, or an archive (tar, plain or compressed; - is standard input), and take the baseline of hearth diff
    #[arg(long, value_name = "PATH")]
    pub(crate) seed: Option<PathBuf>,
    /// Of the directory to seed from, only the files that Git knows
    #[arg(long, requires = "seed")]
    pub(crate) tracked: bool,
    /// Set a variable of all its programs; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(EnvVar::parse))]
    pub(crate) env: Vec<EnvVar>,
    /// Give it a secret, the value of the variable NAME here or of a file; nothing shows it
    #[arg(long, value_name = "NAME[=FILE]")]
    pub(crate) secret: Vec<SecretSource>,
    /// Publish a port
    #[arg(short, long, value_name = "[ADDR:]HOST:GUEST")]
    pub(crate) publish: Vec<Publish>,
    /// Note something on it, for filters
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<Label>,
    /// Remove it after this time: 90, 5m, 2h
    #[arg(long, value_name = "TIME")]
    pub(crate) ttl: Option<Seconds>,
    /// What becomes of it when nobody uses it and nothing runs in it: pause:10m, remove:1h, none
    #[arg(long, value_name = "ACTION:TIME")]
    pub(crate) idle: Option<Idle>,
    /// What runs the guest's instructions
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub(crate) accel: Accel,
    /// Boot the guest afresh, in place of restoring one that was booted before
    #[arg(long)]
    pub(crate) boot: bool,
    /// Print the sandbox as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// Those alone with this in their name or id
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,
    /// Those alone with this label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) label: Vec<String>,
    /// Those alone in one of these states
    #[arg(long, value_name = "STATE,...", value_delimiter = ',')]
    pub(crate) state: Vec<String>,
    /// Print ids alone
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) quiet: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

// How a program is started in a sandbox. (No documentation: it would be the description of every command that has it.)
#[derive(Debug, Args)]
pub(crate) struct ProgramOptions {
    /// Set a variable; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(EnvVar::parse))]
    pub(crate) env: Vec<EnvVar>,
    /// Set the variable to a secret of the sandbox's, by default to the one of its name
    #[arg(long, value_name = "VARIABLE[=SECRET]")]
    pub(crate) secret: Vec<String>,
    /// Directory to start in [default: /workspace]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<OsString>,
    /// User to run as, by name or number, of those in its /etc/passwd [default: user]
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// The most memory that it and all it starts may take, in MiB or with a unit; more ends them
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<Memory>,
    /// The most processes and threads that they may be
    #[arg(long, value_name = "N")]
    pub(crate) pids_limit: Option<u32>,
    /// The most processors that they may keep busy, such as 0.5
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<Processors>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit code: the program's; 128+n when signal n killed it; 124 when --timeout passed; 125 when Hearth itself failed; 126 when \
the command cannot be executed, 127 when there is none. What ends this command ends the program: signals, and an output that is no longer \
read. Of two Ctrl-C the second lets go of it.

  hearth exec web -- python3 -m unittest
  echo 'print(1)' | hearth exec -i web -- python3
  hearth exec -it web -- bash")]
pub(crate) struct ExecOptions {
    /// Pass standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the program a terminal, when input and output here are one
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Start the program, print its number, and do not wait for it
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) program: ProgramOptions,
    /// End the program after this time, in seconds or with a unit: 90, 1.5s, 5m, 2h
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<Seconds>,
    /// Print one JSON object in place of the program's output
    #[arg(long, conflicts_with = "tty")]
    pub(crate) json: bool,
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
As hearth exec -it SANDBOX bash -l: Ctrl-D or exit ends it, and what it has started in the background goes on.")]
pub(crate) struct ShellOptions {
    #[command(flatten)]
    pub(crate) program: ProgramOptions,
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
}

impl From<ShellOptions> for ExecOptions {
    fn from(ShellOptions { program, sandbox }: ShellOptions) -> Self {
        let command = ["bash", "-l"].map(OsString::from).to_vec();
        let (interactive, tty, detach, json, timeout) = (true, true, false, false, None);
        Self { interactive, tty, detach, program, timeout, json, sandbox, command }
    }
}

#[derive(Debug, Args)]
pub(crate) struct UpdateOptions {
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
    /// Another name; an empty one takes it away
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Set a label; those that are not named stay
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<Label>,
    /// Take a label away
    #[arg(long, value_name = "KEY")]
    pub(crate) remove_label: Vec<String>,
    /// Remove it after this time, counted from now: 90, 5m, 2h, or "none"
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    pub(crate) ttl: Option<Ttl>,
    /// What becomes of it when nobody uses it and nothing runs in it: pause:10m, remove:1h, none
    #[arg(long, value_name = "ACTION:TIME")]
    pub(crate) idle: Option<Idle>,
    /// Print the sandbox as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A lifetime, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ttl(pub(crate) Option<Seconds>);

fn parse_ttl(text: &str) -> Result<Ttl, &'static str> {
    if text == "none" { Ok(Ttl(None)) } else { text.parse().map(|time| Ttl(Some(time))) }
}

#[derive(Debug, Args)]
pub(crate) struct RemoveOptions {
    /// Sandboxes: ids, names, or beginnings of ids
    #[arg(required_unless_present = "all", value_name = "SANDBOX")]
    pub(crate) sandboxes: Vec<String>,
    /// Remove all there are
    #[arg(short, long, conflicts_with = "sandboxes")]
    pub(crate) all: bool,
    /// Take those for removed that are not there
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A paused sandbox takes no memory: its programs stand still, and lie on disk with all there is of it. The next request to it lets it \
go on, as hearth resume does. Whoever is connected to a program loses the connection, and can attach to it again.")]
pub(crate) struct PauseOptions {
    /// Sandboxes: ids, names, or beginnings of ids
    #[arg(required = true, value_name = "SANDBOX")]
    pub(crate) sandboxes: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The programs of a sandbox are asked to end (TERM), and killed when the time is over; its files, name, labels, ports and settings stay. That takes \
a disk (hearth create --disk): without one files are in memory, and hearth pause keeps them. hearth start boots it again: its services and other \
programs have to be started anew, and its secrets, of which no value is kept, to be given anew.")]
pub(crate) struct StopOptions {
    /// Sandboxes: ids, names, or beginnings of ids
    #[arg(required = true, value_name = "SANDBOX")]
    pub(crate) sandboxes: Vec<String>,
    /// Seconds until what has not ended by then is killed, at most 300
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) timeout: u64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A sandbox whose machine has ended by itself can be started too, if it has a disk. Its variables are those that it was made with; no program of \
before runs, and it has just the secrets that are given here.

  hearth start web --secret TOKEN")]
pub(crate) struct StartOptions {
    /// Sandboxes: ids, names, or beginnings of ids
    #[arg(required = true, value_name = "SANDBOX")]
    pub(crate) sandboxes: Vec<String>,
    /// Give them a secret, the value of the variable NAME here or of a file; nothing shows it
    #[arg(long, value_name = "NAME[=FILE]")]
    pub(crate) secret: Vec<SecretSource>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each copy goes on from the same moment, with everything that ran, under a name and with random numbers of its own. What a program \
has in its memory, a secret or a seeded generator, the copy has too. Prints the copies' ids.

  hearth fork web --name try
  hearth fork web -n 10 --ttl 1h")]
pub(crate) struct ForkOptions {
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
    /// How many copies
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
    pub(crate) copies: usize,
    /// Name for the copy; of more than one, each gets its number behind it
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Note something on each, in place of what is noted on the source
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<Label>,
    /// Remove each after this time: 90, 5m, 2h
    #[arg(long, value_name = "TIME")]
    pub(crate) ttl: Option<Seconds>,
    /// What becomes of each when nobody uses it: pause:10m, remove:1h, none
    #[arg(long, value_name = "ACTION:TIME")]
    pub(crate) idle: Option<Idle>,
    /// Let the copies keep the secrets that the source was given
    #[arg(long)]
    pub(crate) keep_secrets: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
CPU is of one processor. MEMORY is what the machine takes, with what it shares divided among those that share it; OWN is what it \
shares with none; SIZE is what its guest sees. Ctrl-C ends it.")]
pub(crate) struct TopOptions {
    /// Show it once
    #[arg(long)]
    pub(crate) once: bool,
    /// Time between two pictures
    #[arg(long, value_name = "TIME", default_value = "2s", conflicts_with = "once")]
    pub(crate) interval: Seconds,
    /// Print JSON: an object, a line each without --once
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EventOptions {
    /// Begin behind this position; 0 for all that are kept
    #[arg(long, value_name = "POSITION")]
    pub(crate) after: Option<u64>,
    /// End once there are no more
    #[arg(long)]
    pub(crate) no_follow: bool,
    /// Print a JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Other commands start it when they need it; then it ends by itself once there has been nothing to do for ten minutes \
(HEARTH_DAEMON_IDLE names another time). SIGTERM or Ctrl-C ends it; its sandboxes go on, and the next daemon takes them over.")]
pub(crate) struct DaemonOptions {
    /// End after this time without sandboxes and requests
    #[arg(long, value_name = "TIME")]
    pub(crate) idle_timeout: Option<Seconds>,
    /// The most sandboxes
    #[arg(long, value_name = "N")]
    pub(crate) max_sandboxes: Option<usize>,
    /// The most memory of all guests together, in MiB or with a unit [default: four times this machine's]
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_memory: Option<Memory>,
    /// The most processors of all guests together [default: 128 for each of this machine's]
    #[arg(long, value_name = "N")]
    pub(crate) max_cpus: Option<u64>,
    /// Machines to keep ready of each kind that was asked for last, with two QEMUs on standby; 0 for none [default: HEARTH_POOL, else 1]
    #[arg(long, value_name = "N")]
    pub(crate) pool: Option<usize>,
    /// Memory of this machine's that is to stay free: below it the pool is let go, and then unused sandboxes are paused [default: a 16th]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory_floor: Option<Memory>,
    /// Requests that may wait for room within the limits; more are refused at once
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) queue: usize,
    /// How long they wait before they are refused
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(crate) queue_timeout: Seconds,
    #[command(flatten)]
    pub(crate) listen: ListenOptions,
    /// Send traces to this collector, by OTLP over HTTP [default: OTEL_EXPORTER_OTLP_ENDPOINT, else none]
    #[arg(long, value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
    /// Standard input is the lock of starting, standard output tells when it is ready, standard error is the log
    #[arg(long, hide = true)]
    pub(crate) started: bool,
}

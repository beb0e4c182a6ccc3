//! The agent as an ordinary process: no machine of its own, sockets instead of ports.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::agent::Agent;
use crate::dialect::execution::{self, Execution, dual::Dual};
use crate::dialect::workspace;
use crate::listen::{self, Address, Service};
use crate::process::{Defaults, Trees};
use crate::runtime::Runtime;
use crate::session::socket::{self, Sessions};

const HELP: &str = "\
Runs Hearth's guest agent as an ordinary process.

Usage: hearth-agent serve --native ADDRESS [OPTIONS]

  --native ADDRESS         serve Hearth's own protocol
  --workspace-rpc ADDRESS  serve the workspace agent's dialect: one JSON request a connection, behind a CONNECT line or without
  --execution-channel ADDRESS
  --execution-channel cmd=ADDRESS,event=ADDRESS
                           serve the execution channel's dialect, on one connection or on two that come and go by themselves
  --workspace DIR          where processes start that name no directory
  --home DIR               HOME of every process, in place of the user's own
  --user NAME              run processes as this user where none is asked for (the agent must be root)
  --no-cgroup              find process trees in /proc, as where there are no control groups

An ADDRESS is unix:PATH, tcp:HOST:PORT or vsock:PORT; there may be any number, of any kind, and must be one.
The agent runs whatever it is asked to by anyone who can reach one. A Unix socket is made for its owner alone.
";

/// What is served, and where.
#[derive(Debug, PartialEq, Eq)]
enum Served {
    Native(Address),
    WorkspaceRpc(Address),
    ExecutionChannel(Address),
    ExecutionChannels { command: Address, event: Address },
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    served: Vec<Served>,
    workspace: Option<PathBuf>,
    home: Option<PathBuf>,
    user: Option<String>,
    no_cgroup: bool,
}

/// Runs `hearth-agent` with these arguments until a signal or a request ends it.
pub(crate) fn run(arguments: Vec<OsString>) -> ExitCode {
    let options = match parse(arguments) {
        Ok(Some(options)) => options,
        Ok(None) => {
            let _ = io::stdout().write_all(HELP.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(message) => return fail(2, &format!("{message}; see hearth-agent --help")),
    };
    match crate::block_on(serve(options)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(message)) => fail(1, &message),
        Err(error) => fail(1, &format!("cannot start: {error}")),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "hearth-agent: {message}");
    ExitCode::from(code)
}

fn parse(arguments: Vec<OsString>) -> Result<Option<Options>, String> {
    let mut arguments = arguments.into_iter();
    match arguments.next().as_deref().map(OsStrExt::as_bytes) {
        Some(b"serve") => {}
        Some(b"--help" | b"-h") | None => return Ok(None),
        Some(other) => return Err(format!("there is no command {:?}", String::from_utf8_lossy(other))),
    }
    let mut options = Options::default();
    while let Some(flag) = arguments.next() {
        let flag = flag.to_string_lossy().into_owned();
        let mut value = || arguments.next().ok_or_else(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--native" => options.served.push(Served::Native(Address::parse(&value()?)?)),
            "--workspace-rpc" => options.served.push(Served::WorkspaceRpc(Address::parse(&value()?)?)),
            "--execution-channel" => options.served.push(Served::parse_execution_channel(&value()?)?),
            "--workspace" => options.workspace = Some(value()?.into()),
            "--home" => options.home = Some(value()?.into()),
            "--user" => options.user = Some(value()?.to_string_lossy().into_owned()),
            "--no-cgroup" => options.no_cgroup = true,
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("there is no option {flag:?}")),
        }
    }
    if options.served.is_empty() {
        return Err("an address is needed: nobody could reach the agent".into());
    }
    Ok(Some(options))
}

impl Served {
    /// Reads an address, or `cmd=` and `event=` with an address each.
    fn parse_execution_channel(text: &OsStr) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let Some(rest) = bytes.strip_prefix(b"cmd=") else { return Address::parse(text).map(Self::ExecutionChannel) };
        const EVENT: &[u8] = b",event=";
        let at = rest.windows(EVENT.len()).position(|window| window == EVENT);
        let at = at.ok_or_else(|| format!("{:?} is not cmd=ADDRESS,event=ADDRESS", text.to_string_lossy()))?;
        let address = |bytes| Address::parse(OsStr::from_bytes(bytes));
        Ok(Self::ExecutionChannels { command: address(&rest[..at])?, event: address(&rest[at + EVENT.len()..])? })
    }
}

async fn serve(options: Options) -> Result<(), String> {
    // Orphans of a process tree must come to the agent, as they would to PID 1.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| format!("become subreaper: {error}"))?;
    let trees = if options.no_cgroup { Trees::by_walking("--no-cgroup was given") } else { own_trees() };
    let mut signals = EndSignals::new().map_err(|error| format!("watch signals: {error}"))?;
    let defaults = Defaults { user: options.user, workspace: options.workspace, home: options.home };
    let shared = defaults.user.is_some();
    let runtime = Runtime::of_process(shared).map_err(|error| format!("name a directory of its own: {error}"))?;
    let on_disk = Runtime::on_disk_of_process().map_err(|error| format!("name a directory on disk: {error}"))?;
    let agent = Agent::new(defaults, trees, Rc::clone(&runtime), Rc::clone(&on_disk), false)
        .map_err(|error| format!("watch children: {error}"))?;
    let mut listening = Listening(Vec::new());
    for (address, service) in services(&options.served, &agent) {
        let bound = address.listen(service).await;
        listening.0.push(bound.map_err(|error| format!("listen on {address}: {error}"))?);
    }
    let serving: String = listening.0.iter().map(|address| format!(" {address}")).collect();
    // For whoever started it: from here on a connection is answered, and a signal heeded.
    let _ = writeln!(io::stderr(), "hearth-agent: serving{serving}");
    let grace = tokio::select! {
        () = signals.wait() => Duration::ZERO,
        grace = agent.wait_for_shutdown() => grace,
    };
    agent.processes.stop_all(grace).await;
    runtime.remove();
    on_disk.remove();
    Ok(())
}

/// The addresses that are served. Their sockets go with it, however serving ends.
struct Listening(Vec<Address>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.iter().for_each(Address::remove);
    }
}

/// Every address with what is spoken there, in the order they were asked for.
fn services(served: &[Served], agent: &Rc<Agent>) -> Vec<(Address, Service)> {
    let sessions = Rc::<Sessions>::default();
    let (workspace, execution) = (workspace::service(agent), Execution::new(Rc::clone(agent)));
    let of = |served: &Served| match served {
        Served::Native(address) => vec![(address.clone(), native(agent, &sessions))],
        Served::WorkspaceRpc(address) => vec![(address.clone(), Rc::clone(&workspace))],
        Served::ExecutionChannel(address) => vec![(address.clone(), execution::service(&execution))],
        Served::ExecutionChannels { command, event } => {
            let services = Dual::new(&execution).services();
            [command.clone(), event.clone()].into_iter().zip(services).collect()
        }
    };
    served.iter().flat_map(of).collect()
}

fn native(agent: &Rc<Agent>, sessions: &Rc<Sessions>) -> Service {
    let (agent, sessions) = (Rc::clone(agent), Rc::clone(sessions));
    listen::service(move |reader, writer| socket::serve(Rc::clone(&agent), Rc::clone(&sessions), reader, writer))
}

/// The signals that end the agent in good order, from the moment this is made.
struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl EndSignals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Control groups below the agent's own, where the system lets it make them.
fn own_trees() -> Rc<Trees> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    match (mount, own) {
        (Some(mount), Some(own)) => {
            let directory = Path::new(mount).join(own);
            sweep(&directory);
            Trees::in_cgroup(&directory, &format!("{GROUP_PREFIX}{}", std::process::id()))
        }
        _ => Trees::by_walking("no control groups (v2) are mounted"),
    }
}

const GROUP_PREFIX: &str = "hearth-agent-";

/// Removes the empty groups of agents that were killed.
fn sweep(directory: &Path) {
    for group in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = group.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(GROUP_PREFIX) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            fs::read_dir(group.path())
                .into_iter()
                .flatten()
                .flatten()
                .for_each(|child| drop(fs::remove_dir(child.path())));
            let _ = fs::remove_dir(group.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<Options>, String> {
        parse(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn addresses_and_options_are_read() {
        let options = parsed("serve --native unix:/a --native tcp:127.0.0.1:1 --native vsock:5 --user u --no-cgroup")
            .unwrap()
            .unwrap();
        let (unix, tcp) = (Address::Unix("/a".into()), Address::Tcp("127.0.0.1:1".into()));
        let vsock = Served::Native(Address::Vsock(5));
        assert_eq!(options.served, [Served::Native(unix), Served::Native(tcp), vsock]);
        assert_eq!((options.user.as_deref(), options.no_cgroup), (Some("u"), true));
    }

    #[test]
    fn an_execution_channel_has_one_address_or_two() {
        let served = |line| parsed(line).unwrap().unwrap().served;
        let (tcp, command) = (Address::Tcp("127.0.0.1:5000".into()), Address::Unix("/a,b".into()));
        let one = served("serve --execution-channel tcp:127.0.0.1:5000");
        assert_eq!(one, [Served::ExecutionChannel(tcp)]);
        let two = served("serve --execution-channel cmd=unix:/a,b,event=unix:/c");
        assert_eq!(two, [Served::ExecutionChannels { command, event: Address::Unix("/c".into()) }]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for line in [
            "dance",
            "serve",
            "serve --native",
            "serve --native unix:",
            "serve --native here",
            "serve --native vsock:x",
            "serve --nativ unix:/a",
            "serve --execution-channel cmd=unix:/a",
            "serve --execution-channel cmd=unix:/a,event=here",
            "serve --execution-channel event=unix:/a,cmd=unix:/b",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
        assert_eq!(parsed("--help"), Ok(None));
    }
}

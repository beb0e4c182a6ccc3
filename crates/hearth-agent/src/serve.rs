//! The agent as an ordinary process: no machine of its own, sockets instead of ports.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use tokio::net::{TcpListener, UnixListener};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use crate::agent::Agent;
use crate::process::{Defaults, Trees};
use crate::session::socket::{self, Sessions};

const HELP: &str = "\
Runs Hearth's guest agent as an ordinary process.

Usage: hearth-agent serve --native ADDRESS [--native ADDRESS...] [--workspace DIR] [--home DIR] [--user NAME] [--no-cgroup]

  --native ADDRESS  serve Hearth's own protocol on unix:PATH, tcp:HOST:PORT or vsock:PORT
  --workspace DIR   where processes start that name no directory
  --home DIR        HOME of every process, in place of the user's own
  --user NAME       run processes as this user where none is asked for (the agent must be root)
  --no-cgroup       find process trees in /proc, as where there are no control groups

The agent runs whatever it is asked to by anyone who can reach ADDRESS. A Unix socket is made for its owner alone.
";

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Tcp(String),
    Vsock(u32),
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    native: Vec<Address>,
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
            "--native" => options.native.push(Address::parse(&value()?)?),
            "--workspace" => options.workspace = Some(value()?.into()),
            "--home" => options.home = Some(value()?.into()),
            "--user" => options.user = Some(value()?.to_string_lossy().into_owned()),
            "--no-cgroup" => options.no_cgroup = true,
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("there is no option {flag:?}")),
        }
    }
    if options.native.is_empty() {
        return Err("--native is needed: nobody could reach the agent".into());
    }
    Ok(Some(options))
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp:{host}"),
            Self::Vsock(port) => write!(f, "vsock:{port}"),
        }
    }
}

impl Address {
    fn parse(text: &OsString) -> Result<Self, String> {
        let shown = text.to_string_lossy().into_owned();
        let split = text.as_bytes().split_at_checked(text.as_bytes().iter().position(|&b| b == b':').unwrap_or(0) + 1);
        match split {
            Some((b"unix:", path)) if !path.is_empty() => Ok(Self::Unix(OsString::from_vec(path.to_vec()).into())),
            Some((b"tcp:", _)) => Ok(Self::Tcp(shown["tcp:".len()..].to_owned())),
            Some((b"vsock:", _)) => {
                let port = shown["vsock:".len()..].parse();
                port.map(Self::Vsock).map_err(|_| format!("{shown:?}: a vsock port is a number"))
            }
            _ => Err(format!("{shown:?} is not unix:PATH, tcp:HOST:PORT or vsock:PORT")),
        }
    }
}

async fn serve(options: Options) -> Result<(), String> {
    // Orphans of a process tree must come to the agent, as they would to PID 1.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| format!("become subreaper: {error}"))?;
    let trees = if options.no_cgroup { Trees::by_walking("--no-cgroup was given") } else { own_trees() };
    let defaults = Defaults { user: options.user, workspace: options.workspace, home: options.home };
    let agent = Agent::new(defaults, trees, false).map_err(|error| format!("watch children: {error}"))?;
    let sessions = Rc::<Sessions>::default();
    let mut serving = String::new();
    for address in &options.native {
        let bound =
            listen(address, &agent, &sessions).await.map_err(|error| format!("listen on {address}: {error}"))?;
        serving += &format!(" {bound}");
    }
    // For whoever started it: from here on a connection is answered.
    let _ = writeln!(io::stderr(), "hearth-agent: serving{serving}");
    wait_for_the_end(&agent).await.map_err(|error| format!("watch signals: {error}"))?;
    agent.processes.stop_all().await;
    options.native.iter().for_each(remove_socket);
    Ok(())
}

async fn wait_for_the_end(agent: &Agent) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = agent.wait_for_shutdown() => {}
    }
    Ok(())
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

/// Starts to serve, and returns the address: with the port that the system chose, where it was to choose one.
async fn listen(address: &Address, agent: &Rc<Agent>, sessions: &Rc<Sessions>) -> io::Result<Address> {
    let (agent, sessions) = (Rc::clone(agent), Rc::clone(sessions));
    macro_rules! accept {
        ($listener:expr, $split:expr) => {{
            let listener = $listener;
            tokio::task::spawn_local(async move {
                loop {
                    let slot = sessions.slot().await;
                    let Ok((stream, _)) = listener.accept().await else {
                        sessions.wait_for_room().await;
                        continue;
                    };
                    let (reader, writer) = $split(stream);
                    let serve = socket::serve(Rc::clone(&agent), Rc::clone(&sessions), reader, writer);
                    let sessions = Rc::clone(&sessions);
                    tokio::task::spawn_local(async move {
                        serve.await;
                        sessions.connection_ended(slot);
                    });
                }
            });
        }};
    }
    match address {
        Address::Unix(path) => accept!(bind_unix(path)?, tokio::net::UnixStream::into_split),
        Address::Tcp(host) => {
            let listener = TcpListener::bind(host).await?;
            let bound = listener.local_addr()?;
            accept!(listener, |stream: tokio::net::TcpStream| {
                // Latency is what the control lane is for; where it cannot be had, it works all the same.
                let _ = stream.set_nodelay(true);
                stream.into_split()
            });
            return Ok(Address::Tcp(bound.to_string()));
        }
        Address::Vsock(port) => {
            let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, *port))?;
            let bound = listener.local_addr()?.port();
            accept!(listener, tokio_vsock::VsockStream::into_split);
            return Ok(Address::Vsock(bound));
        }
    }
    Ok(address.clone())
}

/// Binds a socket for its owner alone. A socket that nobody serves any more is replaced; anything else is left as it is.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let stale = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if stale {
        fs::remove_file(path)?;
    }
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(old);
    let listener = listener?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn remove_socket(address: &Address) {
    if let Address::Unix(path) = address {
        let _ = fs::remove_file(path);
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
        assert_eq!(options.native, [Address::Unix("/a".into()), Address::Tcp("127.0.0.1:1".into()), Address::Vsock(5)]);
        assert_eq!((options.user.as_deref(), options.no_cgroup), (Some("u"), true));
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
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
        assert_eq!(parsed("--help"), Ok(None));
    }
}

//! Packages: installed by the language's own installer, as a process of the default user.
//!
//! Python's go where pip puts them: into the user's own site where the user may not write the system's. A system that leaves its
//! packages to its own tools (PEP 668) is told that this is meant: a guest is thrown away. JavaScript's go into the workspace's `node_modules`.
//!
//! What cannot succeed is refused before anything runs: an installer that is not there, and a guest without a way out, where both installers would
//! try again for minutes. The installer ends with its request.

mod route;
mod tarballs;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use hearth_protocol::packages::{Install, PackageLanguage, PackageRequest, PackageResult};
use hearth_protocol::{Command, ErrorCode, ExitStatus, Fault, Finished, RawString, Signal, Start, StreamName};
use tokio::sync::oneshot;

use crate::agent::Agent;
use crate::process::{Process, Processes};
use crate::session::operation::{Outlet, Streams, off_thread};

/// How long an installer that is interrupted may take to tidy up.
const GRACE: Duration = Duration::from_secs(2);
/// How long Python may take to say whether pip is there, in milliseconds.
const LOOK_MS: u64 = 60_000;
/// Tells by its exit code whether pip is there.
const FIND_PIP: &str = "import importlib.util,sys; sys.exit(importlib.util.find_spec('pip') is None)";
/// Variables by which an installer finds a way out, or an index, that no route shows. In any case.
const WAYS_OUT: [&str; 9] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "pip_proxy",
    "pip_index_url",
    "uv_index_url",
    "npm_config_proxy",
    "npm_config_https_proxy",
    "npm_config_registry",
];

/// Does what is asked.
pub(crate) async fn run(agent: Rc<Agent>, request: PackageRequest, streams: Streams) -> Result<Finished, Fault> {
    let PackageRequest::Install(install) = request;
    let process = start(&agent, &install, None).await?;
    let status = follow(&agent.processes, &process, &streams.output).await;
    Ok(Finished::Packages(PackageResult::Installed(status)))
}

/// Starts the installer; `grace` is the time that it has between the TERM of its deadline and the KILL, in milliseconds.
///
/// # Errors
/// What cannot succeed, before anything has changed.
pub(crate) async fn start(agent: &Agent, install: &Install, grace_ms: Option<u64>) -> Result<Rc<Process>, Fault> {
    let from = match &install.from {
        Some(from) => Some(directory(agent, "from", from)?),
        None => {
            let is_named = |name: &str| WAYS_OUT.contains(&name.to_ascii_lowercase().as_str());
            let has_way = install.env.keys().any(|name| is_named(name)) || agent.processes.gives_variable(is_named);
            if !has_way && !route::is_there() {
                return Err(unavailable(
                    "the guest has no way out to get packages from, and no directory with them is named",
                ));
            }
            None
        }
    };
    let mut start = match install.language {
        PackageLanguage::Python => pip(&agent.processes, install, from.as_deref()).await?,
        PackageLanguage::Javascript => npm(agent, install, from).await?,
    };
    start.timeout_ms = install.timeout_ms;
    start.grace_ms = grace_ms;
    agent.processes.start(&start).map_err(|fault| not_there(fault, install.language))
}

fn unavailable(message: &str) -> Fault {
    Fault::never_started(ErrorCode::Unavailable, message)
}

/// A directory of the guest, by an absolute path or one in the workspace.
fn directory(agent: &Agent, field: &str, path: &RawString) -> Result<PathBuf, Fault> {
    let path = agent.roots.workspace().join(OsStr::from_bytes(path.as_bytes()));
    let refuse = |code, what: &str| {
        let message = format!("{field}: {} {what}", path.display());
        Err(Fault::never_started(code, message))
    };
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Ok(path),
        Ok(_) => refuse(ErrorCode::NotADirectory, "is not a directory"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => refuse(ErrorCode::NotFound, "is not there"),
        Err(error) => refuse(ErrorCode::Io, &format!("cannot be looked at: {error}")),
    }
}

fn command(argv: impl IntoIterator<Item = RawString>, install: &Install) -> Start {
    let mut start = Start::new(Command::Argv(argv.into_iter().collect()));
    start.env.clone_from(&install.env);
    start
}

fn raw(path: &Path) -> RawString {
    path.as_os_str().as_bytes().into()
}

/// The start of pip; refused when there is none.
async fn pip(processes: &Rc<Processes>, install: &Install, from: Option<&Path>) -> Result<Start, Fault> {
    // Elsewhere than in the workspace, which may hold a `pip.py`.
    let elsewhere = |mut start: Start| {
        start.cwd = Some("/".into());
        start
    };
    let mut look = elsewhere(command(["python3", "-c", FIND_PIP].map(RawString::from), install));
    look.timeout_ms = Some(LOOK_MS);
    let looking = processes.start(&look).map_err(|fault| not_there(fault, PackageLanguage::Python))?;
    looking.forget_when_ended();
    if looking.wait().await.0.code != Some(0) {
        return Err(missing(PackageLanguage::Python));
    }
    let options = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off"];
    let mut argv: Vec<RawString> = std::iter::once("python3").chain(options).map(RawString::from).collect();
    if let Some(from) = from {
        argv.push("--no-index".into());
        argv.push([b"--find-links=", raw(from).as_bytes()].concat().into());
    }
    argv.push("--".into());
    argv.extend(install.packages.iter().map(|package| RawString::from(package.as_str())));
    let mut start = elsewhere(command(argv, install));
    for (name, value) in [("PIP_BREAK_SYSTEM_PACKAGES", "1"), ("PIP_ROOT_USER_ACTION", "ignore")] {
        start.env.entry(name.into()).or_insert_with(|| value.into());
    }
    Ok(start)
}

/// The start of npm. That it is not there shows when it is started.
async fn npm(agent: &Agent, install: &Install, from: Option<PathBuf>) -> Result<Start, Fault> {
    let target = match &install.directory {
        Some(path) => directory(agent, "directory", path)?,
        None => agent.roots.workspace().to_owned(),
    };
    let offline = from.is_some();
    let packages = match from {
        None => install.packages.iter().map(|package| RawString::from(package.as_str())).collect(),
        Some(from) => {
            let wanted = install.packages.clone();
            off_thread(move || {
                wanted.iter().map(|package| tarballs::find(&from, package).map(|file| raw(&file))).collect()
            })
            .await?
        }
    };
    let options = ["npm", "install", "--no-audit", "--no-fund", "--no-progress", "--no-update-notifier"];
    let mut argv: Vec<RawString> = options.map(RawString::from).into();
    argv.push([b"--prefix=", raw(&target).as_bytes()].concat().into());
    if offline {
        argv.push("--offline".into());
    }
    argv.push("--".into());
    argv.extend::<Vec<RawString>>(packages);
    let mut start = command(argv, install);
    start.cwd = Some(raw(&target));
    Ok(start)
}

fn missing(language: PackageLanguage) -> Fault {
    unavailable(match language {
        PackageLanguage::Python => "python packages need pip, which is not in the guest: use an image with python3-pip",
        PackageLanguage::Javascript => "javascript packages need npm, which is not in the guest: use an image with npm",
    })
}

fn not_there(fault: Fault, language: PackageLanguage) -> Fault {
    if fault.code == ErrorCode::CommandNotFound { missing(language) } else { fault }
}

/// Sends what the installer says, and tells how it ended. It is stopped when this is dropped.
async fn follow(processes: &Rc<Processes>, process: &Rc<Process>, output: &Outlet) -> ExitStatus {
    let (stdout, stderr) = (process.stdout.cursor(0, true), process.stderr.cursor(0, true));
    let _wanted = stop_when_unwanted(processes, process);
    let ((status, _), ..) = tokio::join!(
        process.wait(),
        output.copy(StreamName::Stdout, &stdout, || stdout.output().end(), &stdout.output().changed),
        output.copy(StreamName::Stderr, &stderr, || stderr.output().end(), &stderr.output().changed),
    );
    status
}

/// Stops a process once what this returns is dropped: an interrupt first, which installers tidy up at.
fn stop_when_unwanted(processes: &Rc<Processes>, process: &Rc<Process>) -> oneshot::Sender<()> {
    let (wanted, unwanted) = oneshot::channel();
    let (processes, process) = (Rc::clone(processes), Rc::clone(process));
    tokio::task::spawn_local(async move {
        tokio::select! {
            _ = process.wait() => {}
            _ = unwanted => drop(processes.stop(&process, Signal::Int, GRACE).await),
        }
    });
    wanted
}

//! The way to the daemon: found, or else started.
//!
//! Starting is told by descriptors alone. Whoever finds no daemon takes the lock of starting, looks again, and starts one whose standard
//! input is that lock, held until it is ready, whose standard output tells when that is, and whose standard error is its log. Two who start
//! at once are put in a row by the lock, and the second finds the first one's daemon.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hearth_client::{Client, ClientError};
use hearth_engine::{Directories, Engine};
use rustix::fs::{FlockOperation, flock};

use crate::failure::Failure;
use crate::{home, output};

/// How long a daemon may take to become ready: an earlier one that ends has to remove its sandboxes first.
const READY: Duration = Duration::from_secs(60);
/// How often it is looked whether another has become ready instead.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// How long a daemon that a command has started stays without anything to do.
const IDLE: &str = "10m";
/// What the daemon says when it is ready.
pub(crate) const IS_READY: &str = "ready\n";

/// The socket on which the daemon listens.
pub(crate) fn socket(directories: &Directories) -> PathBuf {
    directories.home().join(hearth_client::api::SOCKET)
}

/// The file that the daemon holds locked for as long as it lives.
pub(crate) fn lock(directories: &Directories) -> PathBuf {
    directories.home().join("daemon.lock")
}

/// The daemon's log.
pub(crate) fn log(directories: &Directories) -> PathBuf {
    directories.logs().join("daemon.log")
}

/// A client of the daemon that was named, or else of this machine's, which is started if there is none.
pub(crate) async fn client() -> Result<Client, Failure> {
    client_saying(true).await
}

/// As [`client`]; that a daemon was started is said only if it is to be.
pub(crate) async fn client_saying(say: bool) -> Result<Client, Failure> {
    if let Some(remote) = home::remote()? {
        return Ok(remote);
    }
    let directories = home::directories()?;
    let client = Client::new(socket(&directories));
    if is_there(&client).await? {
        return Ok(client);
    }
    let starting = take_lock(&directories).await?;
    // Whoever held the lock before may have started one.
    if !is_there(&client).await? {
        start(&client, &directories, starting, say).await?;
    }
    Ok(client)
}

/// A client of the daemon, if one runs.
pub(crate) async fn running_client() -> Result<Option<Client>, Failure> {
    if let Some(remote) = home::remote()? {
        return Ok(Some(remote));
    }
    let client = Client::new(socket(&home::directories()?));
    Ok(is_there(&client).await?.then_some(client))
}

/// A client of the daemon for what may be there already: one is started only if an earlier one has left sandboxes.
pub(crate) async fn holding_client() -> Result<Option<Client>, Failure> {
    match running_client().await? {
        None if Engine::has_left(&home::directories()?) => client().await.map(Some),
        running => Ok(running),
    }
}

/// Whether the daemon that runs, if one does, is another program than this.
pub(crate) fn is_of_another_build(directories: &Directories) -> bool {
    let program = |pid: &str| {
        let found = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some((found.dev(), found.ino()))
    };
    // The number of a daemon that has ended may be another program's by now.
    let is_daemon = |pid: &&str| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|&byte| byte == 0).nth(1) == Some(b"daemon")
    };
    let pid = std::fs::read_to_string(lock(directories)).unwrap_or_default();
    let daemon = Some(pid.trim()).filter(is_daemon).and_then(program);
    daemon.is_some_and(|daemon| Some(daemon) != program("self"))
}

async fn is_there(client: &Client) -> Result<bool, Failure> {
    match client.reach().await {
        Ok(()) => Ok(true),
        Err(ClientError::NotRunning { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn take_lock(directories: &Directories) -> Result<File, Failure> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| Failure::host(format!("cannot make or use {path}: {error}"))
    };
    let path = directories.home().join("start.lock");
    let logs = directories.logs();
    std::fs::create_dir_all(directories.home()).map_err(failed(directories.home()))?;
    DirBuilder::new().recursive(true).mode(0o700).create(&logs).map_err(failed(&logs))?;
    let file =
        File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed(&path))?;
    let locking = move || flock(&file, FlockOperation::LockExclusive).map(|()| file).map_err(io::Error::from);
    on_thread(locking).await?.map_err(failed(&path))
}

async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::runtime(io::Error::other(error)))
}

async fn start(client: &Client, directories: &Directories, starting: File, say: bool) -> Result<(), Failure> {
    let log = log(directories);
    let failed = |error: io::Error| Failure::host(format!("cannot start the daemon: {error}"));
    let errors = File::options().create(true).append(true).mode(0o600).open(&log).map_err(failed)?;
    let (mut told, telling) = io::pipe().map_err(failed)?;
    let idle = home::daemon_idle().unwrap_or_else(|| IDLE.into());
    let mut child = Command::new("/proc/self/exe")
        .args(["daemon", "--started", "--idle-timeout"])
        .arg(idle)
        .current_dir("/")
        .stdin(starting)
        .stdout(telling)
        .stderr(Stdio::from(errors))
        .spawn()
        .map_err(failed)?;
    let mut said = String::new();
    let reading = on_thread(move || told.read_to_string(&mut said).map(|_| said));
    let outcome = tokio::select! {
        said = tokio::time::timeout(READY, reading) => said.ok(),
        () = another_serves(client, directories, child.id()) => {
            end(&mut child);
            return Ok(());
        }
    };
    let said = match outcome {
        Some(said) => said?.map_err(failed)?,
        None => {
            end(&mut child);
            return Err(Failure::host(format!("the daemon was not ready within {READY:?}")).with_hint(&hint(&log)));
        }
    };
    if said == IS_READY {
        if say {
            output::say(&format!("hearth: started the daemon, process {}; its log is {}", child.id(), log.display()));
        }
        return Ok(());
    }
    let reason = said.trim();
    let reason = if reason.is_empty() { "it ended before it was ready" } else { reason };
    Err(Failure::host(format!("the daemon could not start: {}", output::plain(reason))).with_hint(&hint(&log)))
}

/// Ends a daemon that waits for another's end, which is of no use to anybody.
fn end(waiting: &mut Child) {
    let _ = waiting.kill();
    let _ = waiting.wait();
}

/// Waits until a daemon serves that is not the one that was started: it held the lock already, and did not listen yet.
async fn another_serves(client: &Client, directories: &Directories, started: u32) {
    loop {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let holder = std::fs::read_to_string(lock(directories)).unwrap_or_default();
        if holder.trim() != started.to_string() && client.health().await.is_ok() {
            return;
        }
    }
}

fn hint(log: &Path) -> String {
    format!("its log is {}", log.display())
}

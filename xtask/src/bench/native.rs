//! The agent as a process of this host: what it costs without a machine around it, against the programs that people would use instead.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use hearth_engine::AgentProgram;
use hearth_engine::channel::{Channel, ConnectOptions, Endpoint, Endpoints};

/// A running agent with a workspace of its own. It ends, and all it made goes, with this.
pub(crate) struct Native {
    child: Child,
    directory: tempfile::TempDir,
    /// A session with it.
    pub(crate) channel: Channel,
}

impl Native {
    /// Starts one.
    pub(crate) async fn start() -> Result<Self> {
        Self::start_in(&std::env::temp_dir()).await
    }

    /// Starts one that has all it keeps in a directory.
    pub(crate) async fn start_in(place: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("hearth-bench-").tempdir_in(place)?;
        let (workspace, path) = (directory.path().join("workspace"), directory.path().join("agent.sock"));
        std::fs::create_dir(&workspace)?;
        let program = AgentProgram::new()?;
        let mut child = Command::new(program.path())
            .args(["serve", "--native", &format!("unix:{}", path.display()), "--workspace"])
            .arg(&workspace)
            .env("TMPDIR", directory.path())
            .stderr(Stdio::piped())
            .spawn()
            .context("start the agent")?;
        let mut line = String::new();
        BufReader::new(child.stderr.take().context("it has a standard error")?).read_line(&mut line)?;
        ensure!(line.contains("serving"), "the agent says {line:?}");
        let expected_uid = rustix::process::geteuid().as_raw();
        let endpoints = Endpoints::both(Endpoint::Unix { path, expected_uid });
        let channel = Channel::connect(&endpoints, ConnectOptions::default()).await?;
        Ok(Self { child, directory, channel })
    }

    /// Its workspace.
    pub(crate) fn workspace(&self) -> PathBuf {
        self.directory.path().join("workspace")
    }

    /// A place beside the workspace, for a baseline's files.
    pub(crate) fn beside(&self) -> &Path {
        self.directory.path()
    }

    /// Its resident memory in bytes: now, and the most there ever was.
    pub(crate) fn resident(&self) -> Result<(u64, u64)> {
        resident(self.child.id())
    }
}

/// The resident memory of a process in bytes: now, and the most there ever was.
pub(crate) fn resident(pid: u32) -> Result<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("the kernel tells it")?;
        let kib = line.trim().trim_end_matches(" kB").parse::<u64>()?;
        anyhow::Ok(kib * 1024)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

impl Drop for Native {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Does what blocks beside the runtime, which has a session to keep.
pub(crate) async fn beside<T: Send + 'static>(
    place: &Path,
    work: impl FnOnce(&Path) -> Result<T> + Send + 'static,
) -> Result<T> {
    let place = place.to_owned();
    tokio::task::spawn_blocking(move || work(&place)).await.context("a thread of the bench's failed")?
}

/// Has what was written before reach the disk, so that nobody pays for another's.
pub(crate) fn settle(place: &Path) -> Result<()> {
    rustix::fs::syncfs(File::open(place)?).context("write back")
}

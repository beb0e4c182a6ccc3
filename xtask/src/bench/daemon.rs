//! A daemon of the bench's own, in a home that shares its images and templates with the user's.

use std::os::unix::fs::symlink;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use hearth_client::Client;
use hearth_client::api::protocol::{Command as Program, RawString, Start};
use hearth_client::api::{CreateSandbox, ExecRequest};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::host::Host;
use super::native::resident;
use super::restore::hearth_program;

/// What it shares: all that costs time to make.
const SHARED: [&str; 4] = ["store", "templates", "cache", "findings.json"];

/// A daemon that runs, and nobody else's.
pub(crate) struct Daemon {
    process: Child,
    pub(crate) client: Client,
    home: TempDir,
}

impl Daemon {
    /// Starts it, and waits until it listens.
    pub(crate) async fn start(host: &Host) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("hearth-").tempdir()?;
        for name in SHARED {
            let original = host.engine().directories().home().join(name);
            if original.exists() {
                symlink(original, home.path().join(name))?;
            }
        }
        let mut command = Command::new(hearth_program()?);
        command.arg("daemon").env("HEARTH_HOME", home.path()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().context("start hearth daemon")?;
        let mut said = BufReader::new(process.stderr.take().context("it is piped")?).lines();
        let first = said.next_line().await?.unwrap_or_default();
        ensure!(first.contains("listens"), "hearth daemon: {first}");
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        let client = Client::new(home.path().join("hearth.sock"));
        Ok(Self { process, client, home })
    }

    /// The command `hearth`, which goes to this daemon.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(hearth_program()?);
        command.args(arguments).env("HEARTH_HOME", self.home.path()).stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    /// Makes a sandbox, and returns its id.
    pub(crate) async fn create(&self) -> Result<String> {
        Ok(self.client.create(&CreateSandbox::default()).await?.id)
    }

    /// Runs `true` in a sandbox to its end.
    pub(crate) async fn run_true(&self, sandbox: &str) -> Result<()> {
        let ended = self.client.exec(sandbox, &program(&["true"])).await?;
        ensure!(ended.status.code == Some(0), "true: {:?}", ended.status);
        Ok(())
    }

    /// Its resident memory in MiB.
    pub(crate) fn resident_mib(&self) -> Result<f64> {
        let (bytes, _) = resident(self.process.id().context("it runs")?)?;
        Ok(bytes as f64 / (1024.0 * 1024.0))
    }

    /// Removes what it holds and ends it.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let removed = self.command(&["rm", "--all"])?.stdout(Stdio::null()).status().await?;
        ensure!(removed.success(), "hearth rm --all: {removed}");
        let pid = self.process.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)).context("it runs")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.process.wait().await?;
        ensure!(status.success(), "hearth daemon: {status}");
        Ok(())
    }
}

/// A program to run in a sandbox.
pub(crate) fn program(words: &[&str]) -> ExecRequest {
    let argv = words.iter().map(|word| RawString::from(word.as_bytes())).collect();
    Start::new(Program::Argv(argv)).into()
}

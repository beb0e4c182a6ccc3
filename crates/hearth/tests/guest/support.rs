//! A sandbox to test in.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_engine::channel::{Channel, ChannelError, Event};
use hearth_engine::image::Image;
use hearth_engine::protocol::{Command, Delivery, ErrorCode, ExitStatus, Start, StreamName};
use hearth_engine::vmm::{Launcher, Machine, MachineSpec};
use hearth_engine::{DialectSpec, Directories, Draft, Engine, EngineError, Paused, Sandbox, SandboxSpec, chain};

/// A sandbox in a home of its own over the shared image store.
pub(crate) struct Guest {
    // In the order in which they must go.
    sandbox: Sandbox,
    engine: Arc<Engine>,
    home: Arc<tempfile::TempDir>,
}

/// An engine without a sandbox.
pub(crate) struct Alone {
    engine: Arc<Engine>,
    home: Arc<tempfile::TempDir>,
}

impl Alone {
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn of(&self, sandbox: Sandbox) -> Guest {
        Guest { sandbox, engine: self.engine.clone(), home: self.home.clone() }
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) status: ExitStatus,
}

impl Guest {
    /// Boots one; `None`, and says so, when there is no image to boot.
    pub(crate) async fn boot() -> Option<Self> {
        Self::boot_with(SandboxSpec::default()).await
    }

    pub(crate) async fn boot_with(spec: SandboxSpec) -> Option<Self> {
        let (engine, home) = engine()?;
        let sandbox = engine.create(&spec).await.unwrap();
        Some(Self { sandbox, engine: Arc::new(engine), home: Arc::new(home) })
    }

    /// Another one of the same engine.
    pub(crate) fn beside(&self, sandbox: Sandbox) -> Self {
        Self { sandbox, engine: self.engine.clone(), home: self.home.clone() }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The home of its engine.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// An engine in a home without templates; `None`, and says so, when there is no image.
    pub(crate) fn engine_alone() -> Option<Alone> {
        let (engine, home) = engine()?;
        std::fs::remove_file(home.path().join("templates")).unwrap();
        Some(Alone { engine: Arc::new(engine), home: Arc::new(home) })
    }

    /// Pauses and resumes it, and has it looked at between.
    pub(crate) async fn through_a_pause(self, look: impl FnOnce(&Paused)) -> Self {
        let Self { sandbox, engine, home } = self;
        let paused = engine.pause(sandbox).await.map_err(|refused| chain(&refused.error)).unwrap();
        look(&paused);
        let sandbox = engine.resume(paused).await.map_err(|refused| chain(&refused.error)).unwrap();
        Self { sandbox, engine, home }
    }

    /// Pauses it and lets it go on, but for that `disturb` has its way with the directory of what was saved before a first try. Returns what
    /// that failed with; `mend` comes before the second.
    pub(crate) async fn through_a_broken_pause(
        self,
        disturb: impl FnOnce(&Path),
        mend: impl FnOnce(&Path),
    ) -> (Self, EngineError) {
        let Self { sandbox, engine, home } = self;
        let saved = engine.directories().sandboxes().join(sandbox.id().as_str());
        let paused = engine.pause(sandbox).await.map_err(|refused| chain(&refused.error)).unwrap();
        disturb(&saved);
        let refused = engine.resume(paused).await.expect_err("it is damaged");
        mend(&saved);
        let sandbox = engine.resume(refused.sandbox).await.map_err(|refused| chain(&refused.error)).unwrap();
        (Self { sandbox, engine, home }, refused.error)
    }

    /// Runs a shell command and returns what it says, trimmed.
    pub(crate) async fn say(&self, text: &str) -> String {
        let outcome = self.run(text).await;
        assert_eq!(outcome.status.shell_code(), 0, "{text}: {}", String::from_utf8_lossy(&outcome.stderr));
        String::from_utf8_lossy(&outcome.stdout).trim().to_owned()
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    pub(crate) fn channel(&self) -> &Channel {
        self.sandbox.channel()
    }

    /// Runs a shell command as the default user, to its end.
    pub(crate) async fn run(&self, text: &str) -> Outcome {
        self.start(Start::new(Command::Shell(text.into()))).await
    }

    /// Runs a process to its end.
    pub(crate) async fn start(&self, start: Start) -> Outcome {
        run(self.channel(), start).await
    }

    /// Ends the sandbox.
    pub(crate) async fn remove(self) {
        self.sandbox.remove().await;
    }
}

/// A machine like a sandbox's, which a test has changed before it started.
pub(crate) struct ChangedMachine {
    // In the order in which they must go.
    pub(crate) channel: Channel,
    pub(crate) machine: Machine,
    _draft: Draft,
    _home: tempfile::TempDir,
}

impl ChangedMachine {
    /// Boots one; `None`, and says so, when there is no image to boot. What `change` returns goes to the caller.
    pub(crate) async fn boot<T>(change: impl FnOnce(&mut MachineSpec, &Image) -> Option<T>) -> Option<(Self, T)> {
        let (engine, home) = engine()?;
        let spec = SandboxSpec { dialects: Some(DialectSpec::default()), ..SandboxSpec::default() };
        let mut draft = engine.draft(&spec).unwrap();
        let image = engine.images().inspect(&spec.image).unwrap();
        let kept = change(&mut draft.machine, &image)?;
        let machine = Machine::start(draft.machine.clone()).await.unwrap();
        let channel = tokio::select! {
            channel = draft.connect(&machine) => channel.unwrap(),
            exit = machine.exited() => panic!("{}", String::from_utf8_lossy(&exit.console)),
        };
        Some((Self { channel, machine, _draft: draft, _home: home }, kept))
    }

    /// Runs a shell command as the default user, to its end.
    pub(crate) async fn run(&self, text: &str) -> Outcome {
        run(&self.channel, Start::new(Command::Shell(text.into()))).await
    }
}

/// An engine in a home of its own over the shared image store; `None`, and says so, when there is no image to boot.
fn engine() -> Option<(Engine, tempfile::TempDir)> {
    let Some(prepared) = std::env::var_os("HEARTH_TEST_HOME").filter(|home| !home.is_empty()).map(PathBuf::from) else {
        eprintln!("skipped: HEARTH_TEST_HOME names no home with images; make test prepares one");
        return None;
    };
    let home = tempfile::Builder::new().prefix("hearth-").tempdir().unwrap();
    symlink(prepared.join("store").canonicalize().unwrap(), home.path().join("store")).unwrap();
    // Made once for all tests.
    std::fs::create_dir_all(prepared.join("templates")).unwrap();
    symlink(prepared.join("templates").canonicalize().unwrap(), home.path().join("templates")).unwrap();
    let findings = prepared.join("findings.json");
    if findings.exists() {
        std::fs::copy(findings, home.path().join("findings.json")).unwrap();
    }
    let directories =
        Directories::of_user(|name| (name == "HEARTH_HOME").then(|| home.path().as_os_str().to_owned())).unwrap();
    let launcher = Launcher { program: env!("CARGO_BIN_EXE_hearth").into(), arguments: vec!["__jail".into()] };
    Some((Engine::open(directories, launcher, None).unwrap(), home))
}

/// Runs a process to its end.
async fn run(channel: &Channel, start: Start) -> Outcome {
    let process = channel.start(Start { attach: Some(Delivery::Lossless), ..start }).await.unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match process.next_event().await.unwrap().expect("an exit comes before the end") {
            Event::Output { stream: StreamName::Stderr, bytes, .. } => stderr.extend_from_slice(&bytes),
            Event::Output { bytes, .. } => stdout.extend_from_slice(&bytes),
            Event::Exit { status, .. } => return Outcome { stdout, stderr, status },
        }
    }
}

/// The agent's reason for a refusal.
pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, ChannelError>) -> ErrorCode {
    match result.unwrap_err() {
        ChannelError::Fault { source } => source.code,
        other => panic!("not a fault of the agent's: {other}"),
    }
}

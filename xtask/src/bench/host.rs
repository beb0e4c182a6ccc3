//! The host that is measured: its engine, and the way that runs a guest here.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use hearth_engine::image::Image;
use hearth_engine::vmm::{Launcher, MachineSpec};
use hearth_engine::{
    DEFAULT_IMAGE, Directories, Draft, Engine, EngineError, Given, Sandbox, SandboxSpec, Standby, chain,
};

use super::{Effort, report};

/// What every group measures on.
pub(crate) struct Host {
    engine: Engine,
    spec: SandboxSpec,
    effort: Effort,
    about: String,
}

impl Host {
    /// Opens the user's engine, as the `hearth` command does, and boots one sandbox of the default image: after that it is known what
    /// runs a guest here, and the host's caches are warm.
    pub(crate) async fn open(effort: Effort) -> Result<Self> {
        let engine = open_engine()?;
        let spec = SandboxSpec::default();
        report::say("booting a first sandbox");
        let sandbox = engine.create(&spec).await.map_err(explained)?;
        let ways = format!("{}, {}", sandbox.accelerator(), sandbox.board());
        let kernel = sandbox.channel().info().await?.kernel;
        sandbox.remove().await;
        let about = format!(
            "{}\nguest: Linux {kernel}, {} cpu, {} MiB; {}, {ways}",
            line(),
            spec.cpus.get(),
            spec.memory.mib(),
            engine.qemu().map_err(explained)?.build(),
        );
        Ok(Self { engine, spec, effort, about })
    }

    /// A machine like a sandbox's, with a directory of its own, not started.
    pub(crate) fn draft(&self) -> Result<Draft> {
        self.engine.draft(&self.spec).map_err(explained)
    }

    /// Another engine on the same directories, for whoever has to own one.
    pub(crate) fn open_engine(&self) -> Result<Engine> {
        open_engine()
    }

    /// The engine itself.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The sandbox that is measured.
    pub(crate) fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    /// Creates a sandbox, as the product does.
    pub(crate) async fn create(&self, spec: &SandboxSpec) -> Result<Sandbox> {
        self.engine.create(spec).await.map_err(explained)
    }

    /// Starts a QEMU ahead, as the product's pool does.
    pub(crate) async fn stand_by(&self) -> Result<Standby> {
        self.engine.stand_by(&self.spec).await.map_err(explained)
    }

    /// Creates a sandbox on one.
    pub(crate) async fn create_on(&self, standby: Standby) -> Result<Sandbox> {
        self.engine.create_on(standby, &Given::default()).await.map_err(explained)
    }

    /// Its image.
    pub(crate) fn image(&self) -> Result<Image> {
        Ok(self.engine.images().inspect(&self.spec.image)?)
    }

    /// How many sandboxes there are on this host that this user has made.
    pub(crate) fn sandboxes_on_disk(&self) -> Result<usize> {
        let directory = self.engine.directories().sandboxes();
        Ok(fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?.count())
    }

    /// How many samples to take.
    pub(crate) fn samples(&self, thorough: usize, quick: usize) -> usize {
        self.effort.samples(thorough, quick)
    }

    /// The host and the guest, in two lines.
    pub(crate) fn describe(&self) -> String {
        self.about.clone()
    }
}

fn open_engine() -> Result<Engine> {
    let launcher = Launcher { program: "/proc/self/exe".into(), arguments: vec![crate::JAIL.into()] };
    let qemu = env::var_os("HEARTH_QEMU").filter(|path| !path.is_empty()).map(PathBuf::from);
    let directories = Directories::of_user(|name| env::var_os(name))?;
    Engine::open(directories, launcher, qemu).map_err(explained)
}

/// The host in a line.
pub(crate) fn line() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("host: {count} × {}, Linux {}", model.map_or("unknown", |(_, name)| name), release.trim_end())
}

/// The engine's error with its hint; without an image, what makes one from a checkout.
fn explained(error: EngineError) -> anyhow::Error {
    let hint = match &error {
        EngineError::NoImage { .. } => {
            Some(format!("make it with: cargo run --release -p hearth -- image build {DEFAULT_IMAGE}"))
        }
        _ => error.hint(),
    };
    let detail = error.detail().map(|detail| format!("\n{detail}")).unwrap_or_default();
    let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    anyhow!("{}{detail}{hint}", chain(&error))
}

/// Where a machine keeps a file that only the bench needs.
pub(crate) fn write_file(machine: &MachineSpec, name: &str, content: &[u8]) -> Result<PathBuf> {
    let path = machine.directory.join(name);
    fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

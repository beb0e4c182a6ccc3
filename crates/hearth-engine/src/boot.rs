//! From a prepared sandbox to a machine whose agent takes requests, by the best way that works on this host.

use std::time::{Duration, Instant, SystemTime};

use hearth_channel::{Channel, ConnectOptions, Endpoint, Endpoints};
use hearth_image::Image;
use hearth_protocol::{BULK_PORT, CONTROL_PORT, Renew};
use hearth_vmm::{Accelerator, Confinement, Disk, Lifetime, Machine, MachineSpec, PortName, Qemu};

use crate::accelerator::{Finding, Findings, Way, name};
use crate::initramfs::{self, Contents};
use crate::sandbox::SandboxDirectory;
use crate::{Engine, EngineError, SandboxSpec};

/// How long a guest may be silent before its first line. A guest that cannot run at all spins before it: on a processor that runs
/// guests directly a second is long; an emulated one on a busy host may take its time.
const FIRST_LINE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(60));
/// How long it may be silent between two lines, or before its agent answers.
const BETWEEN_LINES: Duration = Duration::from_secs(60);
/// A bound on a boot that goes on saying things and never arrives.
const BOOT: Duration = Duration::from_secs(300);

/// A point on the way to a sandbox that takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The host's files are made.
    Prepared,
    /// QEMU runs, and the guest's kernel with it.
    Started,
    /// The agent has answered.
    Connected,
    /// Clock, entropy and name are the sandbox's own: it takes requests.
    Ready,
}

impl Phase {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Started => "started",
            Self::Connected => "connected",
            Self::Ready => "ready",
        }
    }
}

/// When each phase was reached, counted from the first call.
#[derive(Debug, Clone)]
pub(crate) struct Phases {
    begun: Instant,
    reached: Vec<(Phase, Duration)>,
}

impl Phases {
    pub(crate) fn since(begun: Instant) -> Self {
        Self { begun, reached: Vec::new() }
    }

    pub(crate) fn note(&mut self, phase: Phase) {
        self.reached.retain(|(known, _)| *known != phase);
        self.reached.push((phase, self.begun.elapsed()));
    }

    pub(crate) fn reached(&self) -> &[(Phase, Duration)] {
        &self.reached
    }
}

impl Engine {
    /// Boots by the first way that reaches the agent, and keeps what was found on the way.
    pub(crate) async fn boot(
        &self,
        spec: &SandboxSpec,
        qemu: &Qemu,
        image: &Image,
        directory: &SandboxDirectory,
        disks: &[Disk],
        phases: &mut Phases,
    ) -> Result<(Machine, Channel, Way), EngineError> {
        let findings = self.directories.findings();
        let (host, ways) = self.ways(spec, qemu, image);
        let mut last = None;
        for way in ways {
            let machine_spec = self.machine_spec(spec, qemu, image, directory, disks, way)?;
            match boot_once(machine_spec, directory, phases).await {
                Ok((machine, channel)) => {
                    Findings::keep(&findings, way, &host, Finding::Works);
                    return Ok((machine, channel, way));
                }
                Err(error) if error.speaks_against_the_way() => {
                    Findings::keep(&findings, way, &host, Finding::Fails { reason: error.to_string() });
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.expect("there is always a way to try, and each that fails leaves its error"))
    }

    fn machine_spec(
        &self,
        spec: &SandboxSpec,
        qemu: &Qemu,
        image: &Image,
        directory: &SandboxDirectory,
        disks: &[Disk],
        way: Way,
    ) -> Result<MachineSpec, EngineError> {
        let contents = Contents { kind: way.kind, scratch: spec.disk.is_some() };
        Ok(MachineSpec {
            directory: directory.path().to_owned(),
            qemu: qemu.clone(),
            kind: way.kind,
            accelerator: way.accelerator,
            cpus: spec.cpus,
            memory: spec.memory,
            kernel: image.kernel(),
            initramfs: initramfs::prepare(&self.directories.cache(), image, contents)?,
            command_line: spec.disk.map(|_| "hearth.scratch".to_owned()).into_iter().collect(),
            disks: disks.to_vec(),
            ports: [CONTROL_PORT, BULK_PORT].map(port_name).to_vec(),
            lifetime: Lifetime::WithOwner,
            confinement: Confinement::Strongest,
            launcher: self.launcher.clone(),
        })
    }
}

fn port_name(name: &str) -> PortName {
    PortName::new(name).expect("the protocol's port names are well-formed")
}

async fn boot_once(
    spec: MachineSpec,
    directory: &SandboxDirectory,
    phases: &mut Phases,
) -> Result<(Machine, Channel), EngineError> {
    let accelerator = spec.accelerator;
    let machine = Machine::start(spec).await.map_err(|source| EngineError::Machine { source })?;
    phases.note(Phase::Started);
    let first_line = if accelerator == Accelerator::Kvm { FIRST_LINE.0 } else { FIRST_LINE.1 };
    let reached = tokio::select! {
        connected = connect(&machine) => connected,
        stall = machine.boot_stalled(first_line, BETWEEN_LINES) => {
            Err(EngineError::Boot { accelerator: name(accelerator), what: stall.to_string(), console: machine.console().tail() })
        }
        exit = machine.exited() => {
            Err(EngineError::Boot { accelerator: name(accelerator), what: exit.to_string(), console: machine.console().tail() })
        }
    };
    let channel = match reached {
        Ok(channel) => channel,
        Err(error) => {
            machine.stop().await;
            return Err(error);
        }
    };
    phases.note(Phase::Connected);
    channel.renew(identity(directory)).await.map_err(|source| EngineError::Channel { what: "make the guest its own", source })?;
    phases.note(Phase::Ready);
    Ok((machine, channel))
}

async fn connect(machine: &Machine) -> Result<Channel, EngineError> {
    let endpoint = |port| Endpoint::Unix {
        path: machine.port_path(&port_name(port)).to_owned(),
        expected_uid: rustix::process::geteuid().as_raw(),
    };
    let endpoints = Endpoints { control: endpoint(CONTROL_PORT), bulk: endpoint(BULK_PORT) };
    let options = ConnectOptions { timeout: BOOT, ..ConnectOptions::default() };
    Channel::connect(&endpoints, options).await.map_err(|source| EngineError::Channel { what: "reach the agent", source })
}

/// The time, fresh entropy and the sandbox's name.
fn identity(directory: &SandboxDirectory) -> Renew {
    let mut seed = [0; 32];
    fill_random(&mut seed);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Renew {
        unix_nanoseconds: Some(now.as_nanos() as u64),
        seed: Some(seed.iter().map(|byte| format!("{byte:02x}")).collect()),
        hostname: Some(directory.id().as_str().to_owned()),
    }
}

/// Fills `bytes` from the host's generator, which by now has long been seeded and then never fails.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(error) => assert_eq!(error, rustix::io::Errno::INTR, "the kernel has a random generator"),
        }
    }
}

//! From a prepared sandbox to a machine whose agent takes requests, by the best way that works on this host.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_channel::{Channel, ConnectError, ConnectOptions, Connection, Endpoint, Endpoints};
use hearth_protocol::{BULK_PORT, CONTROL_PORT};
use hearth_vmm::jail::groups_of;
use hearth_vmm::{
    Accelerator, Checkpoint, Confinement, Exit, Lifetime, Machine, MachineSpec, PortName, Resting, SealedRam, Stall,
    Standby,
};
use tracing::Span;

use crate::accelerator::{Finding, Findings, Way, name};
use crate::create::{Base, Place};
use crate::guest::{describe, printable};
use crate::identity::{self, SandboxId};
use crate::initramfs::{self, Contents};
use crate::scratch::{Scratch, disks};
use crate::template::{Below, Template};
use crate::{Engine, EngineError, Given, SandboxSpec, chain, dialects};

/// How long a booting guest's console may be silent. A guest that cannot run at all spins before its kernel's first line (its
/// firmware may have spoken): on a processor that runs guests directly a second is long.
const KVM_SILENCE: Duration = Duration::from_secs(10);
/// The same under software emulation, on a busy host.
pub(crate) const TCG_SILENCE: Duration = Duration::from_secs(60);
/// A bound on a boot that goes on saying things and never arrives.
const BOOT: Duration = Duration::from_secs(300);

/// How long the exit of a QEMU whose socket has broken may take to be seen.
pub(crate) const EXIT_AFTER_HANG_UP: Duration = Duration::from_secs(2);

/// How late a guest's clock may be: it is set to the time at which the request was made.
const CLOCK_LAG: Duration = Duration::from_millis(80);
const CLOCK_TRIES: usize = 5;

/// How long the death of a killed QEMU is waited for before anything else is started in its place.
const DEATH: Duration = Duration::from_secs(2);

/// A point on the way to a sandbox that takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The template is there.
    Template,
    /// A machine was ready, or a QEMU that waited has its turn.
    Claimed,
    /// The host's files are made.
    Prepared,
    /// QEMU runs, and the guest's kernel with it; of a saved guest it has the memory.
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
            Self::Template => "template",
            Self::Claimed => "claimed",
            Self::Prepared => "prepared",
            Self::Started => "started",
            Self::Connected => "connected",
            Self::Ready => "ready",
        }
    }
}

/// When each phase was reached, counted from the first call. What leads to one is a span with its name.
#[derive(Debug, Clone)]
pub(crate) struct Phases {
    begun: Instant,
    reached: Vec<(Phase, Duration)>,
    towards: Span,
}

impl Phases {
    pub(crate) fn since(begun: Instant) -> Self {
        Self { begun, reached: Vec::new(), towards: towards_a_phase() }
    }

    /// Those of a sandbox that was there already, or is made half.
    pub(crate) fn none() -> Self {
        Self { begun: Instant::now(), reached: Vec::new(), towards: Span::none() }
    }

    pub(crate) fn note(&mut self, phase: Phase) {
        self.reached.retain(|(known, _)| *known != phase);
        self.reached.push((phase, self.begun.elapsed()));
        self.towards.record("otel.name", phase.name());
        let is_last = phase == Phase::Ready || self.towards.is_none();
        self.towards = if is_last { Span::none() } else { towards_a_phase() };
    }

    pub(crate) fn reached(&self) -> &[(Phase, Duration)] {
        &self.reached
    }
}

/// It is named once it is known to what it has led.
fn towards_a_phase() -> Span {
    tracing::info_span!("unfinished", otel.name = tracing::field::Empty)
}

/// A saved guest, and how it becomes its sandbox's.
pub(crate) struct Origin {
    /// What it was restored from first of all.
    pub(crate) template: Arc<Template>,
    pub(crate) saved: Resting,
    /// The QEMU that it was saved with, where it goes on in one like it.
    pub(crate) checkpoint: Option<Arc<Checkpoint>>,
    pub(crate) renew: Renewal,
    /// Whether it was saved in a session with nothing under way, with which it can go on.
    pub(crate) quiet: bool,
}

/// What a guest is told when it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// It is a sandbox of its own, with nothing of another's.
    Anew,
    /// It is a copy of another, with a name of its own, and keeps the secrets.
    WithSecrets,
    /// It is the sandbox that it was before; only time has passed.
    Same,
    /// It is the sandbox that it was before, booted again: its disk knows its machine id, and all else it has to be told again.
    Again,
}

/// What is booted, and as what.
#[derive(Clone, Copy)]
pub(crate) struct Boot<'a> {
    pub(crate) spec: &'a SandboxSpec,
    pub(crate) base: &'a Base,
    pub(crate) place: &'a Place,
    pub(crate) renewal: Renewal,
}

/// A machine whose agent takes requests.
pub(crate) struct Booted {
    pub(crate) machine: Machine,
    pub(crate) channel: Channel,
    pub(crate) way: Way,
    /// What did not work before it.
    pub(crate) failed: Vec<String>,
}

impl Engine {
    /// Boots by the first way that reaches the agent. What failed before it is kept as a finding: that it was the way's fault, and
    /// not the image's, only the success of another way shows.
    pub(crate) async fn boot(&self, boot: Boot<'_>, phases: &mut Phases) -> Result<Booted, EngineError> {
        let Boot { spec, base, place, .. } = boot;
        let findings = self.directories.findings();
        let (host, ways) = self.ways(spec, &base.qemu, &base.image);
        let mut failed: Vec<(Way, EngineError)> = Vec::new();
        for way in ways {
            let machine = self.machine_spec(spec, base, place.directory.path(), place.scratch.as_ref(), way)?;
            let machine = MachineSpec { lifetime: place.directory.lifetime(), ..machine };
            match boot_once(machine, boot, phases).await {
                Ok((machine, channel)) => {
                    for (way, error) in failed.iter().filter(|(_, error)| error.is_the_ways_fault()) {
                        Findings::keep(&findings, *way, &host, Finding::Fails { reason: chain(error) });
                    }
                    Findings::keep(&findings, way, &host, Finding::Works);
                    let failed = failed.iter().map(|(_, error)| chain(error)).collect();
                    return Ok(Booted { machine, channel, way, failed });
                }
                Err(error) if error.speaks_against_the_way() => failed.push((way, error)),
                Err(error) => return Err(error),
            }
        }
        let (_, last) = failed.pop().expect("there is always a way to try, and each that fails leaves its error");
        Err(last)
    }

    /// Boots a guest that is to be a sandbox's, and returns what it lies on as well.
    pub(crate) async fn boot_sandbox(
        &self,
        boot: Boot<'_>,
        phases: &mut Phases,
    ) -> Result<(Booted, Below), EngineError> {
        let booted = self.boot(boot, phases).await?;
        match self.blank(boot.spec, boot.base, booted.way).await {
            Ok(below) => Ok((booted, below)),
            Err(error) => {
                booted.machine.kill().await;
                Err(error)
            }
        }
    }

    /// The machine that runs a guest: the same for one that boots and one that was saved.
    pub(crate) fn machine_spec(
        &self,
        spec: &SandboxSpec,
        base: &Base,
        directory: &Path,
        scratch: Option<&Scratch>,
        way: Way,
    ) -> Result<MachineSpec, EngineError> {
        let contents = Contents { kind: way.kind, scratch: spec.disk.is_some() };
        Ok(MachineSpec {
            directory: directory.to_owned(),
            qemu: base.qemu.clone(),
            kind: way.kind,
            accelerator: way.accelerator,
            cpus: spec.cpus,
            memory: spec.memory,
            kernel: base.image.kernel(),
            initramfs: initramfs::prepare(&self.directories.cache(), &base.image, contents)?,
            command_line: words(spec),
            disks: disks(&base.image, scratch),
            ports: ports(),
            lifetime: Lifetime::WithOwner,
            confinement: Confinement::Strongest,
            launcher: self.launcher.clone(),
        })
    }
}

/// What the agent is told on its kernel's command line.
fn words(spec: &SandboxSpec) -> Vec<String> {
    let scratch = spec.disk.map(|_| "hearth.scratch");
    let dialects = spec.dialects.map(|_| dialects::WORD);
    scratch.into_iter().chain(dialects).map(str::to_owned).collect()
}

/// The ports of every machine.
pub(crate) fn ports() -> Vec<PortName> {
    [CONTROL_PORT, BULK_PORT].map(port_name).to_vec()
}

fn port_name(name: &str) -> PortName {
    PortName::new(name).expect("the protocol's port names are well-formed")
}

impl Engine {
    /// Starts a QEMU in a sandbox's place, for a guest that lies on this memory of a template's.
    pub(crate) async fn start_waiting(
        &self,
        spec: &SandboxSpec,
        base: &Base,
        place: &Place,
        way: Way,
        ram: Arc<SealedRam>,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Standby, EngineError> {
        let directory = &place.directory;
        let machine = self.machine_spec(spec, base, directory.path(), place.scratch.as_ref(), way)?;
        let machine = MachineSpec { lifetime: directory.lifetime(), ..machine };
        directory.note_groups(&groups_of(directory.path()));
        Ok(Machine::stand_by(machine, ram, checkpoint).await?)
    }
}

/// Lets a saved guest go on in a QEMU that waits for it, as the sandbox with this id.
pub(crate) async fn go_on(
    waiting: Standby,
    id: &SandboxId,
    given: &Given,
    origin: Origin,
    phases: &mut Phases,
) -> Result<(Machine, Channel), EngineError> {
    let Origin { template, saved, renew: renewal, quiet, .. } = origin;
    let way = template.way;
    // A template's one process, the interpreter that waits, was not frozen.
    let is_frozen = saved.changes.is_some();
    let machine = waiting.go_on(saved).await?;
    phases.note(Phase::Started);
    let first_answer = async {
        let channel = match quiet {
            true => resume(&machine)?,
            false => connect(&machine).await.inspect(|_| phases.note(Phase::Connected))?,
        };
        let renewing = renew(&channel, id, renewal, given);
        if is_frozen {
            // The agent hears of the second when the first is done; where that fails the machine ends.
            let (renewed, thawed) = tokio::join!(renewing, channel.thaw());
            renewed?;
            thawed.map_err(|source| EngineError::Channel { what: "let the guest's processes go on", source })?;
        } else {
            renewing.await?;
        }
        if quiet {
            phases.note(Phase::Connected);
        }
        Ok(channel)
    };
    // Its console has nothing to say, so only the time bounds the wait.
    let answered = tokio::time::timeout(TCG_SILENCE, or_end(&machine, way.accelerator, first_answer)).await;
    match answered.unwrap_or_else(|_| Err(silent(way.accelerator, "restored"))) {
        Ok(channel) => {
            phases.note(Phase::Ready);
            Ok((machine, channel))
        }
        Err(error) => {
            // Its place is somebody's next, who may start another there.
            let _ = tokio::time::timeout(DEATH, machine.kill()).await;
            Err(error)
        }
    }
}

/// The error of a machine whose console has nothing to say, and whose agent does not answer either.
pub(crate) fn silent(accelerator: Accelerator, after_being: &str) -> EngineError {
    let what = format!("its agent did not answer within {} s of being {after_being}", TCG_SILENCE.as_secs());
    EngineError::Boot { accelerator: name(accelerator), what, console: String::new(), silent: true }
}

/// Makes a guest that of the sandbox with this id.
pub(crate) async fn renew(
    channel: &Channel,
    id: &SandboxId,
    renewal: Renewal,
    given: &Given,
) -> Result<(), EngineError> {
    let sent = Instant::now();
    let renewed = channel.renew(id.renew(renewal, given)).await;
    renewed.map_err(|source| EngineError::Channel { what: "make the guest its own", source })?;
    if sent.elapsed() <= CLOCK_LAG { Ok(()) } else { set_clock(channel).await }
}

/// Sets the guest's clock, again where that took so long that it was late when it was set. On a host that is busy beyond measure it stays so.
pub(crate) async fn set_clock(channel: &Channel) -> Result<(), EngineError> {
    for _ in 0..CLOCK_TRIES {
        let sent = Instant::now();
        let set = channel.renew(identity::time()).await;
        set.map_err(|source| EngineError::Channel { what: "set the guest's clock", source })?;
        if sent.elapsed() <= CLOCK_LAG {
            break;
        }
    }
    Ok(())
}

async fn boot_once(
    machine: MachineSpec,
    boot: Boot<'_>,
    phases: &mut Phases,
) -> Result<(Machine, Channel), EngineError> {
    let (accelerator, directory) = (machine.accelerator, &boot.place.directory);
    directory.note_groups(&groups_of(directory.path()));
    let machine = Machine::start(machine).await?;
    phases.note(Phase::Started);
    let channel = match reach(&machine, accelerator).await {
        Ok(channel) => channel,
        Err(error) => {
            // Killed it is in any case; a guest that spins in a broken KVM has been seen to take a minute to die of it.
            let _ = tokio::time::timeout(DEATH, machine.kill()).await;
            return Err(error);
        }
    };
    phases.note(Phase::Connected);
    renew(&channel, directory.id(), boot.renewal, &boot.spec.given).await?;
    phases.note(Phase::Ready);
    Ok((machine, channel))
}

/// Waits until the agent has answered, the guest has fallen silent, or QEMU has ended.
async fn reach(machine: &Machine, accelerator: Accelerator) -> Result<Channel, EngineError> {
    let silence = if accelerator == Accelerator::Kvm { KVM_SILENCE } else { TCG_SILENCE };
    tokio::select! {
        answered = answer(machine, accelerator) => answered,
        stall = machine.console().stalled(silence, silence) => {
            Err(fell_silent(accelerator, stall, &machine.console().tail()))
        }
    }
}

/// Waits until the agent has answered, or QEMU has ended.
pub(crate) async fn answer(machine: &Machine, accelerator: Accelerator) -> Result<Channel, EngineError> {
    or_end(machine, accelerator, connect(machine)).await
}

/// Waits for `answer`, or QEMU's end.
async fn or_end(
    machine: &Machine,
    accelerator: Accelerator,
    answer: impl Future<Output = Result<Channel, EngineError>>,
) -> Result<Channel, EngineError> {
    tokio::select! {
        answered = answer => match answered {
            // The first sign of a QEMU that ends may be its end of the connection; its exit then says more.
            Err(error) => match tokio::time::timeout(EXIT_AFTER_HANG_UP, machine.exited()).await {
                Ok(exit) => Err(ended(accelerator, &exit)),
                Err(_) => Err(error),
            },
            answered => answered,
        },
        exit = machine.exited() => Err(ended(accelerator, &exit)),
    }
}

fn ended(accelerator: Accelerator, exit: &Exit) -> EngineError {
    let what = match exit.status.is_some_and(|status| status.success()) {
        true => "it restarted before its agent answered".to_owned(),
        false => format!("QEMU ended ({}) {}", describe(exit), printable(&exit.stderr).trim_end()),
    };
    EngineError::Boot { accelerator: name(accelerator), what, console: printable(&exit.console), silent: false }
}

fn fell_silent(accelerator: Accelerator, stall: Stall, console: &[u8]) -> EngineError {
    let silence = stall.silent_for.as_secs();
    let what = match stall.bytes_seen {
        0 => format!("it said nothing at all for {silence} s"),
        _ => format!("it fell silent for {silence} s"),
    };
    EngineError::Boot { accelerator: name(accelerator), what, console: printable(console), silent: true }
}

/// The bounds on waiting for a machine's agent.
fn patience() -> ConnectOptions {
    ConnectOptions { timeout: BOOT, ..ConnectOptions::default() }
}

pub(crate) async fn connect(machine: &Machine) -> Result<Channel, EngineError> {
    let endpoints = endpoints(machine);
    let connected = match earlier_connections(machine, &endpoints)? {
        Some((control, bulk)) => Channel::over(control, bulk, patience()).await,
        None => Channel::connect(&endpoints, patience()).await,
    };
    connected.map_err(|source| EngineError::Channel { what: "reach the agent", source })
}

/// Goes on with the session that a restored guest was saved in.
pub(crate) fn resume(machine: &Machine) -> Result<Channel, EngineError> {
    let connections = earlier_connections(machine, &endpoints(machine))?;
    let (control, bulk) = connections.expect("a restored machine's ports are connected before it starts");
    Ok(Channel::resume(control, bulk, patience()))
}

fn endpoints(machine: &Machine) -> Endpoints {
    let endpoint = |port: &str| Endpoint::Unix {
        path: machine.port_path(&port_name(port)).expect("the machine was given this port").to_owned(),
        expected_uid: rustix::process::geteuid().as_raw(),
    };
    Endpoints { control: endpoint(CONTROL_PORT), bulk: endpoint(BULK_PORT) }
}

/// The connections to a restored machine's ports that were made before QEMU was there.
fn earlier_connections(
    machine: &Machine,
    endpoints: &Endpoints,
) -> Result<Option<(Connection, Connection)>, EngineError> {
    let [control, bulk] = [CONTROL_PORT, BULK_PORT].map(|name| machine.take_port(&port_name(name)));
    let (Some(control), Some(bulk)) = (control, bulk) else { return Ok(None) };
    let connections = Connection::try_from(control).and_then(|control| Ok((control, bulk.try_into()?)));
    connections.map(Some).map_err(|source| {
        let source = ConnectError::Dial { endpoint: endpoints.control.to_string(), source }.into();
        EngineError::Channel { what: "reach the agent", source }
    })
}

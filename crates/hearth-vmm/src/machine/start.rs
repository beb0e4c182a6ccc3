//! Starting a machine, in phases each of which undoes itself when dropped: files are opened, sockets made, QEMU launched,
//! control and console taken hold of, and only then the guest set going: from its kernel, or from where a saved one was.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::geteuid;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{OnceCell, watch};

use super::exit::{Followed, STDERR_TAIL, supervise};
use super::files::Files;
use super::note::{Held, Note};
use super::{Exit, Machine, MachineError, Ram, Sockets};
use crate::checkpoint::{Checkpoint, Passed, Which};
use crate::command_line::{self, Descriptors, GuestSource, Host, TRANSLATION_CACHE_MIB};
use crate::console::{CONSOLE_TAIL, Console};
use crate::jail::{self, Becomes, CgroupLimits, FIRST_QEMU_FD, JailLevel, JailReport, Plan};
use crate::launch::{Launch, Launched, launch};
use crate::process::ProcessRecord;
use crate::qmp::{Qmp, QmpError};
use crate::saved::{Changes, DeltaError, Mapping, Resting, SealedRam, read_pages};
use crate::sockets::{self, Listener, SocketError, connect_checked};
use crate::spec::{Accelerator, Lifetime, MachineSpec, PortName};

/// QEMU's own memory beyond the guest's and the translation cache, with room to spare: it has some 60 MiB.
const OVERHEAD_MIB: u64 = 512;

pub(super) async fn start(spec: &MachineSpec) -> Result<Machine, MachineError> {
    let as_root = check(spec)?;
    let files = Files::to_boot(spec, as_root)?;
    let memory = files.memory().map_err(|source| MachineError::System { doing: "duplicate a descriptor", source })?;
    let guest = GuestSource::Boot { kernel: (), initramfs: () };
    let running = launch_with(spec, guest, files).await?;
    let waiting = hold(spec, running, Ram::Booted(memory)).await?;
    waiting
        .set_going(async |machine| {
            machine.qmp().await?.execute("cont", None).await?;
            Ok(())
        })
        .await
}

/// Starts a QEMU for a guest that was saved: it has the memory, and waits for the devices' state. The QEMU of a checkpoint has that as well.
pub(super) async fn stand_by(
    spec: &MachineSpec,
    ram: Arc<SealedRam>,
    checkpoint: Option<&Checkpoint>,
) -> Result<Standby, MachineError> {
    check(spec)?;
    if ram.size() != spec.memory.bytes() {
        return Err(MachineError::SavedSize { saved: ram.size() >> 20, spec: spec.memory.mib() });
    }
    let failed = |source| MachineError::System { doing: "make a pipe", source };
    if let Some(checkpoint) = checkpoint {
        let (passed, gate) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let running = launch_checkpoint(spec, &ram, checkpoint, passed).await?;
        let waiting = hold(spec, running, Ram::Restored(ram.clone())).await?;
        return Ok(Standby { waiting, ram, feed: Feed::Gate { gate, has_changes: checkpoint.is_of_running() } });
    }
    let (feed, state) = StateFeed::new()?;
    let files = Files::to_restore(spec, &ram, state)?;
    let running = launch_with(spec, GuestSource::Saved { state: () }, files).await?;
    let waiting = hold(spec, running, Ram::Restored(ram.clone())).await?;
    Ok(Standby { waiting, ram, feed: Feed::State(feed) })
}

/// A QEMU that was started ahead of the guest that is to go on in it. It has a template's memory, and uses no processor time.
///
/// It ends when this is dropped, and also with its owner, whatever its lifetime: nobody is left then who could tell it how to go on.
#[derive(Debug)]
pub struct Standby {
    waiting: Waiting,
    ram: Arc<SealedRam>,
    feed: Feed,
}

/// What a QEMU waits for.
#[derive(Debug)]
enum Feed {
    /// The devices' state.
    State(StateFeed),
    /// A byte: it has the state already, for it is as it was when the checkpoint was taken.
    Gate { gate: OwnedFd, has_changes: bool },
}

impl Standby {
    /// Lets a guest go on in it whose template is the one that it has the memory of. The guest goes on when QEMU has its devices' state, which
    /// is held back until QEMU is confined, and until the pages that the guest had changed, if there are any, are in place: QEMU checks the
    /// state against the guest's memory. Without them nothing is asked of QEMU.
    ///
    /// # Errors
    /// As [`Machine::restore`], and [`MachineError::OtherMemory`].
    pub async fn go_on(self, resting: impl Into<Resting>) -> Result<Machine, MachineError> {
        let Self { waiting, ram, feed } = self;
        let Resting { ram: saved, devices, changes } = resting.into();
        let is_complete = match &feed {
            Feed::State(_) => true,
            Feed::Gate { has_changes, .. } => changes.is_some() == *has_changes,
        };
        if !Arc::ptr_eq(&ram, &saved) || !is_complete {
            waiting.machine.kill().await;
            return Err(MachineError::OtherMemory);
        }
        let feed = match feed {
            Feed::Gate { gate, .. } => {
                let set_going = async |machine: &Machine| {
                    if let Some(changes) = changes {
                        write_changes(machine.pid, ram, changes).await?;
                    }
                    // One that has ended has no use for it, which its exit says.
                    let _ = rustix::io::write(&gate, b"g");
                    machine.proceed().await
                };
                return waiting.set_going(set_going).await;
            }
            Feed::State(feed) => feed,
        };
        let Some(changes) = changes else {
            feed.begin(devices);
            return waiting.set_going(async |_| Ok(())).await;
        };
        waiting
            .set_going(async |machine| {
                // Its first word means that it has mapped the memory and waits for the state.
                machine.qmp().await?;
                write_changes(machine.pid, ram, changes).await?;
                feed.begin(devices);
                Ok(())
            })
            .await
    }

    /// Waits until QEMU has begun, and waits.
    ///
    /// # Errors
    /// As [`Machine::start`]: it may have refused what it was given.
    pub async fn until_waiting(&self) -> Result<(), MachineError> {
        let machine = &self.waiting.machine;
        let Err(error) = machine.qmp().await else { return Ok(()) };
        machine.killer.kill();
        Err(explained(error, machine.exited().await))
    }

    /// Waits until QEMU has ended by itself and all that it left was removed.
    pub async fn exited(&self) -> Exit {
        self.waiting.machine.exited().await
    }

    /// Ends it, and returns when nothing of it is left.
    pub async fn kill(self) -> Exit {
        self.waiting.machine.kill().await
    }
}

/// What can be refused is refused here. Returns whether QEMU gets a user of its own.
fn check(spec: &MachineSpec) -> Result<bool, MachineError> {
    spec.check()?;
    sockets::check_directory(&spec.directory)?;
    Ok(geteuid().is_root())
}

/// A QEMU that has just been started, with what it was given.
struct Running {
    launched: Launched,
    sockets: Sockets,
    stderr: Followed,
    user: Option<u32>,
    clients: Clients,
    /// The number that QEMU has the guest's memory under.
    memory: RawFd,
}

/// Connections that were made before QEMU was there to take them up.
#[derive(Default)]
struct Clients {
    control: Option<UnixStream>,
    console: Option<UnixStream>,
    ports: Vec<(PortName, UnixStream)>,
}

async fn launch_with(spec: &MachineSpec, guest: GuestSource<()>, files: Files) -> Result<Running, MachineError> {
    let user = geteuid().is_root().then(|| jail::dedicated_user(&spec.directory));
    let numbers = Descriptors::numbered(FIRST_QEMU_FD, spec, guest);
    let arguments = command_line::arguments(spec, &numbers, &Host::this())?;
    let becomes = Becomes::Program { path: spec.qemu.path().to_owned(), arguments };
    let plan = plan(spec, user, &files, numbers.count(), files.reopened(&numbers), becomes);
    let listeners = Listeners::bind(spec)?;
    let clients = match guest {
        GuestSource::Boot { .. } => Clients::default(),
        GuestSource::Saved { .. } => listeners.connect().await?,
    };
    let descriptors = listeners.with_files(files)?;
    begin(spec, plan, descriptors, listeners, clients, numbers.memory).await
}

/// A machine that begins as the QEMU of a checkpoint: its guest's memory is the one that it was taken with, and its guest stands still.
async fn launch_checkpoint(
    spec: &MachineSpec,
    ram: &SealedRam,
    checkpoint: &Checkpoint,
    gate: OwnedFd,
) -> Result<Running, MachineError> {
    let user = geteuid().is_root().then(|| jail::dedicated_user(&spec.directory));
    let duplicated = |source| MachineError::System { doing: "duplicate a descriptor", source };
    let files = Files::of_checkpoint(spec, ram)?;
    let listeners = Listeners::bind(spec)?;
    let (mut clients, mut ends) = (Clients::default(), Vec::new());
    for which in checkpoint.passed().iter().filter_map(|passed| passed.connection()) {
        let (client, end) = listeners.of(which)?.connected().await?;
        match which {
            Which::Control => clients.control = Some(client),
            Which::Console => clients.console = Some(client),
            Which::Port(index) => clients.ports.push((spec.ports[index].clone(), client)),
        }
        ends.push((which, end));
    }
    let mut descriptors = Vec::new();
    for passed in checkpoint.passed() {
        let borrowed = match passed {
            Passed::Gate => gate.as_fd(),
            Passed::Pages => checkpoint.pages(),
            Passed::Own => checkpoint.own().ok_or(MachineError::OtherCheckpoint)?,
            Passed::Memory => ram.as_fd(),
            Passed::Layer { disk, layer } => files.layer(spec, *disk, *layer).ok_or(MachineError::OtherCheckpoint)?,
            Passed::Socket { which, is_connected: false } => listeners.of(*which)?.as_fd(),
            Passed::Socket { which, is_connected: true } => {
                let end = ends.iter().find(|(known, _)| known == which).map(|(_, end)| end.as_fd());
                end.ok_or(MachineError::OtherCheckpoint)?
            }
        };
        descriptors.push(borrowed.try_clone_to_owned().map_err(duplicated)?);
    }
    descriptors.push(checkpoint.script().try_clone_to_owned().map_err(duplicated)?);
    let count = descriptors.len() as i32;
    let plan = plan(spec, user, &files, count, Vec::new(), Becomes::Checkpoint(checkpoint.layout().clone()));
    drop((files, ends, gate));
    begin(spec, plan, descriptors, listeners, clients, checkpoint.memory()).await
}

async fn begin(
    spec: &MachineSpec,
    plan: Plan,
    descriptors: Vec<OwnedFd>,
    listeners: Listeners,
    clients: Clients,
    memory: RawFd,
) -> Result<Running, MachineError> {
    let user = plan.user;
    let (stderr, output) = output_pipe()?;
    let (launcher, confinement) = (&spec.launcher, spec.confinement);
    let note_in = (spec.lifetime == Lifetime::Detached).then(|| spec.directory.clone());
    let limits = limits(spec);
    let launched = launch(Launch { launcher, confinement, plan, output, descriptors, note_in, limits }).await?;
    let (stream, task) = Console::follow(stderr, STDERR_TAIL);
    let stderr = Followed { stream, task };
    Ok(Running { launched, sockets: listeners.handed_over(), stderr, user, clients, memory })
}

/// The way of the devices' state into a QEMU: a socket, so that a QEMU whose owner ends before it has all of it ends too. Of a pipe's
/// end it would never hear.
#[derive(Debug)]
struct StateFeed {
    socket: UnixStream,
}

impl StateFeed {
    /// Also returns the end that QEMU reads.
    fn new() -> Result<(Self, OwnedFd), MachineError> {
        let failed = |source| MachineError::System { doing: "make a pair of sockets", source };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        Ok((Self { socket: UnixStream::from_std(ours).map_err(failed)? }, theirs.into()))
    }

    /// Writes all of it, and ends it. A QEMU that ends breaks the connection, which ends this; its exit says more.
    fn begin(self, devices: Arc<[u8]>) {
        let mut socket = self.socket;
        tokio::spawn(async move { drop(socket.write_all(&devices).await) });
    }
}

async fn write_changes(pid: u32, ram: Arc<SealedRam>, changes: Changes) -> Result<(), MachineError> {
    let guest_memory = |source| MachineError::GuestMemory { source };
    let wanted = Arc::new(());
    let is_wanted = Arc::downgrade(&wanted);
    let write = move || {
        let mapping = Mapping::find(pid, &ram).map_err(guest_memory)?;
        match changes {
            Changes::Held(delta) => mapping.write(delta.runs(), delta.content()).map_err(guest_memory),
            Changes::Written { path, input } => {
                // Reading may take long. Once nobody waits for this QEMU may be gone, and its number another's.
                let read = read_pages(input, ram.size(), |runs, bytes| match is_wanted.strong_count() {
                    0 => Err(io::ErrorKind::Interrupted.into()),
                    _ => mapping.write(runs, bytes),
                });
                read.map_err(|error| match error {
                    DeltaError::Write { source } => guest_memory(source),
                    source => MachineError::Changes { path, source },
                })
            }
        }
    };
    let written = tokio::task::spawn_blocking(write).await;
    drop(wanted);
    written.unwrap_or_else(|error| Err(guest_memory(io::Error::other(error))))
}

fn limits(spec: &MachineSpec) -> CgroupLimits {
    let cache_mib = if spec.accelerator == Accelerator::Tcg { TRANSLATION_CACHE_MIB } else { 0 };
    CgroupLimits::of(&spec.directory, spec.memory.bytes() + ((cache_mib + OVERHEAD_MIB) << 20))
}

fn plan(
    spec: &MachineSpec,
    user: Option<u32>,
    files: &Files,
    descriptors: i32,
    reopened: Vec<RawFd>,
    becomes: Becomes,
) -> Plan {
    Plan {
        // The launch decides.
        level: JailLevel::Namespaces,
        mount_point: spec.directory.clone(),
        user,
        installation: spec.qemu.installation(),
        reopened,
        kvm: spec.accelerator == Accelerator::Kvm,
        with_owner: spec.lifetime == Lifetime::WithOwner,
        file_size: files.largest_writable(),
        descriptors,
        becomes,
    }
}

/// The machine's sockets while QEMU does not have them yet.
struct Listeners {
    control: Listener,
    console: Listener,
    ports: Vec<Listener>,
    names: Vec<PortName>,
}

impl Listeners {
    fn bind(spec: &MachineSpec) -> Result<Self, SocketError> {
        let path = |name: &str| spec.directory.join(format!("{name}.sock"));
        // All lengths are checked before the first is made.
        let mut names = ["qmp", "console"].into_iter().chain(spec.ports.iter().map(|port| port.as_str()));
        names.try_for_each(|name| sockets::check_length(&path(name)))?;
        let ports = spec.ports.iter().map(|port| Listener::bind(path(port.as_str())));
        Ok(Self {
            control: Listener::bind(path("qmp"))?,
            console: Listener::bind(path("console"))?,
            ports: ports.collect::<Result<_, _>>()?,
            names: spec.ports.clone(),
        })
    }

    /// Connects to all but the control socket. The connections wait with the listeners.
    async fn connect(&self) -> Result<Clients, SocketError> {
        let console = connect_checked(self.console.path()).await?;
        let mut clients = Clients { control: None, console: Some(console), ports: Vec::new() };
        for (name, port) in self.names.iter().zip(&self.ports) {
            clients.ports.push((name.clone(), connect_checked(port.path()).await?));
        }
        Ok(clients)
    }

    fn of(&self, which: Which) -> Result<&Listener, MachineError> {
        let listener = match which {
            Which::Control => Some(&self.control),
            Which::Console => Some(&self.console),
            Which::Port(index) => self.ports.get(index),
        };
        listener.ok_or(MachineError::OtherCheckpoint)
    }

    /// QEMU's descriptors in the order of [`Descriptors`].
    fn with_files(&self, files: Files) -> Result<Vec<OwnedFd>, MachineError> {
        let listeners = [&self.control, &self.console].into_iter().chain(&self.ports);
        let copies = listeners.map(|listener| listener.as_fd().try_clone_to_owned());
        let copies: Result<Vec<_>, _> = copies.collect();
        let mut descriptors = copies.map_err(|source| MachineError::System { doing: "duplicate a socket", source })?;
        descriptors.extend(files.into_descriptors());
        Ok(descriptors)
    }

    /// Closes this process's copies: from now on a dead QEMU means a refused or broken connection.
    fn handed_over(self) -> Sockets {
        let ports = self.ports.into_iter().map(Listener::handed_over);
        Sockets {
            control: self.control.handed_over(),
            console: self.console.handed_over(),
            ports: self.names.into_iter().zip(ports).collect(),
        }
    }
}

fn output_pipe() -> Result<(pipe::Receiver, OwnedFd), MachineError> {
    let failed = |source| MachineError::System { doing: "make a pipe", source };
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    Ok((pipe::Receiver::from_owned_fd(read).map_err(failed)?, write))
}

/// A QEMU that runs and does nothing yet.
#[derive(Debug)]
struct Waiting {
    machine: Machine,
    directory: PathBuf,
    /// The number that QEMU has the guest's memory under.
    memory: RawFd,
}

/// From here on QEMU runs. Whatever fails, the supervisor sees it out.
async fn hold(spec: &MachineSpec, running: Running, ram: Ram) -> Result<Waiting, MachineError> {
    let Running { launched: Launched { child, level, gaps, groups }, sockets, stderr, user, clients, memory } = running;
    let killer = child.killer().map_err(|source| MachineError::System { doing: "duplicate a descriptor", source })?;
    let pid = child.pid();
    let connection = match clients.console {
        Some(stream) => Ok(stream),
        None => connect_checked(sockets.console.path()).await,
    };
    let (console, followed) = match connection {
        Ok(stream) => {
            let (stream, task) = Console::follow(stream, CONSOLE_TAIL);
            (Ok(stream.clone()), Some(Followed { stream, task }))
        }
        Err(error) => (Err(error), None),
    };
    let mut ended = supervise(child, Some(stderr), followed, groups);
    let console = match console {
        Ok(console) => console,
        Err(error) => {
            killer.kill();
            return Err(explained(error.into(), end_of(&mut ended).await));
        }
    };
    let machine = Machine {
        pid,
        jail: JailReport { level, missing: gaps, uid: user.unwrap_or(geteuid().as_raw()) },
        lifetime: spec.lifetime,
        qmp: OnceCell::new_with(clients.control.map(Qmp::resume)),
        console,
        sockets,
        clients: Mutex::new(clients.ports),
        ram,
        killer,
        ended,
        released: false,
    };
    Ok(Waiting { machine, directory: spec.directory.clone(), memory })
}

impl Waiting {
    /// Sets its guest going.
    async fn set_going(
        self,
        set_going: impl AsyncFnOnce(&Machine) -> Result<(), MachineError>,
    ) -> Result<Machine, MachineError> {
        let Self { machine, directory, memory } = self;
        let mut ended = machine.ended.clone();
        let going = async {
            set_going(&machine).await?;
            if machine.lifetime == Lifetime::Detached {
                note(&directory, &machine, memory)?;
            }
            Ok(())
        };
        let outcome = tokio::select! {
            outcome = going => outcome,
            exit = end_of(&mut ended) => Err(MachineError::Died(Box::new(exit))),
        };
        match outcome {
            Ok(()) => Ok(machine),
            Err(error) => {
                machine.killer.kill();
                Err(explained(error, end_of(&mut ended).await))
            }
        }
    }
}

/// Notes all that whoever takes the machine over has to know.
fn note(directory: &Path, machine: &Machine, descriptor: RawFd) -> Result<(), MachineError> {
    let noted = || {
        let held = Held { jail: machine.jail.clone(), memory: machine.ram.noted(descriptor)? };
        Note { process: ProcessRecord::of(machine.pid)?, held: Some(held) }.write(directory)
    };
    noted().map_err(|source| MachineError::System { doing: "note what the machine is", source })
}

/// Connects to the control socket.
pub(super) async fn control(sockets: &Sockets) -> Result<Qmp, MachineError> {
    Ok(Qmp::open(connect_checked(sockets.control.path()).await?).await?)
}

async fn end_of(ended: &mut watch::Receiver<Option<Exit>>) -> Exit {
    let exit = ended.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
    exit.unwrap_or_else(Exit::unknown)
}

/// A QEMU that dies closes its sockets first; its own words then say more than the broken connection.
fn explained(error: MachineError, exit: Exit) -> MachineError {
    match error {
        MachineError::Control(QmpError::Closed { .. }) | MachineError::Socket(SocketError::Connect { .. }) => {
            MachineError::Died(Box::new(exit))
        }
        error => error,
    }
}

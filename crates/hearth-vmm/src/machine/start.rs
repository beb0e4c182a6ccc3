//! Starting a machine, in phases each of which undoes itself when dropped: files are opened, sockets made, QEMU launched,
//! control and console taken hold of, and only then the guest set going.

use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::geteuid;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::exit::{Followed, STDERR_TAIL, supervise};
use super::files::Files;
use super::{Exit, Machine, MachineError, Sockets};
use crate::command_line::{self, Descriptors, Host, TRANSLATION_CACHE_MIB};
use crate::console::{CONSOLE_TAIL, Console};
use crate::jail::{self, CgroupLimits, FIRST_QEMU_FD, JailLevel, JailReport, Plan};
use crate::launch::{Launch, Launched, launch};
use crate::qmp::{Qmp, QmpError};
use crate::sockets::{self, Listener, SocketError, connect_checked};
use crate::spec::{Accelerator, Lifetime, MachineSpec, PortName};

/// QEMU's own memory beyond the guest's and the translation cache, with room to spare: it has some 60 MiB.
const OVERHEAD_MIB: u64 = 512;

pub(super) async fn start(spec: &MachineSpec) -> Result<Machine, MachineError> {
    spec.check()?;
    sockets::check_directory(&spec.directory)?;
    let user = geteuid().is_root().then(|| jail::dedicated_user(&spec.directory));
    let numbers = Descriptors::numbered(FIRST_QEMU_FD, spec.ports.len(), spec.disks.len());
    let arguments = command_line::arguments(spec, &numbers, &Host::this())?;
    let files = Files::open(spec, user.is_some())?;
    let plan = plan(spec, user, &numbers, &files, arguments);
    let listeners = Listeners::bind(spec)?;
    let (stderr, output) = output_pipe()?;
    let descriptors = listeners.with_files(files)?;
    let (launcher, confinement) = (&spec.launcher, spec.confinement);
    let launched = launch(Launch { launcher, confinement, plan, output, descriptors }).await?;
    let (stream, task) = Console::follow(stderr, STDERR_TAIL);
    take_hold(spec, user, listeners.handed_over(), launched, Followed { stream, task }).await
}

fn plan(spec: &MachineSpec, user: Option<u32>, numbers: &Descriptors, files: &Files, arguments: Vec<String>) -> Plan {
    let cache_mib = if spec.accelerator == Accelerator::Tcg { TRANSLATION_CACHE_MIB } else { 0 };
    let memory_bytes = spec.memory.bytes() + ((cache_mib + OVERHEAD_MIB) << 20);
    Plan {
        // The launch decides.
        level: JailLevel::Namespaces,
        mount_point: spec.directory.clone(),
        user,
        installation: spec.qemu.installation(),
        reopened: files.reopened(numbers),
        kvm: spec.accelerator == Accelerator::Kvm,
        with_owner: spec.lifetime == Lifetime::WithOwner,
        cgroup: CgroupLimits::below_own(&spec.directory, memory_bytes),
        file_size: files.largest_writable(),
        descriptors: numbers.count(),
        program: Some(spec.qemu.path().to_owned()),
        arguments,
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

/// From here on QEMU runs. Whatever fails, the supervisor sees it out.
async fn take_hold(
    spec: &MachineSpec,
    user: Option<u32>,
    sockets: Sockets,
    launched: Launched,
    stderr: Followed,
) -> Result<Machine, MachineError> {
    let Launched { child, level, prepared } = launched;
    let killer = child.killer().map_err(|source| MachineError::System { doing: "duplicate a descriptor", source })?;
    let pid = child.pid();
    let connection = connect_checked(sockets.console.path()).await;
    let (console, followed) = match connection {
        Ok(stream) => {
            let (stream, task) = Console::follow(stream, CONSOLE_TAIL);
            (Ok(stream.clone()), Some(Followed { stream, task }))
        }
        Err(error) => (Err(error), None),
    };
    let cgroups = prepared.cgroups;
    let mut ended = supervise(child, stderr, followed, cgroups.clone());
    let going = async { Ok((console?, set_going(&sockets).await?)) };
    let outcome = tokio::select! {
        outcome = going => outcome,
        exit = end_of(&mut ended) => Err(MachineError::Died(Box::new(exit))),
    };
    let (console, qmp) = match outcome {
        Ok(held) => held,
        Err(error) => {
            killer.kill();
            return Err(explained(error, end_of(&mut ended).await));
        }
    };
    let jail = JailReport { level, missing: prepared.gaps, uid: user.unwrap_or(geteuid().as_raw()) };
    Ok(Machine { pid, jail, lifetime: spec.lifetime, qmp, console, sockets, cgroups, killer, ended, released: false })
}

/// Connects to the control socket and lets the guest's processors run.
async fn set_going(sockets: &Sockets) -> Result<Qmp, MachineError> {
    let qmp = Qmp::open(connect_checked(sockets.control.path()).await?).await?;
    qmp.execute("cont", None).await?;
    Ok(qmp)
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

//! A running machine and its end.
//!
//! One task, the supervisor, owns the QEMU process: it takes note of its end, reads what was still to be read, removes what the
//! machine had made, and publishes the [`Exit`]. A [`Machine`] is the handle; dropping it kills.

mod adopt;
mod error;
mod exit;
mod files;
mod note;
mod save;
mod start;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{OnceCell, watch};

pub use adopt::{Adoption, noted_ram};
pub use error::MachineError;
pub use exit::{Exit, STDERR_TAIL};
pub(crate) use note::Note;
pub use note::end_noted;
pub use save::{PreparedCapture, PreparedOverlay, PreparedRunning};
pub use start::Standby;

use crate::checkpoint::Checkpoint;
use crate::console::{Console, Stall};
use crate::jail::JailReport;
use crate::memory::{self, HostMemory};
use crate::process::Killer;
use crate::qmp::Qmp;
use crate::saved::{Resting, SealedRam};
use crate::sockets::SocketFile;
use crate::spec::{Lifetime, MachineSpec, PortName};

/// How long QEMU may take to leave when asked; then it is killed.
const QUIT_PATIENCE: Duration = Duration::from_secs(2);

/// A QEMU that runs a guest in its jail.
#[derive(Debug)]
pub struct Machine {
    pid: u32,
    jail: JailReport,
    lifetime: Lifetime,
    /// Connected when it is first needed: a machine is restored without a word.
    qmp: OnceCell<Qmp>,
    console: Console,
    sockets: Sockets,
    /// The owner's ends of the ports that were connected before QEMU was there, until they are taken.
    clients: Mutex<Vec<(PortName, UnixStream)>>,
    ram: Ram,
    killer: Killer,
    ended: watch::Receiver<Option<Exit>>,
    /// Whether QEMU is to be left running when this is dropped.
    released: bool,
}

/// The guest's memory, as the owner holds it.
#[derive(Debug)]
enum Ram {
    /// Its own file, which it writes to.
    Booted(OwnedFd),
    /// A template's, which it has mapped privately.
    Restored(Arc<SealedRam>),
}

/// The files of the machine's sockets, removed with it.
#[derive(Debug)]
struct Sockets {
    control: SocketFile,
    console: SocketFile,
    ports: Vec<(PortName, SocketFile)>,
}

impl Machine {
    /// Starts a machine and its guest, and returns as soon as the guest's processors run.
    ///
    /// The control socket is `qmp.sock` in the spec's directory, the console `console.sock`, a port `NAME.sock`.
    ///
    /// # Errors
    /// Everything that can be checked is checked before anything is created. When QEMU ends during the start, the error
    /// comes at once and carries what it said. Nothing is left behind.
    pub async fn start(spec: MachineSpec) -> Result<Self, MachineError> {
        start::start(&spec).await
    }

    /// Starts a machine that goes on from where a saved one was, and returns as soon as QEMU has all it needs for that. That the guest
    /// runs its agent's answer shows; state that QEMU does not take ends it, which [`Machine::exited`] tells.
    ///
    /// The spec must be that of the saved machine but for its directory, lifetime and the paths of its disks ([`MachineSpec::fingerprint`]).
    ///
    /// # Errors
    /// As [`Machine::start`]; [`MachineError::SavedSize`], [`MachineError::GuestMemory`] and [`MachineError::Changes`].
    pub async fn restore(spec: MachineSpec, resting: impl Into<Resting>) -> Result<Self, MachineError> {
        let resting = resting.into();
        Self::stand_by(spec, resting.ram.clone(), None).await?.go_on(resting).await
    }

    /// Starts a QEMU for such a guest ahead; from a checkpoint, which was taken with this memory, of such a machine, for a guest of no
    /// changes, or of those that were taken with it.
    ///
    /// # Errors
    /// As [`Machine::start`]; [`MachineError::SavedSize`], [`MachineError::OtherCheckpoint`].
    pub async fn stand_by(
        spec: MachineSpec,
        ram: Arc<SealedRam>,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Standby, MachineError> {
        start::stand_by(&spec, ram, checkpoint).await
    }

    /// Returns QEMU's process id as the owner sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns how QEMU is confined.
    pub fn jail(&self) -> &JailReport {
        &self.jail
    }

    /// Returns the control connection.
    ///
    /// # Errors
    /// [`MachineError::Socket`] and [`MachineError::Control`] when it must be made first and cannot be.
    pub async fn qmp(&self) -> Result<&Qmp, MachineError> {
        self.qmp.get_or_try_init(|| start::control(&self.sockets)).await
    }

    /// Returns the guest's console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Returns the socket of a port. It listens from the start; QEMU serves one client at a time, and its server is
    /// this very process's user (`SO_PEERCRED`), whatever user QEMU runs as.
    pub fn port_path(&self, name: &PortName) -> Option<&Path> {
        self.sockets.ports.iter().find(|(known, _)| known == name).map(|(_, file)| file.path())
    }

    /// Takes the connection to a port of a restored machine, which was made before QEMU was there: its guest finds the host where it was
    /// when it was saved. None of a booted machine, and none the second time: connect to [`Self::port_path`] then, when this one is dropped.
    pub fn take_port(&self, name: &PortName) -> Option<UnixStream> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let at = clients.iter().position(|(known, _)| known == name)?;
        Some(clients.swap_remove(at).1)
    }

    /// Measures what the machine costs the host.
    ///
    /// # Errors
    /// When QEMU has ended, and when `/proc` does not let this user look.
    pub fn memory(&self) -> std::io::Result<HostMemory> {
        memory::of_process(self.pid)
    }

    /// Waits until QEMU has ended and all that it left was removed.
    pub async fn exited(&self) -> Exit {
        let mut ended = self.ended.clone();
        let exit = ended.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        // The supervisor publishes before it ends; only a runtime that shuts down takes it away earlier.
        exit.unwrap_or_else(Exit::unknown)
    }

    /// The watchdog of a cold boot: waits until the guest's console has been silent for too long, and never returns while it
    /// goes on speaking. To be raced against whatever means that the guest is ready.
    ///
    /// Under KVM this is what shows that the processor does not run the guest: nothing is ever said.
    pub async fn boot_stalled(&self, first_output: Duration, between_outputs: Duration) -> MachineError {
        let stall: Stall = self.console.stalled(first_output, between_outputs).await;
        MachineError::Stalled { stall, console: self.console.tail() }
    }

    /// Stops the machine: asks QEMU to leave, kills it if it does not, and returns when nothing of it is left.
    pub async fn stop(self) -> Exit {
        // Its connection ends with it, so that this may be answered or not.
        let asked = tokio::time::timeout(QUIT_PATIENCE, async {
            if let Ok(qmp) = self.qmp().await {
                drop(qmp.execute("quit", None).await);
            }
            self.exited().await
        });
        if let Ok(exit) = asked.await {
            return exit;
        }
        self.killer.kill();
        self.exited().await
    }

    /// Kills QEMU without asking, and returns when nothing of it is left.
    pub async fn kill(self) -> Exit {
        self.killer.kill();
        self.exited().await
    }

    /// Lets go of a [`Lifetime::Detached`] machine, which goes on without this process; its sockets stay. A machine that
    /// lives with its owner is killed instead.
    pub fn release(mut self) {
        if self.lifetime == Lifetime::Detached {
            self.released = true;
            self.killer.release();
            self.sockets.files().for_each(SocketFile::keep);
        }
    }
}

impl Sockets {
    fn files(&mut self) -> impl Iterator<Item = &mut SocketFile> {
        [&mut self.control, &mut self.console].into_iter().chain(self.ports.iter_mut().map(|(_, file)| file))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !self.released {
            self.killer.kill();
        }
    }
}

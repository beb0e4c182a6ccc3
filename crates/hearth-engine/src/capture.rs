//! One moment of a running sandbox: its processes stand still, its processors stop, and memory, devices and disk are taken together.
//!
//! The order is what makes a copy safe: processes are frozen before the processors stop, so that none of them runs in a copy before that
//! was given a clock, entropy and a name of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_channel::Channel;
use hearth_image::Image;
use hearth_vmm::{MachineError, MachineSpec, PreparedCapture, PreparedOverlay, PreparedRunning, Qmp, SavedMachine};
use tracing::{Span, debug, info_span};

use crate::create::Place;
use crate::sandbox::Sandbox;
use crate::scratch::{self, Scratch};
use crate::template::Template;
use crate::{Engine, EngineError, SavedFault, chain};

/// What was taken.
pub(crate) struct Moment {
    pub(crate) saved: SavedMachine,
    /// The disk, where it was asked to be put.
    pub(crate) scratch: Option<Scratch>,
    /// For how long the sandbox's processes stood still.
    pub(crate) stopped: Duration,
    /// Whether nothing was under way in its session.
    pub(crate) quiet: bool,
}

/// What it takes for a copy of a sandbox's QEMU as it runs, with all that it has translated.
pub(crate) struct Running {
    /// The sandbox's machine, but for what it is about to write to.
    pub(crate) machine: MachineSpec,
    pub(crate) image: Image,
    pub(crate) prepared: PreparedRunning,
}

/// A sandbox that stands still. It goes on when this is dropped, unless it was told that it is never to.
pub(crate) struct Stillness {
    channel: Arc<Channel>,
    qmp: Qmp,
    begun: Instant,
    over: bool,
    /// What the channel says of itself once processes stand still.
    quiet: Option<u64>,
    /// Lasts as long as this does.
    _span: Span,
}

impl Stillness {
    /// Stops processes, then processors.
    pub(crate) async fn of(sandbox: &Sandbox) -> Result<Self, EngineError> {
        let failed = |source| EngineError::Capture { source };
        let qmp = sandbox.machine().qmp().await.map_err(failed)?.clone();
        let _span = info_span!("standstill");
        let channel = sandbox.share_channel();
        let mut still = Self { channel, qmp, begun: Instant::now(), over: false, quiet: None, _span };
        let frozen = still.channel.freeze().await;
        frozen.map_err(|source| EngineError::Channel { what: "stop the guest's processes", source })?;
        still.quiet = still.channel.quiet();
        sandbox.machine().suspend().await.map_err(failed)?;
        Ok(still)
    }

    /// Lets it go on, and returns for how long it stood still.
    pub(crate) async fn end(mut self) -> Result<Duration, EngineError> {
        self.over = true;
        go_on(&self.channel, &self.qmp).await?;
        Ok(self.begun.elapsed())
    }

    /// Whether nothing has been under way in the session since processes stand still: what was saved meanwhile can go on with it.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.is_some() && self.channel.quiet() == self.quiet
    }

    /// Leaves it as it is, since its machine is about to end.
    pub(crate) fn forever(mut self) -> Duration {
        self.over = true;
        self.begun.elapsed()
    }
}

impl Drop for Stillness {
    fn drop(&mut self) {
        if !self.over {
            let (channel, qmp) = (self.channel.clone(), self.qmp.clone());
            tokio::spawn(async move { drop(go_on(&channel, &qmp).await) });
        }
    }
}

async fn go_on(channel: &Channel, qmp: &Qmp) -> Result<(), EngineError> {
    // The agent hears of the second when the first is done.
    let (running, thawed) = tokio::join!(qmp.execute("cont", None), channel.thaw());
    running.map_err(|source| EngineError::Capture { source: source.into() })?;
    thawed.map_err(|source| EngineError::Channel { what: "let the guest's processes go on", source })
}

impl Engine {
    /// How to take the QEMU of a sandbox as it is, where that may be of use.
    pub(crate) async fn as_it_runs(
        &self,
        source: &Sandbox,
        template: &Template,
    ) -> Result<Option<Running>, EngineError> {
        let below = template.checkpoint().filter(|_| !self.fresh_qemu && source.machine().check_checkpoint().is_ok());
        let Some(below) = below.cloned() else { return Ok(None) };
        let base = self.base_of(&source.spec, &template.record)?;
        let place = source.place.lock().await;
        let (directory, scratch) = (place.directory.path(), place.scratch.as_ref());
        let machine = self.machine_spec(&source.spec, &base, directory, scratch, template.way)?;
        match source.machine().prepare_running(below).await {
            Ok(prepared) => Ok(Some(Running { machine, image: base.image, prepared })),
            Err(error) => {
                debug!(error = chain(&error), "its QEMU is not copied");
                Ok(None)
            }
        }
    }
}

impl Sandbox {
    /// Takes one moment of it, and its disk into the directory `disk_to`; where it is told how, also its QEMU as it is. It goes on afterwards,
    /// whatever happens.
    pub(crate) async fn capture(
        &self,
        below: &Template,
        place: &mut Place,
        disk_to: &Path,
        running: Option<Running>,
    ) -> Result<Moment, EngineError> {
        let failed = |source| EngineError::Capture { source };
        // All that needs no standstill comes before it.
        let prepared = match &running {
            None => Some(self.machine().prepare_capture(&below.saved.ram).await.map_err(failed)?),
            Some(_) => None,
        };
        let disk = match place.scratch.as_mut().map(|scratch| self.prepare_disk(scratch)) {
            None => Ok(Disk::None),
            Some(preparing) => preparing.await,
        };
        let (disk, still) = match disk {
            Ok(disk) => (disk, Stillness::of(self).await),
            Err(error) => (Disk::None, Err(error)),
        };
        let still = match still {
            Ok(still) => still,
            Err(error) => {
                if let Some(prepared) = prepared {
                    self.machine().abandon_capture(prepared).await;
                }
                self.abandon_disk(place, disk).await;
                return Err(error);
            }
        };
        let switching = self.switch_disk(place, &disk, disk_to);
        let (saved, switched) = match running {
            None => tokio::join!(self.take_state(prepared, below), switching),
            Some(running) => {
                // It has the disks as they are from now on.
                let switched = switching.await;
                (self.take_process(running, place, below).await, switched)
            }
        };
        let quiet = still.is_quiet();
        let stopped = still.end().await?;
        let (saved, scratch) = match (saved, switched) {
            (Ok(saved), Ok(copied)) => (saved, copied),
            (Err(error), Ok(_)) => return Err(failed(error)),
            (_, Err(error)) => {
                self.abandon_disk(place, disk).await;
                return Err(error);
            }
        };
        let scratch = match disk {
            Disk::Below { frozen, .. } => {
                let to = disk_to.to_owned();
                let copied = tokio::task::spawn_blocking(move || frozen.copy_to(&to)).await;
                Some(copied.map_err(|source| EngineError::Saved { source: SavedFault::Interrupted { source } })??)
            }
            Disk::None | Disk::Full => scratch,
        };
        Ok(Moment { saved, scratch, stopped, quiet })
    }

    async fn take_state(
        &self,
        prepared: Option<PreparedCapture>,
        below: &Template,
    ) -> Result<SavedMachine, MachineError> {
        let prepared = match prepared {
            Some(prepared) => prepared,
            None => self.machine().prepare_capture(&below.saved.ram).await?,
        };
        self.machine().capture(prepared).await
    }

    /// Takes the QEMU of a sandbox that stands still; where that cannot be, its state.
    async fn take_process(
        &self,
        running: Running,
        place: &Place,
        below: &Template,
    ) -> Result<SavedMachine, MachineError> {
        let Running { machine, image, prepared } = running;
        let machine = MachineSpec { disks: scratch::disks(&image, place.scratch.as_ref()), ..machine };
        match self.machine().capture_running(machine, prepared).await {
            Err(error) => {
                debug!(error = chain(&error), "its QEMU was not copied");
                self.take_state(None, below).await
            }
            saved => saved,
        }
    }

    /// Takes a sandbox that stands still, to be kept: its state, and where it is told how also its QEMU as it is.
    pub(crate) async fn take_whole(
        &self,
        running: Option<Running>,
        place: &Place,
        below: &Template,
    ) -> Result<SavedMachine, MachineError> {
        let Some(running) = running else { return self.take_state(None, below).await };
        let saved = self.take_process(running, place, below).await?;
        if saved.checkpoint.is_none() {
            return Ok(saved);
        }
        // By then that QEMU may be of no use any more.
        Ok(SavedMachine { devices: self.machine().capture_devices().await?, ..saved })
    }

    async fn prepare_disk(&self, scratch: &mut Scratch) -> Result<Disk, EngineError> {
        if !scratch.has_room() {
            return Ok(Disk::Full);
        }
        let frozen = scratch.clone();
        let overlay = scratch.add_overlay()?;
        match self.machine().prepare_overlay(scratch::NUMBER, frozen.overlays() + 1, overlay).await {
            Ok(overlay) => Ok(Disk::Below { frozen, overlay }),
            Err(source) => {
                scratch.drop_overlay();
                Err(EngineError::Capture { source })
            }
        }
    }

    /// Takes the disk of a sandbox that stands still, as it was prepared: returns the copy, if that had to be made now.
    async fn switch_disk(&self, place: &Place, disk: &Disk, disk_to: &Path) -> Result<Option<Scratch>, EngineError> {
        match (disk, &place.scratch) {
            (Disk::Below { overlay, .. }, _) => {
                let used = self.machine().use_overlay(overlay).await;
                used.map(|()| None).map_err(|source| EngineError::Capture { source })
            }
            // All that the guest wrote is in the files once its processors have stopped.
            (Disk::Full, Some(scratch)) => scratch.copy_to(disk_to).map(Some),
            _ => Ok(None),
        }
    }

    async fn abandon_disk(&self, place: &mut Place, disk: Disk) {
        if let Disk::Below { overlay, .. } = disk {
            self.machine().abandon_overlay(overlay).await;
            if let Some(scratch) = &mut place.scratch {
                scratch.drop_overlay();
            }
        }
    }
}

/// How a disk is taken.
enum Disk {
    /// There is none.
    None,
    /// By a copy, while nothing writes to it: it can have no more overlays.
    Full,
    /// By an overlay: what it was is only read from then on, and can be copied while its sandbox goes on.
    Below { frozen: Scratch, overlay: PreparedOverlay },
}

//! One moment of a running sandbox: its processes stand still, its processors stop, and memory, devices and disk are taken together.
//!
//! The order is what makes a copy safe: processes are frozen before the processors stop, so that none of them runs in a copy before that
//! was given a clock, entropy and a name of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_channel::Channel;
use hearth_vmm::{Qmp, SavedMachine};

use crate::create::Place;
use crate::sandbox::Sandbox;
use crate::scratch::{self, Scratch};
use crate::{EngineError, SavedFault};

/// What was taken.
pub(crate) struct Moment {
    pub(crate) saved: SavedMachine,
    /// The disk, where it was asked to be put.
    pub(crate) scratch: Option<Scratch>,
    /// For how long the sandbox's processes stood still.
    pub(crate) stopped: Duration,
}

/// A sandbox that stands still. It goes on when this is dropped, unless it was told that it is never to.
pub(crate) struct Stillness {
    channel: Arc<Channel>,
    qmp: Qmp,
    begun: Instant,
    over: bool,
}

impl Stillness {
    /// Stops processes, then processors.
    pub(crate) async fn of(sandbox: &Sandbox) -> Result<Self, EngineError> {
        let failed = |source| EngineError::Capture { source };
        let qmp = sandbox.machine().qmp().await.map_err(failed)?.clone();
        let still = Self { channel: sandbox.shared_channel(), qmp, begun: Instant::now(), over: false };
        let frozen = still.channel.freeze().await;
        frozen.map_err(|source| EngineError::Channel { what: "stop the guest's processes", source })?;
        sandbox.machine().suspend().await.map_err(failed)?;
        Ok(still)
    }

    /// Lets it go on, and returns for how long it stood still.
    pub(crate) async fn end(mut self) -> Result<Duration, EngineError> {
        self.over = true;
        go_on(&self.channel, &self.qmp).await?;
        Ok(self.begun.elapsed())
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

impl Sandbox {
    /// Takes one moment of it, and its disk into the directory `disk_to`. It goes on afterwards, whatever happens.
    pub(crate) async fn capture(&self, place: &mut Place, disk_to: &Path) -> Result<Moment, EngineError> {
        let still = Stillness::of(self).await?;
        let taken = self.take(place, disk_to).await;
        let stopped = still.end().await?;
        let (saved, scratch) = taken?;
        let scratch = match scratch {
            None => None,
            Some(Taken::Copied(copy)) => Some(copy),
            Some(Taken::Below(frozen)) => {
                let to = disk_to.to_owned();
                let copied = tokio::task::spawn_blocking(move || frozen.copy_to(&to)).await;
                Some(copied.map_err(|source| EngineError::Saved { source: SavedFault::Interrupted { source } })??)
            }
        };
        Ok(Moment { saved, scratch, stopped })
    }

    async fn take(&self, place: &mut Place, disk_to: &Path) -> Result<(SavedMachine, Option<Taken>), EngineError> {
        let saved = self.machine().capture().await.map_err(|source| EngineError::Capture { source })?;
        let Some(scratch) = &mut place.scratch else { return Ok((saved, None)) };
        if !scratch.has_room() {
            // All that the guest wrote is in the files once its processors have stopped.
            return Ok((saved, Some(Taken::Copied(scratch.copy_to(disk_to)?))));
        }
        let frozen = scratch.clone();
        let overlay = scratch.add_overlay()?;
        let pushed = self.machine().push_overlay(scratch::NUMBER, frozen.overlays() + 1, overlay).await;
        if let Err(source) = pushed {
            scratch.drop_overlay();
            return Err(EngineError::Capture { source });
        }
        Ok((saved, Some(Taken::Below(frozen))))
    }
}

/// How a disk was taken.
enum Taken {
    /// It was copied while nothing wrote to it.
    Copied(Scratch),
    /// What it was is only read from now on, and can be copied while its sandbox goes on.
    Below(Scratch),
}

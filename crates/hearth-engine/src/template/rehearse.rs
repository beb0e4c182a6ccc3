//! Rehearsing: a template's guest is restored once and does what most sandboxes do first, and what it and its QEMU are then becomes the template.
//!
//! Under software emulation that QEMU has translated all of it, and those who go on from its [`Checkpoint`] need not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hearth_channel::Channel;
use hearth_protocol::kernel::{KernelExec, KernelLanguage};
use hearth_vmm::jail::groups_of;
use hearth_vmm::{Accelerator, Checkpoint, Lifetime, Machine, MachineError, MachineSpec, SavedMachine};

use super::make::{settled, warm_up};
use crate::accelerator::Way;
use crate::boot::{Renewal, connect, renew, resume, silent};
use crate::create::{Base, Layers, Place};
use crate::saved::SavedFault;
use crate::scratch::Scratch;
use crate::{Engine, EngineError, Given, SandboxId, SandboxSpec, chain};

/// The rounds that a rehearsal has: what is done for the second time takes other turns than at first.
const ROUNDS: usize = 2;

/// A bound on a rehearsal that goes on and on: it takes some seconds.
const REHEARSAL: Duration = Duration::from_secs(300);

/// A guest that has rehearsed.
pub(super) struct Rehearsed {
    pub(super) saved: SavedMachine,
    pub(super) checkpoint: Option<Rehearsal>,
}

/// What a rehearsal has left beside the guest.
pub(super) struct Rehearsal {
    pub(super) checkpoint: Arc<Checkpoint>,
    /// The place that it was in, with what its guest has written to its disk.
    place: Place,
}

impl Rehearsal {
    /// Where its guest has written to its disk, if it has one.
    pub(super) fn overlay(&self) -> Option<PathBuf> {
        self.place.scratch.as_ref().map(|scratch| scratch.overlay(scratch.overlays()))
    }
}

impl Engine {
    /// Has a guest rehearse where that is of use. Where it cannot, the guest is what it was, and the reason is added to `failed`.
    pub(super) async fn rehearsed(
        &self,
        spec: &SandboxSpec,
        base: &Base,
        way: Way,
        scratch: Option<&Scratch>,
        saved: SavedMachine,
        failed: &mut Vec<String>,
    ) -> Rehearsed {
        if way.accelerator != Accelerator::Tcg {
            return Rehearsed { saved, checkpoint: None };
        }
        let rehearsed = tokio::time::timeout(REHEARSAL, self.rehearse(spec, base, way, scratch, &saved));
        match rehearsed.await.unwrap_or_else(|_| Err(silent(way.accelerator, "rehearsing"))) {
            Ok(rehearsed) => rehearsed,
            Err(EngineError::Machine { source: MachineError::NoNamespaces }) => Rehearsed { saved, checkpoint: None },
            Err(error) => {
                failed.push(format!("each sandbox starts a QEMU that has translated nothing yet: {}", chain(&error)));
                Rehearsed { saved, checkpoint: None }
            }
        }
    }

    async fn rehearse(
        &self,
        spec: &SandboxSpec,
        base: &Base,
        way: Way,
        scratch: Option<&Scratch>,
        saved: &SavedMachine,
    ) -> Result<Rehearsed, EngineError> {
        let (place, machine_spec) = self.stage(spec, base, way, scratch, Layers::OneMore)?;
        let machine = Machine::restore(machine_spec.clone(), saved.clone()).await?;
        machine.check_checkpoint()?;
        // A session of its own is what copies of busy sandboxes begin with.
        let channel = connect(&machine).await?;
        renew(&channel, place.directory.id(), Renewal::Anew, &Given::default()).await?;
        for _ in 0..ROUNDS {
            warm_up(&channel).await;
            use_kernel(&channel).await;
            stand_still(&channel).await?;
        }
        let channel = settled(channel, &machine).await?;
        machine.suspend().await?;
        let captured = machine.capture(machine.prepare_capture(&saved.ram).await?).await?;
        let checkpoint = Arc::new(machine.into_checkpoint(machine_spec).await?);
        // Its connections are in the checkpoint, as those that its successors have.
        drop(channel);
        let path = self.templates.directory.clone();
        let merged = tokio::task::spawn_blocking(move || match &captured.delta {
            Some(delta) => captured.ram.with(delta).map(Arc::new),
            None => Ok(captured.ram),
        });
        let merged = merged.await.map_err(|source| SavedFault::Interrupted { source });
        let merged = merged.and_then(|ram| ram.map_err(|source| SavedFault::Memory { path, source }));
        let ram = merged.map_err(|source| EngineError::Template { source })?;
        let saved = SavedMachine { ram, devices: captured.devices, delta: None, checkpoint: None };
        self.try_out(spec, base, way, &place, &saved, &checkpoint).await?;
        Ok(Rehearsed { saved, checkpoint: Some(Rehearsal { checkpoint, place }) })
    }

    /// A place of its own for a machine like a sandbox's.
    fn stage(
        &self,
        spec: &SandboxSpec,
        base: &Base,
        way: Way,
        scratch: Option<&Scratch>,
        layers: Layers,
    ) -> Result<(Place, MachineSpec), EngineError> {
        let place = self.place_for(SandboxId::random(), Lifetime::WithOwner, scratch, layers)?;
        place.directory.note_groups(&groups_of(place.directory.path()));
        let machine = self.machine_spec(spec, base, place.directory.path(), place.scratch.as_ref(), way)?;
        Ok((place, machine))
    }

    /// Goes on from a checkpoint once, before anybody relies on it.
    async fn try_out(
        &self,
        spec: &SandboxSpec,
        base: &Base,
        way: Way,
        rehearsed: &Place,
        saved: &SavedMachine,
        checkpoint: &Checkpoint,
    ) -> Result<(), EngineError> {
        let (place, machine) = self.stage(spec, base, way, rehearsed.scratch.as_ref(), Layers::TheSame)?;
        let waiting = Machine::stand_by(machine, saved.ram.clone(), Some(checkpoint)).await?;
        let machine = waiting.go_on(saved.clone()).await?;
        let channel = resume(&machine)?;
        let answered = renew(&channel, place.directory.id(), Renewal::Anew, &Given::default()).await;
        machine.kill().await;
        answered
    }
}

/// Stands still as for a fork or a pause, and goes on.
async fn stand_still(channel: &Channel) -> Result<(), EngineError> {
    let failed = |source| EngineError::Channel { what: "stop the guest's processes", source };
    channel.freeze().await.map_err(failed)?;
    channel.thaw().await.map_err(failed)
}

/// Uses up the interpreter that waits, and has another wait. An image without Python has none.
async fn use_kernel(channel: &Channel) {
    let exec = KernelExec::new(KernelLanguage::Python);
    let Ok(operation) = channel.exec_in_kernel(exec, "1+1").await else { return };
    while let Ok(Some(_)) = operation.next().await {}
    let Ok(kernels) = channel.kernels().await else { return };
    for kernel in kernels {
        let _ = channel.stop_kernel(kernel.name).await;
    }
    let _ = channel.warm_kernel().await;
}

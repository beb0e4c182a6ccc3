//! A sandbox that takes requests.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_channel::Channel;
use hearth_vmm::{Machine, jail::JailReport};
use tokio::sync::Mutex;

use crate::accelerator::{Way, name};
use crate::boot::{self, Booted, Phase, Phases, Renewal};
use crate::create::{Base, DialectSpec, Given, Place};
use crate::dialects::{DialectAddresses, Dialects};
use crate::guest::{describe, printable};
use crate::identity::SandboxId;
use crate::scratch::Scratch;
use crate::template::Below;
use crate::{EngineError, SandboxSpec};

/// What the kernel says on its console, before the reason, when it can no longer go on.
const KERNEL_PANIC: &str = "Kernel panic - not syncing: ";
/// How much of that reason is shown, in characters: whoever is root in a guest can write it too.
const PANIC_REASON: usize = 200;

/// A sandbox. Dropping it ends its machine and removes its directory at once; [`Self::remove`] also waits until all is gone.
#[derive(Debug)]
pub struct Sandbox {
    // In the order in which they must go.
    dialects: Option<Dialects>,
    channel: Arc<Channel>,
    machine: Machine,
    /// What changes its life as a whole (a fork, a save) holds this.
    pub(crate) place: Mutex<Place>,
    id: SandboxId,
    /// Kept for the image's sake; none for one that was taken over and whose image is gone.
    base: Option<Base>,
    pub(crate) spec: SandboxSpec,
    /// What its memory lies on; not known of one that an earlier version has booted.
    below: Option<Below>,
    way: Way,
    disk_below: usize,
    failed: Vec<String>,
    phases: Phases,
}

impl Sandbox {
    pub(crate) fn new(
        spec: &SandboxSpec,
        place: Place,
        booted: Booted,
        below: Below,
        base: Base,
        phases: Phases,
    ) -> Self {
        let Booted { machine, channel, way, failed } = booted;
        let id = place.directory.id().clone();
        // A name may come to mean another image.
        let spec = SandboxSpec { image: base.image.digest.as_str().to_owned(), ..spec.clone() }.without_secrets();
        let disk_below = place.scratch.as_ref().map_or(0, Scratch::below);
        let (channel, place, below, base) = (Arc::new(channel), Mutex::new(place), Some(below), Some(base));
        Self { dialects: None, channel, machine, place, id, base, spec, below, way, disk_below, failed, phases }
    }

    /// One that an earlier process has made. Its specification names the image by its digest.
    pub(crate) fn adopted(
        spec: SandboxSpec,
        place: Place,
        booted: Booted,
        below: Option<Below>,
        base: Option<Base>,
    ) -> Self {
        let Booted { machine, channel, way, failed } = booted;
        let id = place.directory.id().clone();
        let disk_below = place.scratch.as_ref().map_or(0, Scratch::below);
        let (channel, place, phases) = (Arc::new(channel), Mutex::new(place), Phases::none());
        Self { dialects: None, channel, machine, place, id, base, spec, below, way, disk_below, failed, phases }
    }

    /// Makes one that was made ahead its caller's, who has asked for it at `begun`. Its name and all that goes with it are its own since it was
    /// made, and nobody's before, so what it lacks is the time, entropy of its own, and what its programs are given.
    pub(crate) async fn claim(&mut self, begun: Instant, given: &Given) -> Result<(), EngineError> {
        let mut phases = Phases::since(begun);
        phases.note(Phase::Claimed);
        let renewal = if *given == Given::default() { Renewal::Same } else { Renewal::Anew };
        boot::renew(&self.channel, &self.id, renewal, given).await?;
        self.spec.given = given.clone();
        self.spec.given.secrets.clear();
        phases.note(Phase::Ready);
        self.phases = phases;
        Ok(())
    }

    /// Opens the doors of the earlier protocols, where they are wanted.
    pub(crate) async fn with_dialects(mut self, wanted: Option<DialectSpec>) -> Result<Self, EngineError> {
        if let Some(spec) = wanted {
            let directory = self.place.get_mut().directory.path();
            self.dialects = Some(Dialects::open(&self.channel, directory, spec.port).await?);
        }
        Ok(self)
    }

    /// Where it speaks the earlier protocols, if it was asked to.
    pub fn dialects(&self) -> Option<&DialectAddresses> {
        self.dialects.as_ref().map(|dialects| &dialects.addresses)
    }

    /// Its name.
    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// The way to its agent.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// What its memory lies on: the template that it was restored from, or blank memory.
    ///
    /// # Errors
    /// [`EngineError::Outdated`].
    pub(crate) fn lies_on(&self) -> Result<&Below, EngineError> {
        let reason = || "it was booted by an earlier version of Hearth".to_owned();
        self.below.as_ref().ok_or_else(|| EngineError::Outdated { reason: reason() })
    }

    /// The QEMU that runs it, as far as it is known.
    pub(crate) fn qemu_path(&self) -> Option<&Path> {
        self.base.as_ref().map(|base| base.qemu.path())
    }

    /// The overlays of its disk that its QEMU cannot write to.
    pub(crate) fn disk_below(&self) -> usize {
        self.disk_below
    }

    /// What runs it.
    pub(crate) fn way(&self) -> Way {
        self.way
    }

    /// The same, for whoever may need it longer: with the sandbox it ends all the same.
    pub(crate) fn share_channel(&self) -> Arc<Channel> {
        self.channel.clone()
    }

    /// Its machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What runs its guest: `kvm` or `tcg`.
    pub fn accelerator(&self) -> &'static str {
        name(self.way.accelerator)
    }

    /// What was tried first and did not run the guest, and is not going to be tried again on this host; mostly nothing.
    pub fn failed_before(&self) -> &[String] {
        &self.failed
    }

    /// The board: `microvm` or `pc`.
    pub fn board(&self) -> &'static str {
        self.way.board()
    }

    /// Waits until its machine has ended by itself, and tells how.
    pub async fn ended(&self) -> String {
        let exit = self.machine.exited().await;
        let console = self.console_tail();
        match console.lines().rev().find_map(|line| Some(line.split_once(KERNEL_PANIC)?.1)) {
            Some(reason) => format!("its kernel gave up: {}", reason.chars().take(PANIC_REASON).collect::<String>()),
            None => describe(&exit),
        }
    }

    /// How its QEMU is confined.
    pub fn jail(&self) -> &JailReport {
        self.machine.jail()
    }

    /// When each phase of its creation was reached, counted from the call.
    pub fn phases(&self) -> &[(Phase, Duration)] {
        self.phases.reached()
    }

    /// What its console last said, escaped for a terminal; at most 64 KiB.
    pub fn console_tail(&self) -> String {
        printable(&self.machine.console().tail())
    }

    /// Sets its guest's clock to the host's, from which it drifts by as much as the host's own is corrected. To be done now and then, and
    /// after the host has slept.
    ///
    /// # Errors
    /// [`EngineError::Channel`].
    pub async fn set_clock(&self) -> Result<(), EngineError> {
        boot::set_clock(&self.channel).await
    }

    /// Ends it, and waits until nothing of it is left on the host.
    pub async fn remove(self) {
        drop(self.end().await);
    }

    /// Lets go of it: its machine goes on without this process, for the next to take over.
    pub(crate) fn let_go(self) {
        let Self { dialects, channel, machine, place, .. } = self;
        drop((dialects, channel));
        machine.release();
        place.into_inner().directory.keep();
    }

    /// Ends its machine at once, and returns what it has on the host. Of a disk that is kept without what was saved of its guest, QEMU has
    /// something to finish: see [`Self::quit`].
    pub(crate) async fn end(self) -> (Place, Option<Base>, SandboxSpec) {
        let (machine, rest) = self.into_parts();
        machine.kill().await;
        rest
    }

    /// Has QEMU write to the disk all that it was given for it and end, unless it has ended; and returns what the sandbox has on the host.
    pub(crate) async fn quit(self) -> (Place, Option<Base>, SandboxSpec) {
        let (machine, rest) = self.into_parts();
        machine.stop().await;
        rest
    }

    fn into_parts(self) -> (Machine, (Place, Option<Base>, SandboxSpec)) {
        let Self { dialects, channel, machine, place, base, spec, .. } = self;
        drop((dialects, channel));
        (machine, (place.into_inner(), base, spec))
    }
}

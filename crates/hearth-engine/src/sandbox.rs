//! A sandbox that takes requests.

use std::sync::Arc;
use std::time::Duration;

use hearth_channel::Channel;
use hearth_image::InUse;
use hearth_vmm::{Machine, jail::JailReport};

use crate::EngineError;
use crate::accelerator::{Way, name};
use crate::boot::{Booted, Phase, Phases};
use crate::create::DialectSpec;
use crate::dialects::{DialectAddresses, Dialects};
use crate::guest::{describe, printable};
use crate::identity::{SandboxDirectory, SandboxId};

/// A sandbox. Dropping it ends its machine and removes its directory at once; [`Self::remove`] also waits until all is gone.
#[derive(Debug)]
pub struct Sandbox {
    // In the order in which they must go.
    dialects: Option<Dialects>,
    channel: Arc<Channel>,
    machine: Machine,
    directory: SandboxDirectory,
    _in_use: InUse,
    way: Way,
    failed: Vec<String>,
    phases: Phases,
}

impl Sandbox {
    pub(crate) fn new(directory: SandboxDirectory, booted: Booted, in_use: InUse, phases: Phases) -> Self {
        let Booted { machine, channel, way, failed } = booted;
        let channel = Arc::new(channel);
        Self { dialects: None, channel, machine, directory, _in_use: in_use, way, failed, phases }
    }

    /// Opens the doors of the earlier protocols.
    pub(crate) async fn speak_dialects(&mut self, spec: DialectSpec) -> Result<(), EngineError> {
        self.dialects = Some(Dialects::open(&self.channel, self.directory.path(), spec.port).await?);
        Ok(())
    }

    /// Where it speaks the earlier protocols, if it was asked to.
    pub fn dialects(&self) -> Option<&DialectAddresses> {
        self.dialects.as_ref().map(|dialects| &dialects.addresses)
    }

    /// Its name.
    pub fn id(&self) -> &SandboxId {
        self.directory.id()
    }

    /// The way to its agent.
    pub fn channel(&self) -> &Channel {
        &self.channel
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
        describe(&self.machine.exited().await)
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

    /// Ends it, and waits until nothing of it is left on the host.
    pub async fn remove(self) {
        let Self { dialects, channel, machine, directory, .. } = self;
        drop((dialects, channel));
        machine.stop().await;
        drop(directory);
    }
}

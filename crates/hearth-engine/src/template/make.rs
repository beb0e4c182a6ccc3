//! Making a template: a machine is booted, warmed up and saved.

use std::sync::Arc;
use std::time::Duration;

use hearth_channel::Channel;
use hearth_protocol::{Command, Delivery, Start};
use hearth_vmm::{Lifetime, Machine, SavedMachine, SealedRam};
use tracing::{Instrument, info_span};

use super::rehearse::Rehearsed;
use super::store::{self, About, Made};
use super::{Below, Template, TemplateId, TemplateKey, Templates};
use crate::accelerator::Way;
use crate::boot::{Boot, Booted, Phases, Renewal, connect};
use crate::create::Base;
use crate::saved::{SavedFault, apart};
use crate::scratch::Scratch;
use crate::{Engine, EngineError, Given, SandboxId, SandboxSpec};

/// What every guest has done once before it is saved, so that its first program finds files and the agent's own code in memory. What an
/// image lacks is left out. Then an interpreter is started that waits for each sandbox's first kernel.
const WARM_UP: [&[&str]; 3] = [&["true"], &["python3", "-c", "pass"], &["bash", "-c", "true"]];

/// How long a guest is left alone, twice, before it is saved: several of its kernel's grace periods.
const SETTLE: Duration = Duration::from_millis(250);

/// A template, and what was found out while it was made.
pub(crate) struct Found {
    pub(crate) template: Arc<Template>,
    /// The ways that did not work, where it was made just now.
    pub(crate) failed: Vec<String>,
}

impl Engine {
    /// Returns the template for a sandbox: the one in memory, else the one on disk, else one made now, for which everybody
    /// who asks for it meanwhile waits. It is made to its end, although nobody may wait for it any more: the next will.
    ///
    /// Needs a tokio runtime. Whoever ends that gives the making up.
    pub(crate) async fn template(&self, spec: &SandboxSpec, base: &Base) -> Result<Found, EngineError> {
        let (_, ways) = self.ways(spec, &base.qemu, &base.image);
        let way = *ways.first().expect("there is always a way to try");
        let key = self.template_key(spec, base, way)?;
        let cell = self.templates.cell(&key);
        if let Some(template) = cell.get() {
            return Ok(Found { template: template.clone(), failed: Vec::new() });
        }
        // What one sandbox is given is not for all.
        let (engine, spec) = (self.clone(), SandboxSpec { given: Given::default(), ..spec.clone() });
        let making = async move {
            let mut failed = Vec::new();
            let made = cell.get_or_try_init(|| engine.find_template(&spec, &key, way, &mut failed)).await;
            made.map(|template| Found { template: template.clone(), failed })
        };
        let making = tokio::spawn(making.in_current_span());
        let interrupted = |source| EngineError::Template { source: SavedFault::Interrupted { source } };
        making.await.map_err(interrupted)?
    }

    async fn find_template(
        &self,
        spec: &SandboxSpec,
        key: &TemplateKey,
        way: Way,
        failed: &mut Vec<String>,
    ) -> Result<Arc<Template>, EngineError> {
        // One that is damaged or stale is made again.
        if let Ok(Some(template)) = self.templates.load(key, way, self.pinned_templates()).await {
            return Ok(Arc::new(template));
        }
        let (template, ways) =
            self.make_template(spec, &self.base(spec)?).instrument(info_span!("make template")).await?;
        *failed = ways;
        Ok(Arc::new(template))
    }

    /// The key of the template for a sandbox. Two sandboxes with one key are restored from one template.
    pub(crate) fn template_key(&self, spec: &SandboxSpec, base: &Base, way: Way) -> Result<TemplateKey, EngineError> {
        let directory = self.directories.sandboxes();
        let scratch = spec.disk.map(|_| Scratch::bare(&directory));
        let machine = self.machine_spec(spec, base, &directory, scratch.as_ref(), way)?;
        let disk = spec.disk.map(crate::DiskMib::mib);
        TemplateKey::of(&machine, disk, &base.qemu, &base.image)
    }

    async fn make_template(&self, spec: &SandboxSpec, base: &Base) -> Result<(Template, Vec<String>), EngineError> {
        let place = self.place_to_boot(SandboxId::random(), spec, Lifetime::WithOwner)?;
        let mut phases = Phases::since(std::time::Instant::now());
        let boot = Boot { spec, base, place: &place, renewal: Renewal::Anew };
        let Booted { machine, channel, way, mut failed } = self.boot(boot, &mut phases).await?;
        warm_up(&channel).await;
        // An image without Python has none.
        let _ = channel.warm_kernel().await;
        let channel = settled(channel, &machine).await?;
        let saved = machine.into_template().await?;
        // The guest was saved with a host at its ports, and a session; it finds the host there again when it is restored, and goes on.
        drop(channel);
        let rehearsed = self.rehearsed(spec, base, way, place.scratch.as_ref(), saved, &mut failed).await;
        let key = self.template_key(spec, base, way)?;
        let Rehearsed { saved, checkpoint } = rehearsed;
        let made = Made { key, way, saved, checkpoint, scratch: place.scratch.clone() };
        let template = self.templates.keep(made, spec, base).await?;
        self.tidy_templates().await;
        Ok((template, failed))
    }
}

impl Engine {
    /// What a sandbox that was booted lies on: a template of zeros, so that what is saved of it is all that it has. None is ever restored from
    /// it alone.
    pub(crate) async fn blank(&self, spec: &SandboxSpec, base: &Base, way: Way) -> Result<Below, EngineError> {
        let key = self.template_key(spec, base, way)?.of_blank();
        let there = store::list(&self.templates.directory).into_iter().find(|record| record.id.has_key(&key));
        // Those who lie on one share it.
        if let Some(record) = there
            && let Ok(template) = self.template_with(&record.id).await
        {
            return Ok(template.into());
        }
        // One that is damaged or stale goes, and is made again.
        if let Ok(Some(template)) = self.templates.load(&key, way, self.pinned_templates()).await {
            return Ok(Arc::new(template).into());
        }
        let path = || self.templates.directory.clone();
        let ram = SealedRam::blank(spec.memory);
        let ram = ram.map_err(|source| SavedFault::Memory { path: path(), source: source.into() });
        let ram = ram.map_err(|source| EngineError::Template { source })?;
        let saved = SavedMachine { ram: Arc::new(ram), devices: Arc::default(), delta: None, checkpoint: None };
        let made = self.templates.keep(Made { key, way, saved, checkpoint: None, scratch: None }, spec, base).await?;
        Ok(Arc::new(made).into())
    }
}

/// Runs what is in [`WARM_UP`].
pub(super) async fn warm_up(channel: &Channel) {
    for argv in WARM_UP {
        let mut start = Start::new(Command::Argv(argv.iter().map(|word| (*word).into()).collect()));
        (start.attach, start.forget) = (Some(Delivery::Lossless), true);
        // A program that is not there is no fault of the guest's.
        let Ok(process) = channel.start(start).await else { continue };
        while let Ok(Some(_)) = process.next_event().await {}
    }
}

/// Has the guest come to rest, and returns the channel with whose session it can be saved.
pub(super) async fn settled(channel: Channel, machine: &Machine) -> Result<Channel, EngineError> {
    settle(&channel).await;
    if channel.quiet().is_some() {
        return Ok(channel);
    }
    // Something could still come for an earlier request: the guest is saved in another session.
    drop(channel);
    let channel = connect(machine).await?;
    settle(&channel).await;
    Ok(channel)
}

/// Lets the agent tidy up behind the last program, and the kernel behind both: what is put off now every restored guest would begin with.
/// Nothing tells when a kernel has nothing left to do, so this is time. Whoever restores the guest goes on with this channel's session.
async fn settle(channel: &Channel) {
    // A guest that does not answer shows that when it is restored. A request behind a program's end is answered when that is forgotten.
    let _ = channel.settle().await;
    tokio::time::sleep(SETTLE).await;
    let _ = channel.ping().await;
    tokio::time::sleep(SETTLE).await;
}

impl Templates {
    async fn keep(&self, made: Made, spec: &SandboxSpec, base: &Base) -> Result<Template, EngineError> {
        let (directory, about) = (self.directory.clone(), About::of(spec, base));
        let kept = apart(move || store::write(&directory, made, about)).await;
        kept.map_err(|source| EngineError::Template { source })
    }

    /// Loads a template from disk, if it is there.
    async fn load(&self, key: &TemplateKey, way: Way, pinned: Vec<TemplateId>) -> Result<Option<Template>, SavedFault> {
        let (directory, key, mapped) = (self.directory.clone(), key.clone(), self.mapped());
        apart(move || store::read(&directory, &key, way, &pinned, &mapped)).await
    }
}

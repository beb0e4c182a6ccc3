//! Sandboxes that are half made: all that they have on the host is there, with a QEMU in it that waits for its guest.
//!
//! Nothing of a QEMU's start depends on whose the sandbox is to be. It takes some 16 MiB while it waits, and no processor time.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::boot::{self, Booted, Origin, Phase, Phases, Renewal};
use crate::create::{Base, Layers, Place};
use crate::template::{Found, Template};
use crate::{Engine, EngineError, Given, Sandbox, SandboxId, SandboxSpec, StartFrom};

/// A sandbox that has no guest yet. Dropping it undoes it.
#[derive(Debug)]
pub struct Standby {
    // In the order in which they must go.
    waiting: hearth_vmm::Standby,
    /// Whether its QEMU comes from a checkpoint.
    is_copy: bool,
    place: Place,
    base: Base,
    template: Arc<Template>,
    spec: SandboxSpec,
    failed: Vec<String>,
}

impl Engine {
    /// Makes half of a sandbox, ahead of the call for it. Its template is made if there is none.
    ///
    /// # Errors
    /// As [`Engine::create`]; [`EngineError::NotAhead`] for one that comes from no template.
    pub async fn stand_by(&self, spec: &SandboxSpec) -> Result<Standby, EngineError> {
        if spec.start != StartFrom::Template {
            return Err(EngineError::NotAhead);
        }
        let base = self.base(spec)?;
        let standby = self.stand_by_as(SandboxId::random(), spec, base, &mut Phases::none()).await?;
        standby.waiting.until_waiting().await?;
        Ok(standby)
    }

    pub(crate) async fn stand_by_as(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        base: Base,
        phases: &mut Phases,
    ) -> Result<Standby, EngineError> {
        let Found { template, failed } = self.template(spec, &base).await?;
        phases.note(Phase::Template);
        let place = self.place_for(id, self.lifetime, template.scratch.as_ref(), Layers::TheSame)?;
        phases.note(Phase::Prepared);
        let start =
            |checkpoint| self.start_waiting(spec, &base, &place, template.way, template.saved.ram.clone(), checkpoint);
        let (waiting, is_copy) =
            match template.checkpoint().filter(|_| !self.fresh_qemu).map(|checkpoint| &**checkpoint) {
                None => (start(None).await?, false),
                checkpoint => match start(checkpoint).await {
                    Err(EngineError::Machine { source }) if source.is_checkpoints() => {
                        template.checkpoint_worked(false);
                        (start(None).await?, false)
                    }
                    started => (started?, true),
                },
            };
        Ok(Standby { waiting, is_copy, place, base, template, spec: spec.clone(), failed })
    }

    /// Makes the other half: a sandbox whose programs are given this, once its agent takes requests.
    ///
    /// # Errors
    /// As [`Engine::create`]; nothing is left of it then.
    pub async fn create_on(&self, standby: Standby, given: &Given) -> Result<Sandbox, EngineError> {
        given.check()?;
        let dialects = standby.spec.dialects;
        standby.take(Instant::now(), given).await?.with_dialects(dialects).await
    }
}

impl Standby {
    /// The id that the sandbox will have.
    pub fn id(&self) -> &SandboxId {
        self.place.directory.id()
    }

    pub(crate) fn qemu_path(&self) -> &Path {
        self.base.qemu.path()
    }

    /// Waits until its QEMU has ended by itself.
    pub(crate) async fn ended(&self) {
        self.waiting.exited().await;
    }

    /// Makes it its caller's, who has asked for it at `begun`.
    pub(crate) async fn take(self, begun: Instant, given: &Given) -> Result<Sandbox, EngineError> {
        let mut phases = Phases::since(begun);
        phases.note(Phase::Claimed);
        self.go_on(given, phases).await
    }

    /// Lets its guest go on, and makes it the sandbox's.
    pub(crate) async fn go_on(self, given: &Given, mut phases: Phases) -> Result<Sandbox, EngineError> {
        let Self { waiting, is_copy, place, base, template, spec, failed } = self;
        let saved = template.saved.clone().into();
        let origin = Origin { saved, checkpoint: None, template: template.clone(), renew: Renewal::Anew, quiet: true };
        let gone_on = boot::go_on(waiting, place.directory.id(), given, origin, &mut phases).await;
        if is_copy {
            template.checkpoint_worked(gone_on.is_ok());
        }
        let (machine, channel) = gone_on?;
        let booted = Booted { machine, channel, way: template.way, failed };
        let spec = SandboxSpec { given: given.clone(), ..spec };
        Ok(Sandbox::new(&spec, place, booted, template.into(), base, phases))
    }

    /// Ends its QEMU, and waits until nothing of it is left on the host.
    pub(crate) async fn remove(self) {
        self.waiting.kill().await;
    }
}

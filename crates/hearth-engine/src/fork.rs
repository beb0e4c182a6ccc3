//! Forks: copies of a running sandbox that go on from the same moment, each with an identity of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tracing::{Instrument, debug, info_span};

use crate::boot::{Origin, Phases, Renewal};
use crate::capture::Running;
use crate::create::Place;
use crate::sandbox::Sandbox;
use crate::template::Template;
use crate::{Engine, EngineError, SandboxId, chain};

/// The most copies that one fork makes.
pub const MAX_COPIES: usize = 100;

/// How to fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForkSpec {
    /// How many copies: 1 to [`MAX_COPIES`].
    pub copies: usize,
    /// Whether the copies keep the secrets that the source was given. What a running process has read it keeps in any case.
    pub secrets: bool,
}

/// What a fork has made.
#[derive(Debug)]
pub struct Forked {
    /// The copies.
    pub copies: Vec<Sandbox>,
    /// For how long the source's processes stood still.
    pub stopped: Duration,
    /// What the source had changed of its template's memory, in bytes: every copy has so much of its own.
    pub changed_bytes: u64,
}

impl Engine {
    /// Makes copies of a running sandbox: all that was asked for, or none. The source goes on in any case.
    ///
    /// # Errors
    /// [`EngineError::Copies`], [`EngineError::Outdated`] and those of [`Engine::create`] before the source is
    /// stopped; [`EngineError::Capture`].
    pub async fn fork(&self, source: &Sandbox, fork: ForkSpec) -> Result<Forked, EngineError> {
        if !(1..=MAX_COPIES).contains(&fork.copies) {
            return Err(EngineError::Copies { copies: fork.copies });
        }
        self.fork_as((0..fork.copies).map(|_| SandboxId::random()).collect(), source, fork).await
    }

    /// As [`Self::fork`], under ids that are known beforehand, one for each copy.
    pub(crate) async fn fork_as(
        &self,
        ids: Vec<SandboxId>,
        source: &Sandbox,
        fork: ForkSpec,
    ) -> Result<Forked, EngineError> {
        let template = self.template_below(source.lies_on()?).await?;
        let running = self.as_it_runs(source, &template).await?;
        let is_copied = running.is_some();
        match self.fork_once(&ids, source, fork, &template, running).await {
            // All that was made is gone again, and the source runs.
            Err(error) if is_copied && error.may_be_a_checkpoints() => {
                debug!(error = chain(&error), "copies of its QEMU did not go on");
                self.fork_once(&ids, source, fork, &template, None).await
            }
            forked => forked,
        }
    }

    async fn fork_once(
        &self,
        ids: &[SandboxId],
        source: &Sandbox,
        fork: ForkSpec,
        template: &Arc<Template>,
        running: Option<Running>,
    ) -> Result<Forked, EngineError> {
        let bases = (0..fork.copies).map(|_| self.base_of(&source.spec, &template.record));
        let bases = bases.collect::<Result<Vec<_>, _>>()?;
        self.check_room_for(&source.spec, fork.copies)?;
        let directories = ids.iter().map(|id| self.make_directory(id.clone(), self.lifetime));
        let directories = directories.collect::<Result<Vec<_>, _>>()?;
        let disk_to = directories[0].path();
        let moment = source.capture(template, &mut *source.place.lock().await, disk_to, running).await?;
        let begun = Instant::now();
        let renew = if fork.secrets { Renewal::WithSecrets } else { Renewal::Anew };
        let mut places = Vec::new();
        for (number, directory) in directories.into_iter().enumerate() {
            let scratch = moment.scratch.as_ref().map(|first| match number {
                0 => first.clone().made_writable(),
                _ => first.copy_to(directory.path())?.made_writable(),
            });
            places.push(Place { scratch: scratch.transpose()?, directory });
        }
        let spec = &source.spec;
        let starts = places.into_iter().zip(bases).map(|(place, base)| {
            let origin = Origin {
                template: template.clone(),
                saved: moment.saved.clone().into(),
                checkpoint: moment.saved.checkpoint.clone(),
                renew,
                quiet: moment.quiet,
            };
            let span = info_span!("copy", hearth.sandbox = %place.directory.id());
            let starting = async {
                let started = self.start_saved(spec, base, place, origin, Phases::since(begun)).await;
                started.map_err(|(_, error)| error)
            };
            starting.instrument(span)
        });
        let changed_bytes = moment.saved.delta.as_ref().map_or(0, |delta| delta.content().len() as u64);
        Ok(Forked { copies: try_join_all(starts).await?, stopped: moment.stopped, changed_bytes })
    }
}

//! Pausing: a sandbox gives its memory back and lies on disk, and goes on later where it was.
//!
//! What must stay true, whenever this process is killed: the machine, or all of what was saved, is there. So it is noted that a sandbox is paused
//! once the files are whole and before its machine ends, and that it runs before they go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_vmm::{Lifetime, Resting};
use tracing::{Instrument, info_span};

use crate::boot::{Origin, Phases, Renewal};
use crate::capture::Stillness;
use crate::create::{Base, Place};
use crate::identity::SandboxId;
use crate::sandbox::Sandbox;
use crate::saved::{self, apart};
use crate::store::{PauseRecord, StoreError};
use crate::template::Below;
use crate::{Engine, EngineError, SandboxSpec};

/// A sandbox that lies on disk. Dropping it removes it.
#[derive(Debug)]
pub struct Paused {
    place: Place,
    with: PausedWith,
}

/// All of a paused sandbox but its place.
#[derive(Debug)]
struct PausedWith {
    /// Kept for the image's sake; none for one that was taken over and whose image is gone.
    _base: Option<Base>,
    spec: SandboxSpec,
    below: Below,
    record: PauseRecord,
    took: Duration,
}

impl PausedWith {
    fn in_place(self, place: Place) -> Paused {
        Paused { place, with: self }
    }
}

/// Something that could not be done to a sandbox, which is as it was.
#[derive(Debug)]
pub struct Refused<T> {
    /// The sandbox.
    pub sandbox: T,
    /// Why.
    pub error: EngineError,
}

/// Notes how a sandbox stands from now on. Blocks.
pub(crate) type Noting<T> = Box<dyn FnOnce(&T) -> Result<(), StoreError> + Send>;

impl Paused {
    /// One that an earlier process has paused.
    pub(crate) fn adopted(
        spec: SandboxSpec,
        place: Place,
        below: Below,
        base: Option<Base>,
        record: PauseRecord,
    ) -> Self {
        PausedWith { _base: base, spec, below, record, took: Duration::ZERO }.in_place(place)
    }

    /// Its name.
    pub fn id(&self) -> &SandboxId {
        self.place.directory.id()
    }

    /// How long it took from the first request until its machine was gone.
    pub fn took(&self) -> Duration {
        self.with.took
    }

    /// What of its memory lies on disk, in bytes.
    pub fn saved_bytes(&self) -> u64 {
        self.with.record.bytes()
    }

    /// Lets go of it, for the next process to take over.
    pub(crate) fn let_go(self) {
        self.place.directory.keep();
    }
}

impl Engine {
    /// Puts a running sandbox on disk and ends its machine. When that fails, it runs on.
    ///
    /// # Errors
    /// [`EngineError::Outdated`], [`EngineError::Capture`], [`EngineError::Saved`].
    pub async fn pause(&self, sandbox: Sandbox) -> Result<Paused, Refused<Sandbox>> {
        self.pause_noting(sandbox, Box::new(|_| Ok(()))).await
    }

    /// As [`Self::pause`]; what was saved is noted before the machine ends.
    pub(crate) async fn pause_noting(
        &self,
        sandbox: Sandbox,
        note: Noting<PauseRecord>,
    ) -> Result<Paused, Refused<Sandbox>> {
        let begun = Instant::now();
        match self.save_for_pause(&sandbox, note).await {
            Ok((below, record)) => {
                let (place, base, spec) = sandbox.end().instrument(info_span!("end")).await;
                Ok(PausedWith { _base: base, spec, below, record, took: begun.elapsed() }.in_place(place))
            }
            Err(error) => Err(Refused { sandbox, error }),
        }
    }

    async fn save_for_pause(
        &self,
        sandbox: &Sandbox,
        note: Noting<PauseRecord>,
    ) -> Result<(Below, PauseRecord), EngineError> {
        let template = self.template_below(sandbox.lies_on()?).await?;
        self.check_lasting(&sandbox.spec, &template.record)?;
        self.check_disk()?;
        let running = self.as_it_runs(sandbox, &template).await?;
        let place = sandbox.place.lock().await;
        let still = Stillness::of(sandbox).await?;
        let taken = sandbox.take_whole(running, &place, &template).instrument(info_span!("capture")).await;
        let saved = taken.map_err(|source| EngineError::Capture { source })?;
        let quiet = still.is_quiet();
        let directory = place.directory.path().to_owned();
        let overlays = place.scratch.as_ref().map_or(0, |scratch| scratch.overlays());
        let lasts = place.directory.lifetime() == Lifetime::Detached;
        let written = apart(move || {
            let delta = saved.delta.clone().unwrap_or_default();
            let written = saved::write_changes(&directory, &saved, &delta);
            let (devices, memory) = written.inspect_err(|_| saved::remove_changes(&directory))?;
            let checkpoint =
                saved.checkpoint.as_ref().map(|checkpoint| saved::write_checkpoint(&directory, checkpoint));
            let checkpoint = checkpoint.transpose().inspect_err(|_| saved::remove_changes(&directory))?;
            if lasts {
                saved::sync(&directory).inspect_err(|_| saved::remove_changes(&directory))?;
            }
            let record = PauseRecord { devices, memory, overlays, quiet, checkpoint };
            // Unless it is noted, it is not paused.
            let noted = note(&record).inspect_err(|_| saved::remove_changes(&directory));
            Ok(noted.map(|()| record))
        });
        let record =
            written.instrument(info_span!("write")).await.map_err(|source| EngineError::Saved { source })??;
        still.forever();
        Ok((template.into(), record))
    }

    /// Lets a paused sandbox go on. When that fails, it lies on disk as before.
    ///
    /// # Errors
    /// [`EngineError::Outdated`], [`EngineError::Saved`] for what was damaged meanwhile, and those of [`Engine::create`].
    pub async fn resume(&self, paused: Paused) -> Result<Sandbox, Refused<Paused>> {
        self.resume_noting(paused, Box::new(|_| Ok(()))).await
    }

    /// As [`Self::resume`]; that it runs is noted before what was saved goes.
    pub(crate) async fn resume_noting(
        &self,
        paused: Paused,
        note: Noting<Sandbox>,
    ) -> Result<Sandbox, Refused<Paused>> {
        let directory = paused.place.directory.path().to_owned();
        let (sandbox, kept) = match self.start_paused(paused, Process::AsItWas).await {
            // It goes on all the same.
            Err((paused, error)) if paused.with.record.checkpoint.is_some() && error.may_be_a_checkpoints() => {
                self.start_paused(paused, Process::Afresh).await
            }
            started => started,
        }
        .map_err(|(sandbox, error)| Refused { sandbox, error })?;
        if let Err(source) = note(&sandbox) {
            let (place, _, _) = sandbox.end().await;
            return Err(Refused { sandbox: kept.in_place(place), error: source.into() });
        }
        saved::remove_changes(&directory);
        Ok(sandbox)
    }

    /// Starts it, and returns also what it is paused with.
    async fn start_paused(
        &self,
        paused: Paused,
        process: Process,
    ) -> Result<(Sandbox, PausedWith), (Paused, EngineError)> {
        let loaded = self.load_paused(&paused, process).instrument(info_span!("load")).await;
        let (base, origin) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => return Err((paused, error)),
        };
        let Paused { place, with } = paused;
        match self.start_saved(&with.spec, base, place, origin, Phases::since(Instant::now())).await {
            Ok(sandbox) => Ok((sandbox, with)),
            Err((place, error)) => Err((with.in_place(place), error)),
        }
    }

    async fn load_paused(&self, paused: &Paused, process: Process) -> Result<(Base, Origin), EngineError> {
        let with = &paused.with;
        let template = self.template_below(&with.below).await?;
        let base = self.base_of(&with.spec, &template.record)?;
        let directory = paused.place.directory.path().to_owned();
        let (record, ram) = (with.record.clone(), template.saved.ram.clone());
        let below = template.checkpoint().filter(|_| process == Process::AsItWas && !self.fresh_qemu).cloned();
        let loaded = apart(move || {
            let changes = Some(saved::open_changes(&directory, &record.memory)?);
            let read = |(record, below): (_, Arc<_>)| saved::read_checkpoint(&directory, &record, Some(&below));
            let checkpoint = record.checkpoint.zip(below).map(read).transpose()?;
            let devices = saved::read_devices(&directory, &record.devices)?;
            Ok((Resting { devices, ram, changes }, checkpoint.map(Arc::new)))
        });
        let (saved, checkpoint) = loaded.await.map_err(|source| EngineError::Saved { source })?;
        Ok((base, Origin { template, saved, checkpoint, renew: Renewal::Same, quiet: with.record.quiet }))
    }
}

/// What a paused sandbox goes on in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    /// Its QEMU as it was, if that was saved and is of use.
    AsItWas,
    /// A QEMU that starts afresh.
    Afresh,
}

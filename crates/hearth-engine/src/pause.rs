//! Pausing: a sandbox gives its memory back and lies on disk, and goes on later where it was.
//!
//! What must stay true, whenever this process is killed: the machine, or all of what was saved, is there. So it is noted that a sandbox is paused
//! once the files are whole and before its machine ends, and that it runs before they go.

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
    /// Kept for the image's sake; none for one that was taken over and whose image is gone.
    base: Option<Base>,
    spec: SandboxSpec,
    below: Below,
    record: PauseRecord,
    took: Duration,
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
        Self { place, base, spec, below, record, took: Duration::ZERO }
    }

    /// Its name.
    pub fn id(&self) -> &SandboxId {
        self.place.directory.id()
    }

    /// How long it took from the first request until its machine was gone.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// What of its memory lies on disk, in bytes.
    pub fn saved_bytes(&self) -> u64 {
        self.record.bytes()
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
                Ok(Paused { place, base, spec, below, record, took: begun.elapsed() })
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
        let place = sandbox.place.lock().await;
        let failed = |source| EngineError::Capture { source };
        let prepared = sandbox.machine().prepare_capture(&template.saved.ram).await.map_err(failed)?;
        let still = match Stillness::of(sandbox).await {
            Ok(still) => still,
            Err(error) => {
                sandbox.machine().abandon_capture(prepared).await;
                return Err(error);
            }
        };
        let saved = sandbox.machine().capture(prepared).instrument(info_span!("capture")).await.map_err(failed)?;
        let quiet = still.is_quiet();
        let directory = place.directory.path().to_owned();
        let overlays = place.scratch.as_ref().map_or(0, |scratch| scratch.overlays());
        let lasts = place.directory.lifetime() == Lifetime::Detached;
        let written = apart(move || {
            let delta = saved.delta.clone().unwrap_or_default();
            let written = saved::write_changes(&directory, &saved, &delta);
            let (devices, memory) = written.inspect_err(|_| saved::remove_changes(&directory))?;
            if lasts {
                saved::sync(&directory).inspect_err(|_| saved::remove_changes(&directory))?;
            }
            let record = PauseRecord { devices, memory, overlays, quiet };
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
        let loaded = match self.load_paused(&paused).instrument(info_span!("load")).await {
            Ok(loaded) => loaded,
            Err(error) => return Err(Refused { sandbox: paused, error }),
        };
        let (base, origin) = loaded;
        let Paused { place, base: kept, spec, below, record, took } = paused;
        let directory = place.directory.path().to_owned();
        let again = |place| Paused { place, base: kept, spec: spec.clone(), below, record, took };
        let sandbox = match self.start_saved(&spec, base, place, origin, Phases::since(Instant::now())).await {
            Ok(sandbox) => sandbox,
            Err((place, error)) => return Err(Refused { sandbox: again(place), error }),
        };
        if let Err(source) = note(&sandbox) {
            let (place, _, _) = sandbox.end().await;
            return Err(Refused { sandbox: again(place), error: source.into() });
        }
        saved::remove_changes(&directory);
        Ok(sandbox)
    }

    async fn load_paused(&self, paused: &Paused) -> Result<(Base, Origin), EngineError> {
        let template = self.template_below(&paused.below).await?;
        let base = self.base_of(&paused.spec, &template.record)?;
        let directory = paused.place.directory.path().to_owned();
        let (record, ram) = (paused.record.clone(), template.saved.ram.clone());
        let loaded = apart(move || {
            let changes = Some(saved::open_changes(&directory, &record.memory)?);
            Ok(Resting { devices: saved::read_devices(&directory, &record.devices)?, ram, changes })
        });
        let saved = loaded.await.map_err(|source| EngineError::Saved { source })?;
        Ok((base, Origin { template, saved, renew: Renewal::Same, quiet: paused.record.quiet }))
    }
}

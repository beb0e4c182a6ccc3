//! Pausing: a sandbox gives its memory back and lies on disk, and goes on later where it was.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_vmm::SavedMachine;

use crate::boot::{Origin, Phases, Renewal};
use crate::capture::Stillness;
use crate::checked::FileRecord;
use crate::create::{Base, Place};
use crate::identity::SandboxId;
use crate::sandbox::Sandbox;
use crate::saved::{self, apart};
use crate::template::Template;
use crate::{Engine, EngineError, SandboxSpec};

/// A sandbox that lies on disk. Dropping it removes it.
#[derive(Debug)]
pub struct Paused {
    place: Place,
    /// Kept for the image's sake.
    base: Base,
    spec: SandboxSpec,
    template: Arc<Template>,
    devices: FileRecord,
    memory: FileRecord,
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

impl Paused {
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
        self.devices.bytes + self.memory.bytes
    }
}

impl Engine {
    /// Puts a running sandbox on disk and ends its machine. When that fails, it runs on.
    ///
    /// # Errors
    /// [`EngineError::NotRestored`], [`EngineError::Outdated`], [`EngineError::Capture`], [`EngineError::Saved`].
    pub async fn pause(&self, sandbox: Sandbox) -> Result<Paused, Refused<Sandbox>> {
        let begun = Instant::now();
        match self.save_for_pause(&sandbox).await {
            Ok((template, (devices, memory))) => {
                let (place, base, spec) = sandbox.end().await;
                Ok(Paused { place, base, spec, template, devices, memory, took: begun.elapsed() })
            }
            Err(error) => Err(Refused { sandbox, error }),
        }
    }

    async fn save_for_pause(
        &self,
        sandbox: &Sandbox,
    ) -> Result<(Arc<Template>, (FileRecord, FileRecord)), EngineError> {
        let template = sandbox.restored_from()?.clone();
        self.check_disk()?;
        let place = sandbox.place.lock().await;
        let failed = |source| EngineError::Capture { source };
        let prepared = sandbox.machine().prepare_capture().await.map_err(failed)?;
        let still = match Stillness::of(sandbox).await {
            Ok(still) => still,
            Err(error) => {
                sandbox.machine().abandon_capture(prepared).await;
                return Err(error);
            }
        };
        let saved = sandbox.machine().capture(prepared).await.map_err(failed)?;
        let (directory, saved) = (place.directory.path().to_owned(), saved);
        let written = apart(move || {
            let delta = saved.delta.clone().unwrap_or_default();
            saved::write_changes(&directory, &saved, &delta).inspect_err(|_| saved::remove_changes(&directory))
        });
        let written = written.await.map_err(|source| EngineError::Saved { source })?;
        still.forever();
        Ok((template, written))
    }

    /// Lets a paused sandbox go on. When that fails, it lies on disk as before.
    ///
    /// # Errors
    /// [`EngineError::Outdated`], [`EngineError::Saved`] for what was damaged meanwhile, and those of [`Engine::create`].
    pub async fn resume(&self, paused: Paused) -> Result<Sandbox, Refused<Paused>> {
        let loaded = match self.load_paused(&paused).await {
            Ok(loaded) => loaded,
            Err(error) => return Err(Refused { sandbox: paused, error }),
        };
        let (base, origin) = loaded;
        let Paused { place, base: kept, spec, template, devices, memory, took } = paused;
        let directory = place.directory.path().to_owned();
        match self.start_saved(&spec, base, place, origin, Phases::since(Instant::now())).await {
            Ok(sandbox) => {
                saved::remove_changes(&directory);
                Ok(sandbox)
            }
            Err((place, error)) => {
                let sandbox = Paused { place, base: kept, spec, template, devices, memory, took };
                Err(Refused { sandbox, error })
            }
        }
    }

    async fn load_paused(&self, paused: &Paused) -> Result<(Base, Origin), EngineError> {
        let base = self.base_of(&paused.spec, &paused.template.record)?;
        let directory = paused.place.directory.path().to_owned();
        let (devices, memory) = (paused.devices.clone(), paused.memory.clone());
        let ram = paused.template.saved.ram.clone();
        let loaded = apart(move || {
            let delta = saved::read_changes(&directory, &memory, ram.size())?;
            Ok(SavedMachine { devices: saved::read_devices(&directory, &devices)?, ram, delta: Some(Arc::new(delta)) })
        });
        let saved = loaded.await.map_err(|source| EngineError::Saved { source })?;
        Ok((base, Origin { template: paused.template.clone(), saved, renew: Renewal::Same }))
    }
}

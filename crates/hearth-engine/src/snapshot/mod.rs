//! Snapshots: running sandboxes that were saved under a name, to start any number of new ones from.
//!
//! A snapshot holds what a guest had changed of its template, and pins that template: the very one, by its id, since a template that was
//! made again has another memory. What has changed on the host since (QEMU, the processor) refuses it, with the reason.

mod file;
#[cfg(test)]
mod file_tests;
mod store;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hearth_vmm::{CpuCount, MemoryMib, Resting};
use tracing::{Instrument, info_span};

pub use file::{SnapshotExport, SnapshotFileError};
pub use store::SnapshotRecord;

use crate::boot::{Origin, Phase, Phases, Renewal};
use crate::create::Layers;
use crate::fleet::SandboxName;
use crate::sandbox::Sandbox;
use crate::saved::apart;
use crate::scratch::Scratch;
use crate::template::Template;
use crate::{AcceleratorChoice, DiskMib, Engine, EngineError, Given, SandboxId, SandboxSpec, StartFrom};
use store::Kept;

/// A snapshot that was just taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// What is known of it.
    pub record: SnapshotRecord,
    /// For how long the sandbox's processes stood still.
    pub stopped: Duration,
}

impl Engine {
    /// Saves a running sandbox under a name. It goes on.
    ///
    /// # Errors
    /// [`EngineError::SnapshotExists`], [`EngineError::Outdated`] before it is stopped;
    /// [`EngineError::Capture`], [`EngineError::Saved`]; then there is no such snapshot.
    pub async fn snapshot(&self, source: &Sandbox, name: &SandboxName) -> Result<Taken, EngineError> {
        let template = self.template_below(source.lies_on()?).await?;
        let saved = |source| EngineError::Saved { source };
        let directory = self.directories.snapshots();
        if store::exists(&directory, name) {
            return Err(EngineError::SnapshotExists { name: name.as_str().to_owned() });
        }
        self.check_lasting(&source.spec, &template.record)?;
        self.check_disk()?;
        let unfinished = store::begin(&directory).map_err(saved)?;
        let moment = source.capture(&template, &mut *source.place.lock().await, unfinished.path(), None).await?;
        let kept = Kept { name: name.clone(), template: template.record.clone(), spec: source.spec.clone() };
        let record = apart(move || store::finish(&directory, unfinished, kept, &moment.saved, moment.scratch.as_ref()));
        let record = record.instrument(info_span!("write")).await.map_err(saved)?;
        Ok(Taken { record, stopped: moment.stopped })
    }

    /// The snapshots there are, in the order of their names.
    pub fn snapshots(&self) -> Vec<SnapshotRecord> {
        store::list(&self.directories.snapshots())
    }

    /// What is known of one.
    ///
    /// # Errors
    /// [`EngineError::NoSnapshot`].
    pub fn inspect_snapshot(&self, name: &SandboxName) -> Result<SnapshotRecord, EngineError> {
        let record = store::record(&self.directories.snapshots(), name);
        record.ok_or_else(|| EngineError::NoSnapshot { name: name.as_str().to_owned() })
    }

    /// Removes one. Sandboxes that were started from it go on.
    ///
    /// # Errors
    /// [`EngineError::NoSnapshot`], [`EngineError::Saved`].
    pub fn remove_snapshot(&self, name: &SandboxName) -> Result<(), EngineError> {
        self.inspect_snapshot(name)?;
        store::remove(&self.directories.snapshots(), name).map_err(|source| EngineError::Saved { source })
    }

    /// The templates that snapshots, and sandboxes that last, need.
    pub(crate) fn pinned_templates(&self) -> Vec<crate::TemplateId> {
        let snapshots = self.snapshots().into_iter().map(|snapshot| snapshot.template);
        snapshots.chain(self.lasting_templates()).collect()
    }

    /// Those that sandboxes need which outlive the daemon.
    pub(crate) fn lasting_templates(&self) -> Vec<crate::TemplateId> {
        crate::store::templates_in(&self.directories.state())
    }

    /// The specification of a new sandbox that goes on from where the saved one was, with an identity of its own and none of its secrets.
    /// What its programs are to be given can be added.
    ///
    /// # Errors
    /// [`EngineError::NoSnapshot`].
    pub fn spec_of_snapshot(&self, name: &SandboxName) -> Result<SandboxSpec, EngineError> {
        spec_of(&self.inspect_snapshot(name)?)
    }

    /// Starts a sandbox as [`Self::spec_of_snapshot`] specifies it.
    pub(crate) async fn create_by_snapshot(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        name: &SandboxName,
        mut phases: Phases,
    ) -> Result<Sandbox, EngineError> {
        let record = self.inspect_snapshot(name)?;
        let template = self.template_with(&record.template).await?;
        let base = self.base_of(spec, &template.record)?;
        phases.note(Phase::Template);
        let own = store::path(&self.directories.snapshots(), name);
        let saved = load(&own, &record, &template).await?;
        let scratch = record.disk_mib.map(|_| Scratch::saved(&own, record.overlays.len()));
        let place = self.place_for(id, self.lifetime, scratch.as_ref(), Layers::OneMore)?;
        phases.note(Phase::Prepared);
        let origin = Origin { template, saved, checkpoint: None, renew: Renewal::Anew, quiet: false };
        self.start_saved(spec, base, place, origin, phases).await.map_err(|(_, error)| error)
    }

    /// A snapshot with its template, to be written out as one stream, compressed.
    ///
    /// # Errors
    /// [`EngineError::NoSnapshot`], [`EngineError::SnapshotFile`].
    pub fn open_snapshot(&self, name: &SandboxName) -> Result<SnapshotExport, EngineError> {
        let record = self.inspect_snapshot(name)?;
        let own = store::path(&self.directories.snapshots(), name);
        let template = self.directories.templates().join(record.template.as_str());
        Ok(SnapshotExport::open(&record, &own, &template)?)
    }

    /// Writes it into a file, whole or not at all.
    ///
    /// # Errors
    /// As [`Self::open_snapshot`].
    pub async fn export_snapshot(&self, name: &SandboxName, to: &Path) -> Result<(), EngineError> {
        let (export, to) = (self.open_snapshot(name)?, to.to_owned());
        file::apart(move || Ok(export.write_at(&to)?)).await
    }

    /// Reads what [`SnapshotExport::write_to`] has written, up to its end, as a snapshot with a name of its own. The image must be here already.
    ///
    /// # Errors
    /// [`EngineError::SnapshotExists`], [`EngineError::Outdated`] when it does not fit this host, [`EngineError::SnapshotFile`] for bytes
    /// that are damaged, cut off or something else. Then nothing was added.
    pub async fn import_snapshot(
        &self,
        from: impl Read + Send + 'static,
        name: &SandboxName,
    ) -> Result<SnapshotRecord, EngineError> {
        let (snapshots, templates) = (self.directories.snapshots(), self.directories.templates());
        if store::exists(&snapshots, name) {
            return Err(EngineError::SnapshotExists { name: name.as_str().to_owned() });
        }
        let (engine, wanted) = (self.clone(), name.clone());
        let published = file::apart(move || {
            // What this host has no room for is no better than what it cannot run.
            let fits = |record: &SnapshotRecord, template: &_| engine.base_of(&spec_of(record)?, template).map(drop);
            let imported = file::import(from, (&snapshots, &templates), fits)?;
            Ok(imported.publish(&snapshots, &templates, &wanted)?)
        });
        // Somebody else may have taken the name meanwhile.
        let taken = |error: EngineError| match store::exists(&self.directories.snapshots(), name) {
            true => EngineError::SnapshotExists { name: name.as_str().to_owned() },
            false => error,
        };
        published.await.map_err(taken)
    }
}

/// The sandbox that was saved, as far as a new one is to be like it.
fn spec_of(record: &SnapshotRecord) -> Result<SandboxSpec, EngineError> {
    Ok(SandboxSpec {
        image: record.image.clone(),
        cpus: CpuCount::new(record.cpus)?,
        memory: MemoryMib::new(record.memory_mib)?,
        disk: record.disk_mib.map(DiskMib::new).transpose()?,
        accelerator: AcceleratorChoice::Auto,
        start: StartFrom::Snapshot(
            SandboxName::new(record.name.as_str())
                .map_err(|_| EngineError::NoSnapshot { name: record.name.clone() })?,
        ),
        dialects: None,
        given: Given::default(),
    })
}

async fn load(own: &Path, record: &SnapshotRecord, template: &Arc<Template>) -> Result<Resting, EngineError> {
    let (own, record, ram) = (own.to_owned(), record.clone(), template.saved.ram.clone());
    let loaded = apart(move || {
        let (devices, changes) = store::load(&own, &record)?;
        Ok(Resting { ram, devices, changes: Some(changes) })
    });
    loaded.await.map_err(|source| EngineError::Saved { source })
}

//! Templates: guests that were booted once, and are restored ever after.
//!
//! A template is made on first use and kept twice: in memory, sealed, for as long as its engine lives, and on disk
//! ([`store`]), from where the next engine loads it. Everything it depends on is in its [key](TemplateKey), so one that no longer fits is
//! never found; what cannot be in a key (a measured clock) is compared when it is loaded.

mod housekeeping;
mod key;
mod make;
mod rehearse;
mod store;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hearth_vmm::{Checkpoint, SavedMachine, SealedRam};
use tokio::sync::OnceCell;

pub use housekeeping::{TemplateInfo, TemplateMemory};
pub use key::TemplateId;
pub(crate) use key::TemplateKey;
pub(crate) use make::Found;
pub use store::TemplateRecord;
pub(crate) use store::{FORMAT as TEMPLATE_FORMAT, RECORD as TEMPLATE_RECORD, check, record};

use housekeeping::{DEFAULT_LIMIT, Use};

use crate::accelerator::Way;
use crate::saved::{SavedFault, apart};
use crate::scratch::Scratch;
use crate::{Engine, EngineError};

/// How often in a row a template's checkpoint may fail before nobody in this process tries it again: a QEMU may also be killed.
const MOST_FAILURES: u32 = 3;

/// A guest that waits to be restored.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) record: TemplateRecord,
    pub(crate) way: Way,
    pub(crate) saved: SavedMachine,
    checkpoint: Option<Arc<Checkpoint>>,
    /// How often in a row it did not work.
    failures: AtomicU32,
    /// The disk that its guest was saved with.
    pub(crate) scratch: Option<Scratch>,
    /// Keeps its files where they are.
    _use: Option<Use>,
}

impl Template {
    /// The QEMU that its guest was saved of, where that can be gone on with.
    pub(crate) fn checkpoint(&self) -> Option<&Arc<Checkpoint>> {
        let checkpoint = self.checkpoint.as_ref().filter(|_| self.failures.load(Ordering::Relaxed) < MOST_FAILURES)?;
        // Libraries may have been replaced since it was loaded.
        checkpoint.fits().then_some(checkpoint)
    }

    /// Notes whether a sandbox could go on from it.
    pub(crate) fn checkpoint_worked(&self, worked: bool) {
        match worked {
            true => self.failures.store(0, Ordering::Relaxed),
            false => drop(self.failures.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// What it takes of the host's memory, in bytes.
    fn resident(&self) -> u64 {
        self.saved.ram.resident() + self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.resident())
    }
}

/// Memory that may be templates'.
type Mapped = Vec<(TemplateId, Arc<SealedRam>)>;

/// The template that a sandbox was restored from: in memory, or to be found when it is needed.
#[derive(Debug)]
pub(crate) struct Below {
    pub(crate) id: TemplateId,
    template: OnceCell<Arc<Template>>,
}

impl From<TemplateId> for Below {
    fn from(id: TemplateId) -> Self {
        Self { id, template: OnceCell::new() }
    }
}

impl From<Arc<Template>> for Below {
    fn from(template: Arc<Template>) -> Self {
        Self { id: template.record.id.clone(), template: OnceCell::new_with(Some(template)) }
    }
}

impl Engine {
    /// The template that a sandbox was restored from.
    pub(crate) async fn template_below(&self, below: &Below) -> Result<Arc<Template>, EngineError> {
        below.template.get_or_try_init(|| self.template_with(&below.id)).await.cloned()
    }

    /// The template with an id.
    pub(crate) async fn template_with(&self, id: &TemplateId) -> Result<Arc<Template>, EngineError> {
        let loaded = self.templates.by_id(id).await;
        let missing = || EngineError::Outdated { reason: format!("its template {id} is gone") };
        loaded.map_err(|source| EngineError::Saved { source })?.ok_or_else(missing)
    }
}

/// All templates of one engine.
#[derive(Debug)]
pub(crate) struct Templates {
    directory: PathBuf,
    /// One cell a key, so that whoever asks while one is being made waits for just that one.
    loaded: Mutex<HashMap<TemplateKey, Arc<OnceCell<Arc<Template>>>>>,
    /// Those that are not the ones that new sandboxes start from, for as long as something needs them.
    pinned: tokio::sync::Mutex<HashMap<TemplateId, Weak<Template>>>,
    /// What machines that were taken over have mapped, to be shared once it was proven to be what the template holds.
    mapped: Mutex<Vec<(TemplateId, Weak<SealedRam>)>>,
    /// What those on disk may take together, in bytes.
    pub(crate) limit: AtomicU64,
}

impl Templates {
    pub(crate) fn in_directory(directory: PathBuf) -> Self {
        Self {
            directory,
            loaded: Mutex::default(),
            pinned: tokio::sync::Mutex::default(),
            mapped: Mutex::default(),
            limit: DEFAULT_LIMIT.into(),
        }
    }

    fn cell(&self, key: &TemplateKey) -> Arc<OnceCell<Arc<Template>>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.entry(key.clone()).or_default().clone()
    }

    /// Notes what a machine that was taken over has mapped of a template, as it says.
    pub(crate) fn is_mapped(&self, id: &TemplateId, ram: &Arc<SealedRam>) {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        mapped.retain(|(_, ram)| ram.strong_count() > 0);
        mapped.push((id.clone(), Arc::downgrade(ram)));
    }

    /// What there is of a template's memory in machines that were taken over, each file once.
    fn mapped(&self) -> Mapped {
        let mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Mapped = Vec::new();
        for (id, ram) in mapped.iter().filter_map(|(id, ram)| Some((id, ram.upgrade()?))) {
            if !all.iter().any(|(known, other)| known == id && other.is_same_file(&ram)) {
                all.push((id.clone(), ram));
            }
        }
        all
    }

    /// The template with an id: one in memory, else the one on disk, all of it checked; `None` when there is none.
    pub(crate) async fn by_id(&self, id: &TemplateId) -> Result<Option<Arc<Template>>, SavedFault> {
        let cells: Vec<_> = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let found = cells.iter().filter_map(|cell| cell.get()).find(|template| template.record.id == *id);
        if let Some(template) = found {
            return Ok(Some(template.clone()));
        }
        let mut pinned = self.pinned.lock().await;
        if let Some(template) = pinned.get(id).and_then(Weak::upgrade) {
            return Ok(Some(template));
        }
        let (directory, wanted, mapped) = (self.directory.clone(), id.clone(), self.mapped());
        let loaded = apart(move || store::read_id(&directory, &wanted, &mapped)).await?.map(Arc::new);
        pinned.retain(|_, template| template.strong_count() > 0);
        if let Some(template) = &loaded {
            pinned.insert(id.clone(), Arc::downgrade(template));
        }
        Ok(loaded)
    }
}

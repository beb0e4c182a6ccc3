//! Templates: guests that were booted once, and are restored ever after.
//!
//! A template is made on first use and kept twice: in memory, sealed, for as long as its engine lives, and on disk
//! ([`store`]), from where the next engine loads it. Everything it depends on is in its [key](TemplateKey), so one that no longer fits is
//! never found; what cannot be in a key (a measured clock) is compared when it is loaded.

mod key;
mod make;
mod store;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hearth_vmm::SavedMachine;
use tokio::sync::OnceCell;

pub use key::TemplateId;
pub(crate) use key::TemplateKey;
pub(crate) use make::Found;
pub use store::TemplateRecord;

use crate::accelerator::Way;
use crate::scratch::Scratch;

/// A guest that waits to be restored.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) record: TemplateRecord,
    pub(crate) way: Way,
    pub(crate) saved: SavedMachine,
    /// The disk that its guest was saved with.
    pub(crate) scratch: Option<Scratch>,
}

/// All templates of one engine.
#[derive(Debug)]
pub(crate) struct Templates {
    directory: PathBuf,
    /// One cell a key, so that whoever asks while one is being made waits for just that one.
    loaded: Mutex<HashMap<TemplateKey, Arc<OnceCell<Arc<Template>>>>>,
}

impl Templates {
    pub(crate) fn in_directory(directory: PathBuf) -> Self {
        Self { directory, loaded: Mutex::default() }
    }

    fn cell(&self, key: &TemplateKey) -> Arc<OnceCell<Arc<Template>>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.entry(key.clone()).or_default().clone()
    }
}

//! The product: sandboxes, created, used and removed.
//!
//! The one crate that knows all three of image, machine and channel, and what makes a sandbox of them. The binary above it
//! only parses, prints and signals. What must stay true:
//!
//! - *Nothing is left behind.* Everything a sandbox has on the host is in its own directory, or dies with its process. The directory
//!   is locked by its owner; [`Engine::open`] removes those whose owner is gone.
//! - *Nothing is assumed of an accelerator.* It is proven by reaching the agent, and the finding is kept.
//! - *Refusals come first.* What can be known to fail fails before anything is created.

mod accelerator;
mod agent;
mod boot;
mod capture;
mod checked;
mod create;
mod dialects;
mod directories;
mod doctor;
mod error;
pub mod fleet;
mod fork;
mod forward;
mod guest;
mod identity;
mod initramfs;
mod pause;
mod preflight;
mod sandbox;
mod saved;
mod scratch;
mod snapshot;
mod sweep;
mod template;

pub use accelerator::{AcceleratorChoice, Finding};
pub use agent::AgentProgram;
pub use boot::Phase;
pub use checked::FileRecord;
pub use create::{DialectSpec, DiskMib, Draft, Given, SandboxSpec, StartFrom};
pub use dialects::DialectAddresses;
pub use directories::{Directories, NoHome};
pub use doctor::{Check, Need, Report};
pub use error::{EngineError, Kind, chain};
pub use fork::{ForkSpec, Forked, MAX_COPIES};
pub use identity::SandboxId;
pub use pause::{Paused, Refused};
pub use sandbox::Sandbox;
pub use saved::SavedFault;
pub use snapshot::{SnapshotFileError, SnapshotRecord, Taken};
pub use template::{TemplateId, TemplateRecord};

pub use hearth_channel as channel;
pub use hearth_image as image;
pub use hearth_protocol as protocol;
pub use hearth_vmm as vmm;

use hearth_vmm::MemoryMib;

use hearth_image::ImageStore;
use hearth_vmm::{Launcher, Qemu};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use template::Templates;

/// The name of the image that is used where none is named.
pub const DEFAULT_IMAGE: &str = "debian";

/// All sandboxes of one user on one machine. Clones are the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    directories: Directories,
    launcher: Launcher,
    qemu: Option<PathBuf>,
    known_qemu: Arc<Mutex<Option<(Qemu, FileMark)>>>,
    images: ImageStore,
    templates: Arc<Templates>,
}

impl Engine {
    /// Opens the engine on its directories and removes what dead owners left there. Makes nothing: the first sandbox or build does.
    ///
    /// `launcher` is the program that becomes the jail of a machine; `qemu` overrides the QEMU that is found in `PATH`.
    ///
    /// # Errors
    /// [`EngineError::Directory`], [`EngineError::Image`].
    pub fn open(directories: Directories, launcher: Launcher, qemu: Option<PathBuf>) -> Result<Self, EngineError> {
        if directories.sandboxes().is_dir() {
            sweep::sweep(&directories.sandboxes(), &directories.births());
        }
        let images = ImageStore::open(&directories.images())?;
        let templates = Arc::new(Templates::in_directory(directories.templates()));
        Ok(Self { directories, launcher, qemu, known_qemu: Arc::default(), images, templates })
    }

    /// The images there are.
    pub fn images(&self) -> &ImageStore {
        &self.images
    }

    /// Where everything is kept.
    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// Finds the QEMU to use.
    ///
    /// # Errors
    /// [`EngineError::Qemu`].
    pub fn qemu(&self) -> Result<Qemu, EngineError> {
        let mut known = self.known_qemu.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((qemu, file)) = known.as_ref()
            && FileMark::of(qemu.path()).as_ref() == Some(file)
        {
            return Ok(qemu.clone());
        }
        let qemu = Qemu::find(self.qemu.as_deref())?;
        *known = FileMark::of(qemu.path()).map(|file| (qemu.clone(), file));
        Ok(qemu)
    }
}

/// What changes with a program: asking one for its version takes as long as a third of a restore.
#[derive(Debug, PartialEq, Eq)]
struct FileMark {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl FileMark {
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self { device: found.dev(), inode: found.ino(), changed: (found.ctime(), found.ctime_nsec()) })
    }
}

//! The product: sandboxes, created, used and removed.
//!
//! The one crate that knows all three of image, machine and channel, and what makes a sandbox of them. The binary above it
//! only parses, prints and signals. What must stay true:
//!
//! - *Nothing is left behind.* Everything a sandbox has on the host is in its own directory, or dies with its process. The directory
//!   is locked by its owner; [`Engine::open`] removes those whose owner is gone. Machines of a daemon's outlive it: the next takes them
//!   over ([`fleet::Fleet::open`]), and ends those that nobody is to have.
//! - *Nothing is assumed of an accelerator.* It is proven by reaching the agent, and the finding is kept.
//! - *Refusals come first.* What can be known to fail fails before anything is created.

mod accelerator;
mod adopt;
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
mod pool;
mod preflight;
mod pressure;
mod sandbox;
mod saved;
mod scratch;
mod snapshot;
mod standby;
mod stop;
mod store;
mod sweep;
mod template;
mod versions;

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
pub use pool::{PoolCounts, PoolKind, PoolLimits, PoolShelf, PoolStatus};
pub use preflight::host_memory;
pub use sandbox::Sandbox;
pub use saved::SavedFault;
pub use snapshot::{SnapshotExport, SnapshotFileError, SnapshotRecord, Taken};
pub use standby::Standby;
pub use stop::{DEFAULT_GRACE, LONGEST_GRACE, StopReport, Stopped};
pub use store::StoreError;
pub use template::{TemplateId, TemplateInfo, TemplateMemory, TemplateRecord};

pub use hearth_channel as channel;
pub use hearth_image as image;
pub use hearth_protocol as protocol;
pub use hearth_vmm as vmm;

use hearth_image::ImageStore;
use hearth_vmm::{Launcher, Lifetime, Qemu, QemuProgram};
use std::path::PathBuf;
use std::sync::Arc;
use template::Templates;
use versions::Versions;

/// The name of the image that is used where none is named.
pub const DEFAULT_IMAGE: &str = "debian";

/// All sandboxes of one user on one machine. Clones are the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    directories: Directories,
    launcher: Launcher,
    qemu: Option<PathBuf>,
    images: ImageStore,
    templates: Arc<Templates>,
    versions: Arc<Versions>,
    /// Whether machines may outlive this process.
    lifetime: Lifetime,
    /// Whether each sandbox has a QEMU that starts afresh.
    fresh_qemu: bool,
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
        saved::sweep(&directories.templates());
        saved::sweep(&directories.snapshots());
        let images = ImageStore::open(&directories.images())?;
        let templates = Arc::new(Templates::in_directory(directories.templates()));
        let versions = Arc::new(Versions::in_file(directories.versions()));
        let lifetime = Lifetime::WithOwner;
        Ok(Self { directories, launcher, qemu, images, templates, versions, lifetime, fresh_qemu: false })
    }

    /// Has each sandbox's QEMU start afresh, rather than go on as one that has translated what guests do first: the layout of its memory is then
    /// its own, and under software emulation the first second is slower.
    pub fn with_fresh_qemu(self) -> Self {
        Self { fresh_qemu: true, ..self }
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
        let program = QemuProgram::find(self.qemu.as_deref())?;
        let Some(stamp) = program.stamp().map(str::to_owned) else { return Ok(program.ask()?) };
        let remembered = self.versions.get(&stamp);
        if let Some(qemu) = remembered.and_then(|text| program.clone().which_said(&text).ok()) {
            return Ok(qemu);
        }
        let qemu = program.ask()?;
        self.versions.keep(stamp, qemu.build());
        Ok(qemu)
    }
}

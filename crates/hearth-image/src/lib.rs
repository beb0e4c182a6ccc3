//! Kernels and root filesystems: built from Debian packages, kept by content, handed out as files.
//!
//! The crate owns everything under one directory, the *store*, which its caller names; it never looks at the
//! environment or a home directory. The engine asks it for an [`Image`] and boots what the image points at.
//!
//! What must stay true:
//!
//! * An image that can be seen is whole: its directory appears by one rename, after its files reached the disk.
//! * An image never changes. Names move from one image to another; images only come and go.
//! * Whatever is half made lies under `staging/` and belongs to a lock; nobody else reads it, and whoever gets the
//!   lock next may use its finished stages and throws the rest away.
//! * No process outlives the one that wanted its result: every tool runs under a watcher that kills it when the
//!   builder goes away, however that happens.
//!
//! Where to start reading: [`ImageStore`] for what is kept, `build` for how an image comes about, [`Modules`] for
//! the order in which a kernel's modules load, [`Initramfs`] for what the engine wraps its agent in.

mod build;
mod cpio;
mod error;
mod files;
mod image;
mod kernel;
mod lock;
mod names;
mod progress;
mod store;

pub use build::{BuildSpec, KernelSource, Mirror};
pub use cpio::{Initramfs, InitramfsError};
pub use error::ImageError;
pub use image::{Image, InUse, KernelManifest, Manifest, Package};
pub use kernel::{KernelError, ModuleFile, Modules, ModulesError};
pub use names::{Digest, ImageName, NameError, PackageName, Suite};
pub use progress::{Progress, Stage};
pub use store::ImageStore;

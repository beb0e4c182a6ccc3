//! An image: what it consists of, and the record that describes it.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{Digest, ImageError, ImageName, KernelError, Modules, Suite, lock};

/// The version of `manifest.json`, and of the rules by which an image is built.
pub(crate) const FORMAT: u32 = 1;

/// An image in the store: a read-only root filesystem and a kernel to run it with.
#[derive(Debug, Clone)]
pub struct Image {
    /// The name it was asked for by, or one of its names; none when it was found by digest and has none.
    pub name: Option<ImageName>,
    /// The SHA-256 that its content is known by.
    pub digest: Digest,
    /// What it consists of.
    pub manifest: Manifest,
    directory: PathBuf,
}

/// Keeps an image from being removed for as long as it lives, in any process.
#[derive(Debug)]
pub struct InUse(#[expect(dead_code, reason = "held for its lock")] lock::Locked);

impl Image {
    pub(crate) fn new(name: Option<ImageName>, digest: Digest, manifest: Manifest, directory: PathBuf) -> Self {
        Image { name, digest, manifest, directory }
    }

    /// Returns the root filesystem's file, an uncompressed EROFS.
    pub fn rootfs(&self) -> PathBuf {
        self.directory.join(files::ROOTFS)
    }

    /// Returns the kernel's file: a bzImage or an ELF.
    pub fn kernel(&self) -> PathBuf {
        self.directory.join(files::KERNEL)
    }

    /// Returns the kernel's release, as `uname -r` prints it in the guest.
    pub fn kernel_release(&self) -> &str {
        &self.manifest.kernel.release
    }

    /// Returns the directory of the kernel's modules, all of them uncompressed.
    pub fn modules_directory(&self) -> PathBuf {
        self.directory.join(files::MODULES)
    }

    /// Reads the index of the kernel's modules.
    ///
    /// # Errors
    /// [`ImageError::Kernel`] when it cannot be read.
    pub fn modules(&self) -> Result<Modules, ImageError> {
        Modules::read(&self.modules_directory()).map_err(|error| KernelError::from(error).into())
    }

    /// Takes a share of the image, which keeps it in the store until the guard is dropped.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] when it is just being removed.
    pub fn in_use(&self) -> Result<InUse, ImageError> {
        let gone = || ImageError::NotFound { reference: self.digest.to_string() };
        let path = self.directory.join(files::LOCK);
        let guard = lock::try_shared(&path).map_err(|_| gone())?.ok_or_else(gone)?;
        // The directory may have been renamed away between the opening and the locking.
        if path.exists() { Ok(InUse(guard)) } else { Err(gone()) }
    }
}

/// The names of an image's parts within its directory.
pub(crate) mod files {
    pub(crate) const ROOTFS: &str = "rootfs.erofs";
    pub(crate) const KERNEL: &str = "kernel";
    pub(crate) const MODULES: &str = "modules";
    pub(crate) const MANIFEST: &str = "manifest.json";
    pub(crate) const LOCK: &str = "lock";
}

/// What an image consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The record's version; others are refused.
    pub format: u32,
    /// The Debian suite it was built from.
    pub suite: Suite,
    /// The ordinary user: uid and gid 1000, home `/home/` and this name, `sudo` without a password.
    pub user: String,
    /// The installed packages, by name.
    pub packages: Vec<Package>,
    /// The root filesystem's SHA-256.
    pub rootfs: Digest,
    /// The root filesystem's size in bytes.
    pub rootfs_bytes: u64,
    /// The kernel.
    pub kernel: KernelManifest,
    /// The digest of what was asked for: suite, extra packages, kernel, mirror, and the rules of building.
    pub spec: Digest,
    /// When it was built, in seconds since 1970. The one field that the image's digest leaves out.
    pub created: u64,
}

/// One installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, as dpkg writes it.
    pub version: String,
    /// Its architecture: `amd64` or `all`.
    pub architecture: String,
}

/// A kernel and its modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelManifest {
    /// The release, as `uname -r` prints it.
    pub release: String,
    /// The Debian package and version that it came from, if it did.
    pub package: Option<String>,
    /// The kernel file's SHA-256.
    pub digest: Digest,
    /// The kernel file's size in bytes.
    pub bytes: u64,
    /// The SHA-256 over all modules: their paths and contents.
    pub modules: Digest,
    /// The modules' size in bytes.
    pub modules_bytes: u64,
}

impl Manifest {
    /// Computes the image's digest: that of the record without its time.
    pub(crate) fn digest(&self) -> Digest {
        crate::files::digest_of_record(&Manifest { created: 0, ..self.clone() })
    }

    /// Returns the time of the build.
    pub fn created_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.created)
    }

    /// Returns what the image takes on disk, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.rootfs_bytes + self.kernel.bytes + self.kernel.modules_bytes
    }
}

//! What a home keeps beside its sandboxes: snapshots, templates, images.
//!
//! A snapshot travels as one stream of bytes (`…/archive`, of type [`SNAPSHOT`]): compressed, with all it needs but the image, and with
//! checksums. It is taken in whole or not at all, for a host with the same image, QEMU and kind of processor.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Accelerator;

/// The type of a snapshot's bytes: a tar archive, compressed with zstd.
pub const SNAPSHOT: &str = "application/zstd";

/// The snapshots there are, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotList {
    /// Each of them.
    pub snapshots: Vec<SnapshotInfo>,
}

/// A sandbox that was saved under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotInfo {
    /// The name.
    pub name: String,
    /// When the sandbox was saved.
    pub created_unix_ms: u64,
    /// What it takes on disk beside its template.
    pub bytes: u64,
    /// The template that it lies on, and keeps.
    pub template: String,
    /// The image's digest.
    pub image: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The size of the disk in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u32>,
}

/// A template to make, unless it is there: of this kind of sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BuildTemplate {
    /// The image, a name or the beginning of a digest; the default one where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Processors; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory in MiB; 512 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    /// The size of the disk in MiB; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u32>,
    /// What is to run it.
    pub accelerator: Accelerator,
}

/// The templates there are, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateList {
    /// Each of them.
    pub templates: Vec<TemplateInfo>,
}

/// A guest that was booted once, for others to be restored from; one of a few KiB is the blank memory that booted sandboxes lie on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateInfo {
    /// Its name.
    pub id: String,
    /// What it takes on disk.
    pub bytes: u64,
    /// When it was last loaded or made.
    pub used_unix_ms: u64,
    /// Whether a process has it loaded, or a sandbox lies on it.
    pub in_use: bool,
    /// The snapshots that lie on it.
    pub snapshots: Vec<String>,
    /// What was booted; none where its record is damaged or of another version, and it is never used.
    pub machine: Option<TemplateMachine>,
}

impl TemplateInfo {
    /// Whether nothing needs it.
    pub fn is_unused(&self) -> bool {
        !self.in_use && self.snapshots.is_empty()
    }
}

/// What a template was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateMachine {
    /// The image's digest.
    pub image: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The size of the disk in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u32>,
    /// What ran it: `kvm` or `tcg`.
    pub accelerator: String,
    /// The board: `microvm` or `pc`.
    pub board: String,
    /// The build of QEMU.
    pub qemu: String,
    /// When it was made.
    pub created_unix_ms: u64,
}

/// A template that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemovedTemplate {
    /// Its whole name.
    pub id: String,
}

/// The images there are: by name, those without one last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageList {
    /// Each of them.
    pub images: Vec<ImageInfo>,
}

/// What sandboxes start from: a read-only root file system, and a kernel to run it with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageInfo {
    /// The name it was asked for by, or one of its names.
    pub name: Option<String>,
    /// What its content is known by, a SHA-256.
    pub digest: String,
    /// What it takes on disk.
    pub bytes: u64,
    /// When it was built.
    pub created_unix_ms: u64,
    /// The Debian suite it was built from.
    pub suite: String,
    /// The ordinary user in it.
    pub user: String,
    /// Its kernel.
    pub kernel: ImageKernel,
    /// Where it is on the daemon's host.
    pub files: ImageFiles,
    /// The packages in it, by name.
    pub packages: Vec<ImagePackage>,
}

/// An image's kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageKernel {
    /// The release, as `uname -r` prints it.
    pub release: String,
    /// The Debian package and version that it came from, if it did.
    pub package: Option<String>,
}

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageFiles {
    /// The root file system, an EROFS.
    pub rootfs: String,
    /// The kernel.
    pub kernel: String,
    /// The directory of the kernel's modules.
    pub modules: String,
}

/// A package in an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImagePackage {
    /// Its name.
    pub name: String,
    /// Its version, as dpkg writes it.
    pub version: String,
    /// Its architecture: `amd64` or `all`.
    pub architecture: String,
}

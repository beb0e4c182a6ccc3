//! What goes wrong with sandboxes, and what its user can do about it.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use hearth_channel::ChannelError;
use hearth_image::{ImageError, InitramfsError, ModulesError};
use hearth_protocol::Fault;
use hearth_vmm::{DeltaError, InvalidSpec, MachineError, QemuError};

use crate::fleet::OverBudget;
use crate::store::StoreError;
use crate::{DiskMib, SavedFault, SnapshotFileError};

/// What to do where there is no room.
const ROOM_HINT: &str = "free some space, or set HEARTH_HOME to a directory on another disk";

/// An error with all its sources, each said once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        source = error.source();
    }
    text
}

/// Why the engine could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A value of the specification is out of range.
    #[error(transparent)]
    Invalid(#[from] InvalidSpec),
    /// A disk size out of range.
    #[error("a disk of {mib} MiB: must be {} to {} MiB", DiskMib::MIN, DiskMib::MAX)]
    DiskSize {
        /// What was asked for.
        mib: u32,
    },
    /// What programs are to be given breaks a rule.
    #[error("{}", source.message)]
    Given {
        /// `env` or `secrets`.
        what: &'static str,
        /// Which.
        source: Fault,
    },
    /// There is no QEMU to use.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// There is no such image.
    #[error("there is no image {name:?}")]
    NoImage {
        /// What was asked for.
        name: String,
    },
    /// An operation on images failed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Too little memory is free.
    #[error("{} MiB of memory are free, and {} MiB are needed", available >> 20, needed >> 20)]
    MemoryShort {
        /// What is needed, in bytes.
        needed: u64,
        /// What there is, in bytes.
        available: u64,
    },
    /// A budget of this process's has no room.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    /// Too little of the disk is free.
    #[error("{} MiB are free in {}, and {} MiB are needed", available >> 20, path.display(), needed >> 20)]
    DiskShort {
        /// Where.
        path: PathBuf,
        /// What is needed, in bytes.
        needed: u64,
        /// What there is, in bytes.
        available: u64,
    },
    /// A directory or file of the engine's own cannot be made.
    #[error("cannot make or use {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory belongs to another user.
    #[error("{} belongs to another user", path.display())]
    NotOurs {
        /// Which.
        path: PathBuf,
    },
    /// The home's path leaves no room for the names of sockets in it.
    #[error("the path {} is {excess} bytes too long for the sockets in it", home.display())]
    HomeTooLong {
        /// The home.
        home: PathBuf,
        /// By how many bytes.
        excess: usize,
    },
    /// The program that formats scratch disks cannot be run.
    #[error("cannot run mke2fs, which formats scratch disks")]
    FormatTool {
        /// Why.
        source: io::Error,
    },
    /// A scratch disk could not be formatted.
    #[error("cannot format {}: {said}", path.display())]
    Format {
        /// The disk.
        path: PathBuf,
        /// The last line that mke2fs wrote.
        said: String,
    },
    /// The image's kernel lacks a module.
    #[error("the image's kernel lacks what Hearth needs")]
    Modules {
        /// Which.
        source: ModulesError,
    },
    /// The initial RAM file system cannot be written, or a module not be read.
    #[error("cannot make the initial RAM file system from or to {}", path.display())]
    Initramfs {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The initial RAM file system cannot hold a file.
    #[error("cannot put a file into the initial RAM file system")]
    InitramfsEntry {
        /// Why.
        source: InitramfsError,
    },
    /// A port of this host's cannot be listened on.
    #[error("cannot listen on port {port} of 127.0.0.1")]
    Listen {
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The machine could not be started.
    #[error("the machine could not be started")]
    Machine {
        /// Why.
        source: MachineError,
    },
    /// The guest did not come up.
    #[error("the guest did not come up under {accelerator}: {what}")]
    Boot {
        /// What ran it.
        accelerator: &'static str,
        /// What happened.
        what: String,
        /// What its console last said, escaped.
        console: String,
        /// Whether it fell silent, or never spoke: the mark of an accelerator that does not run it.
        silent: bool,
    },
    /// The machine could not be saved; it runs on.
    #[error("the running machine could not be saved")]
    Capture {
        /// Why.
        source: MachineError,
    },
    /// A saved sandbox could not be kept or used.
    #[error("the saved sandbox cannot be kept or used")]
    Saved {
        /// Why.
        source: SavedFault,
    },
    /// What outlives the daemon could not be noted or read.
    #[error("cannot keep what outlives the daemon")]
    Store {
        /// Why.
        #[from]
        source: StoreError,
    },
    /// What was saved fits the host no longer.
    #[error("what was saved does not fit this host: {reason}")]
    Outdated {
        /// What has changed.
        reason: String,
    },
    /// The sandbox has no disk, so that nothing of it outlasts its machine.
    #[error("the sandbox has no disk: what its guest has written is in memory, and goes with its machine")]
    NoDisk,
    /// There is no such snapshot.
    #[error("there is no snapshot {name:?}")]
    NoSnapshot {
        /// What was asked for.
        name: String,
    },
    /// There is a snapshot of this name.
    #[error("there is a snapshot {name:?} already")]
    SnapshotExists {
        /// The name.
        name: String,
    },
    /// A snapshot's file cannot be written or used.
    #[error(transparent)]
    SnapshotFile {
        /// Why.
        #[from]
        source: SnapshotFileError,
    },
    /// Too few or too many copies.
    #[error("{copies} copies: must be 1 to {}", crate::MAX_COPIES)]
    Copies {
        /// What was asked for.
        copies: usize,
    },
    /// Half of a sandbox that comes from no template.
    #[error("only sandboxes that are restored from templates can be made half ahead")]
    NotAhead,
    /// A template could not be kept.
    #[error("cannot keep a template")]
    Template {
        /// Why.
        source: SavedFault,
    },
    /// No template is meant.
    #[error("there is no template {reference:?}, or more than one")]
    NoTemplate {
        /// What was given.
        reference: String,
    },
    /// A template is needed.
    #[error("the template {id} is needed by {by}")]
    TemplateNeeded {
        /// Which.
        id: String,
        /// By what.
        by: String,
    },
    /// The agent could not be reached, or a request to it failed.
    #[error("cannot {what}")]
    Channel {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: ChannelError,
    },
}

/// The kind of an error: one word that programs can match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value that was given cannot be.
    Invalid,
    /// Something that must be installed or built first is not there.
    Missing,
    /// The host, or the guest, has too little of something.
    Resources,
    /// The host's files or permissions are in the way.
    Host,
    /// The machine or its guest did not come up, or broke.
    Machine,
}

impl Kind {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Missing => "missing",
            Self::Resources => "resources",
            Self::Host => "host",
            Self::Machine => "machine",
        }
    }
}

impl EngineError {
    /// The kind.
    pub fn kind(&self) -> Kind {
        match self.kind_of_itself() {
            Kind::Host if self.is_disk_full() => Kind::Resources,
            kind => kind,
        }
    }

    fn kind_of_itself(&self) -> Kind {
        match self {
            Self::Invalid(_) | Self::DiskSize { .. } | Self::HomeTooLong { .. } | Self::Copies { .. } => Kind::Invalid,
            Self::NoDisk | Self::Given { .. } | Self::Outdated { .. } | Self::SnapshotExists { .. } => Kind::Invalid,
            Self::NoSnapshot { .. } | Self::NoTemplate { .. } => Kind::Missing,
            Self::TemplateNeeded { .. } | Self::NotAhead => Kind::Invalid,
            Self::Image(error) => kind_of_image(error),
            Self::Qemu(_) | Self::NoImage { .. } | Self::FormatTool { .. } | Self::Modules { .. } => Kind::Missing,
            Self::MemoryShort { .. } | Self::DiskShort { .. } | Self::OverBudget(_) => Kind::Resources,
            Self::Directory { .. } | Self::NotOurs { .. } | Self::Format { .. } | Self::Listen { .. } => Kind::Host,
            Self::Initramfs { .. } | Self::InitramfsEntry { .. } | Self::Template { .. } => Kind::Host,
            Self::SnapshotFile { source } if source.is_the_files_fault() => Kind::Invalid,
            Self::Saved { .. } | Self::SnapshotFile { .. } | Self::Store { .. } => Kind::Host,
            Self::Machine { .. } | Self::Boot { .. } | Self::Channel { .. } | Self::Capture { .. } => Kind::Machine,
        }
    }

    /// Whether, behind all else, a disk was full.
    fn is_disk_full(&self) -> bool {
        let causes = std::iter::successors(Some(self as &(dyn Error + 'static)), |cause| (*cause).source());
        let is_full =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        causes.filter_map(|cause| cause.downcast_ref()).any(is_full)
    }

    /// What to do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoImage { name } if name == crate::DEFAULT_IMAGE => "build it: hearth image build".to_owned(),
            Self::NoImage { .. } => {
                "hearth image list shows the images there are; hearth image build NAME builds one".to_owned()
            }
            Self::Image(error) => return error.fix(),
            Self::OverBudget(over) => over.hint(),
            Self::NoDisk => {
                "hearth pause keeps its memory; one that is created with --disk can be stopped and started".to_owned()
            }
            Self::NoTemplate { .. } => "hearth template list shows the templates there are".to_owned(),
            Self::TemplateNeeded { .. } => "remove what needs it first".to_owned(),
            Self::NoSnapshot { .. } => "hearth snapshot ls shows the snapshots there are".to_owned(),
            Self::MemoryShort { .. } => "ask for less with --memory, or end other programs".to_owned(),
            Self::DiskShort { .. } => ROOM_HINT.to_owned(),
            full if full.is_disk_full() => ROOM_HINT.to_owned(),
            Self::HomeTooLong { .. } => "set HEARTH_HOME to a shorter path".to_owned(),
            Self::Store { source: StoreError::Open { .. } } => {
                "if it is damaged, put it aside: the daemon then begins without the sandboxes that it knew".to_owned()
            }
            Self::NotOurs { .. } => "set HEARTH_HOME to a directory of your own".to_owned(),
            Self::Directory { .. } => "check the directory's permissions, or set HEARTH_HOME to another".to_owned(),
            Self::FormatTool { .. } => "install e2fsprogs".to_owned(),
            Self::Modules { .. } => "rebuild the image, with --modules DIR if the kernel is your own".to_owned(),
            Self::Boot { accelerator: "kvm", .. } => {
                "this host's /dev/kvm does not run the image's kernel; --accel tcg uses software emulation".to_owned()
            }
            Self::Boot { .. } => "if its console tells of memory, give it more with --memory".to_owned(),
            Self::Saved { source: SavedFault::Damaged { .. } | SavedFault::Record { .. } } => {
                "it cannot be mended: remove what was saved with it, or bring the file back from a copy of your own"
                    .to_owned()
            }
            Self::Machine { .. } => "hearth doctor checks what a machine needs".to_owned(),
            _ => return None,
        })
    }

    /// What somebody else said of it, in many lines: the console of a guest that did not come up, the output of a tool that failed.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Boot { console, .. } => Some(console),
            Self::Image(error) => error.detail(),
            _ => None,
        }
    }

    /// Whether it is the accelerator's or the board's fault, and not that of the image or of too little memory.
    pub(crate) fn is_the_ways_fault(&self) -> bool {
        matches!(self, Self::Boot { silent: true, .. } | Self::Machine { source: MachineError::Died(_) })
    }

    /// Whether a guest may go on all the same in a QEMU that starts afresh: whatever failed came behind what can be refused.
    pub(crate) fn may_be_a_checkpoints(&self) -> bool {
        matches!(self, Self::Machine { .. } | Self::Boot { .. } | Self::Channel { .. } | Self::Saved { .. })
    }

    /// Whether another accelerator or board might do better.
    pub(crate) fn speaks_against_the_way(&self) -> bool {
        matches!(self, Self::Boot { .. } | Self::Machine { source: MachineError::Died(_) })
    }
}

impl From<MachineError> for EngineError {
    /// That what was saved is damaged is seen while a machine reads it.
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Changes { path, source: DeltaError::Read { source } }
                if source.kind() == io::ErrorKind::InvalidData =>
            {
                Self::Saved { source: SavedFault::Damaged { path } }
            }
            MachineError::Changes { path, source } => Self::Saved { source: SavedFault::Memory { path, source } },
            source => Self::Machine { source },
        }
    }
}

fn kind_of_image(error: &ImageError) -> Kind {
    match error {
        ImageError::NotFound { .. } | ImageError::ToolMissing { .. } | ImageError::KeyringMissing { .. } => {
            Kind::Missing
        }
        ImageError::NoSubordinateIds { .. } => Kind::Missing,
        ImageError::BadMirror { .. }
        | ImageError::BadReference { .. }
        | ImageError::Ambiguous { .. }
        | ImageError::Kernel(_) => Kind::Invalid,
        ImageError::UnknownPackage { .. } | ImageError::UnknownSuite { .. } | ImageError::Unsatisfiable { .. } => {
            Kind::Invalid
        }
        ImageError::TooLittleSpace { .. } | ImageError::DiskFull { .. } => Kind::Resources,
        _ => Kind::Host,
    }
}

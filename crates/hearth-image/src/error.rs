//! What can go wrong with images, and what to do about it.

use std::{io, path::PathBuf};

use crate::{Digest, KernelError, NameError};

/// Says which operation on an image failed. [`ImageError::fix`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A program that builds images is not installed.
    #[error("{tool} is not installed")]
    ToolMissing {
        /// The program's name.
        tool: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The keys that Debian signs its archive with are not installed.
    #[error("debian's archive keys are missing: there is no {}", path.display())]
    KeyringMissing {
        /// Where the keyring was looked for.
        path: PathBuf,
    },
    /// The caller is not root and has no range of subordinate user or group ids.
    #[error("user {user} has no subordinate ids in {}", file.display())]
    NoSubordinateIds {
        /// The user's name or number.
        user: String,
        /// The file without an entry: `/etc/subuid` or `/etc/subgid`.
        file: PathBuf,
    },
    /// The kernel or its policy refuses user namespaces to the caller.
    #[error("this machine refuses user namespaces to ordinary users")]
    NamespacesRefused {
        /// What the tool said.
        detail: String,
    },
    /// The archive has no such package.
    #[error("suite {suite} has no package {package}")]
    UnknownPackage {
        /// The name that was not found.
        package: String,
        /// The suite that was searched.
        suite: String,
    },
    /// The archive has no such suite.
    #[error("{mirror} has no suite {suite}")]
    UnknownSuite {
        /// The name that was not found.
        suite: String,
        /// The archive that was asked.
        mirror: String,
    },
    /// The packages cannot be installed together.
    #[error("the packages cannot be installed together")]
    Unsatisfiable {
        /// What apt said.
        detail: String,
    },
    /// The archive could not be reached, or sent something that is not what was signed.
    #[error("could not fetch packages from {mirror}")]
    Mirror {
        /// The archive that was asked.
        mirror: String,
        /// What apt said.
        detail: String,
    },
    /// A mirror's address is not one that apt understands.
    #[error("{url:?} is not a mirror: expected http://, https:// or file:// and no spaces")]
    BadMirror {
        /// The address.
        url: String,
    },
    /// There is too little room for a build.
    #[error("{} has {free_mib} MiB free, and a build needs {needed_mib} MiB", path.display())]
    TooLittleSpace {
        /// A directory on the filesystem that is too full.
        path: PathBuf,
        /// Space that there is, in MiB.
        free_mib: u64,
        /// Space that a build needs, in MiB.
        needed_mib: u64,
    },
    /// The disk filled up.
    #[error("the disk filled up while {doing}")]
    DiskFull {
        /// What was being done.
        doing: &'static str,
    },
    /// A tool could not be started.
    #[error("could not start {tool}")]
    StartTool {
        /// The program's name.
        tool: String,
        /// Why.
        source: io::Error,
    },
    /// A tool failed in a way that has no name of its own here.
    #[error("{tool} failed while {doing} ({status})")]
    Tool {
        /// The program's name.
        tool: &'static str,
        /// What was being done.
        doing: &'static str,
        /// How the program ended.
        status: String,
        /// The last lines it wrote.
        output: String,
    },
    /// A tool ended well and did not leave what it was to make.
    #[error("{doing} left no {missing}")]
    Incomplete {
        /// What was being done.
        doing: &'static str,
        /// What is missing.
        missing: String,
    },
    /// The kernel or its modules cannot be used.
    #[error("the kernel cannot be used")]
    Kernel(#[from] KernelError),
    /// A file or directory in the store could not be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or directory in the store could not be written, moved or removed.
    #[error("could not write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A lock could not be taken.
    #[error("could not lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record in the store is not what this version writes.
    #[error("{} is damaged or from another version", path.display())]
    Damaged {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// No image has this name or a digest that begins so.
    #[error("there is no image {reference:?}")]
    NotFound {
        /// What was asked for.
        reference: String,
    },
    /// Several images' digests begin so.
    #[error("{reference:?} fits {} images", matches.len())]
    Ambiguous {
        /// What was asked for.
        reference: String,
        /// The images that it fits.
        matches: Vec<Digest>,
    },
    /// The reference is neither a name nor the beginning of a digest.
    #[error("the image was not named")]
    BadReference(#[from] NameError),
    /// Something runs on this image.
    #[error("image {reference} is in use")]
    InUse {
        /// What was to be removed.
        reference: String,
    },
    /// The build was told to stop.
    #[error("the build was cancelled")]
    Cancelled,
    /// The thread that builds could not be started, or ended without a result.
    #[error("the build's thread could not run")]
    Thread {
        /// Why.
        source: io::Error,
    },
}

impl ImageError {
    /// Says what to do about it, in one sentence, where there is something to do.
    pub fn fix(&self) -> Option<String> {
        use ImageError as E;
        Some(match self {
            E::ToolMissing { package, .. } => format!("install it: apt-get install {package}"),
            E::KeyringMissing { .. } => "install them: apt-get install debian-archive-keyring".to_owned(),
            E::NoSubordinateIds { user, .. } => {
                format!("give the user some: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}")
            }
            E::NamespacesRefused { .. } => "build as root, or allow them: sysctl kernel.unprivileged_userns_clone=1, \
                 user.max_user_namespaces above 0; in a container, build outside it"
                .to_owned(),
            E::UnknownPackage { suite, .. } => format!("look the name up on packages.debian.org, suite {suite}"),
            E::UnknownSuite { .. } => "name a suite that Debian still serves, such as bookworm or trixie".to_owned(),
            E::Unsatisfiable { .. } => "leave out one of the extra packages".to_owned(),
            E::Mirror { mirror, .. } => format!(
                "check that {mirror} can be reached, or name another mirror, and build again: what was fetched is kept"
            ),
            E::TooLittleSpace { path, .. } => format!("free some space on the filesystem of {}", path.display()),
            E::DiskFull { .. } => "free some space and build again: finished stages are kept".to_owned(),
            E::Ambiguous { .. } => "give more digits".to_owned(),
            E::NotFound { .. } => "see hearth image list, or build it with hearth image build".to_owned(),
            E::InUse { .. } => "end the sandboxes that use it first".to_owned(),
            E::Kernel(source) => return source.fix(),
            _ => return None,
        })
    }

    /// Returns what a tool said, for the log or a `--verbose` reader; it is not meant for one line.
    pub fn detail(&self) -> Option<&str> {
        match self {
            ImageError::NamespacesRefused { detail }
            | ImageError::Unsatisfiable { detail }
            | ImageError::Mirror { detail, .. }
            | ImageError::Tool { output: detail, .. } => Some(detail),
            _ => None,
        }
    }
}

/// Turns I/O results into errors that name the file.
pub(crate) trait At<T> {
    /// Names the file that was being read.
    fn reading(self, path: impl Into<PathBuf>) -> Result<T, ImageError>;
    /// Names the file that was being written, and tells a full disk apart.
    fn writing(self, path: impl Into<PathBuf>) -> Result<T, ImageError>;
}

impl<T> At<T> for io::Result<T> {
    fn reading(self, path: impl Into<PathBuf>) -> Result<T, ImageError> {
        self.map_err(|source| ImageError::Read { path: path.into(), source })
    }

    fn writing(self, path: impl Into<PathBuf>) -> Result<T, ImageError> {
        self.map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ImageError::DiskFull { doing: "writing the image" }
            }
            _ => ImageError::Write { path: path.into(), source },
        })
    }
}

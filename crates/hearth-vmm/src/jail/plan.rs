//! What owner and launcher tell each other: the plan one way, the outcome the other.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::MAX_MESSAGE;
use crate::checkpoint::Layout;

/// What keeps QEMU away from the host's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JailLevel {
    /// Mount, process, network, IPC, UTS, control group and user namespaces, and Landlock as well where the kernel has it.
    Namespaces,
    /// Landlock and filters of system calls only.
    Landlock,
}

/// A part of the jail that this host did not allow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "gap")]
pub enum JailGap {
    /// Namespaces were refused: QEMU sees the host's processes and mounts, though Landlock keeps it from opening files.
    Namespaces {
        /// What was refused.
        reason: String,
    },
    /// The owner is root, and QEMU could not be given a user of its own.
    User {
        /// What was refused.
        reason: String,
    },
    /// QEMU is not in a user namespace of its own.
    UserNamespace {
        /// What was refused.
        reason: String,
    },
    /// The kernel has no Landlock, or it is off.
    Landlock,
    /// There are no limits on memory and tasks.
    Cgroup {
        /// Why not.
        reason: String,
    },
}

impl std::fmt::Display for JailGap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Namespaces { reason } => write!(f, "no namespaces: {reason}"),
            Self::User { reason } => write!(f, "no user of its own: {reason}"),
            Self::UserNamespace { reason } => write!(f, "no user namespace of its own: {reason}"),
            Self::Landlock => write!(f, "no Landlock in this kernel"),
            Self::Cgroup { reason } => write!(f, "no limits on memory and tasks: {reason}"),
        }
    }
}

/// How one QEMU is confined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailReport {
    /// What keeps it away from the host's files.
    pub level: JailLevel,
    /// What this host did not allow.
    pub missing: Vec<JailGap>,
    /// The user id that QEMU runs as, seen from the owner.
    pub uid: u32,
}

impl JailReport {
    /// Returns a sentence for people when the jail is weaker than it should be. Missing limits alone are no reason:
    /// most hosts do not delegate control groups.
    pub fn warning(&self) -> Option<String> {
        let mut weak = self.missing.iter().filter(|gap| !matches!(gap, JailGap::Cgroup { .. })).peekable();
        weak.peek()?;
        let gaps: Vec<String> = weak.map(ToString::to_string).collect();
        Some(format!("QEMU is less confined than it should be ({}); `hearth doctor` says what to do", gaps.join("; ")))
    }
}

/// What the launcher is to build and run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) level: JailLevel,
    /// An existing directory over which the new root is mounted; nothing in it is seen inside.
    pub(crate) mount_point: PathBuf,
    /// The user and group to become, when the owner is root.
    pub(crate) user: Option<u32>,
    /// Where QEMU is installed, when that is not below `/usr`.
    pub(crate) installation: Option<PathBuf>,
    /// Passed descriptors of files that QEMU opens again through `/proc/self/fd`.
    pub(crate) reopened: Vec<i32>,
    pub(crate) kvm: bool,
    pub(crate) with_owner: bool,
    /// The size up to which a writable disk may grow.
    pub(crate) file_size: u64,
    /// How many descriptors QEMU is to have.
    pub(crate) descriptors: i32,
    pub(crate) becomes: Becomes,
}

/// What the launcher becomes when the jail stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Becomes {
    /// Nothing: it is a probe.
    Nothing,
    /// A program.
    Program { path: PathBuf, arguments: Vec<String> },
    /// A QEMU as it was, by the script that is the last of its descriptors.
    Checkpoint(Layout),
}

impl Plan {
    pub(super) fn read(file: File) -> io::Result<Self> {
        let mut text = String::new();
        file.take(MAX_MESSAGE).read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    }
}

/// What the launcher did, when all of it worked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Prepared {
    pub(crate) gaps: Vec<JailGap>,
}

/// One line of the launcher's report.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FromLauncher {
    Ready(Prepared),
    Failed(JailFailure),
}

/// What the launcher was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    Namespaces,
    IdentityMaps,
    Descriptors,
    Launcher,
    ReadPlan,
    Mount,
    Identity,
    Limits,
    Landlock,
    SystemCalls,
    FollowOwner,
    Report,
    Exec,
    Checkpoint,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Namespaces => "create namespaces",
            Self::IdentityMaps => "map the user into a new namespace",
            Self::Descriptors => "arrange descriptors",
            Self::Launcher => "run the jail launcher",
            Self::ReadPlan => "read the jail's plan",
            Self::Mount => "build the jail's root",
            Self::Identity => "give up privileges",
            Self::Limits => "set resource limits",
            Self::Landlock => "apply Landlock",
            Self::SystemCalls => "filter system calls",
            Self::FollowOwner => "follow the owner",
            Self::Report => "report to the owner",
            Self::Exec => "run QEMU",
            Self::Checkpoint => "become a QEMU as it was",
        })
    }
}

/// A step of building the jail that failed; its Display says which, and of what path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailFailure {
    pub(crate) step: Step,
    pub(crate) path: Option<PathBuf>,
    pub(crate) errno: i32,
}

impl JailFailure {
    pub(crate) fn at<E: Into<io::Error>>(step: Step) -> impl FnOnce(E) -> Self {
        move |error| Self { step, path: None, errno: errno(error.into()) }
    }

    pub(crate) fn at_path<E: Into<io::Error>>(step: Step, path: impl AsRef<Path>) -> impl FnOnce(E) -> Self {
        let path = path.as_ref().to_owned();
        move |error| Self { step, path: Some(path), errno: errno(error.into()) }
    }

    /// Whether it means that this host does not let us have namespaces, so that the lesser jail is to be tried.
    pub(crate) fn is_refusal(&self) -> bool {
        const REFUSALS: [i32; 7] =
            [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::EINVAL, libc::ENOSPC, libc::EUSERS, libc::EROFS];
        matches!(self.step, Step::Namespaces | Step::IdentityMaps | Step::Mount) && REFUSALS.contains(&self.errno)
    }

    /// Whether the process that was to become a QEMU as it was could not.
    pub(crate) fn is_checkpoints(&self) -> bool {
        self.step == Step::Checkpoint
    }

    pub(crate) fn source(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }
}

/// Errors without a number come from our own parsing of the plan.
fn errno(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EBADMSG)
}

impl std::fmt::Display for JailFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.path {
            Some(path) => write!(f, "cannot {} ({})", self.step, path.display()),
            None => write!(f, "cannot {}", self.step),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refused_namespaces_lead_to_the_lesser_jail() {
        let failure = |step, errno| JailFailure { step, path: None, errno };
        assert!(failure(Step::Namespaces, libc::EPERM).is_refusal());
        assert!(failure(Step::Mount, libc::EACCES).is_refusal());
        assert!(!failure(Step::Mount, libc::ENOMEM).is_refusal());
        assert!(!failure(Step::Exec, libc::EACCES).is_refusal());
        assert!(!failure(Step::SystemCalls, libc::EINVAL).is_refusal());
    }

    #[test]
    fn missing_limits_alone_are_no_warning() {
        let report = |missing| JailReport { level: JailLevel::Namespaces, missing, uid: 1 };
        assert_eq!(report(vec![JailGap::Cgroup { reason: "read-only".into() }]).warning(), None);
        let warning = report(vec![JailGap::Landlock]).warning().unwrap();
        assert!(warning.contains("no Landlock") && warning.contains("hearth doctor"), "{warning}");
    }
}

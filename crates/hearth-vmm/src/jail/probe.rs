//! Finds out how well this host can jail a QEMU, by building a jail that runs nothing.

use std::fs::File;
use std::path::Path;

use super::cgroup::CgroupLimits;
use super::dedicated_user;
use super::plan::{Becomes, JailGap, JailLevel, Plan};
use crate::launch::{Launch, LaunchError, launch};
use crate::spec::{Confinement, Launcher};
use crate::sys;

/// What a jail on this host is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JailSupport {
    /// What keeps QEMU away from the host's files.
    pub level: JailLevel,
    /// What this host does not allow.
    pub missing: Vec<JailGap>,
    /// The kernel's version of Landlock; 6 closes all that the jail asks for.
    pub landlock_abi: Option<u32>,
}

impl JailSupport {
    /// Returns what can be done about a weak jail, when something can.
    pub fn fix(&self) -> Option<String> {
        let refused = self.missing.iter().any(|gap| matches!(gap, JailGap::Namespaces { .. }));
        if !refused {
            return None;
        }
        Some(if Path::new("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").exists() {
            "let this program create user namespaces with an AppArmor profile (`userns,`), or run the daemon as root"
        } else if Path::new("/proc/sys/kernel/unprivileged_userns_clone").exists() {
            "`sudo sysctl kernel.unprivileged_userns_clone=1`, or run the daemon as root"
        } else {
            "run the daemon outside of a container, or give the container CAP_SYS_ADMIN"
        }
        .to_owned())
    }
}

/// Builds a jail as for a machine of the given directory and tears it down at once.
///
/// # Errors
/// When not even the lesser jail can be built, so that no machine can start.
pub async fn probe(launcher: &Launcher, directory: &Path) -> Result<JailSupport, LaunchError> {
    let output = File::options().write(true).open("/dev/null").map_err(|source| LaunchError::Prepare { source })?;
    let request = Launch {
        launcher,
        confinement: Confinement::Strongest,
        plan: empty_plan(directory),
        output: output.into(),
        descriptors: Vec::new(),
        note_in: None,
        limits: CgroupLimits::of(directory, 1 << 30),
    };
    let launched = launch(request).await?;
    let mut child = launched.child;
    child.wait().await.map_err(|source| LaunchError::Prepare { source })?;
    drop(launched.groups);
    Ok(JailSupport { level: launched.level, missing: launched.gaps, landlock_abi: sys::landlock_abi() })
}

fn empty_plan(directory: &Path) -> Plan {
    let root = rustix::process::geteuid().is_root();
    Plan {
        level: JailLevel::Namespaces,
        mount_point: directory.to_owned(),
        user: root.then(|| dedicated_user(directory)),
        installation: None,
        reopened: Vec::new(),
        kvm: false,
        with_owner: true,
        file_size: 0,
        descriptors: 0,
        becomes: Becomes::Nothing,
    }
}

//! What this machine has and lacks, each with what is needed and how to get it.

use std::env;
use std::path::{Path, PathBuf};

use hearth_vmm::jail::{self, JailLevel};
use hearth_vmm::{KvmStatus, MemoryMib, kvm_status};
use serde::Serialize;

use crate::accelerator::{Finding, Findings, host_key};
use crate::preflight::{available_memory, needed_memory};
use crate::{DEFAULT_IMAGE, Engine};

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// Without it no sandbox runs.
    Run,
    /// Without it no image is built.
    Build,
    /// Better, safer or quicker with it.
    Advice,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// What it is needed for.
    pub need: Need,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What is needed.
    pub needed: &'static str,
    /// What to do, where something is missing.
    pub fix: Option<String>,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether a run can work.
    pub can_run: bool,
    /// In the order in which they are best read.
    pub checks: Vec<Check>,
}

impl Check {
    fn new(
        name: &'static str,
        need: Need,
        needed: &'static str,
        result: Result<String, (String, Option<String>)>,
    ) -> Self {
        let ok = result.is_ok();
        let (found, fix) = match result {
            Ok(found) => (found, None),
            Err((found, fix)) => (found, fix),
        };
        Self { name, need, ok, found, needed, fix }
    }
}

type Looked = Result<String, (String, Option<String>)>;

fn lacks(found: impl Into<String>, fix: impl Into<String>) -> Looked {
    Err((found.into(), Some(fix.into())))
}

impl Engine {
    /// Looks at everything that runs and builds need. Makes nothing.
    pub async fn doctor(&self) -> Report {
        let mut checks = vec![
            Check::new("platform", Need::Run, "Linux on x86_64", platform()),
            Check::new("qemu", Need::Run, "qemu-system-x86_64 7.2 or newer", self.look_at_qemu()),
            Check::new("image", Need::Run, "an image to start from", self.look_at_image()),
            Check::new("memory", Need::Run, "608 MiB available for a sandbox of 512 MiB", memory()),
            Check::new("disk", Need::Run, "64 MiB free", self.look_at_disk()),
            Check::new("home", Need::Run, "a path short enough for sockets", self.look_at_home()),
            Check::new(
                "kvm",
                Need::Advice,
                "/dev/kvm that runs the image's kernel; software emulation works without it",
                self.look_at_kvm(),
            ),
            Check::new("jail", Need::Advice, "namespaces for each QEMU", self.look_at_jail().await),
            Check::new("scratch", Need::Advice, "mke2fs, for hearth run --disk", tool("mke2fs", "e2fsprogs")),
            Check::new("templates", Need::Advice, "room for templates", Ok(self.look_at_templates())),
            Check::new("mmdebstrap", Need::Build, "mmdebstrap", tool("mmdebstrap", "mmdebstrap")),
            Check::new("mkfs.erofs", Need::Build, "mkfs.erofs", tool("mkfs.erofs", "erofs-utils")),
            Check::new("keyring", Need::Build, "Debian's archive keys", keyring()),
        ];
        if !rustix::process::geteuid().is_root() {
            checks.push(Check::new(
                "newuidmap",
                Need::Build,
                "newuidmap, to build as an ordinary user",
                tool("newuidmap", "uidmap"),
            ));
        }
        Report { can_run: checks.iter().all(|check| check.ok || check.need != Need::Run), checks }
    }

    fn look_at_qemu(&self) -> Looked {
        match self.qemu() {
            Ok(qemu) => Ok(format!("{} ({})", qemu.build(), qemu.path().display())),
            Err(error) => lacks(error.to_string(), "apt-get install --no-install-recommends qemu-system-x86"),
        }
    }

    fn look_at_image(&self) -> Looked {
        match self.images.inspect(DEFAULT_IMAGE) {
            Ok(image) => Ok(format!("{DEFAULT_IMAGE}: {}, Linux {}", image.digest.short(), image.kernel_release())),
            Err(error) => lacks(error.to_string(), "hearth image build"),
        }
    }

    fn look_at_disk(&self) -> Looked {
        let path = self.directories.home();
        match self.check_disk() {
            Ok(free) => Ok(format!("{} MiB free in {}", free >> 20, path.display())),
            Err(error) => Err((error.to_string(), error.hint())),
        }
    }

    /// Where templates are: on disk for the next process, and in the memory of each that restores from them.
    fn look_at_templates(&self) -> String {
        let templates = self.templates();
        let (count, total) = (templates.len(), templates.iter().map(|info| info.bytes).sum::<u64>());
        let largest = templates.iter().map(|info| info.bytes).max().unwrap_or(0);
        format!(
            "{count}, {} of at most {} MiB on disk in {}; whoever restores has its own in a sealed memory file (memfd) that all its sandboxes share, up to {} MiB each",
            total >> 20,
            self.templates_limit() >> 20,
            self.directories.templates().display(),
            largest >> 20
        )
    }

    fn look_at_home(&self) -> Looked {
        match self.check_paths() {
            Ok(()) => Ok(self.directories.home().display().to_string()),
            Err(error) => Err((error.to_string(), error.hint())),
        }
    }

    /// What opening says, and what was found when a guest was last tried.
    fn look_at_kvm(&self) -> Looked {
        let tcg = format!(
            "hearth uses software emulation by itself; for KVM use a host with hardware virtualisation; to try again: rm {}",
            self.directories.findings().display()
        );
        match kvm_status() {
            KvmStatus::Usable { hypervisor } => {
                let nested = hypervisor.map(|name| format!(" (this host runs under {name})")).unwrap_or_default();
                match self.kvm_finding() {
                    Some(Finding::Works) => Ok(format!("works: it has run the image's kernel{nested}")),
                    Some(Finding::Fails { reason }) => lacks(format!("does not work{nested}: {reason}"), tcg),
                    None => Ok(format!("can be opened{nested}; the first run will show whether it works")),
                }
            }
            KvmStatus::NoDevice { hypervisor } => {
                let nested = hypervisor.map(|name| format!("; this host runs under {name}")).unwrap_or_default();
                lacks(format!("there is no /dev/kvm{nested}"), tcg)
            }
            KvmStatus::NoPermission { fix } => lacks("/dev/kvm may not be opened", fix),
            KvmStatus::Broken { source } => lacks(format!("/dev/kvm cannot be opened: {source}"), tcg),
        }
    }

    async fn look_at_jail(&self) -> Looked {
        match jail::probe(&self.launcher, &self.directories.nearest()).await {
            Err(error) => Err((error.to_string(), None)),
            Ok(support) => {
                let gaps: Vec<String> = support.missing.iter().map(ToString::to_string).collect();
                let level = match support.level {
                    JailLevel::Namespaces => "namespaces",
                    JailLevel::Landlock => "Landlock and seccomp only",
                };
                let found = if gaps.is_empty() { level.to_owned() } else { format!("{level}; {}", gaps.join("; ")) };
                match support.fix() {
                    Some(fix) => lacks(found, fix),
                    None => Ok(found),
                }
            }
        }
    }

    fn kvm_finding(&self) -> Option<Finding> {
        let (qemu, image) = (self.qemu().ok()?, self.images.inspect(DEFAULT_IMAGE).ok()?);
        Findings::read(&self.directories.findings()).of_kvm(&host_key(&qemu, &image)).cloned()
    }
}

fn platform() -> Looked {
    let system = rustix::system::uname();
    let found = format!(
        "{} {} on {}",
        system.sysname().to_string_lossy(),
        system.release().to_string_lossy(),
        env::consts::ARCH
    );
    if cfg!(all(target_os = "linux", target_arch = "x86_64")) { Ok(found) } else { Err((found, None)) }
}

fn memory() -> Looked {
    let needed = needed_memory(MemoryMib::new(512).expect("512 MiB is within the limits"));
    match available_memory() {
        Some(available) if available < needed => {
            lacks(format!("{} MiB available", available >> 20), "end other programs, or use less with --memory")
        }
        Some(available) => Ok(format!("{} MiB available", available >> 20)),
        None => Ok("unknown: /proc/meminfo does not say".into()),
    }
}

fn tool(name: &str, package: &str) -> Looked {
    let search = env::var_os("PATH").unwrap_or_default();
    let standard = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let found =
        env::split_paths(&search).chain(standard).map(|directory| directory.join(name)).find(|path| path.is_file());
    match found {
        Some(path) => Ok(path.display().to_string()),
        None => lacks("not found", format!("apt-get install {package}")),
    }
}

fn keyring() -> Looked {
    let path = Path::new("/usr/share/keyrings/debian-archive-keyring.gpg");
    if path.exists() {
        Ok(path.display().to_string())
    } else {
        lacks("not found", "apt-get install debian-archive-keyring")
    }
}

//! Which accelerator to use, and what this host has shown.
//!
//! `/dev/kvm` may be there and openable and still not run a stock kernel: under PVM the guest spins before its first line. So KVM
//! is used only where it has carried a guest up to its agent, and what was found is kept for the same host kernel, processor, QEMU and
//! guest kernel.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use hearth_image::Image;
use hearth_vmm::{Accelerator, MachineKind, Qemu, kvm_status};
use serde::{Deserialize, Serialize};

/// What the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AcceleratorChoice {
    /// KVM where it works, else software emulation.
    #[default]
    Auto,
    /// This one or none.
    Only(Accelerator),
}

/// What one host has shown of one way to run one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum Finding {
    /// It has carried a guest up to its agent.
    Works,
    /// It has not.
    Fails {
        /// What happened instead.
        reason: String,
    },
}

/// One way to run a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) accelerator: Accelerator,
    pub(crate) kind: MachineKind,
}

const ALL: [Way; 4] = [
    Way { accelerator: Accelerator::Kvm, kind: MachineKind::Microvm },
    Way { accelerator: Accelerator::Kvm, kind: MachineKind::Pc },
    Way { accelerator: Accelerator::Tcg, kind: MachineKind::Microvm },
    Way { accelerator: Accelerator::Tcg, kind: MachineKind::Pc },
];

impl Way {
    fn key(self, host: &str) -> String {
        format!("{}, {}: {host}", name(self.accelerator), self.board())
    }

    /// The way with these names, if there is one.
    pub(crate) fn named(accelerator: &str, board: &str) -> Option<Self> {
        ALL.into_iter().find(|way| name(way.accelerator) == accelerator && way.board() == board)
    }

    /// The board's name.
    pub(crate) fn board(self) -> &'static str {
        match self.kind {
            MachineKind::Microvm => "microvm",
            MachineKind::Pc => "pc",
        }
    }
}

/// The name that a user gives and reads.
pub(crate) fn name(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "tcg",
    }
}

/// What is known of this host.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Findings(BTreeMap<String, Finding>);

/// The entries that are kept; hosts and kernels that are gone fall out in the order of their names.
const KEPT: usize = 64;

impl Findings {
    /// Reads what was kept. What cannot be read is found out again.
    pub(crate) fn read(path: &Path) -> Self {
        fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// What is known of `way` on `host`.
    pub(crate) fn get(&self, way: Way, host: &str) -> Option<&Finding> {
        self.0.get(&way.key(host))
    }

    /// What is known of KVM on `host`, whatever the board.
    pub(crate) fn of_kvm(&self, host: &str) -> Option<&Finding> {
        ALL.into_iter().filter(|way| way.accelerator == Accelerator::Kvm).find_map(|way| self.get(way, host))
    }

    /// Keeps a finding, if it is news. A finding that cannot be written is found out again next time.
    pub(crate) fn keep(path: &Path, way: Way, host: &str, finding: Finding) {
        let mut findings = Self::read(path);
        if findings.get(way, host) == Some(&finding) {
            return;
        }
        findings.0.insert(way.key(host), finding);
        while findings.0.len() > KEPT {
            findings.0.pop_first();
        }
        let _ = findings.write(path);
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.persist(path)?;
        Ok(())
    }
}

/// The model of this host's processor.
pub(crate) fn processor() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(String::new, |(_, name)| name.to_owned())
}

/// Names the host, as far as it decides what works: kernel, processor, QEMU, and the guest's kernel.
pub(crate) fn host_key(qemu: &Qemu, image: &Image) -> String {
    let kernel = rustix::system::uname();
    let processor = processor();
    let digest = image.manifest.kernel.digest.short();
    format!("Linux {}, {processor}, {}, guest kernel {digest}", kernel.release().to_string_lossy(), qemu.build())
}

/// The ways worth trying, best first. A way that has failed on this host is left out unless nothing else is left.
pub(crate) fn ways(choice: AcceleratorChoice, findings: &Findings, host: &str) -> Vec<Way> {
    ways_where(choice, kvm_status().usable(), |way| matches!(findings.get(way, host), Some(Finding::Fails { .. })))
}

fn ways_where(choice: AcceleratorChoice, kvm_usable: bool, failed: impl Fn(Way) -> bool) -> Vec<Way> {
    let wanted = |way: &Way| match choice {
        AcceleratorChoice::Auto => way.accelerator == Accelerator::Tcg || kvm_usable,
        AcceleratorChoice::Only(accelerator) => way.accelerator == accelerator,
    };
    // Where one board does not get KVM to run a guest, the other will not either: trying both would cost two waits.
    let worth = |way: &Way| {
        choice != AcceleratorChoice::Auto || way.accelerator == Accelerator::Tcg || way.kind == MachineKind::Microvm
    };
    let (good, bad): (Vec<Way>, Vec<Way>) = ALL.into_iter().filter(wanted).filter(worth).partition(|way| !failed(*way));
    if good.is_empty() { bad } else { good }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KVM: Way = ALL[0];

    #[test]
    fn kvm_is_tried_first_until_it_has_failed_here() {
        let auto = AcceleratorChoice::Auto;
        assert_eq!(ways_where(auto, true, |_| false)[0], KVM);
        let after = ways_where(auto, true, |way| way == KVM);
        assert!(after.iter().all(|way| way.accelerator == Accelerator::Tcg) && after.len() == 2);
        assert_eq!(ways_where(auto, false, |_| false), after);
    }

    #[test]
    fn a_forced_accelerator_is_the_only_one_even_after_a_failure() {
        let kvm = AcceleratorChoice::Only(Accelerator::Kvm);
        assert!(ways_where(kvm, false, |_| true).iter().all(|way| way.accelerator == Accelerator::Kvm));
        assert!(!ways_where(kvm, false, |_| true).is_empty());
    }

    #[test]
    fn findings_survive_and_damage_is_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("findings.json");
        let finding = Finding::Fails { reason: "no first line".into() };
        Findings::keep(&path, KVM, "host", finding.clone());
        assert_eq!(Findings::read(&path).get(KVM, "host"), Some(&finding));
        assert_eq!(Findings::read(&path).get(KVM, "another host"), None);
        fs::write(&path, "{half").unwrap();
        assert_eq!(Findings::read(&path).get(KVM, "host"), None);
    }
}

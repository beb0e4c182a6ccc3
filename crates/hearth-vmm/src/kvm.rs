//! Whether `/dev/kvm` can be opened. That it can does not mean that a guest runs there: under a nested hypervisor such
//! as PVM a stock kernel spins for ever before its first message. Only reaching the agent proves it, which is the engine's to do.

use std::io;

use rustix::fs::{Mode, OFlags, open};

use crate::sys;

pub(crate) const DEVICE: &str = "/dev/kvm";

/// What opening `/dev/kvm` led to.
#[derive(Debug)]
pub enum KvmStatus {
    /// It opens for reading and writing.
    Usable {
        /// The hypervisor that this host itself runs under, by its CPUID signature (`KVMKVMKVM`, `Microsoft Hv`): with
        /// one, KVM is nested and may be slow or not work at all.
        hypervisor: Option<String>,
    },
    /// There is no such device: virtualisation is off in the firmware, or the host is a VM without nesting.
    NoDevice {
        /// The hypervisor that this host itself runs under.
        hypervisor: Option<String>,
    },
    /// The device is there, and this user may not open it.
    NoPermission {
        /// What to do about it.
        fix: String,
    },
    /// It could not be opened for another reason.
    Broken {
        /// Why.
        source: io::Error,
    },
}

impl KvmStatus {
    /// Reports whether a machine with [`crate::Accelerator::Kvm`] can be tried.
    pub fn usable(&self) -> bool {
        matches!(self, Self::Usable { .. })
    }
}

/// Looks at `/dev/kvm` by opening it.
pub fn kvm_status() -> KvmStatus {
    status_of(open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map(drop).map_err(io::Error::from))
}

fn status_of(opened: io::Result<()>) -> KvmStatus {
    match opened {
        Ok(()) => KvmStatus::Usable { hypervisor: hypervisor(sys::cpuid) },
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => KvmStatus::NoDevice { hypervisor: hypervisor(sys::cpuid) },
            io::ErrorKind::PermissionDenied => KvmStatus::NoPermission {
                fix: format!(
                    "add yourself to the group that owns {DEVICE}: `sudo usermod -aG kvm $USER`, then log in again"
                ),
            },
            // ENXIO and ENODEV: a device node whose driver is not loaded.
            _ if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)) => {
                KvmStatus::NoDevice { hypervisor: hypervisor(sys::cpuid) }
            }
            _ => KvmStatus::Broken { source: error },
        },
    }
}

fn hypervisor(cpuid: impl Fn(u32) -> [u32; 4]) -> Option<String> {
    const HYPERVISOR_PRESENT: u32 = 1 << 31;
    let [_, _, features, _] = cpuid(1);
    if features & HYPERVISOR_PRESENT == 0 {
        return None;
    }
    let [_, b, c, d] = cpuid(0x4000_0000);
    let bytes = [b, c, d].map(u32::to_le_bytes).concat();
    let name: String =
        bytes.iter().filter(|byte| byte.is_ascii_graphic() || **byte == b' ').map(|b| *b as char).collect();
    Some(if name.trim().is_empty() { "unnamed".to_owned() } else { name.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_failing_is_told_apart() {
        let status = |errno| status_of(Err(io::Error::from_raw_os_error(errno)));
        assert!(matches!(status(libc::ENOENT), KvmStatus::NoDevice { .. }));
        assert!(matches!(status(libc::ENXIO), KvmStatus::NoDevice { .. }));
        assert!(matches!(status(libc::EBUSY), KvmStatus::Broken { .. }));
        let KvmStatus::NoPermission { fix } = status(libc::EACCES) else { panic!("not a permission matter") };
        assert!(fix.contains("usermod -aG kvm"), "{fix}");
    }

    #[test]
    fn hypervisor_is_named_by_its_signature() {
        let kvm = |leaf| if leaf == 1 { [0, 0, 1 << 31, 0] } else { [0, 0x4b4d_564b, 0x564b_4d56, 0x4d] };
        assert_eq!(hypervisor(kvm).as_deref(), Some("KVMKVMKVM"));
        assert_eq!(hypervisor(|_| [0; 4]), None);
        assert_eq!(hypervisor(|leaf| if leaf == 1 { [0, 0, 1 << 31, 0] } else { [0; 4] }).as_deref(), Some("unnamed"));
    }
}

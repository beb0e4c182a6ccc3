//! What a template depends on.

use std::fmt;

use hearth_image::Image;
use hearth_vmm::{Accelerator, MachineSpec, Qemu};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::EngineError;
use crate::accelerator::processor;

/// Names a template by all it depends on: 32 hexadecimal digits of a SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TemplateKey(String);

impl TemplateKey {
    /// The key of the template that a machine would be restored from.
    ///
    /// In it are QEMU's arguments and the guest's command line (board, devices, memory, processors, accelerator), the build of QEMU, the
    /// image with its kernel, the initial RAM file system with agent and modules (its file's name says all of it), and under KVM the
    /// host's processor.
    pub(crate) fn of(machine: &MachineSpec, qemu: &Qemu, image: &Image) -> Result<Self, EngineError> {
        let mut hash = Sha256::new();
        let mut add = |part: &str| {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        add(FORMAT);
        add(&machine.fingerprint()?);
        add(qemu.build());
        add(image.digest.as_str());
        add(&machine.initramfs.file_name().unwrap_or_default().to_string_lossy());
        if machine.accelerator == Accelerator::Kvm {
            add(&processor());
        }
        Ok(Self(hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a directory's name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for TemplateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Changes with the way in which templates are made.
const FORMAT: &str = "hearth template 1";

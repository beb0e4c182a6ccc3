//! What a template depends on.

use std::fmt;

use hearth_image::Image;
use hearth_vmm::{Accelerator, MachineSpec, Qemu};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::accelerator::processor;
use crate::template::TemplateRecord;
use crate::{EngineError, FileRecord};

/// Names a template by all it depends on: 32 hexadecimal digits of a SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct TemplateKey(String);

impl TemplateKey {
    /// The key of the template that a machine would be restored from.
    ///
    /// In it are QEMU's arguments and the guest's command line (board, devices, memory, processors, accelerator), the build of QEMU, the
    /// image with its kernel, the initial RAM file system with agent and modules (its file's name says all of it), and under KVM the
    /// host's processor.
    pub(crate) fn of(
        machine: &MachineSpec,
        disk_mib: Option<u32>,
        qemu: &Qemu,
        image: &Image,
    ) -> Result<Self, EngineError> {
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
        add(&format!("{disk_mib:?}"));
        if machine.accelerator == Accelerator::Kvm {
            add(&processor());
        }
        Ok(Self(digits(hash)))
    }

    /// The key of the blank memory that such machines lie on which were booted: no template has it.
    pub(crate) fn of_blank(&self) -> Self {
        Self(digits(Sha256::new().chain_update("hearth blank memory").chain_update(&self.0)))
    }

    /// The digits.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The first 32 hexadecimal digits of a digest.
fn digits(hash: Sha256) -> String {
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Names one template: its key, and the checksum of its memory, 16 digits more. Two that were made apart have one key and different
/// memories, and what was saved of a guest fits the memory that it was restored from alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TemplateId(String);

impl From<TemplateId> for String {
    fn from(id: TemplateId) -> Self {
        id.0
    }
}

impl TryFrom<String> for TemplateId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("a template's name is 32 hexadecimal digits, a dash and 16 more")
    }
}

impl TemplateId {
    pub(crate) fn new(key: &TemplateKey, memory: &FileRecord) -> Self {
        Self(format!("{key}-{}", memory.xxh3))
    }

    /// The name of a template that was made elsewhere: the same for the same record, and with no key that anything here depends on.
    pub(crate) fn of_stranger(record: &TemplateRecord) -> Self {
        let json = serde_json::to_vec(record).expect("plain data always becomes JSON");
        let key = digits(Sha256::new().chain_update("hearth imported template").chain_update(json));
        Self::new(&TemplateKey(key), &record.memory)
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a directory's name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (key, memory) = text.split_once('-')?;
        let hexadecimal = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let fits = key.len() == 32 && memory.len() == 16 && hexadecimal(key) && hexadecimal(memory);
        fits.then(|| Self(text.to_owned()))
    }

    pub(crate) fn has_key(&self, key: &TemplateKey) -> bool {
        self.0.starts_with(key.as_str())
    }
}

impl fmt::Display for TemplateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TemplateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Changes with the way in which templates are made.
const FORMAT: &str = "hearth template 5";

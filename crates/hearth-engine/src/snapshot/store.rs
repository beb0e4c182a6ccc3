//! Snapshots on disk: a directory each, named as the snapshot is.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_vmm::{Changes, SavedMachine};
use serde::{Deserialize, Serialize};

use crate::checked::FileRecord;
use crate::fleet::SandboxName;
use crate::saved::{self, SavedFault, Unfinished};
use crate::scratch::Scratch;
use crate::{DiskMib, SandboxSpec, TemplateId, TemplateRecord};

/// The record's name in a snapshot's directory.
pub(super) const RECORD: &str = "snapshot.json";
/// The version of records that this reads and writes.
pub(super) const FORMAT: u32 = 1;

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRecord {
    /// The version of this record.
    pub format: u32,
    /// Its name.
    pub name: String,
    /// When it was taken, in seconds since 1970.
    pub created: u64,
    /// The template that it lies on.
    pub template: TemplateId,
    /// The image's digest.
    pub image: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The size of its disk in MiB, if it has one.
    pub disk_mib: Option<u32>,
    /// The devices' state.
    pub devices: FileRecord,
    /// What of the template's memory was changed.
    pub memory: FileRecord,
    /// The disk below its layers, where that is not the template's: of a sandbox that was booted, or started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<FileRecord>,
    /// What was written to the disk, a file for each layer above that.
    pub overlays: Vec<FileRecord>,
    /// What the files of its disk take, without their holes, in bytes. Measured where it lies, and not written down.
    #[serde(skip)]
    pub disk_bytes: u64,
}

impl SnapshotRecord {
    /// What it takes on disk, without its template, in bytes.
    pub fn bytes(&self) -> u64 {
        self.devices.bytes + self.memory.bytes + self.disk_bytes
    }

    fn measured(self, own: &Path) -> Self {
        let scratch = Scratch::saved(own, self.overlays.len());
        let base = self.base.as_ref().map(|_| scratch.base());
        let files = base.into_iter().chain((1..=self.overlays.len()).map(|number| scratch.overlay(number)));
        let disk_bytes = files.filter_map(|file| fs::metadata(file).ok()).map(|meta| meta.blocks() * 512).sum();
        Self { disk_bytes, ..self }
    }
}

/// What is kept of a sandbox beside its state.
pub(super) struct Kept {
    pub(super) name: SandboxName,
    pub(super) template: TemplateRecord,
    pub(super) spec: SandboxSpec,
}

pub(super) fn path(directory: &Path, name: &SandboxName) -> PathBuf {
    directory.join(name.as_str())
}

pub(super) fn exists(directory: &Path, name: &SandboxName) -> bool {
    path(directory, name).exists()
}

pub(super) fn begin(directory: &Path) -> Result<Unfinished, SavedFault> {
    Unfinished::within(directory)
}

/// Fills a snapshot, whose disk is in place already, and publishes it.
pub(super) fn finish(
    directory: &Path,
    unfinished: Unfinished,
    kept: Kept,
    machine: &SavedMachine,
    scratch: Option<&Scratch>,
) -> Result<SnapshotRecord, SavedFault> {
    let delta = machine.delta.clone().unwrap_or_default();
    let (devices, memory) = saved::write_changes(unfinished.path(), machine, &delta)?;
    let own_base = scratch.filter(|_| kept.template.disk.is_none());
    let base = own_base.map(|scratch| saved::sum_up_disk(&scratch.base())).transpose()?;
    let overlays = scratch.map_or(0, Scratch::overlays);
    let overlays = (1..=overlays).filter_map(|number| Some(saved::sum_up_disk(&scratch?.overlay(number))));
    let record = SnapshotRecord {
        format: FORMAT,
        name: kept.name.as_str().to_owned(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        template: kept.template.id,
        image: kept.template.image,
        cpus: kept.spec.cpus.get(),
        memory_mib: kept.spec.memory.mib(),
        disk_mib: kept.spec.disk.map(DiskMib::mib),
        devices,
        memory,
        base,
        overlays: overlays.collect::<Result<_, _>>()?,
        disk_bytes: 0,
    };
    publish(directory, unfinished, record, &kept.name)
}

/// Writes the record last and gives the directory its name.
pub(super) fn publish(
    directory: &Path,
    unfinished: Unfinished,
    record: SnapshotRecord,
    name: &SandboxName,
) -> Result<SnapshotRecord, SavedFault> {
    saved::write_record(&unfinished.path().join(RECORD), &record)?;
    let own = path(directory, name);
    unfinished.publish_anew(&own)?;
    Ok(record.measured(&own))
}

/// Reads a record; one that makes no sense is none.
pub(super) fn record(directory: &Path, name: &SandboxName) -> Option<SnapshotRecord> {
    let own = path(directory, name);
    let record: SnapshotRecord = saved::read_record(&own.join(RECORD)).ok()??;
    (record.format == FORMAT && record.name == name.as_str()).then(|| record.measured(&own))
}

pub(super) fn list(directory: &Path) -> Vec<SnapshotRecord> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| SandboxName::new(entry.file_name().to_str()?).ok());
    let mut records: Vec<_> = names.filter_map(|name| record(directory, &name)).collect();
    records.sort_by(|one, other| one.name.cmp(&other.name));
    records
}

pub(super) fn remove(directory: &Path, name: &SandboxName) -> Result<(), SavedFault> {
    saved::remove(&path(directory, name))
}

/// Loads and checks all that a sandbox is started from. The changes of its memory are checked as they are read, the disk's layers only here.
pub(super) fn load(own: &Path, record: &SnapshotRecord) -> Result<(Arc<[u8]>, Changes), SavedFault> {
    check_disks(own, record)?;
    Ok((saved::read_devices(own, &record.devices)?, saved::open_changes(own, &record.memory)?))
}

/// Checks all of it, for a memory of `memory` bytes.
pub(super) fn check(own: &Path, record: &SnapshotRecord, memory: u64) -> Result<(), SavedFault> {
    check_disks(own, record)?;
    saved::read_devices(own, &record.devices)?;
    saved::check_changes(own, &record.memory, memory)
}

fn check_disks(own: &Path, record: &SnapshotRecord) -> Result<(), SavedFault> {
    let scratch = Scratch::saved(own, record.overlays.len());
    if let Some(base) = &record.base {
        saved::check_disk(&scratch.base(), base)?;
    }
    let mut overlays = (1..).zip(&record.overlays);
    overlays.try_for_each(|(number, overlay)| saved::check_disk(&scratch.overlay(number), overlay))
}

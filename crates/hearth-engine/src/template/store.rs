//! Templates on disk: a directory each, named by its id, with a record, the devices' state, the memory, the disk and the QEMU.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_vmm::{Accelerator, MemoryMib, SavedMachine, hardware, host_tsc_khz};
use serde::{Deserialize, Serialize};

use super::housekeeping::Use;
use super::rehearse::Rehearsal;
use super::{Mapped, Template, TemplateId, TemplateKey};
use crate::accelerator::{Way, name, processor};
use crate::checked::FileRecord;
use crate::create::Base;
use crate::saved::{self, SavedFault, Unfinished};
use crate::scratch::{self, Scratch};
use crate::{DiskMib, SandboxSpec};

/// The record's name in a template's directory.
pub(crate) const RECORD: &str = "template.json";
/// The version of records that this reads and writes.
pub(crate) const FORMAT: u32 = 1;
/// How far the host's clock may be from the one that a guest was told of: two measurements of one clock differ by less.
const TSC_TOLERANCE: u32 = 1000;

/// What is known of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateRecord {
    /// The version of this record.
    pub format: u32,
    /// Its name.
    pub id: TemplateId,
    /// The image's digest.
    pub image: String,
    /// The build of QEMU.
    pub qemu: String,
    /// The host's processor, where that ran it by itself.
    pub processor: Option<String>,
    /// What ran it: `kvm` or `tcg`.
    pub accelerator: String,
    /// The board: `microvm` or `pc`.
    pub board: String,
    /// Board and processor in QEMU's words; none of what an earlier version has made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// The size of its disk in MiB, if it has one.
    pub disk_mib: Option<u32>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The speed of the time-stamp counter that its guest was told, in kHz.
    pub tsc_khz: u32,
    /// The devices' state.
    pub devices: FileRecord,
    /// The memory.
    pub memory: FileRecord,
    /// The disk.
    pub disk: Option<FileRecord>,
    /// What the guest has written to it since, as an overlay, where it has rehearsed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<FileRecord>,
    /// The QEMU of the guest that has rehearsed, with all that it has translated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<FileRecord>,
}

impl TemplateRecord {
    /// What another host, and whoever lies on its memory alone, can use of it.
    pub(crate) fn portable(self) -> Self {
        Self { overlay: None, checkpoint: None, ..self }
    }

    /// Whether what was saved of guests of this template can go on with what there is now; else the reason why not.
    pub(crate) fn fits(&self, base: &Base) -> Result<(), String> {
        let differs =
            |what: &str, then: &str, now: &str| Err(format!("it was saved with {what} {then:?}, and this is {now:?}"));
        if self.qemu != base.qemu.build() {
            return differs("the QEMU", &self.qemu, base.qemu.build());
        }
        if self.image != base.image.digest.as_str() {
            return differs("the image", &self.image, base.image.digest.as_str());
        }
        if let Some(then) = self.processor.as_ref().filter(|then| **then != processor()) {
            return differs("the processor", then, &processor());
        }
        self.fits_hardware()
    }

    /// How many overlays its disk has.
    fn overlays(&self) -> usize {
        usize::from(self.overlay.is_some())
    }

    fn fits_hardware(&self) -> Result<(), String> {
        let now = Way::named(&self.accelerator, &self.board).map(|way| hardware(way.kind, way.accelerator));
        match &self.hardware {
            Some(then) if Some(then) == now.as_ref() => Ok(()),
            _ => Err("it was saved by another version of Hearth, whose machines are others".to_owned()),
        }
    }
}

/// What is noted of a template beside what it consists of.
pub(super) struct About {
    image: String,
    qemu: String,
    memory_mib: u32,
    cpus: u32,
    disk_mib: Option<u32>,
}

impl About {
    pub(super) fn of(spec: &SandboxSpec, base: &Base) -> Self {
        Self {
            image: base.image.digest.as_str().to_owned(),
            qemu: base.qemu.build().to_owned(),
            memory_mib: spec.memory.mib(),
            cpus: spec.cpus.get(),
            disk_mib: spec.disk.map(DiskMib::mib),
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests(memory: MemoryMib) -> Self {
        let (image, qemu) = ("an image".to_owned(), "a QEMU".to_owned());
        Self { image, qemu, memory_mib: memory.mib(), cpus: 1, disk_mib: None }
    }
}

/// A template that has no name yet.
pub(super) struct Made {
    pub(super) key: TemplateKey,
    pub(super) way: Way,
    pub(super) saved: SavedMachine,
    pub(super) checkpoint: Option<Rehearsal>,
    pub(super) scratch: Option<Scratch>,
}

/// Writes a template and publishes it.
pub(super) fn write(directory: &Path, made: Made, about: About) -> Result<Template, SavedFault> {
    let filled = Unfinished::within(directory)?;
    let (devices, memory) = saved::write_template(filled.path(), &made.saved)?;
    let disk = made.scratch.as_ref().map(|scratch| {
        // Only its QEMU had it open, which has ended.
        let path = Scratch::bare(filled.path()).base();
        scratch.move_base(&path).map_err(SavedFault::file(&path))?;
        saved::sum_up_disk(&path)
    });
    let overlay = made.checkpoint.as_ref().and_then(Rehearsal::overlay).map(|overlay| {
        let path = Scratch::bare(filled.path()).overlay(1);
        scratch::move_file(&overlay, &path).map_err(SavedFault::file(&path))?;
        saved::sum_up_disk(&path)
    });
    let checkpoint = made.checkpoint.map(|rehearsal| rehearsal.checkpoint);
    let written = checkpoint.as_ref().map(|checkpoint| saved::write_checkpoint(filled.path(), checkpoint));
    let record = TemplateRecord {
        format: FORMAT,
        id: TemplateId::new(&made.key, &memory),
        image: about.image,
        qemu: about.qemu,
        processor: (made.way.accelerator == Accelerator::Kvm).then(processor),
        accelerator: name(made.way.accelerator).to_owned(),
        board: made.way.board().to_owned(),
        hardware: Some(hardware(made.way.kind, made.way.accelerator)),
        memory_mib: about.memory_mib,
        cpus: about.cpus,
        disk_mib: about.disk_mib,
        created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        tsc_khz: host_tsc_khz(),
        devices,
        memory,
        disk: disk.transpose()?,
        overlay: overlay.transpose()?,
        checkpoint: written.transpose()?,
    };
    saved::write_record(&filled.path().join(RECORD), &record)?;
    let published = directory.join(record.id.as_str());
    filled.publish(&published)?;
    let scratch = made.scratch.is_some().then(|| Scratch::saved(&published, record.overlays()));
    // Without a lock on it, it may go from disk while it is used: it is in memory all the same.
    let use_of = Use::begin(&published.join(RECORD)).ok();
    Ok(Template { record, way: made.way, saved: made.saved, checkpoint, failures: 0.into(), scratch, _use: use_of })
}

/// Reads the newest whole template of a key; `None` when there is none. One that cannot be used is removed, unless it is pinned: another
/// is then made beside it.
pub(super) fn read(
    directory: &Path,
    key: &TemplateKey,
    way: Way,
    pinned: &[TemplateId],
    mapped: &Mapped,
) -> Result<Option<Template>, SavedFault> {
    let mut records: Vec<_> = list(directory).into_iter().filter(|record| record.id.has_key(key)).collect();
    records.sort_by_key(|record| std::cmp::Reverse(record.created));
    for record in records {
        match load(directory, &record, way, mapped).and_then(|template| with_checkpoint(directory, template)) {
            Ok(template) => return Ok(Some(template)),
            Err(_) if pinned.contains(&record.id) => {}
            Err(fault) if fault.is_for_good() => saved::remove(&directory.join(record.id.as_str()))?,
            Err(_) => {}
        }
    }
    Ok(None)
}

/// Reads the template with an id; `None` when there is none.
pub(super) fn read_id(directory: &Path, id: &TemplateId, mapped: &Mapped) -> Result<Option<Template>, SavedFault> {
    let Some(record) = record(directory, id) else { return Ok(None) };
    let way = Way::named(&record.accelerator, &record.board);
    let way = way.ok_or_else(|| SavedFault::Record { path: directory.join(id.as_str()).join(RECORD) })?;
    load(directory, &record, way, mapped).map(Some)
}

/// Checks the files of a template that is not published yet.
pub(crate) fn check(own: &Path, record: &TemplateRecord) -> Result<(), SavedFault> {
    let memory = MemoryMib::new(record.memory_mib).map_err(|_| SavedFault::Record { path: own.join(RECORD) })?;
    if let Some(disk) = &record.disk {
        saved::check_disk(&Scratch::bare(own).base(), disk)?;
    }
    saved::read_devices(own, &record.devices)?;
    saved::read_ram(own, &record.memory, memory).map(drop)
}

/// Loads one template, and checks all of it. Memory of it that a machine has mapped is shared, if it is what lies on disk, byte for byte.
pub(super) fn load(
    directory: &Path,
    record: &TemplateRecord,
    way: Way,
    mapped: &Mapped,
) -> Result<Template, SavedFault> {
    let own = directory.join(record.id.as_str());
    let use_of = Use::begin(&own.join(RECORD))?;
    let host = host_tsc_khz();
    if host.abs_diff(record.tsc_khz) > host / TSC_TOLERANCE {
        return Err(SavedFault::Clock { saved: record.tsc_khz, host });
    }
    let memory = MemoryMib::new(record.memory_mib).map_err(|_| SavedFault::Record { path: own.join(RECORD) })?;
    let scratch = record.disk.as_ref().map(|disk| {
        let scratch = Scratch::saved(&own, record.overlays());
        saved::check_disk(&scratch.base(), disk)?;
        let overlay = record.overlay.as_ref().map(|overlay| saved::check_disk(&scratch.overlay(1), overlay));
        overlay.unwrap_or(Ok(())).map(|()| scratch)
    });
    let devices = saved::read_devices(&own, &record.devices)?;
    let mut of_this = mapped.iter().filter(|(id, ram)| *id == record.id && ram.size() == memory.bytes());
    let shared = of_this.find(|(_, ram)| saved::is_ram(&own, &record.memory, ram).is_ok_and(|is| is));
    let ram = match shared {
        Some((_, ram)) => ram.clone(),
        None => Arc::new(saved::read_ram(&own, &record.memory, memory)?),
    };
    let saved = SavedMachine { ram, devices, delta: None, checkpoint: None };
    Ok(Template {
        record: record.clone(),
        way,
        saved,
        checkpoint: None,
        failures: 0.into(),
        scratch: scratch.transpose()?,
        _use: Some(use_of),
    })
}

/// Loads the QEMU of one that sandboxes are to start from.
fn with_checkpoint(directory: &Path, template: Template) -> Result<Template, SavedFault> {
    let Some(record) = &template.record.checkpoint else { return Ok(template) };
    let own = directory.join(template.record.id.as_str());
    let checkpoint = saved::read_checkpoint(&own, record, None)?;
    match checkpoint.fits() {
        true => Ok(Template { checkpoint: Some(Arc::new(checkpoint)), ..template }),
        false => Err(SavedFault::Outdated { path: own }),
    }
}

/// The templates on disk, in the order of their names. A directory whose record makes no sense is none.
pub(super) fn list(directory: &Path) -> Vec<TemplateRecord> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| TemplateId::parse(entry.file_name().to_str()?));
    let mut records: Vec<_> = ids.filter_map(|id| record(directory, &id)).collect();
    records.sort_by(|one, other| one.id.cmp(&other.id));
    records
}

/// What is known of one template.
pub(crate) fn record(directory: &Path, id: &TemplateId) -> Option<TemplateRecord> {
    let path: PathBuf = directory.join(id.as_str()).join(RECORD);
    let record: TemplateRecord = saved::read_record(&path).ok()??;
    (record.format == FORMAT && record.id == *id).then_some(record)
}

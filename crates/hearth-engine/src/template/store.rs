//! Templates on disk: a directory each, named by its key, with a record, the devices' state and the memory.
//!
//! A directory is filled under another name and renamed when it is whole. Every file's size and checksum are in the record, and are
//! checked each time it is loaded: what a crash has cut short is never started.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_vmm::{DeltaError, MAX_DEVICE_STATE, MemoryMib, SavedMachine, SealedRam, host_tsc_khz};
use serde::{Deserialize, Serialize};

use super::{Request, Template, TemplateKey};
use crate::accelerator::name;
use crate::checked::{CheckedReader, CheckedWriter, FileRecord};

const RECORD: &str = "template.json";
const DEVICES: &str = "devices";
const MEMORY: &str = "memory";
const FORMAT: u32 = 1;
/// The longest record that is read, in bytes.
const MAX_RECORD: u64 = 64 * 1024;
/// How far the host's clock may be from the one that a guest was told of: two measurements of one clock differ by less.
const TSC_TOLERANCE: u32 = 1000;

/// What is known of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateRecord {
    /// The version of this record.
    pub format: u32,
    /// What it depends on, hashed.
    pub key: TemplateKey,
    /// The image's digest.
    pub image: String,
    /// The build of QEMU.
    pub qemu: String,
    /// What ran it: `kvm` or `tcg`.
    pub accelerator: String,
    /// The board: `microvm` or `pc`.
    pub board: String,
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
}

/// A template on disk that cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum TemplateFault {
    /// A file cannot be written or read.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The record makes no sense, or is of another version.
    #[error("the record {} is damaged or of another version", path.display())]
    Record {
        /// Which.
        path: PathBuf,
    },
    /// A file is not what was written.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
    },
    /// The guest was told of another clock than the host's.
    #[error("its clock runs at {saved} kHz and this host's at {host} kHz")]
    Clock {
        /// The guest's.
        saved: u32,
        /// The host's.
        host: u32,
    },
    /// The memory makes no sense, or there is no room for it.
    #[error("cannot load the memory {}", path.display())]
    Memory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: DeltaError,
    },
}

/// Writes a template and publishes it, in place of any other of its key.
pub(super) fn write(directory: &Path, template: &Template, request: &Request<'_>) -> Result<(), TemplateFault> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TemplateFault::File { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed(directory))?;
    let made = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(directory).map_err(failed(directory))?;
    let at = |name: &str| made.path().join(name);
    let file = |name: &str, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>| {
        CheckedWriter::create(&at(name), write).map_err(failed(&at(name)))
    };
    let saved = &template.saved;
    let devices = file(DEVICES, &mut |out| out.write_all(&saved.devices))?;
    let memory = file(MEMORY, &mut |mut out| saved.ram.write_to(&mut out))?;
    let record = TemplateRecord {
        format: FORMAT,
        key: template.key.clone(),
        image: request.image.digest.as_str().to_owned(),
        qemu: request.qemu.build().to_owned(),
        accelerator: name(template.way.accelerator).to_owned(),
        board: template.way.board().to_owned(),
        memory_mib: request.spec.memory.mib(),
        cpus: request.spec.cpus.get(),
        disk_mib: request.spec.disk.map(crate::DiskMib::mib),
        created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        tsc_khz: host_tsc_khz(),
        devices,
        memory,
    };
    let text = serde_json::to_vec_pretty(&record).map_err(|error| failed(&at(RECORD))(error.into()))?;
    fs::write(at(RECORD), text).map_err(failed(&at(RECORD)))?;
    let published = directory.join(template.key.as_str());
    // What is there is stale or damaged, or was published by another process a moment ago; a reader has its files open.
    let _ = fs::remove_dir_all(&published);
    match fs::rename(made.path(), &published) {
        Ok(()) => {
            let _ = made.keep();
            Ok(())
        }
        // Somebody else was quicker, with the same.
        Err(_) if published.join(RECORD).exists() => Ok(()),
        Err(source) => Err(failed(&published)(source)),
    }
}

/// Directories that begin so are being filled, or were when their maker was killed.
const UNFINISHED: &str = ".unfinished-";

/// Reads a template; `None` when there is none of this key.
pub(super) fn read(directory: &Path, key: &TemplateKey) -> Result<Option<SavedMachine>, TemplateFault> {
    let at = |name: &str| directory.join(key.as_str()).join(name);
    let Some(record) = read_record(&at(RECORD))? else { return Ok(None) };
    if record.key != *key {
        return Err(TemplateFault::Record { path: at(RECORD) });
    }
    let host = host_tsc_khz();
    if host.abs_diff(record.tsc_khz) > host / TSC_TOLERANCE {
        return Err(TemplateFault::Clock { saved: record.tsc_khz, host });
    }
    let memory_mib = MemoryMib::new(record.memory_mib).map_err(|_| TemplateFault::Record { path: at(RECORD) })?;
    let devices = read_devices(&at(DEVICES), &record.devices)?;
    let ram = read_memory(&at(MEMORY), &record.memory, memory_mib)?;
    Ok(Some(SavedMachine { ram: Arc::new(ram), devices: devices.into(), delta: None }))
}

fn read_record(path: &Path) -> Result<Option<TemplateRecord>, TemplateFault> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TemplateFault::File { path: path.to_owned(), source }),
    };
    let mut text = Vec::new();
    file.take(MAX_RECORD)
        .read_to_end(&mut text)
        .map_err(|source| TemplateFault::File { path: path.to_owned(), source })?;
    let record: Option<TemplateRecord> = serde_json::from_slice(&text).ok();
    let record = record.filter(|record| record.format == FORMAT);
    record.map(Some).ok_or_else(|| TemplateFault::Record { path: path.to_owned() })
}

fn read_devices(path: &Path, record: &FileRecord) -> Result<Vec<u8>, TemplateFault> {
    let failed = |source| TemplateFault::File { path: path.to_owned(), source };
    let damaged = || TemplateFault::Damaged { path: path.to_owned() };
    if record.bytes > MAX_DEVICE_STATE {
        return Err(damaged());
    }
    let mut reader = CheckedReader::open(path, record).map_err(failed)?.ok_or_else(damaged)?;
    let mut devices = Vec::new();
    reader.read_to_end(&mut devices).map_err(failed)?;
    if reader.is_whole() { Ok(devices) } else { Err(damaged()) }
}

fn read_memory(path: &Path, record: &FileRecord, memory: MemoryMib) -> Result<SealedRam, TemplateFault> {
    let damaged = || TemplateFault::Damaged { path: path.to_owned() };
    let opened = CheckedReader::open(path, record);
    let mut reader =
        opened.map_err(|source| TemplateFault::File { path: path.to_owned(), source })?.ok_or_else(damaged)?;
    let ram = SealedRam::read_from(&mut reader, memory);
    let ram = ram.map_err(|source| TemplateFault::Memory { path: path.to_owned(), source })?;
    if reader.is_whole() { Ok(ram) } else { Err(damaged()) }
}

/// Removes a template from disk, if it is there.
pub(super) fn remove(directory: &Path, key: &TemplateKey) {
    let _ = fs::remove_dir_all(directory.join(key.as_str()));
}

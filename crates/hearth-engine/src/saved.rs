//! A saved guest's files in a directory: what templates, pauses and snapshots have in common.
//!
//! A directory is filled under another name and renamed when it is whole. Every file's size and checksum are in a record, and are
//! checked each time it is loaded: what a crash has cut short is never started.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_vmm::{
    Changes, Checkpoint, Delta, DeltaError, MAX_DEVICE_STATE, MemoryMib, SavedMachine, SealedRam, read_pages,
};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use xxhash_rust::xxh3::Xxh3;

use crate::checked::{CheckedReader, CheckedWriter, FileRecord, SureReader};

const DEVICES: &str = "devices";
const MEMORY: &str = "memory";
const CHECKPOINT: &str = "qemu";
/// Directories that begin so are being filled, or were when their maker was killed.
const UNFINISHED: &str = ".unfinished-";
/// The longest record that is read, in bytes.
const MAX_RECORD: u64 = 64 * 1024;
/// A disk is summed up by pieces of this size, in bytes.
const BLOCK: usize = 4096;

/// A saved guest that cannot be kept or used.
#[derive(Debug, thiserror::Error)]
pub enum SavedFault {
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
    /// The host's kernel, QEMU or one of its libraries is another than it was.
    #[error("{} is of another kernel, or of other libraries, than there are now", path.display())]
    Outdated {
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
    /// The work was cut off by the end of this process.
    #[error("it was interrupted")]
    Interrupted {
        /// By what.
        source: tokio::task::JoinError,
    },
}

impl SavedFault {
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    /// Whether what was saved cannot be used at another time either.
    pub(crate) fn is_for_good(&self) -> bool {
        match self {
            Self::Record { .. } | Self::Damaged { .. } | Self::Clock { .. } => true,
            Self::Memory { source, .. } => match source {
                // The host is short of something, or its disk.
                DeltaError::Write { .. } | DeltaError::Ram(_) => false,
                DeltaError::Read { source } => source.kind() == io::ErrorKind::UnexpectedEof,
                DeltaError::Magic | DeltaError::Run { .. } | DeltaError::Trailing => true,
            },
            Self::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
            // The rest of it is whole, and another process may have it loaded: another is made beside it.
            Self::Outdated { .. } | Self::Interrupted { .. } => false,
        }
    }

    fn damaged(path: &Path) -> Self {
        Self::Damaged { path: path.to_owned() }
    }
}

/// Runs what may take long on a thread of its own.
pub(crate) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SavedFault> + Send + 'static,
) -> Result<T, SavedFault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|source| Err(SavedFault::Interrupted { source }))
}

/// A directory that is being filled.
pub(crate) struct Unfinished {
    directory: TempDir,
    /// Held for its lock.
    _making: File,
}

/// Keeps [`Quiet`] away from what is below `parent` for as long as it lives.
fn making(parent: &Path) -> Result<File, SavedFault> {
    let path = lock_of(parent);
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(SavedFault::file(&path))?;
    flock(&file, FlockOperation::LockShared).map_err(|error| SavedFault::file(&path)(error.into()))?;
    Ok(file)
}

/// Beside the directory, in which only what is saved has a name.
fn lock_of(parent: &Path) -> PathBuf {
    // By whatever path it is reached, it has one lock.
    parent.canonicalize().unwrap_or_else(|_| parent.to_owned()).with_extension("lock")
}

/// Nobody makes or removes anything below some directories for as long as this lives.
pub(crate) struct Quiet {
    _locked: Vec<File>,
}

impl Quiet {
    /// Takes hold of all of them, or, while somebody makes something, of none. Waits for nobody.
    pub(crate) fn within(parents: &[&Path]) -> Option<Self> {
        let locked = parents.iter().map(|parent| {
            let file =
                File::options().create(true).truncate(false).write(true).mode(0o600).open(lock_of(parent)).ok()?;
            flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file)
        });
        Some(Self { _locked: locked.collect::<Option<_>>()? })
    }
}

impl Unfinished {
    /// Begins one beside the finished ones.
    pub(crate) fn within(parent: &Path) -> Result<Self, SavedFault> {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(SavedFault::file(parent))?;
        let making = making(parent)?;
        let directory = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(parent);
        Ok(Self { directory: directory.map_err(SavedFault::file(parent))?, _making: making })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Makes it the finished one at `path`. One that is there already stays, and this one goes.
    pub(crate) fn publish(self, path: &Path) -> Result<(), SavedFault> {
        match fs::rename(self.path(), path) {
            Ok(()) => {
                let _ = self.directory.keep();
                Ok(())
            }
            Err(_) if path.is_dir() => Ok(()),
            Err(source) => Err(SavedFault::File { path: path.to_owned(), source }),
        }
    }
}

impl Unfinished {
    /// As [`Self::publish`], but one that is there already is an error.
    pub(crate) fn publish_anew(self, path: &Path) -> Result<(), SavedFault> {
        // Between this look and the rename only another of this user's processes can come; a directory that is not empty is never replaced.
        fs::rename(self.path(), path).map_err(SavedFault::file(path))?;
        let _ = self.directory.keep();
        Ok(())
    }
}

/// Writes a file for this user alone, with holes where it is zero.
pub(crate) fn write_sparse(path: &Path, mut content: impl Read) -> Result<(), SavedFault> {
    let failed = |error: io::Error| SavedFault::file(path)(error);
    let file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let (mut at, mut piece) = (0, vec![0; 16 * BLOCK]);
    loop {
        let mut length = 0;
        while length < piece.len() {
            match content.read(&mut piece[length..]).map_err(failed)? {
                0 => break,
                count => length += count,
            }
        }
        if length == 0 {
            return file.set_len(at).map_err(failed);
        }
        if piece[..length].iter().any(|byte| *byte != 0) {
            file.write_all_at(&piece[..length], at).map_err(failed)?;
        }
        at += length as u64;
    }
}

/// Removes what makers that were killed have left, unless something is just being made: then the next start does.
pub(crate) fn sweep(parent: &Path) {
    if !parent.is_dir() {
        return;
    }
    let Some(_quiet) = Quiet::within(&[parent]) else { return };
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let unfinished = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED));
    unfinished.for_each(|entry| drop(fs::remove_dir_all(entry.path())));
}

/// Removes a finished directory: first from sight, in one step.
pub(crate) fn remove(path: &Path) -> Result<(), SavedFault> {
    let _making = making(path.parent().unwrap_or(path))?;
    remove_in_quiet(path)
}

/// As [`remove`], for whoever holds the directory above it [quiet](Quiet).
pub(crate) fn remove_in_quiet(path: &Path) -> Result<(), SavedFault> {
    let parent = path.parent().unwrap_or(path);
    let aside = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(parent).map_err(SavedFault::file(parent))?;
    fs::rename(path, aside.path().join("gone")).map_err(SavedFault::file(path))
}

pub(crate) fn write_record(path: &Path, record: &impl Serialize) -> Result<(), SavedFault> {
    let text = serde_json::to_vec_pretty(record).map_err(|error| SavedFault::file(path)(error.into()))?;
    fs::write(path, text).map_err(SavedFault::file(path))
}

/// Reads a record; `None` when there is none.
pub(crate) fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, SavedFault> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(SavedFault::file(path)(source)),
    };
    let mut text = Vec::new();
    file.take(MAX_RECORD).read_to_end(&mut text).map_err(SavedFault::file(path))?;
    serde_json::from_slice(&text).map(Some).map_err(|_| SavedFault::Record { path: path.to_owned() })
}

/// Writes a template's whole memory, and the devices' state. Returns the records of the devices and of the memory.
pub(crate) fn write_template(directory: &Path, saved: &SavedMachine) -> Result<(FileRecord, FileRecord), SavedFault> {
    let memory = directory.join(MEMORY);
    let written = CheckedWriter::create(&memory, &mut |mut out| saved.ram.write_to(&mut out));
    Ok((write_devices(directory, saved)?, written.map_err(SavedFault::file(&memory))?))
}

/// Writes what a guest has changed of its template's memory, and the devices' state.
pub(crate) fn write_changes(
    directory: &Path,
    saved: &SavedMachine,
    delta: &Delta,
) -> Result<(FileRecord, FileRecord), SavedFault> {
    let memory = directory.join(MEMORY);
    let written = CheckedWriter::create(&memory, &mut |mut out| delta.write_to(&mut out));
    Ok((write_devices(directory, saved)?, written.map_err(SavedFault::file(&memory))?))
}

/// Writes a QEMU as it was.
pub(crate) fn write_checkpoint(directory: &Path, checkpoint: &Checkpoint) -> Result<FileRecord, SavedFault> {
    let path = directory.join(CHECKPOINT);
    CheckedWriter::create(&path, &mut |mut out| checkpoint.write_to(&mut out)).map_err(SavedFault::file(&path))
}

/// Reads what [`write_checkpoint`] has written; of one that lies on another's pages, with that.
pub(crate) fn read_checkpoint(
    directory: &Path,
    record: &FileRecord,
    below: Option<&Checkpoint>,
) -> Result<Checkpoint, SavedFault> {
    let path = directory.join(CHECKPOINT);
    read_whole(&path, record, |reader| {
        let read = match below {
            None => Checkpoint::read_from(reader),
            Some(below) => below.read_above(reader),
        };
        read.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => SavedFault::damaged(&path),
            _ => SavedFault::file(&path)(error),
        })
    })
}

fn write_devices(directory: &Path, saved: &SavedMachine) -> Result<FileRecord, SavedFault> {
    let path = directory.join(DEVICES);
    CheckedWriter::create(&path, &mut |out| out.write_all(&saved.devices)).map_err(SavedFault::file(&path))
}

pub(crate) fn read_devices(directory: &Path, record: &FileRecord) -> Result<Arc<[u8]>, SavedFault> {
    let path = directory.join(DEVICES);
    if record.bytes > MAX_DEVICE_STATE {
        return Err(SavedFault::damaged(&path));
    }
    read_whole(&path, record, |reader| {
        let mut devices = Vec::new();
        reader.read_to_end(&mut devices).map_err(SavedFault::file(&path))?;
        Ok(devices.into())
    })
}

pub(crate) fn read_ram(directory: &Path, record: &FileRecord, memory: MemoryMib) -> Result<SealedRam, SavedFault> {
    let path = directory.join(MEMORY);
    let failed = |source| SavedFault::Memory { path: path.clone(), source };
    read_whole(&path, record, |reader| SealedRam::read_from(reader, memory).map_err(failed))
}

/// Whether memory is just what was written.
pub(crate) fn is_ram(directory: &Path, record: &FileRecord, ram: &SealedRam) -> Result<bool, SavedFault> {
    let path = directory.join(MEMORY);
    read_whole(&path, record, |reader| ram.is_as_written(reader).map_err(SavedFault::file(&path)))
}

/// What [`write_changes`] has written of the memory, for a machine that is being started to read.
pub(crate) fn open_changes(directory: &Path, record: &FileRecord) -> Result<Changes, SavedFault> {
    let path = directory.join(MEMORY);
    let reader = CheckedReader::open(&path, record).map_err(SavedFault::file(&path))?;
    let reader = reader.ok_or_else(|| SavedFault::damaged(&path))?;
    Ok(Changes::Written { path, input: Box::new(SureReader(reader)) })
}

/// Reads what a machine would, for one that is not started yet.
pub(crate) fn check_changes(directory: &Path, record: &FileRecord, size: u64) -> Result<(), SavedFault> {
    let path = directory.join(MEMORY);
    let failed = |source| SavedFault::Memory { path: path.clone(), source };
    read_whole(&path, record, |reader| read_pages(reader, size, |_, _| Ok(())).map_err(failed))
}

/// Has all files of a directory, and that they are there, be on the host's disk.
pub(crate) fn sync(directory: &Path) -> Result<(), SavedFault> {
    let entries = fs::read_dir(directory).map_err(SavedFault::file(directory))?;
    let files = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    for path in files.map(|entry| entry.path()).chain([directory.to_owned()]) {
        File::open(&path).and_then(|file| file.sync_all()).map_err(SavedFault::file(&path))?;
    }
    Ok(())
}

/// Removes what [`write_changes`] and [`write_checkpoint`] have written.
pub(crate) fn remove_changes(directory: &Path) {
    [DEVICES, MEMORY, CHECKPOINT].into_iter().for_each(|name| drop(fs::remove_file(directory.join(name))));
}

fn read_whole<T>(
    path: &Path,
    record: &FileRecord,
    read: impl FnOnce(&mut CheckedReader) -> Result<T, SavedFault>,
) -> Result<T, SavedFault> {
    let opened = CheckedReader::open(path, record).map_err(SavedFault::file(path))?;
    let mut reader = opened.ok_or_else(|| SavedFault::damaged(path))?;
    let content = read(&mut reader)?;
    if reader.is_whole() { Ok(content) } else { Err(SavedFault::damaged(path)) }
}

/// What a disk's file is: its size, and a checksum of its blocks that are not zero, with their places, so that holes cost nothing.
pub(crate) fn sum_up_disk(path: &Path) -> Result<FileRecord, SavedFault> {
    use rustix::fs::{SeekFrom, seek};
    let failed = |error: io::Error| SavedFault::file(path)(error);
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let (mut sum, mut at) = (Xxh3::new(), 0);
    let mut block = [0; BLOCK];
    while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
        let hole = seek(&file, SeekFrom::Hole(data)).map_err(|error| failed(error.into()))?;
        at = data - data % BLOCK as u64;
        while at < hole {
            let length = usize::try_from(bytes - at).map_or(BLOCK, |left| left.min(BLOCK));
            file.read_exact_at(&mut block[..length], at).map_err(failed)?;
            if block[..length].iter().any(|byte| *byte != 0) {
                sum.update(&at.to_le_bytes());
                sum.update(&block[..length]);
            }
            at += BLOCK as u64;
        }
    }
    Ok(FileRecord { bytes, xxh3: format!("{:016x}", sum.digest()) })
}

/// Checks a disk's file against its record.
pub(crate) fn check_disk(path: &Path, record: &FileRecord) -> Result<(), SavedFault> {
    if sum_up_disk(path)? == *record { Ok(()) } else { Err(SavedFault::damaged(path)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disks_checksum_is_that_of_its_content_however_it_lies_in_holes() {
        let home = tempfile::tempdir().unwrap();
        let (dense, sparse) = (home.path().join("dense"), home.path().join("sparse"));
        let mut content = vec![0; 1 << 20];
        content[70_000] = 1;
        fs::write(&dense, &content).unwrap();
        let file = File::create(&sparse).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[1], 70_000).unwrap();
        let record = sum_up_disk(&dense).unwrap();
        check_disk(&sparse, &record).unwrap();
        file.write_all_at(&[1], 4096 * 200).unwrap();
        assert!(matches!(check_disk(&sparse, &record), Err(SavedFault::Damaged { .. })));
    }

    #[test]
    fn memory_that_cannot_be_loaded_is_given_up_only_where_its_file_is_at_fault() {
        let for_good = |source| SavedFault::Memory { path: PathBuf::new(), source }.is_for_good();
        let read = |kind: io::ErrorKind| DeltaError::Read { source: kind.into() };
        assert!(for_good(DeltaError::Magic) && for_good(read(io::ErrorKind::UnexpectedEof)));
        assert!(!for_good(DeltaError::Write { source: io::ErrorKind::StorageFull.into() }));
        assert!(!for_good(read(io::ErrorKind::PermissionDenied)));
    }

    #[test]
    fn what_is_published_is_whole_and_what_is_abandoned_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let parent = home.path().join("all");
        drop(Unfinished::within(&parent).unwrap());
        let finished = Unfinished::within(&parent).unwrap();
        fs::write(finished.path().join("f"), "x").unwrap();
        finished.publish(&parent.join("name")).unwrap();
        fs::create_dir(parent.join(format!("{UNFINISHED}killed"))).unwrap();
        let making = making(&parent).unwrap();
        sweep(&parent);
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 2, "nothing is removed while something is being made");
        drop(making);
        sweep(&parent);
        let names: Vec<_> = fs::read_dir(&parent).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["name"]);
        remove(&parent.join("name")).unwrap();
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 0);
    }
}

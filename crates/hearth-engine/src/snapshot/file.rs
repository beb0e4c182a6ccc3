//! A snapshot as one file: a tar archive, compressed with zstd, of the two records, the snapshot's files and its template's.
//!
//! Whoever wrote it is not trusted: names are those expected and no others, sizes are those of the records and within what a machine of
//! the record's size can have, and every checksum is compared before anything is published. Its template is for its snapshot alone:
//! it gets a name that no new sandbox of another origin is looked for under, or all of them would run what a stranger has made.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use hearth_vmm::{CpuCount, MAX_DEVICE_STATE, MemoryMib, PAGE};
use serde::de::DeserializeOwned;

use super::store::{self, RECORD, SnapshotRecord};
use crate::checked::FileRecord;
use crate::fleet::SandboxName;
use crate::saved::{self, SavedFault, Unfinished};
use crate::scratch::Scratch;
use crate::template::{TEMPLATE_FORMAT, TEMPLATE_RECORD, TemplateId, TemplateRecord};
use crate::{DiskMib, EngineError};

/// The level of compression: more takes much longer and saves little of memory's pages.
const LEVEL: i32 = 3;
/// The longest record, in bytes.
const MAX_RECORD: u64 = 64 * 1024;
/// How much is written at once, in bytes.
const BUFFER: usize = 256 * 1024;
/// The end of an archive is two of these.
const MARK: [u8; 512] = [0; 512];
/// The names of the template's files begin so.
const TEMPLATE: &str = "template/";

/// A file that cannot be written, or is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    /// A file of this host's cannot be used.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is to take it does not.
    #[error("cannot write the snapshot out")]
    Write {
        /// Why.
        source: io::Error,
    },
    /// It is no archive, or ends before its end.
    #[error("this is no whole snapshot")]
    Read {
        /// Why.
        source: io::Error,
    },
    /// Something else stands where `expected` should.
    #[error("this is no snapshot, or a damaged one: where {expected} should be is something else")]
    Unexpected {
        /// What should be there.
        expected: String,
    },
    /// A record of it says what cannot be.
    #[error("this is no snapshot that can be used: {reason}")]
    Senseless {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// What it holds is damaged or cannot be kept.
    #[error(transparent)]
    Saved(#[from] SavedFault),
}

impl SnapshotFileError {
    /// Whether another file is needed: this host is not to blame.
    pub(crate) fn is_the_files_fault(&self) -> bool {
        use SavedFault::{Damaged, Memory, Record};
        match self {
            Self::Read { .. } | Self::Unexpected { .. } | Self::Senseless { .. } => true,
            Self::Saved(fault) => matches!(fault, Damaged { .. } | Memory { .. } | Record { .. }),
            Self::File { .. } | Self::Write { .. } => false,
        }
    }
}

/// Runs what may take long on a thread of its own.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|source| Err(SnapshotFileError::from(SavedFault::Interrupted { source }).into()))
}

/// Every file of a snapshot and of its template, with the place of each in the archive, in the order in which they stand there.
fn files(record: &SnapshotRecord, template: &TemplateRecord) -> Vec<(String, FileRecord)> {
    let layer = |number: usize| format!("{}.{number}", crate::scratch::BASE);
    let mut files = vec![("devices".to_owned(), record.devices.clone()), ("memory".to_owned(), record.memory.clone())];
    files.extend(record.base.iter().map(|base| (crate::scratch::BASE.to_owned(), base.clone())));
    files.extend((1..).map(layer).zip(record.overlays.iter().cloned()));
    let of_template = |name: &str| format!("{TEMPLATE}{name}");
    files.push((of_template("devices"), template.devices.clone()));
    files.push((of_template("memory"), template.memory.clone()));
    files.extend(template.disk.iter().map(|disk| (of_template(crate::scratch::BASE), disk.clone())));
    files
}

/// A snapshot that is to be written out: all its files are open, so that its removal does not stop that.
#[derive(Debug)]
pub struct SnapshotExport {
    records: [(&'static str, Vec<u8>); 2],
    files: Vec<(String, File)>,
}

impl SnapshotExport {
    pub(super) fn open(record: &SnapshotRecord, own: &Path, template: &Path) -> Result<Self, SnapshotFileError> {
        let template_record: TemplateRecord = saved::read_record(&template.join(TEMPLATE_RECORD))?
            .ok_or_else(|| SavedFault::Record { path: template.join(TEMPLATE_RECORD) })?;
        let template_record = template_record.portable();
        let open = |(name, _): (String, FileRecord)| {
            let path = match name.strip_prefix(TEMPLATE) {
                Some(name) => template.join(name),
                None => own.join(&name),
            };
            let file = File::open(&path).map_err(|source| SnapshotFileError::File { path, source })?;
            Ok((name, file))
        };
        let json = |record: Result<Vec<u8>, serde_json::Error>| record.expect("plain data always becomes JSON");
        Ok(Self {
            records: [
                (RECORD, json(serde_json::to_vec(record))),
                (TEMPLATE_RECORD, json(serde_json::to_vec(&template_record))),
            ],
            files: files(record, &template_record).into_iter().map(open).collect::<Result<_, SnapshotFileError>>()?,
        })
    }

    /// Writes it, a piece of some 256 KiB at a time. May take long: not for a thread that others wait for.
    ///
    /// # Errors
    /// Those of `out`, and of reading the files. What was written then is no whole snapshot.
    pub fn write_to(self, out: impl Write) -> Result<(), SnapshotFileError> {
        self.write(out).map_err(|source| SnapshotFileError::Write { source })
    }

    fn write(self, out: impl Write) -> io::Result<()> {
        let encoder = zstd::Encoder::new(BufWriter::with_capacity(BUFFER, out), LEVEL)?;
        let mut archive = tar::Builder::new(encoder);
        // Zeros compress well, and what reads this need not know of holes.
        archive.sparse(false);
        for (name, record) in &self.records {
            append(&mut archive, name, record)?;
        }
        for (name, mut file) in self.files {
            archive.append_file(&name, &mut file)?;
        }
        archive.into_inner()?.finish()?.flush()
    }

    /// Writes a file, whole or not at all.
    pub(super) fn write_at(self, to: &Path) -> Result<(), SnapshotFileError> {
        let failed = |source| SnapshotFileError::File { path: to.to_owned(), source };
        let beside = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(beside).map_err(failed)?;
        self.write(file.as_file_mut()).map_err(failed)?;
        file.persist(to).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    archive.append_data(&mut header, name, content)
}

/// What was read of a file, whole and checked, and not yet published.
pub(super) struct Imported {
    record: SnapshotRecord,
    template: TemplateRecord,
    own: Unfinished,
    of_template: Unfinished,
}

/// Reads a file. Whether what its records say fits this host is asked before more is read.
pub(super) fn import(
    from: impl Read,
    (snapshots, templates): (&Path, &Path),
    fits: impl FnOnce(&SnapshotRecord, &TemplateRecord) -> Result<(), EngineError>,
) -> Result<Imported, EngineError> {
    let failed = |source| SnapshotFileError::Read { source };
    let unexpected = |expected: &str| SnapshotFileError::Unexpected { expected: expected.to_owned() };
    let decoder = zstd::Decoder::new(from).map_err(failed)?;
    let mut archive = tar::Archive::new(decoder);
    // As they are: what extends a name would be read into memory, however long it is.
    let mut entries = archive.entries().map_err(failed)?.raw(true);
    let mut next = |name: &str| match entries.next() {
        Some(Ok(entry)) if is_file(&entry, name) => Ok(entry),
        Some(Ok(_)) | None => Err(unexpected(name)),
        Some(Err(source)) => Err(failed(source)),
    };
    let record: SnapshotRecord = parse(next(RECORD)?).ok_or_else(|| unexpected(RECORD))?;
    let template: TemplateRecord = parse(next(TEMPLATE_RECORD)?).ok_or_else(|| unexpected(TEMPLATE_RECORD))?;
    check_records(&record, &template).map_err(|reason| SnapshotFileError::Senseless { reason })?;
    fits(&record, &template)?;
    let begin = |parent| Unfinished::within(parent).map_err(SnapshotFileError::from);
    let (own, of_template) = (begin(snapshots)?, begin(templates)?);
    for (name, file) in files(&record, &template) {
        let path = match name.strip_prefix(TEMPLATE) {
            Some(name) => of_template.path().join(name),
            None => own.path().join(&name),
        };
        let entry = next(&name)?;
        if entry.size() != file.bytes {
            return Err(unexpected(&name).into());
        }
        saved::write_sparse(&path, entry).map_err(of_the_file)?;
    }
    match entries.next() {
        None => {}
        Some(Ok(_)) => return Err(unexpected("the end").into()),
        Some(Err(source)) => return Err(failed(source).into()),
    }
    // The second half of the archive's mark of its end, and nothing behind it.
    let mut rest = Vec::new();
    archive.into_inner().take(MARK.len() as u64 + 1).read_to_end(&mut rest).map_err(failed)?;
    if rest != MARK {
        return Err(unexpected("the end").into());
    }
    let imported = Imported { record, template, own, of_template };
    imported.check().map_err(SnapshotFileError::from)?;
    Ok(imported)
}

/// What cannot be copied is the fault of where it comes from, unless the host says why it cannot be kept.
fn of_the_file(fault: SavedFault) -> SnapshotFileError {
    match fault {
        SavedFault::File { source, .. } if source.raw_os_error().is_none() => SnapshotFileError::Read { source },
        fault => fault.into(),
    }
}

/// Checks that two records are of one machine, and that no file is larger than such a machine's can be.
fn check_records(record: &SnapshotRecord, template: &TemplateRecord) -> Result<(), &'static str> {
    if record.format != store::FORMAT || template.format != TEMPLATE_FORMAT {
        return Err("another version of Hearth has written it");
    }
    let is_one = record.template == template.id
        && template.clone().portable() == *template
        && (&record.image, record.cpus, record.memory_mib, record.disk_mib)
            == (&template.image, template.cpus, template.memory_mib, template.disk_mib);
    let bases = template.disk.iter().chain(&record.base);
    if !is_one || bases.clone().count() != usize::from(template.disk_mib.is_some()) {
        return Err("it and its template are of different machines");
    }
    SandboxName::new(record.name.as_str()).map_err(|_| "its name can be none")?;
    let memory = MemoryMib::new(record.memory_mib).map_err(|_| "no machine has such a memory")?.bytes();
    CpuCount::new(record.cpus).map_err(|_| "no machine has so many processors")?;
    let disk = record.disk_mib.map(DiskMib::new).transpose().map_err(|_| "no machine has such a disk")?;
    let disk = disk.map_or(0, |size| u64::from(size.mib()) << 20);
    // In the worst case each page is a run of its own, with two numbers; a layer has tables beside its clusters.
    let (pages, layer) = (memory + memory / PAGE * 16 + 16, disk + disk / 8 + (16 << 20));
    let fits = record.devices.bytes <= MAX_DEVICE_STATE
        && template.devices.bytes <= MAX_DEVICE_STATE
        && record.memory.bytes <= pages
        && template.memory.bytes <= pages
        && (disk > 0 || record.overlays.is_empty())
        && record.overlays.iter().all(|overlay| overlay.bytes <= layer)
        && bases.clone().all(|base| base.bytes <= disk);
    if fits { Ok(()) } else { Err("a file of it is larger than such a machine's can be") }
}

fn is_file(entry: &tar::Entry<'_, impl Read>, name: &str) -> bool {
    entry.header().entry_type().is_file() && entry.path_bytes().as_ref() == name.as_bytes()
}

fn parse<T: DeserializeOwned>(entry: impl Read) -> Option<T> {
    let mut text = Vec::new();
    entry.take(MAX_RECORD).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

impl Imported {
    fn check(&self) -> Result<(), SavedFault> {
        let size = u64::from(self.record.memory_mib) << 20;
        store::check(self.own.path(), &self.record, size)?;
        crate::template::check(self.of_template.path(), &self.template)
    }

    /// Publishes the template, unless that very one is here already, and then the snapshot.
    pub(super) fn publish(
        self,
        snapshots: &Path,
        templates: &Path,
        name: &SandboxName,
    ) -> Result<SnapshotRecord, SnapshotFileError> {
        let own_home = crate::template::record(templates, &self.template.id);
        let id = match own_home {
            Some(here) if here.clone().portable() == self.template => here.id,
            _ => TemplateId::of_stranger(&self.template),
        };
        let template = TemplateRecord { id: id.clone(), ..self.template };
        let record = SnapshotRecord { name: name.as_str().to_owned(), template: id, ..self.record };
        saved::write_record(&self.of_template.path().join(TEMPLATE_RECORD), &template)?;
        let there = templates.join(template.id.as_str());
        self.of_template.publish(&there)?;
        if template.disk.is_some() {
            let (base, own) = (Scratch::bare(&there).base(), Scratch::bare(self.own.path()).base());
            fs::hard_link(&base, &own).map_err(SavedFault::file(&own))?;
        }
        Ok(store::publish(snapshots, self.own, record, name)?)
    }
}

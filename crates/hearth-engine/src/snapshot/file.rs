//! A snapshot as one file: a tar archive, compressed with zstd, of the two records, the snapshot's files and its template's.
//!
//! Whoever wrote it is not trusted: names are those expected and no others, sizes are those of the records, and every checksum is
//! compared before anything is published.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::store::{self, RECORD, SnapshotRecord};
use crate::checked::FileRecord;
use crate::fleet::SandboxName;
use crate::saved::{self, SavedFault, Unfinished};
use crate::scratch::Scratch;
use crate::template::{TEMPLATE_RECORD, TemplateRecord};
use crate::{EngineError, MemoryMib};

/// The level of compression: more takes much longer and saves little of memory's pages.
const LEVEL: i32 = 3;
/// The longest record, in bytes.
const MAX_RECORD: u64 = 64 * 1024;
/// The template's files are in this directory of the archive.
const TEMPLATE: &str = "template";

/// A file that cannot be written, or is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    /// It cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else stands where `expected` should.
    #[error("{} is no snapshot, or a damaged one: where {expected} should be is something else", path.display())]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// What should be there.
        expected: String,
    },
    /// What it holds is damaged or cannot be kept.
    #[error(transparent)]
    Saved(#[from] SavedFault),
}

/// Runs what may take long on a thread of its own.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotFileError> + Send + 'static,
) -> Result<T, EngineError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|source| Err(SavedFault::Interrupted { source }.into()));
    done.map_err(|source| EngineError::SnapshotFile { source })
}

/// Every file of a snapshot and of its template, with the place of each in the archive, in the order in which they stand there.
fn files(record: &SnapshotRecord, template: &TemplateRecord) -> Vec<(String, FileRecord)> {
    let layer = |number: usize| format!("{}.{number}", crate::scratch::BASE);
    let mut files = vec![("devices".to_owned(), record.devices.clone()), ("memory".to_owned(), record.memory.clone())];
    files.extend((1..).map(layer).zip(record.overlays.iter().cloned()));
    let of_template = |name: &str| format!("{TEMPLATE}/{name}");
    files.push((of_template("devices"), template.devices.clone()));
    files.push((of_template("memory"), template.memory.clone()));
    files.extend(template.disk.iter().map(|disk| (of_template(crate::scratch::BASE), disk.clone())));
    files
}

/// Writes the file at `to`, whole or not at all.
pub(super) fn export(record: &SnapshotRecord, own: &Path, template: &Path, to: &Path) -> Result<(), SnapshotFileError> {
    let failed = |source| SnapshotFileError::File { path: to.to_owned(), source };
    let template_record: TemplateRecord = saved::read_record(&template.join(TEMPLATE_RECORD))?
        .ok_or_else(|| SavedFault::Record { path: template.join(TEMPLATE_RECORD) })?;
    let beside = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(beside).map_err(failed)?;
    let mut write = || -> io::Result<()> {
        let encoder = zstd::Encoder::new(file.as_file_mut(), LEVEL)?;
        let mut archive = tar::Builder::new(encoder);
        // Zeros compress well, and what reads this need not know of holes.
        archive.sparse(false);
        append(&mut archive, RECORD, &serde_json::to_vec(record)?)?;
        append(&mut archive, TEMPLATE_RECORD, &serde_json::to_vec(&template_record)?)?;
        for (name, _) in files(record, &template_record) {
            let path = match name.strip_prefix(&format!("{TEMPLATE}/")) {
                Some(name) => template.join(name),
                None => own.join(&name),
            };
            archive.append_file(&name, &mut File::open(path)?)?;
        }
        archive.into_inner()?.finish()?.flush()
    };
    write().map_err(failed)?;
    file.persist(to).map_err(|error| failed(error.error))?;
    Ok(())
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

/// Reads the file at `from`.
pub(super) fn import(from: &Path, snapshots: &Path, templates: &Path) -> Result<Imported, SnapshotFileError> {
    let failed = |source| SnapshotFileError::File { path: from.to_owned(), source };
    let unexpected =
        |expected: &str| SnapshotFileError::Unexpected { path: from.to_owned(), expected: expected.to_owned() };
    let decoder = zstd::Decoder::new(File::open(from).map_err(failed)?).map_err(failed)?;
    let mut archive = tar::Archive::new(decoder);
    let mut entries = archive.entries().map_err(failed)?;
    let mut next = |name: &str| match entries.next() {
        Some(Ok(entry)) if is_file(&entry, name) => Ok(entry),
        Some(Ok(_)) | None => Err(unexpected(name)),
        Some(Err(source)) => Err(failed(source)),
    };
    let record: SnapshotRecord = parse(next(RECORD)?).ok_or_else(|| unexpected(RECORD))?;
    let template: TemplateRecord = parse(next(TEMPLATE_RECORD)?).ok_or_else(|| unexpected(TEMPLATE_RECORD))?;
    if record.template != template.id || MemoryMib::new(record.memory_mib).is_err() {
        return Err(unexpected(TEMPLATE_RECORD));
    }
    let (own, of_template) = (Unfinished::within(snapshots)?, Unfinished::within(templates)?);
    for (name, file) in files(&record, &template) {
        let path = match name.strip_prefix(&format!("{TEMPLATE}/")) {
            Some(name) => of_template.path().join(name),
            None => own.path().join(&name),
        };
        let entry = next(&name)?;
        if entry.size() != file.bytes {
            return Err(unexpected(&name));
        }
        saved::write_sparse(&path, entry)?;
    }
    let imported = Imported { record, template, own, of_template };
    imported.check()?;
    Ok(imported)
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
    pub(super) fn record(&self) -> &SnapshotRecord {
        &self.record
    }

    pub(super) fn template(&self) -> &TemplateRecord {
        &self.template
    }

    fn check(&self) -> Result<(), SavedFault> {
        let size = u64::from(self.record.memory_mib) << 20;
        store::load(self.own.path(), &self.record, size)?;
        crate::template::check(self.of_template.path(), &self.template)
    }

    /// Publishes the template, if it is not here already, and then the snapshot.
    pub(super) fn publish(
        self,
        snapshots: &Path,
        templates: &Path,
        name: &SandboxName,
    ) -> Result<SnapshotRecord, SnapshotFileError> {
        let record = SnapshotRecord { name: name.as_str().to_owned(), ..self.record };
        saved::write_record(&self.of_template.path().join(TEMPLATE_RECORD), &self.template)?;
        let template = templates.join(self.template.id.as_str());
        self.of_template.publish(&template)?;
        if self.template.disk.is_some() {
            let (base, own) = (Scratch::bare(&template).base(), Scratch::bare(self.own.path()).base());
            fs::hard_link(&base, &own).map_err(SavedFault::file(&own))?;
        }
        store::publish(snapshots, self.own, &record, name)?;
        Ok(record)
    }
}

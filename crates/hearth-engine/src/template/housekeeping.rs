//! What templates take on disk and in memory, and which of them go.
//!
//! A template is in use for as long as a process has it loaded, which a lock on its record says, or a sandbox lies on it that outlives its
//! daemon, and it is pinned by the snapshots that lie on it. Neither ever goes by itself. Of the others, those go that were used least recently, once all of them take more than a limit; the
//! time of use is the record's time of change. Whoever removes holds off whoever makes, snapshots too, so nothing is pinned meanwhile.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

use super::{TEMPLATE_RECORD, TemplateId, TemplateRecord, Templates, store};
use crate::saved::{self, Quiet, SavedFault, apart};
use crate::{Engine, EngineError, SandboxSpec};

/// What templates may take on disk where nobody says otherwise: some twenty of the default image's.
pub(super) const DEFAULT_LIMIT: u64 = 4 << 30;

/// The use of a template's files.
#[derive(Debug)]
pub(super) struct Use {
    _locked: File,
}

impl Use {
    /// Begins it, and notes when.
    pub(super) fn begin(record: &Path) -> Result<Self, SavedFault> {
        let locked = File::options().read(true).write(true).open(record).map_err(SavedFault::file(record))?;
        flock(&locked, FlockOperation::LockShared).map_err(|error| SavedFault::file(record)(error.into()))?;
        // What is removed was removed before the lock was had. It is not read then, for it is not there.
        let _ = locked.set_modified(SystemTime::now());
        Ok(Self { _locked: locked })
    }
}

/// A template on disk.
#[derive(Debug, Clone)]
pub struct TemplateInfo {
    /// Its name.
    pub id: TemplateId,
    /// What is known of it; `None` where its record is damaged or of another version: it is never started.
    pub record: Option<TemplateRecord>,
    /// What it takes on disk, in bytes.
    pub bytes: u64,
    /// When it was last loaded or made.
    pub used: SystemTime,
    /// Whether a process has it loaded, or a sandbox of the daemon's lies on it.
    pub is_in_use: bool,
    /// The snapshots that lie on it.
    pub snapshots: Vec<String>,
}

impl TemplateInfo {
    fn may_go(&self) -> bool {
        !self.is_in_use && self.snapshots.is_empty()
    }

    fn needed_by(&self) -> String {
        match self.snapshots.as_slice() {
            [] => "a process that has it loaded, such as the daemon, or a sandbox".to_owned(),
            names => format!("the snapshots {}", names.join(", ")),
        }
    }
}

/// A template in this process's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateMemory {
    /// Its name.
    pub id: TemplateId,
    /// What it takes of the host's memory, in bytes, in a sealed file without a name that all its sandboxes share.
    pub resident: u64,
}

impl Engine {
    /// Limits what templates take on disk, in bytes. Those that are needed stay even so.
    pub fn limit_templates(&self, bytes: u64) {
        self.templates.limit.store(bytes, Ordering::Relaxed);
    }

    /// What templates may take on disk, in bytes.
    pub fn templates_limit(&self) -> u64 {
        self.templates.limit.load(Ordering::Relaxed)
    }

    /// The templates on disk, in the order of their names.
    pub fn templates(&self) -> Vec<TemplateInfo> {
        let snapshots: Vec<_> =
            self.snapshots().into_iter().map(|snapshot| (snapshot.template, snapshot.name)).collect();
        let mut templates = list(&self.directories.templates(), &snapshots);
        let lasting = self.lasting_templates();
        templates.iter_mut().for_each(|template| template.is_in_use |= lasting.contains(&template.id));
        templates
    }

    /// Those that this process has in memory.
    pub fn templates_in_memory(&self) -> Vec<TemplateMemory> {
        self.templates.in_memory()
    }

    /// Makes the template for such a sandbox, unless it is there.
    ///
    /// # Errors
    /// As [`Engine::create`].
    pub async fn build_template(&self, spec: &SandboxSpec) -> Result<TemplateRecord, EngineError> {
        let base = self.base(spec)?;
        Ok(self.template(spec, &base).await?.template.record.clone())
    }

    /// Removes the template that is meant by its name or the beginning of it.
    ///
    /// # Errors
    /// [`EngineError::NoTemplate`], [`EngineError::TemplateNeeded`], [`EngineError::Template`].
    pub fn remove_template(&self, reference: &str) -> Result<TemplateId, EngineError> {
        let there = self.templates();
        let mut meant = there.iter().filter(|info| !reference.is_empty() && info.id.as_str().starts_with(reference));
        let (Some(info), None) = (meant.next(), meant.next()) else {
            return Err(EngineError::NoTemplate { reference: reference.to_owned() });
        };
        let needed = |by: String| EngineError::TemplateNeeded { id: info.id.to_string(), by };
        if !info.may_go() {
            return Err(needed(info.needed_by()));
        }
        let (templates, snapshots) = (self.directories.templates(), self.directories.snapshots());
        let quiet = Quiet::within(&[&templates, &snapshots]);
        let _quiet = quiet.ok_or_else(|| needed("whoever is just saving something".to_owned()))?;
        let removed = remove(&templates, &info.id).map_err(|source| EngineError::Template { source })?;
        if removed { Ok(info.id.clone()) } else { Err(needed(info.needed_by())) }
    }

    /// Removes what is damaged and what the limit has no room for.
    pub(super) async fn tidy_templates(&self) {
        let (templates, snapshots) = (self.directories.templates(), self.directories.snapshots());
        let limit = self.templates_limit();
        let Some(quiet) = Quiet::within(&[&templates, &snapshots]) else { return };
        // From here on there are no new snapshots.
        let there = self.templates();
        let tidied = apart(move || {
            let _quiet = quiet;
            for id in surplus(there, limit) {
                remove(&templates, &id)?;
            }
            Ok(())
        });
        // What cannot be removed now is tried again after the next is made.
        let _ = tidied.await;
    }
}

impl Templates {
    fn in_memory(&self) -> Vec<TemplateMemory> {
        let loaded = self.loaded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let templates = loaded.values().filter_map(|cell| cell.get());
        let mut all: Vec<_> = templates
            .map(|template| TemplateMemory { id: template.record.id.clone(), resident: template.resident() })
            .collect();
        all.sort_by(|one, other| one.id.cmp(&other.id));
        all
    }
}

/// Those that go: what is damaged, and then those used least recently, until the rest fits.
fn surplus(mut there: Vec<TemplateInfo>, limit: u64) -> Vec<TemplateId> {
    there.sort_by_key(|info| (info.record.is_some(), info.used));
    let mut total: u64 = there.iter().map(|info| info.bytes).sum();
    let mut gone = Vec::new();
    for info in there.into_iter().filter(TemplateInfo::may_go) {
        if info.record.is_some() && total <= limit {
            break;
        }
        total -= info.bytes;
        gone.push(info.id);
    }
    gone
}

fn list(directory: &Path, snapshots: &[(TemplateId, String)]) -> Vec<TemplateInfo> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| TemplateId::parse(entry.file_name().to_str()?));
    let mut all: Vec<_> = ids.map(|id| look(directory, id, snapshots)).collect();
    all.sort_by(|one, other| one.id.cmp(&other.id));
    all
}

fn look(directory: &Path, id: TemplateId, snapshots: &[(TemplateId, String)]) -> TemplateInfo {
    use std::os::unix::fs::MetadataExt;
    let own = directory.join(id.as_str());
    let files = fs::read_dir(&own).into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok());
    let record_file = own.join(TEMPLATE_RECORD);
    let pinned = snapshots.iter().filter(|(template, _)| *template == id).map(|(_, name)| name.clone());
    TemplateInfo {
        record: store::record(directory, &id),
        bytes: files.map(|meta| meta.blocks() * 512).sum(),
        used: fs::metadata(&record_file).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH),
        is_in_use: File::open(&record_file).is_ok_and(|file| !is_free(&file)),
        snapshots: pinned.collect(),
        id,
    }
}

/// Whether nobody has a template loaded. Lets go of it again.
fn is_free(record: &File) -> bool {
    flock(record, FlockOperation::NonBlockingLockExclusive).is_ok() && flock(record, FlockOperation::Unlock).is_ok()
}

/// Removes one, unless it has come into use.
fn remove(directory: &Path, id: &TemplateId) -> Result<bool, SavedFault> {
    let own = directory.join(id.as_str());
    // The lock is kept until it is gone. Where there is no record, nobody can have loaded it.
    let record = File::open(own.join(TEMPLATE_RECORD)).ok();
    let is_taken = |file: &File| flock(file, FlockOperation::NonBlockingLockExclusive).is_err();
    if record.as_ref().is_some_and(is_taken) {
        return Ok(false);
    }
    saved::remove_in_quiet(&own).map(|()| true)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use hearth_vmm::{Accelerator, MachineKind, MemoryMib, SavedMachine, SealedRam, host_tsc_khz};

    use super::*;
    use crate::accelerator::Way;
    use crate::template::TemplateKey;
    use crate::template::store::{About, Made, read, write};

    const WAY: Way = Way { kind: MachineKind::Microvm, accelerator: Accelerator::Tcg };

    fn key(digit: char) -> TemplateKey {
        serde_json::from_value(digit.to_string().repeat(32).into()).unwrap()
    }

    /// A template of two pages of memory, in the format of `hearth-vmm`'s deltas.
    fn make(directory: &Path, digit: char) -> TemplateRecord {
        let memory = MemoryMib::new(96).unwrap();
        let mut empty = Vec::new();
        hearth_vmm::Delta::default().write_to(&mut empty).unwrap();
        let mut file = empty[..empty.len() - 8].to_vec();
        [1_u64, 3, 2].iter().for_each(|number| file.extend_from_slice(&number.to_le_bytes()));
        file.extend_from_slice(&[digit as u8; 8192]);
        let ram = Arc::new(SealedRam::read_from(file.as_slice(), memory).unwrap());
        let saved = SavedMachine { ram, devices: vec![digit as u8; 1000].into(), delta: None, checkpoint: None };
        let made = Made { key: key(digit), way: WAY, saved, checkpoint: None, scratch: None };
        write(directory, made, About::for_tests(memory)).unwrap().record
    }

    fn load(directory: &Path, digit: char) -> Option<super::super::Template> {
        read(directory, &key(digit), WAY, &[], &Vec::new()).unwrap()
    }

    type Damage = fn(&Path);

    #[test]
    fn what_is_damaged_in_any_way_is_never_loaded_and_goes() {
        let damages: [(&str, Damage); 9] = [
            ("devices changed", |own| flip(&own.join("devices"), 500)),
            ("memory changed", |own| flip(&own.join("memory"), 5000)),
            ("memory's head changed", |own| flip(&own.join("memory"), 17)),
            ("devices cut", |own| cut(&own.join("devices"))),
            ("memory cut", |own| cut(&own.join("memory"))),
            ("memory empty", |own| fs::write(own.join("memory"), "").unwrap()),
            ("devices gone", |own| fs::remove_file(own.join("devices")).unwrap()),
            ("record of another version", |own| edit(own, |record| record["format"] = 99.into())),
            ("another clock", |own| edit(own, |record| record["tsc_khz"] = (host_tsc_khz() / 2).into())),
        ];
        for (what, damage) in damages {
            let home = tempfile::tempdir().unwrap();
            let directory = home.path().join("templates");
            let record = make(&directory, 'a');
            assert!(load(&directory, 'a').is_some(), "it is whole before");
            damage(&directory.join(record.id.as_str()));
            assert!(load(&directory, 'a').is_none(), "{what}");
            let gone = surplus(list(&directory, &[]), u64::MAX);
            gone.iter().for_each(|id| assert!(remove(&directory, id).unwrap()));
            assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "{what}");
            assert_eq!(make(&directory, 'a').id, record.id, "another takes its place");
            assert!(load(&directory, 'a').is_some(), "{what}");
        }
    }

    #[test]
    fn records_that_make_no_sense_are_no_templates_and_go_first() {
        for text in ["", "{", "[]", "{\"format\": 1}", "\u{0}\u{0}\u{0}"] {
            let home = tempfile::tempdir().unwrap();
            let directory = home.path().join("templates");
            let record = make(&directory, 'a');
            fs::write(directory.join(record.id.as_str()).join(TEMPLATE_RECORD), text).unwrap();
            assert!(load(&directory, 'a').is_none(), "{text:?}");
            assert_eq!(surplus(list(&directory, &[]), u64::MAX), [record.id], "{text:?}");
        }
    }

    #[test]
    fn the_least_recently_used_go_and_never_what_is_pinned_or_loaded() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("templates");
        let ids: Vec<_> = ['a', 'b', 'c', 'd'].map(|digit| make(&directory, digit).id).into();
        let age = |id: &TemplateId, seconds| {
            let record = File::options().write(true).open(directory.join(id.as_str()).join(TEMPLATE_RECORD)).unwrap();
            record.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        };
        ids.iter().zip([400, 300, 200, 100]).for_each(|(id, seconds)| age(id, seconds));
        let pinned = [(ids[0].clone(), "base".to_owned())];
        let loaded = load(&directory, 'b').unwrap();
        let there = list(&directory, &pinned);
        let each = there[0].bytes;
        assert_eq!(surplus(there.clone(), 4 * each), []);
        assert_eq!(surplus(there.clone(), 3 * each), [ids[2].clone()]);
        assert_eq!(surplus(there, 0), [ids[2].clone(), ids[3].clone()]);
        assert!(!remove(&directory, &ids[1]).unwrap(), "it is loaded");
        drop(loaded);
        // Loading it was a use.
        let gone = surplus(list(&directory, &pinned), each);
        assert_eq!(gone, [ids[2].clone(), ids[3].clone(), ids[1].clone()]);
    }

    fn flip(path: &Path, at: usize) {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    fn cut(path: &Path) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    }

    fn edit(own: &Path, change: impl FnOnce(&mut serde_json::Value)) {
        let path = own.join(TEMPLATE_RECORD);
        let mut record = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut record);
        fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    }
}

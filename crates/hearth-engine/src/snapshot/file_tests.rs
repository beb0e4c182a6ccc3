//! What is taken for a snapshot's file, and what is not.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use hearth_vmm::Delta;

use super::file::{Imported, SnapshotExport, SnapshotFileError, import};
use super::store::{self, SnapshotRecord};
use crate::EngineError;
use crate::checked::{CheckedWriter, FileRecord};
use crate::fleet::SandboxName;
use crate::saved;
use crate::template::{TEMPLATE_FORMAT, TEMPLATE_RECORD, TemplateId, TemplateRecord};

/// A snapshot without a disk, and its template, neither of which has changed a page.
struct Kept {
    home: tempfile::TempDir,
    record: SnapshotRecord,
    template: TemplateRecord,
}

fn written(path: &Path, write: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>) -> FileRecord {
    CheckedWriter::create(path, write).unwrap()
}

fn guest(own: &Path) -> (FileRecord, FileRecord) {
    fs::create_dir_all(own).unwrap();
    let devices = written(&own.join("devices"), &mut |out| out.write_all(&[7; 1000]));
    (devices, written(&own.join("memory"), &mut |mut out| Delta::default().write_to(&mut out)))
}

impl Kept {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (devices, memory) = guest(&home.path().join("template"));
        let id = TemplateId::parse(&format!("{}-{}", "a".repeat(32), memory.xxh3)).unwrap();
        let template = TemplateRecord {
            format: TEMPLATE_FORMAT,
            id: id.clone(),
            image: "an image".into(),
            qemu: "a QEMU".into(),
            processor: None,
            accelerator: "tcg".into(),
            board: "microvm".into(),
            hardware: Some("a machine".into()),
            memory_mib: 96,
            cpus: 1,
            disk_mib: None,
            created: 5,
            tsc_khz: 1,
            devices,
            memory,
            disk: None,
            overlay: None,
            checkpoint: None,
        };
        let (devices, memory) = guest(&home.path().join("snapshot"));
        let record = SnapshotRecord {
            format: store::FORMAT,
            name: "first".into(),
            created: 6,
            template: id,
            image: "an image".into(),
            cpus: 1,
            memory_mib: 96,
            disk_mib: None,
            devices,
            memory,
            base: None,
            overlays: Vec::new(),
            disk_bytes: 0,
        };
        Self { home, record, template }
    }

    fn own(&self) -> PathBuf {
        self.home.path().join("snapshot")
    }

    /// The file, with these records.
    fn file(&self) -> Vec<u8> {
        let template = self.home.path().join("template");
        saved::write_record(&template.join(TEMPLATE_RECORD), &self.template).unwrap();
        let mut file = Vec::new();
        SnapshotExport::open(&self.record, &self.own(), &template).unwrap().write_to(&mut file).unwrap();
        file
    }

    fn import(&self, file: &[u8]) -> Result<Imported, SnapshotFileError> {
        let imported = import(file, (&self.snapshots(), &self.templates()), |_, _| Ok(()));
        imported.map_err(|error| match error {
            EngineError::SnapshotFile { source } => source,
            other => panic!("{other:?}"),
        })
    }

    fn snapshots(&self) -> PathBuf {
        self.home.path().join("snapshots")
    }

    fn templates(&self) -> PathBuf {
        self.home.path().join("templates")
    }

    /// Checks that a file is refused for what it is, and adds nothing.
    #[track_caller]
    fn check_refused(&self, what: &str, file: &[u8]) {
        let Err(error) = self.import(file) else { panic!("{what} is taken") };
        assert!(error.is_the_files_fault(), "{what}: {error:?}");
        for parent in [self.snapshots(), self.templates()] {
            assert_eq!(fs::read_dir(parent).map_or(0, Iterator::count), 0, "{what} leaves something");
        }
    }
}

fn unpacked(file: &[u8]) -> Vec<u8> {
    zstd::decode_all(file).unwrap()
}

fn packed(archive: &[u8]) -> Vec<u8> {
    zstd::encode_all(archive, 1).unwrap()
}

#[test]
fn a_snapshot_travels_and_its_template_is_for_it_alone() {
    let kept = Kept::new();
    let name = SandboxName::new("second").unwrap();
    let imported = kept.import(&kept.file()).unwrap();
    let record = imported.publish(&kept.snapshots(), &kept.templates(), &name).unwrap();
    assert_eq!((record.name.as_str(), &record.memory), ("second", &kept.record.memory));
    assert_eq!(store::record(&kept.snapshots(), &name).unwrap(), record);
    // Whatever key a stranger's template says it has, no sandbox is looked for under it.
    assert!(!record.template.as_str().starts_with(&"a".repeat(32)));
    let template = crate::template::record(&kept.templates(), &record.template).unwrap();
    assert_eq!(template, TemplateRecord { id: record.template.clone(), ..kept.template.clone() });
    // The same one again shares it.
    let again = SandboxName::new("third").unwrap();
    let third = kept.import(&kept.file()).unwrap().publish(&kept.snapshots(), &kept.templates(), &again).unwrap();
    assert_eq!(third.template, record.template);
    assert_eq!(fs::read_dir(kept.templates()).unwrap().count(), 1);
}

#[test]
fn a_snapshot_that_comes_home_lies_on_the_template_that_it_has_there() {
    let kept = Kept::new();
    let own = kept.templates().join(kept.template.id.as_str());
    guest(&own);
    saved::write_record(&own.join(TEMPLATE_RECORD), &kept.template).unwrap();
    let name = SandboxName::new("second").unwrap();
    let imported = kept.import(&kept.file()).unwrap();
    assert_eq!(imported.publish(&kept.snapshots(), &kept.templates(), &name).unwrap().template, kept.template.id);
    assert_eq!(fs::read_dir(kept.templates()).unwrap().count(), 1);
}

#[test]
fn what_is_cut_off_goes_on_or_is_something_else_is_refused_and_adds_nothing() {
    let kept = Kept::new();
    let file = kept.file();
    for length in [0, 1, 100, file.len() / 2, file.len() - 1] {
        kept.check_refused(&format!("the first {length} bytes"), &file[..length]);
    }
    let archive = unpacked(&file);
    for length in [512, 2000, archive.len() - 1024, archive.len() - 1] {
        kept.check_refused(&format!("the first {length} bytes of the archive"), &packed(&archive[..length]));
    }
    kept.check_refused("one with something behind it", &packed(&[&archive[..], b"x"].concat()));
    kept.check_refused("one twice", &[&file[..], &file[..]].concat());
    kept.check_refused("text", b"hello");
    let mut flipped = archive.clone();
    // In the devices' state, which is all sevens.
    let at = flipped.windows(16).position(|bytes| bytes == [7; 16]).unwrap();
    flipped[at] ^= 1;
    kept.check_refused("one that was changed", &packed(&flipped));
    // A name that is told by a member of its own, as a long one is.
    let mut long = tar::Header::new_gnu();
    long.set_entry_type(tar::EntryType::GNULongName);
    long.set_size(1 << 40);
    long.set_path("././@LongLink").unwrap();
    long.set_cksum();
    kept.check_refused("one with a name without end", &packed(long.as_bytes()));
}

#[test]
fn records_that_cannot_be_are_refused_before_a_file_is_read() {
    type Change = fn(&mut Kept);
    let changes: [(&str, Change); 11] = [
        ("another version", |kept| kept.record.format = 2),
        ("a template of another version", |kept| kept.template.format = 7),
        ("a template of another name", |kept| {
            kept.template.id = TemplateId::parse(&format!("{}-{}", "b".repeat(32), "0".repeat(16))).unwrap();
        }),
        ("another memory than its template's", |kept| kept.record.memory_mib = 97),
        ("a memory that no machine has", |kept| {
            (kept.record.memory_mib, kept.template.memory_mib) = (u32::MAX, u32::MAX);
        }),
        ("a name that is a path", |kept| kept.record.name = "../x".into()),
        ("so many processors", |kept| (kept.record.cpus, kept.template.cpus) = (1000, 1000)),
        ("devices without end", |kept| kept.record.devices.bytes = 1 << 50),
        ("changes without end", |kept| kept.record.memory.bytes = 1 << 50),
        ("a disk of a machine without one", |kept| kept.record.base = Some(kept.record.memory.clone())),
        ("layers without a disk", |kept| kept.record.overlays = vec![kept.record.memory.clone()]),
    ];
    for (what, change) in changes {
        let mut kept = Kept::new();
        change(&mut kept);
        fs::write(kept.own().join("disk"), "").unwrap();
        fs::write(kept.own().join("disk.1"), "").unwrap();
        let file = kept.file();
        let error = kept.import(&file).err().unwrap_or_else(|| panic!("{what} is taken"));
        assert!(matches!(error, SnapshotFileError::Senseless { .. }), "{what}: {error:?}");
        kept.check_refused(what, &file);
    }
}

#[test]
fn a_template_whose_name_leads_elsewhere_is_refused() {
    let kept = Kept::new();
    let archive = unpacked(&kept.file());
    let name = kept.template.id.as_str();
    let elsewhere = format!("{:/<49}", "../../../../tmp/hearth-elsewhere");
    let mut changed = archive.clone();
    for at in 0..archive.len() - name.len() {
        if archive[at..].starts_with(name.as_bytes()) {
            changed[at..at + name.len()].copy_from_slice(elsewhere.as_bytes());
        }
    }
    assert_ne!(changed, archive);
    kept.check_refused("one of another place", &packed(&changed));
}

#[test]
fn what_does_not_fit_this_host_is_refused_before_its_files_are_read() {
    let kept = Kept::new();
    // The records alone, and no end.
    let file = packed(&unpacked(&kept.file())[..4 * 512]);
    let unfit = |_: &SnapshotRecord, _: &TemplateRecord| Err(EngineError::Outdated { reason: "it is".into() });
    let error = import(&file[..], (&kept.snapshots(), &kept.templates()), unfit).err().unwrap();
    assert!(matches!(error, EngineError::Outdated { .. }), "{error:?}");
    assert!(!kept.snapshots().exists() && !kept.templates().exists());
}

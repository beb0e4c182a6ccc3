//! What each QEMU has said of its version, so that it need not be started to be asked: a few milliseconds of every command.
//!
//! Kept in memory, and in a file for the next process. A program is known by its [stamp](hearth_vmm::QemuProgram::stamp): one that was
//! upgraded is another one.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The programs that are remembered; more come of nothing but upgrades.
const KEPT: usize = 8;
/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Versions by stamp.
#[derive(Debug)]
pub(crate) struct Versions {
    path: PathBuf,
    known: Mutex<Option<BTreeMap<String, String>>>,
}

impl Versions {
    pub(crate) fn in_file(path: PathBuf) -> Self {
        Self { path, known: Mutex::default() }
    }

    /// What the program with this stamp has said.
    pub(crate) fn get(&self, stamp: &str) -> Option<String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert_with(|| read(&self.path)).get(stamp).cloned()
    }

    /// Remembers it. What cannot be written is asked again by the next process.
    pub(crate) fn keep(&self, stamp: String, said: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_with(|| read(&self.path));
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(stamp, said.to_owned());
        let _ = write(&self.path, known);
    }
}

/// What cannot be read is asked again.
fn read(path: &Path) -> BTreeMap<String, String> {
    let small = fs::metadata(path).is_ok_and(|metadata| metadata.len() <= MAX_FILE);
    let bytes = small.then(|| fs::read(path).ok()).flatten();
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn write(path: &Path, known: &BTreeMap<String, String>) -> std::io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
    file.write_all(&serde_json::to_vec_pretty(known)?)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_outlives_the_process_and_damage_is_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("qemu.json");
        let versions = Versions::in_file(path.clone());
        assert_eq!(versions.get("a"), None);
        versions.keep("a".into(), "QEMU emulator version 10.0.2");
        assert_eq!(versions.get("a").as_deref(), Some("QEMU emulator version 10.0.2"));
        assert_eq!(Versions::in_file(path.clone()).get("a"), versions.get("a"));
        fs::write(&path, "{half").unwrap();
        assert_eq!(Versions::in_file(path).get("a"), None);
    }

    #[test]
    fn few_are_kept() {
        let home = tempfile::tempdir().unwrap();
        let versions = Versions::in_file(home.path().join("qemu.json"));
        (0..100).for_each(|number| versions.keep(number.to_string(), "x"));
        assert!(versions.get("99").is_some() && versions.get("0").is_none());
    }
}

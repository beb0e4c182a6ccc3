//! What is noted of a machine that may outlive its owner: a file in its directory, written before QEMU runs, and again when all is known.
//!
//! Whoever comes next finds the process by it, and no other (`process.rs`): to take the machine over, or to end one that nobody wants.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::event::Timespec;
use serde::{Deserialize, Serialize};

use crate::jail::JailReport;
use crate::process::{ProcessRecord, kill_and_wait};

/// The file's name in a machine's directory.
const NOTE: &str = "machine";
/// The longest that is read, in bytes.
const LONGEST: u64 = 64 * 1024;

/// What is noted of a machine.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    pub(crate) process: ProcessRecord,
    /// Missing while it is being started.
    pub(crate) held: Option<Held>,
}

/// What an owner knows of a machine that it has started.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Held {
    pub(crate) jail: JailReport,
    pub(crate) memory: MemoryFile,
}

/// The guest's memory among QEMU's descriptors.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemoryFile {
    pub(crate) descriptor: i32,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// Whether it is a template's, mapped privately.
    pub(crate) restored: bool,
}

impl Note {
    /// Writes it in place of an earlier one, whole or not at all. Needs to last no longer than the process, so nothing is synced.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        let new = directory.join("machine.new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, directory.join(NOTE))
    }

    /// Reads it; `None` when there is none.
    pub(crate) fn read(directory: &Path) -> io::Result<Option<Self>> {
        use std::io::Read;
        let file = match fs::File::open(directory.join(NOTE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(LONGEST).read_to_end(&mut text)?;
        Ok(Some(serde_json::from_slice(&text)?))
    }
}

/// Ends the machine that is noted in a directory, if it is there: it and nothing else. Returns whether none is there any more; one may need
/// longer than `patience` to die.
///
/// # Errors
/// When the note cannot be read, or the system does not tell of processes.
pub fn end_noted(directory: &Path, patience: Duration) -> io::Result<bool> {
    let Some(note) = Note::read(directory)? else { return Ok(true) };
    let Some(pidfd) = note.process.find()? else { return Ok(true) };
    let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
    kill_and_wait(&pidfd, patience)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_ended_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let patience = Duration::from_secs(60);
        assert!(end_noted(home.path(), patience).unwrap(), "there is nothing to end");
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let note = Note { process: ProcessRecord::of(child.id()).unwrap(), held: None };
        note.write(home.path()).unwrap();
        assert!(end_noted(home.path(), patience).unwrap());
        assert!(!child.wait().unwrap().success());
        assert!(end_noted(home.path(), patience).unwrap());
        fs::write(home.path().join(NOTE), "{").unwrap();
        assert!(end_noted(home.path(), patience).is_err(), "what makes no sense proves nothing");
    }
}

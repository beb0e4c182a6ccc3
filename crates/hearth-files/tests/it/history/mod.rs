//! The workspace's history, against git where that says the same.

mod diffs;
mod patches;
mod resets;
mod sequences;

use std::path::Path;

use hearth_files::Root;
use hearth_files::history::{self, History, HistoryError};
use hearth_protocol::history::{BASELINE, Change, Checkpoint, Diffed, ResetDone};

use crate::archives::run;

/// A workspace with a history.
pub(super) struct Room {
    room: tempfile::TempDir,
    pub(super) root: Root,
    pub(super) history: History,
}

impl Room {
    pub(super) fn new() -> Self {
        let room = tempfile::tempdir().unwrap();
        std::fs::create_dir(room.path().join("workspace")).unwrap();
        let root = Root::open(&room.path().join("workspace"), "/workspace", None).unwrap();
        let history = History::open(&room.path().join("history")).unwrap();
        Self { room, root, history }
    }

    pub(super) fn path(&self) -> &Path {
        self.root.path()
    }

    /// A place beside the workspace.
    pub(super) fn beside(&self, name: &str) -> std::path::PathBuf {
        self.room.path().join(name)
    }

    pub(super) fn take(&self, name: &str) -> Checkpoint {
        history::take(&self.history, &self.root, name, 7, &|| true).unwrap()
    }

    pub(super) fn diff(&self) -> (Vec<u8>, Diffed) {
        let mut patch = Vec::new();
        let sums = history::diff(&self.history, &self.root, BASELINE, &|| true, &mut patch).unwrap();
        (patch, sums)
    }

    pub(super) fn changes(&self) -> Vec<Change> {
        let mut all = Vec::new();
        let each = |change: &Change| {
            all.push(change.clone());
            Ok(())
        };
        history::changes(&self.history, &self.root, BASELINE, &|| true, each).unwrap();
        all
    }

    pub(super) fn reset(&self, name: &str) -> Result<ResetDone, HistoryError> {
        history::reset(&self.history, &self.root, name, &|| true).map(|(done, _)| done)
    }
}

/// Runs git in a directory.
pub(super) fn git(directory: &Path, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.autocrlf=false", "-c", "safe.directory=*"];
    run("git", &[settings.as_slice(), arguments].concat(), directory, input)
}

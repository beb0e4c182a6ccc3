//! The daemon's log: lines with their time, on standard error, which for a daemon in the background is a file that stays small.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{output, times};

/// The size at which a log is put aside, in bytes: with the one before it, the log is at most twice as large.
const LARGEST: u64 = 1024 * 1024;
/// The longest line, in characters: what a guest makes part of one is bounded.
const LONGEST: usize = 2000;

/// A log, shared by all who write to it.
#[derive(Debug, Clone)]
pub(super) struct Log(Arc<Mutex<Place>>);

#[derive(Debug)]
struct Place {
    /// The file behind standard error, if it is ours to put aside.
    path: Option<PathBuf>,
    size: u64,
}

impl Log {
    /// Writes to standard error, which is the file at `path` where one is named.
    pub(super) fn open(path: Option<PathBuf>) -> Self {
        let size = path.as_ref().and_then(|path| fs::metadata(path).ok()).map_or(0, |meta| meta.len());
        Self(Arc::new(Mutex::new(Place { path, size })))
    }

    /// Writes a line.
    pub(super) fn line(&self, text: &str) {
        let text: String = output::plain(text).chars().take(LONGEST).collect();
        let line = format!("{} {text}", times::now());
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if place.size > LARGEST {
            place.put_aside();
        }
        place.size += line.len() as u64 + 1;
        output::say(&line);
    }
}

impl Place {
    /// Begins another file. Where that fails, the old one goes on.
    fn put_aside(&mut self) {
        let Some(path) = &self.path else { return };
        let _ = fs::rename(path, path.with_extension("log.1"));
        let file = File::options().create(true).append(true).mode(0o600).open(path);
        if file.is_ok_and(|file| rustix::stdio::dup2_stderr(&file).is_ok()) {
            self.size = 0;
        }
    }
}

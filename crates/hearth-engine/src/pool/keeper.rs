//! The keeper of one machine of the pool's.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::{Sandbox, SandboxId, Standby};

/// How often a machine is asked whether it lives; the end of its QEMU is seen at once.
const INTERVAL: Duration = Duration::from_secs(15);
/// How long its answer may take, under emulation on a host that has other things to do.
const ANSWER: Duration = Duration::from_secs(30);

/// What a pool keeps.
#[derive(Debug)]
pub(super) enum Kept {
    /// A machine that has run commands.
    Ready(Box<Sandbox>),
    /// A QEMU that waits for its guest.
    Standby(Box<Standby>),
}

impl Kept {
    pub(super) fn id(&self) -> &SandboxId {
        match self {
            Self::Ready(sandbox) => sandbox.id(),
            Self::Standby(standby) => standby.id(),
        }
    }

    pub(super) fn qemu_path(&self) -> Option<&Path> {
        match self {
            Self::Ready(sandbox) => sandbox.qemu_path(),
            Self::Standby(standby) => Some(standby.qemu_path()),
        }
    }

    async fn ended(&self) {
        match self {
            Self::Ready(sandbox) => drop(sandbox.ended().await),
            Self::Standby(standby) => standby.ended().await,
        }
    }

    /// Of what has no guest nothing can be asked.
    async fn falls_silent(&self) {
        let Self::Ready(sandbox) = self else { return std::future::pending().await };
        loop {
            sleep(INTERVAL).await;
            if !matches!(timeout(ANSWER, sandbox.channel().ping()).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    pub(super) async fn remove(self) {
        match self {
            Self::Ready(sandbox) => sandbox.remove().await,
            Self::Standby(standby) => standby.remove().await,
        }
    }
}

/// What a keeper is told.
pub(super) enum Wanted {
    /// Hand it over.
    Give(oneshot::Sender<Kept>),
    /// Have it removed.
    Remove,
}

/// How the keeping ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Given,
    Removed,
    /// It died, did not answer, or is of a QEMU that is no longer there.
    Lost,
}

/// Keeps a machine until it is wanted or dies. When this returns, it is somebody else's or nothing of it is left.
pub(super) async fn keep(kept: Kept, stamp: Stamp, mut wanted: oneshot::Receiver<Wanted>) -> Outcome {
    let told = tokio::select! {
        // A dead one is never handed over.
        biased;
        () = kept.ended() => None,
        told = &mut wanted => Some(told.unwrap_or(Wanted::Remove)),
        () = kept.falls_silent() => None,
    };
    let (kept, outcome) = match told {
        Some(Wanted::Give(to)) if stamp.holds() => match to.send(kept) {
            Ok(()) => return Outcome::Given,
            // Whoever wanted it is gone.
            Err(kept) => (kept, Outcome::Removed),
        },
        Some(Wanted::Remove) => (kept, Outcome::Removed),
        Some(Wanted::Give(_)) | None => (kept, Outcome::Lost),
    };
    kept.remove().await;
    outcome
}

/// What the file of a QEMU was like: an upgrade puts another one in its place, and what runs on of the old one could not be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    path: PathBuf,
    file: Option<(u64, u64, i64)>,
}

impl Stamp {
    pub(super) fn of(path: PathBuf) -> Self {
        let file = fs::metadata(&path).ok().map(|meta| (meta.dev(), meta.ino(), meta.mtime()));
        Self { path, file }
    }

    fn holds(&self) -> bool {
        Self::of(self.path.clone()).file == self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgraded_program_is_another_one() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("qemu");
        fs::write(&path, "1").unwrap();
        let stamp = Stamp::of(path.clone());
        assert!(stamp.holds());
        fs::write(home.path().join("new"), "2").unwrap();
        fs::rename(home.path().join("new"), &path).unwrap();
        assert!(!stamp.holds());
    }
}

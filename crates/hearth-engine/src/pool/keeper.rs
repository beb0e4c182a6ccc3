//! The keeper of one ready machine.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::Sandbox;

/// How often a machine is asked whether it lives; the end of its QEMU is seen at once.
const INTERVAL: Duration = Duration::from_secs(15);
/// How long its answer may take, under emulation on a host that has other things to do.
const ANSWER: Duration = Duration::from_secs(30);

/// What a keeper is told.
pub(super) enum Wanted {
    /// Hand it over.
    Give(oneshot::Sender<Box<Sandbox>>),
    /// Have it removed.
    Remove,
}

/// How the keeping ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Given,
    Removed,
    /// It died, did not answer, or is of a QEMU that is no longer there.
    Lost,
}

/// Keeps a machine until it is wanted or dies. When this returns, it is somebody else's or nothing of it is left.
pub(super) async fn keep(sandbox: Box<Sandbox>, stamp: Stamp, mut wanted: oneshot::Receiver<Wanted>) -> Kept {
    let told = tokio::select! {
        // A dead one is never handed over.
        biased;
        _ = sandbox.ended() => None,
        told = &mut wanted => Some(told.unwrap_or(Wanted::Remove)),
        () = falls_silent(&sandbox) => None,
    };
    match told {
        Some(Wanted::Give(to)) if stamp.holds() => match to.send(sandbox) {
            Ok(()) => Kept::Given,
            // Whoever wanted it is gone.
            Err(sandbox) => removed(sandbox, Kept::Removed).await,
        },
        Some(Wanted::Remove) => removed(sandbox, Kept::Removed).await,
        Some(Wanted::Give(_)) | None => removed(sandbox, Kept::Lost).await,
    }
}

async fn removed(sandbox: Box<Sandbox>, kept: Kept) -> Kept {
    sandbox.remove().await;
    kept
}

async fn falls_silent(sandbox: &Sandbox) {
    loop {
        sleep(INTERVAL).await;
        if !matches!(timeout(ANSWER, sandbox.channel().ping()).await, Ok(Ok(()))) {
            return;
        }
    }
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

//! Locks between processes: `flock` on files in the store, which the kernel drops with their holder.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
};

use crate::{
    ImageError,
    build::run::{Runner, Tool},
};

/// A held lock; dropping it lets the next one in.
#[derive(Debug)]
pub(crate) struct Locked(#[expect(dead_code, reason = "held for its lock")] File);

/// Takes a lock, waiting for as long as another build holds it; tells whether it had to wait.
///
/// The wait itself is done by a child process, because a thread blocked in `flock` could not be cancelled.
pub(crate) fn exclusive(
    path: &Path,
    runner: &Runner<'_>,
    on_wait: impl FnOnce(),
) -> Result<(Locked, bool), ImageError> {
    if let Some(locked) = try_exclusive(path)? {
        return Ok((locked, false));
    }
    on_wait();
    let wait = Runner { cancel: runner.cancel, lock: path.to_owned() };
    loop {
        // The tool starts once its watcher has the lock, and its end gives the lock up again.
        wait.run_well(&Tool::new("true", "waiting for another build"), &mut |_| {})?;
        if let Some(locked) = try_exclusive(path)? {
            return Ok((locked, true));
        }
    }
}

/// Takes a lock if nobody holds it.
pub(crate) fn try_exclusive(path: &Path) -> Result<Option<Locked>, ImageError> {
    let file = open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Locked(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(ImageError::Lock { path: path.to_owned(), source }),
    }
}

/// Takes a lock that is never held for longer than a few file operations.
pub(crate) fn brief(path: &Path) -> Result<Locked, ImageError> {
    let file = open(path)?;
    file.lock().map_err(|source| ImageError::Lock { path: path.to_owned(), source })?;
    Ok(Locked(file))
}

/// Takes a share of a lock that exists; `None` when somebody holds it alone.
pub(crate) fn try_shared(path: &Path) -> Result<Option<Locked>, ImageError> {
    let file = File::open(path).map_err(|source| ImageError::Lock { path: path.to_owned(), source })?;
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(Locked(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(ImageError::Lock { path: path.to_owned(), source }),
    }
}

fn open(path: &Path) -> Result<File, ImageError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|source| ImageError::Lock { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::run::Cancel;
    use std::{sync::mpsc, thread, time::Duration};

    #[test]
    fn the_second_waits_until_the_first_is_done() {
        let directory = tempfile::tempdir().unwrap();
        let (path, cancel) = (directory.path().join("build"), Cancel::default());
        let runner = Runner { cancel: &cancel, lock: directory.path().join("run") };
        let (first, waited) = exclusive(&path, &runner, || {}).unwrap();
        assert!(!waited);
        let (waiting, until_waiting) = mpsc::channel();
        let waited = thread::scope(|scope| {
            let second = scope.spawn(|| exclusive(&path, &runner, || waiting.send(()).unwrap()).unwrap().1);
            until_waiting.recv_timeout(Duration::from_secs(60)).unwrap();
            drop(first);
            second.join().unwrap()
        });
        assert!(waited);
    }

    #[test]
    fn waiting_can_be_cancelled() {
        let directory = tempfile::tempdir().unwrap();
        let (path, cancel) = (directory.path().join("build"), Cancel::default());
        let _first = try_exclusive(&path).unwrap().unwrap();
        let runner = Runner { cancel: &cancel, lock: directory.path().join("run") };
        let ended = thread::scope(|scope| {
            let second = scope.spawn(|| exclusive(&path, &runner, || cancel.cancel()));
            second.join().unwrap()
        });
        assert!(matches!(ended, Err(ImageError::Cancelled)));
    }
}

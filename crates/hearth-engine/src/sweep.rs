//! What a killed owner leaves: its sandboxes' directories. (Its QEMUs die with it: the kernel sees to that.)

use std::fs;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

/// The file in a sandbox's directory that its owner holds locked for as long as it lives.
pub(crate) const OWNER: &str = "owner";

/// Removes the directories in `sandboxes` that nobody owns. What cannot be removed now is tried again at the next start.
pub(crate) fn sweep(sandboxes: &Path) {
    for entry in fs::read_dir(sandboxes).into_iter().flatten().flatten() {
        let directory = entry.path();
        if is_abandoned(&directory) {
            let _ = fs::remove_dir_all(&directory);
        }
    }
}

/// An owner locks its directory before it makes anything in it. One that has no lock file is being born, or was
/// left in that moment: its own lock tells, since it is held until the lock file is.
fn is_abandoned(directory: &Path) -> bool {
    let lock = |path: &Path, flags: OFlags| {
        let file = open(path, flags | OFlags::CLOEXEC, Mode::empty()).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(file)
    };
    lock(&directory.join(OWNER), OFlags::RDWR).is_some()
        || (!directory.join(OWNER).exists() && lock(directory, OFlags::DIRECTORY).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_without_a_living_owner_are_removed() {
        let home = tempfile::tempdir().unwrap();
        for name in ["owned", "abandoned", "unborn"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        fs::write(home.path().join("abandoned").join(OWNER), "").unwrap();
        fs::write(home.path().join("owned").join(OWNER), "").unwrap();
        let owner = open(home.path().join("owned").join(OWNER), OFlags::RDWR, Mode::empty()).unwrap();
        flock(&owner, FlockOperation::LockExclusive).unwrap();
        sweep(home.path());
        let left: Vec<_> = fs::read_dir(home.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["owned"]);
    }
}

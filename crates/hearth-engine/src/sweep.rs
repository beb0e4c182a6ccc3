//! What a killed owner leaves: its sandboxes' directories. (Its QEMUs die with it: the kernel sees to that.)

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// The file in a sandbox's directory that its owner holds locked for as long as it lives.
pub(crate) const OWNER: &str = "owner";
/// The file in it that names the control groups of its machine, one a line.
pub(crate) const GROUPS: &str = "cgroups";

/// Keeps sweeps away for as long as it lives: held from before a directory is made until its owner's file is locked.
pub(crate) fn hold_off(lock: &Path) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(lock)?;
    flock(&file, FlockOperation::LockShared)?;
    Ok(file)
}

/// Removes the directories in `sandboxes` that nobody owns, unless one is just being made: then the next start does. What cannot be
/// removed now is tried again as well.
pub(crate) fn sweep(sandboxes: &Path, lock: &Path) {
    let Ok(file) = File::options().create(true).truncate(false).write(true).open(lock) else { return };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return;
    }
    for entry in fs::read_dir(sandboxes).into_iter().flatten().flatten() {
        let directory = entry.path();
        // The lock is kept until the directory is gone. Without an owner's file there never was an owner that finished making it.
        let owner = File::options().write(true).open(directory.join(OWNER));
        let abandoned =
            owner.as_ref().map_or(true, |owner| flock(owner, FlockOperation::NonBlockingLockExclusive).is_ok());
        if abandoned {
            remove_groups(&directory);
            let _ = fs::remove_dir_all(&directory);
        }
    }
}

/// Removes the control groups of a machine that was killed together with its owner.
fn remove_groups(directory: &Path) {
    let groups = fs::read_to_string(directory.join(GROUPS)).unwrap_or_default();
    // Only an empty group can be removed, so that nothing but what is left over goes.
    groups.lines().for_each(|group| drop(fs::remove_dir(group)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_without_a_living_owner_are_removed() {
        let home = tempfile::tempdir().unwrap();
        let (run, lock) = (home.path().join("run"), home.path().join("lock"));
        for name in ["owned", "abandoned", "unborn"] {
            fs::create_dir_all(run.join(name)).unwrap();
        }
        fs::write(run.join("abandoned").join(OWNER), "").unwrap();
        let owner = File::create(run.join("owned").join(OWNER)).unwrap();
        flock(&owner, FlockOperation::LockExclusive).unwrap();
        let names = || fs::read_dir(&run).unwrap().flatten().map(|entry| entry.file_name()).collect::<Vec<_>>();
        let being_born = hold_off(&lock).unwrap();
        sweep(&run, &lock);
        assert_eq!(names().len(), 3, "nothing is removed while a sandbox is being made");
        drop(being_born);
        sweep(&run, &lock);
        assert_eq!(names(), ["owned"]);
    }
}

//! What a killed owner leaves: its sandboxes' directories. Its QEMUs die with it, the kernel sees to that; but for a daemon's, which are the
//! next daemon's to take over or, if nobody is to have them, to end.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_vmm::{Lifetime, end_noted};
use rustix::fs::{FlockOperation, flock};

/// The file in a sandbox's directory that its owner holds locked for as long as it lives.
const OWNER: &str = "owner";
/// What stands in that of a sandbox whose machine outlives its owner.
const DETACHED: &[u8] = b"daemon\n";
/// How long all machines that nobody is to have may take to die, once they are killed.
const DEATH: Duration = Duration::from_secs(5);
/// The file in it that names the control groups of its machine, one a line.
pub(crate) const GROUPS: &str = "cgroups";

/// Keeps sweeps away for as long as it lives: held from before a directory is made until its owner's file is locked.
pub(crate) fn hold_off(lock: &Path) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(lock)?;
    flock(&file, FlockOperation::LockShared)?;
    Ok(file)
}

/// Makes this process the owner of a directory that was just made, and says so for whoever finds it.
pub(crate) fn own(directory: &Path, lifetime: Lifetime) -> io::Result<File> {
    let mut owner = File::create(directory.join(OWNER))?;
    if lifetime == Lifetime::Detached {
        owner.write_all(DETACHED)?;
    }
    flock(&owner, FlockOperation::LockExclusive)?;
    Ok(owner)
}

/// Makes this process the owner of a directory that an earlier one has left.
pub(crate) fn own_again(directory: &Path) -> io::Result<File> {
    let owner = File::options().write(true).open(directory.join(OWNER))?;
    flock(&owner, FlockOperation::LockExclusive)?;
    Ok(owner)
}

/// Ends the machines of an earlier daemon that nobody is to have, and removes what they have on the host. For the one daemon, which makes
/// nothing yet. What does not die is left to the next.
pub(crate) fn reap(sandboxes: &Path, is_wanted: impl Fn(&str) -> bool) {
    let entries = fs::read_dir(sandboxes).into_iter().flatten().flatten();
    let unwanted =
        entries.filter(|entry| !entry.file_name().to_str().is_some_and(&is_wanted)).map(|entry| entry.path());
    let abandoned: Vec<(PathBuf, File)> = unwanted
        .filter_map(|directory| {
            let owner = File::options().read(true).write(true).open(directory.join(OWNER)).ok()?;
            flock(&owner, FlockOperation::NonBlockingLockExclusive).is_ok().then_some((directory, owner))
        })
        .collect();
    // All are killed before any is waited for.
    abandoned.iter().for_each(|(directory, _)| drop(end_noted(directory, Duration::ZERO)));
    for (directory, _owner) in &abandoned {
        if end_machine(directory) {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// Whether there is a directory of a daemon's.
pub(crate) fn has_detached(sandboxes: &Path) -> bool {
    let entries = fs::read_dir(sandboxes).into_iter().flatten().flatten();
    let mut owners = entries.filter_map(|entry| File::open(entry.path().join(OWNER)).ok());
    owners.any(|owner| is_detached(&owner))
}

/// Ends the machine of a directory, if it has one, and removes what that alone has of the host. Returns whether it is gone.
pub(crate) fn end_machine(directory: &Path) -> bool {
    let ended = end_noted(directory, DEATH).is_ok_and(|ended| ended);
    if ended {
        remove_groups(directory);
        let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let sockets = entries.filter(|path| path.extension().is_some_and(|extension| extension == "sock"));
        sockets.for_each(|path| drop(fs::remove_file(path)));
    }
    ended
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
        let owner = File::options().read(true).write(true).open(directory.join(OWNER));
        let abandoned = owner.as_ref().map_or(true, |owner| {
            flock(owner, FlockOperation::NonBlockingLockExclusive).is_ok() && !is_detached(owner)
        });
        if abandoned {
            remove_groups(&directory);
            let _ = fs::remove_dir_all(&directory);
        }
    }
}

fn is_detached(mut owner: &File) -> bool {
    let mut text = Vec::new();
    // One that cannot be read is left alone.
    owner.read_to_end(&mut text).map_or(true, |_| text == DETACHED)
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

    #[test]
    fn what_a_daemon_has_left_is_the_next_daemons() {
        let home = tempfile::tempdir().unwrap();
        let (run, lock) = (home.path().join("run"), home.path().join("lock"));
        for name in ["wanted", "unwanted", "held"] {
            fs::create_dir_all(run.join(name)).unwrap();
        }
        let held = own(&run.join("held"), Lifetime::Detached).unwrap();
        for name in ["wanted", "unwanted"] {
            drop(own(&run.join(name), Lifetime::Detached).unwrap());
        }
        let names = || {
            let mut names: Vec<_> = fs::read_dir(&run).unwrap().flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        sweep(&run, &lock);
        assert_eq!(names().len(), 3, "any process sweeps, and only a daemon knows");
        reap(&run, |name| name == "wanted");
        assert_eq!(names(), ["held", "wanted"]);
        drop(held);
        drop(own_again(&run.join("wanted")).unwrap());
        reap(&run, |_| false);
        assert!(names().is_empty());
    }
}

//! Removing, whole trees too.

use std::os::fd::OwnedFd;

use hearth_protocol::ErrorCode;
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::error::{FileError, Reason};
use crate::root::{Name, Root};
use crate::walk::{DIRECTORY, Step, Walk};

/// Whether what is under way is still wanted. Asked every few files.
pub type Wanted<'a> = &'a dyn Fn() -> bool;

/// How something is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removal {
    /// A directory with all that is in it; else it must be empty.
    pub recursive: bool,
    /// Nothing there is no error.
    pub missing_ok: bool,
}

/// Removes what `path` names, a symbolic link itself. Tells how many files, directories and links that were.
///
/// # Errors
/// [`FileError`]: not there, outside, the root itself, a directory that is not empty. A tree may be removed in part.
pub fn remove(root: &Root, path: &[u8], removal: Removal, wanted: Wanted<'_>) -> Result<u64, FileError> {
    let gone = |error: FileError| match error.code() {
        ErrorCode::NotFound | ErrorCode::NotADirectory if removal.missing_ok => Ok(0),
        _ => Err(error),
    };
    let (directory, name) = match root.parent("remove", path) {
        Ok(found) => found,
        Err(error) => return gone(error),
    };
    match remove_one(&directory, &name) {
        Ok(()) => Ok(1),
        Err(Errno::NOTEMPTY | Errno::EXIST) if removal.recursive => empty_and_remove(&directory, &name, wanted)
            .map_err(|(error, done)| {
                let error = FileError::new("remove", path, error);
                if done > 0 { error.half_done() } else { error }
            }),
        Err(error) => gone(FileError::new("remove", path, error)),
    }
}

fn remove_one(directory: &OwnedFd, name: &Name) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        // Some file systems say PERM.
        Err(Errno::ISDIR | Errno::PERM) => rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)
            .map_err(|error| if error == Errno::NOTDIR { Errno::PERM } else { error }),
        other => other,
    }
}

/// Removes a directory and everything in it. An error comes with how much was removed before it.
fn empty_and_remove(directory: &OwnedFd, name: &Name, wanted: Wanted<'_>) -> Result<u64, (Reason, u64)> {
    let mut removed = 0;
    let emptied = rustix::fs::openat(directory, name, DIRECTORY, Mode::empty())
        .map_err(Reason::from)
        .and_then(|inside| empty(inside, wanted, &mut removed))
        .and_then(|()| Ok(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?));
    emptied.map(|()| removed + 1).map_err(|error| (error, removed))
}

fn empty(directory: OwnedFd, wanted: Wanted<'_>, removed: &mut u64) -> Result<(), Reason> {
    let mut walk = Walk::new(directory);
    loop {
        if removed.is_multiple_of(64) && !wanted() {
            let message = "it was given up half-way".to_owned();
            return Err(Reason::Rule { code: ErrorCode::Cancelled, message });
        }
        let flags = match walk.step()? {
            Step::Found(FileType::Directory) => {
                match walk.enter() {
                    // Something else by now.
                    Err(Errno::NOTDIR | Errno::LOOP) => AtFlags::empty(),
                    Err(Errno::NOENT) | Ok(()) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            Step::Found(_) => AtFlags::empty(),
            Step::Left => AtFlags::REMOVEDIR,
            Step::Reading | Step::Lost => continue,
            Step::End => return Ok(()),
        };
        match rustix::fs::unlinkat(walk.directory(), walk.name(), flags) {
            Ok(()) => *removed += 1,
            Err(Errno::NOENT) => {}
            // A file system that does not tell kinds.
            Err(Errno::ISDIR) if flags.is_empty() => walk.enter()?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes a tree that was made here, as far as it can be.
pub(crate) fn discard(directory: &OwnedFd, name: &Name) {
    if remove_one(directory, name).is_err() {
        let _ = empty_and_remove(directory, name, &|| true);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const TREE: Removal = Removal { recursive: true, missing_ok: false };

    fn removed(root: &Root, path: &str, removal: Removal) -> Result<u64, ErrorCode> {
        remove(root, path.as_bytes(), removal, &|| true).map_err(|error| error.code())
    }

    #[test]
    fn trees_go_and_links_in_them_lead_nowhere() {
        let (directory, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = Root::open(directory.path(), "/workspace", None).unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        fs::create_dir_all(directory.path().join("a/b/c")).unwrap();
        fs::write(directory.path().join("a/b/file"), "").unwrap();
        symlink(outside.path(), directory.path().join("a/out")).unwrap();
        symlink("a", directory.path().join("link")).unwrap();
        assert_eq!(removed(&root, "a", Removal::default()), Err(ErrorCode::NotEmpty));
        assert_eq!(removed(&root, "a/b/c", Removal::default()), Ok(1));
        assert_eq!(removed(&root, "link", TREE), Ok(1));
        assert_eq!(removed(&root, "a", TREE), Ok(4));
        assert_eq!(removed(&root, "a", TREE), Err(ErrorCode::NotFound));
        assert_eq!(removed(&root, "a/b/c", Removal { recursive: true, missing_ok: true }), Ok(0));
        assert!(outside.path().join("kept").exists());
        for path in ["", ".", "/workspace"] {
            assert_eq!(removed(&root, path, TREE), Err(ErrorCode::InvalidField), "{path}");
        }
        symlink(outside.path(), directory.path().join("t")).unwrap();
        for path in ["t/kept", "../x", "/etc/hostname"] {
            assert_eq!(removed(&root, path, TREE), Err(ErrorCode::OutsideRoot), "{path}");
        }
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn what_is_no_longer_wanted_stops_and_says_that_it_was_half_done() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path(), "/workspace", None).unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        (0..1000).for_each(|n| fs::write(directory.path().join(format!("a/{n}")), "").unwrap());
        let asked = std::cell::Cell::new(0);
        let wanted = || asked.replace(asked.get() + 1) < 3;
        let error = remove(&root, b"a", TREE, &wanted).unwrap_err();
        assert_eq!((error.code(), error.outcome), (ErrorCode::Cancelled, hearth_protocol::Outcome::Failed));
        let left = fs::read_dir(directory.path().join("a")).unwrap().count();
        assert!((1..1000).contains(&left), "{left} are left");
    }
}

//! Making directories and links, renaming, and changing permissions.

use std::os::fd::{AsRawFd, OwnedFd};

use hearth_protocol::ErrorCode;
use hearth_protocol::files::FileKind;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::content::open_again;
use crate::entry::{join, kind};
use crate::error::{FileError, Reason};
use crate::fresh::{rename, temporary_name};
use crate::remove::Wanted;
use crate::root::Root;
use crate::walk::{Step, Walk};

/// The permissions of a new directory.
const NEW: u32 = 0o755;

/// Makes a directory for the root's owner. With `parents`, also those that are missing above it, and one that is there already will do.
///
/// # Errors
/// [`FileError`]: outside, or something is there already.
pub fn mkdir(root: &Root, path: &[u8], mode: Option<u32>, parents: bool) -> Result<(), FileError> {
    const OPERATION: &str = "make a directory at";
    if parents {
        match root.open_at(OPERATION, path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(error) if error.code() == ErrorCode::NotFound => {}
            other => return other.map(drop),
        }
    }
    let found = if parents { root.make_parent(OPERATION, path) } else { root.parent(OPERATION, path) };
    let (directory, name) = found?;
    let fail = |error: Errno| FileError::new(OPERATION, path, error);
    rustix::fs::mkdirat(&directory, &name, Mode::from_raw_mode(0o700)).map_err(fail)?;
    root.give_away(&directory, &name).map_err(fail)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&directory, &name, flags, Mode::empty()).map_err(fail)?;
    set_mode(&made, mode.unwrap_or(NEW)).map_err(fail)
}

/// Makes a symbolic link at `path`, for the root's owner, and the directories that are missing on the way. It may say anything: what leads out of the root
/// is refused when it is followed. With `replace` it takes the place of a file or link, at once.
///
/// # Errors
/// [`FileError`]: outside, or something is there already.
pub fn symlink(root: &Root, path: &[u8], target: &[u8], replace: bool) -> Result<(), FileError> {
    const OPERATION: &str = "make a link at";
    let fail = |error: Errno| FileError::new(OPERATION, path, error);
    let (directory, name) = root.make_parent(OPERATION, path)?;
    match rustix::fs::symlinkat(target, &directory, &name) {
        Err(Errno::EXIST) if replace => {}
        other => return other.and_then(|()| root.give_away(&directory, &name)).map_err(fail),
    }
    let temporary = temporary_name();
    let placed = rustix::fs::symlinkat(target, &directory, &temporary)
        .and_then(|()| root.give_away(&directory, &temporary))
        .and_then(|()| rename(&directory, &temporary, &directory, &name, true));
    placed.map_err(|error| {
        let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
        fail(error)
    })
}

/// Renames what `path` names, a symbolic link itself, and makes the directories that are missing on the way. False where that cannot be done at
/// once, and [`crate::carry`] must do it: to another file system, or out of the lower layer of an overlay.
///
/// # Errors
/// [`FileError`]: not there, outside, or something is in its place: with `replace`, a file gives way to a file and an empty
/// directory to a directory.
pub fn rename_to(root: &Root, path: &[u8], to: &[u8], replace: bool) -> Result<bool, FileError> {
    const OPERATION: &str = "move";
    let (from_directory, from) = root.parent(OPERATION, path)?;
    let looked = rustix::fs::statat(&from_directory, &from, AtFlags::SYMLINK_NOFOLLOW);
    looked.map_err(|error| FileError::new(OPERATION, path, error))?;
    let (to_directory, to_name) = root.make_parent("move to", to)?;
    match rename(&from_directory, &from, &to_directory, &to_name, replace) {
        Ok(()) => Ok(true),
        Err(Errno::XDEV) => Ok(false),
        Err(Errno::INVAL) => Err(into_itself(OPERATION, path)),
        Err(error) => Err(FileError::new("move to", to, error)),
    }
}

/// The error for a directory that is to go into what is in it.
pub(crate) fn into_itself(operation: &'static str, path: &[u8]) -> FileError {
    let message = "a directory has no place inside itself".to_owned();
    FileError::new(operation, path, Reason::Rule { code: ErrorCode::InvalidField, message })
}

/// Permissions to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions {
    /// To files, and to directories where nothing else is said.
    pub mode: u32,
    /// To directories, where a whole tree is changed.
    pub directories: Option<u32>,
    /// Also to everything in a directory.
    pub recursive: bool,
}

/// Changes the permissions of what `path` leads to. In a tree no symbolic link is followed, and those of links are left alone.
/// Tells how many files and directories were changed.
///
/// # Errors
/// [`FileError`]: not there, outside, not allowed. A tree may be changed in part.
pub fn chmod(root: &Root, path: &[u8], permissions: Permissions, wanted: Wanted<'_>) -> Result<u64, FileError> {
    let fail = |error: Errno| FileError::new("change permissions of", path, error);
    let top = root.open_at("change permissions of", path, OFlags::PATH)?;
    let is_directory = kind(&rustix::fs::fstat(&top).map_err(fail)?) == FileKind::Directory;
    if !(permissions.recursive && is_directory) {
        return set_mode(&top, permissions.mode).map(|()| 1).map_err(fail);
    }
    // Opened before it may become unreadable.
    let directory = open_again(&top, OFlags::RDONLY | OFlags::DIRECTORY).map_err(fail)?;
    set_mode(&top, permissions.directories.unwrap_or(permissions.mode)).map_err(fail)?;
    let mut walk = Walk::new(directory.into());
    let mut changed = 1;
    change_below(&mut walk, permissions, wanted, &mut changed)
        .map_err(|reason| FileError::new("change permissions of", &join(path, walk.path()), reason).half_done())?;
    Ok(changed)
}

fn change_below(
    walk: &mut Walk,
    permissions: Permissions,
    wanted: Wanted<'_>,
    changed: &mut u64,
) -> Result<(), Reason> {
    loop {
        if changed.is_multiple_of(64) && !wanted() {
            let message = "it was given up half-way".to_owned();
            return Err(Reason::Rule { code: ErrorCode::Cancelled, message });
        }
        match walk.step()? {
            Step::Found(FileType::Symlink) | Step::Reading | Step::Left | Step::Lost => continue,
            Step::Found(_) => {}
            Step::End => return Ok(()),
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(walk.directory(), walk.name(), flags, Mode::empty()) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        let mode = match kind(&rustix::fs::fstat(&found)?) {
            FileKind::Symlink => continue,
            FileKind::Directory => {
                match walk.enter() {
                    Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(error) => return Err(error.into()),
                }
                permissions.directories.unwrap_or(permissions.mode)
            }
            _ => permissions.mode,
        };
        set_mode(&found, mode)?;
        *changed += 1;
    }
}

/// Changes the permissions of what is open as a place only.
pub(crate) fn set_mode(found: &OwnedFd, mode: u32) -> Result<(), Errno> {
    rustix::fs::chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::from_raw_mode(mode))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink as link};
    use std::path::Path;

    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path(), "/workspace", None).unwrap();
        (directory, root)
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn code<T: std::fmt::Debug>(result: Result<T, FileError>) -> ErrorCode {
        result.unwrap_err().code()
    }

    #[test]
    fn directories_are_made_once_and_with_the_asked_mode() {
        let (directory, root) = root();
        assert_eq!(code(mkdir(&root, b"a/b", None, false)), ErrorCode::NotFound);
        mkdir(&root, b"a/b", Some(0o1770), true).unwrap();
        assert_eq!(mode(&directory.path().join("a/b")), 0o1770);
        assert_eq!(mode(&directory.path().join("a")), 0o755);
        mkdir(&root, b"a/b", None, true).unwrap();
        mkdir(&root, b"", None, true).unwrap();
        assert_eq!(code(mkdir(&root, b"a/b", None, false)), ErrorCode::AlreadyExists);
        mkdir(&root, b"c", None, false).unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        assert_eq!(code(mkdir(&root, b"file/x", None, true)), ErrorCode::NotADirectory);
        link("/tmp", directory.path().join("t")).unwrap();
        for path in ["t/x", "../x", "t"] {
            assert_eq!(code(mkdir(&root, path.as_bytes(), None, true)), ErrorCode::OutsideRoot, "{path}");
        }
    }

    #[test]
    fn links_say_anything_and_replace_only_when_asked() {
        let (directory, root) = root();
        symlink(&root, b"sub/l", b"/etc", false).unwrap();
        assert_eq!(code(symlink(&root, b"sub/l", b"x", false)), ErrorCode::AlreadyExists);
        symlink(&root, b"sub/l", b"x\xff", true).unwrap();
        let target = crate::stat(&root, b"sub/l").unwrap().target.unwrap();
        assert_eq!(target.as_bytes(), b"x\xff");
        assert!(symlink(&root, b"sub", b"x", true).is_err());
        assert_eq!(code(symlink(&root, b"../l", b"x", true)), ErrorCode::OutsideRoot);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(directory.path().join("sub")).unwrap().count(), 1);
    }

    #[test]
    fn renaming_replaces_only_when_asked_and_never_leaves() {
        let (directory, root) = root();
        let at = |path: &str| directory.path().join(path);
        fs::write(at("a"), "a").unwrap();
        fs::write(at("b"), "b").unwrap();
        fs::create_dir_all(at("d/full")).unwrap();
        fs::create_dir(at("empty")).unwrap();
        link("/tmp", at("t")).unwrap();
        let moved = |from: &str, to: &str, replace| rename_to(&root, from.as_bytes(), to.as_bytes(), replace);
        assert_eq!(code(moved("a", "b", false)), ErrorCode::AlreadyExists);
        assert_eq!(code(moved("none", "new/x", false)), ErrorCode::NotFound);
        assert!(!at("new").exists());
        assert!(moved("a", "b", true).unwrap());
        assert_eq!(fs::read(at("b")).unwrap(), b"a");
        assert!(moved("b", "new/x/y", false).unwrap());
        assert_eq!(code(moved("empty", "d", true)), ErrorCode::NotEmpty);
        assert!(moved("d", "empty", true).unwrap());
        assert_eq!(code(moved("empty", "empty/full/x", false)), ErrorCode::InvalidField);
        assert!(moved("t", "link", false).unwrap());
        assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
        for (from, to) in [("new", "link/x"), ("link/x", "y"), ("../x", "y"), ("new", "../y"), ("new", "/etc/y")] {
            assert_eq!(code(moved(from, to, true)), ErrorCode::OutsideRoot, "{from} to {to}");
        }
    }

    #[test]
    fn permissions_go_through_links_that_stay_and_no_other() {
        let (directory, root) = root();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("file"), "").unwrap();
        fs::set_permissions(outside.path().join("file"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir_all(directory.path().join("a/b")).unwrap();
        for file in ["a/x", "a/b/y"] {
            fs::write(directory.path().join(file), "").unwrap();
        }
        link("a/x", directory.path().join("near")).unwrap();
        link(outside.path().join("file"), directory.path().join("a/far")).unwrap();
        let change = |path: &str, permissions| chmod(&root, path.as_bytes(), permissions, &|| true);
        let one = Permissions { mode: 0o4711, directories: None, recursive: false };
        assert_eq!(change("near", one).unwrap(), 1);
        assert_eq!(mode(&directory.path().join("a/x")), 0o4711);
        assert_eq!(code(change("a/far", one)), ErrorCode::OutsideRoot);
        let tree = Permissions { mode: 0o640, directories: Some(0o750), recursive: true };
        assert_eq!(change("a", tree).unwrap(), 4);
        assert_eq!(mode(&directory.path().join("a/b/y")), 0o640);
        assert_eq!(mode(&directory.path().join("a/b")), 0o750);
        assert_eq!(mode(&outside.path().join("file")), 0o600);
    }
}

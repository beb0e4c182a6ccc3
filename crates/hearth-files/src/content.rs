//! The content of one file: opened to read, or replaced as a whole.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use hearth_protocol::files::{Create, FileEntry, FileKind};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use crate::attributes;
use crate::entry::{describe, entry, kind, tidy};
use crate::error::{FileError, Reason};
use crate::fresh::Fresh;
use crate::root::{Name, Root};

/// The permissions of a new file.
const NEW: u32 = 0o644;

/// Opens a regular file to read, and tells its size. Waits for no FIFO, and opens no device.
///
/// # Errors
/// [`FileError`]: not there, outside, or no regular file.
pub fn open_file(root: &Root, path: &[u8]) -> Result<(File, u64), FileError> {
    // Looked at before it is opened: to open a device can do something.
    let found = root.open_at("read", path, OFlags::PATH)?;
    let stat = rustix::fs::fstat(&found).map_err(|error| FileError::new("read", path, error))?;
    must_be_file("read", path, &stat)?;
    let file = open_again(&found, OFlags::RDONLY).map_err(|error| FileError::new("read", path, error))?;
    Ok((file, stat.st_size.unsigned_abs()))
}

/// Opens what is only held as a place, without looking for it again.
pub(crate) fn open_again(found: &OwnedFd, flags: OFlags) -> Result<File, Errno> {
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    rustix::fs::open(link, flags | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).map(File::from)
}

pub(crate) fn must_be_file(operation: &'static str, path: &[u8], stat: &Stat) -> Result<(), FileError> {
    match kind(stat) {
        FileKind::File => Ok(()),
        other => {
            let reason = Reason::WrongKind { found: describe(other), wanted: "a regular file" };
            Err(FileError::new(operation, path, reason))
        }
    }
}

/// What is at a name, if anything is. Must be a regular file where something is, and be there or not as `create` says.
pub(crate) fn look(
    operation: &'static str,
    path: &[u8],
    (directory, name): (&OwnedFd, &Name),
    create: Create,
) -> Result<Option<Stat>, FileError> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) if create == Create::New => Err(FileError::new(operation, path, Errno::EXIST)),
        Ok(stat) => must_be_file(operation, path, &stat).map(|()| Some(stat)),
        Err(Errno::NOENT) if create != Create::Existing => Ok(None),
        Err(error) => Err(FileError::new(operation, path, error)),
    }
}

/// New content for a file, which takes its place when it is committed, and is gone when it is dropped before.
///
/// Names of the file other than this one (hard links) keep the old content.
#[derive(Debug)]
pub struct Replacement {
    fresh: Fresh,
    name: Name,
    path: Vec<u8>,
    /// The path as an entry has it.
    shown: Vec<u8>,
    create: Create,
}

impl Replacement {
    /// Begins to replace, or to make, the file at `path`, or the one that a symbolic link there leads to. Missing directories are made,
    /// unless the file must be there. What is replaced keeps mode, owner and `user.*` attributes; what is new has `mode`, 0644 by default, and
    /// belongs to the root's owner.
    ///
    /// # Errors
    /// [`FileError`]: outside, something else than a regular file is there, or what is there is not as `create` says.
    pub fn begin(root: &Root, path: &[u8], mode: Option<u32>, create: Create) -> Result<Self, FileError> {
        let (directory, name) = root.follow("write", path, create != Create::Existing)?;
        let old = look("write", path, (&directory, &name), create)?;
        let fail = |error: Errno| FileError::new("write", path, error);
        let holder = old.as_ref().and_then(|_| attributes::holder(&directory, &name));
        let fresh = Fresh::new(directory).map_err(fail)?;
        let shown = tidy(root.relative("write", path)?);
        let replacement = Self { fresh, name, path: path.to_vec(), shown, create };
        replacement.dress(root, old.as_ref(), mode).map_err(fail)?;
        if let Some(holder) = holder {
            attributes::copy(holder.as_fd(), replacement.fresh.file.as_fd()).map_err(fail)?;
        }
        Ok(replacement)
    }

    /// Begins to make a file with `mode` at `path`, in the place of the file or symbolic link that is there: no link at the name itself is
    /// followed, and nothing of what is there stays.
    ///
    /// # Errors
    /// [`FileError`]: outside, or something else than a regular file or a link is there.
    pub fn begin_over(root: &Root, path: &[u8], mode: u32) -> Result<Self, FileError> {
        let (directory, name) = root.parent("write", path)?;
        match rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if kind(&stat) == FileKind::Symlink => {}
            Ok(stat) => must_be_file("write", path, &stat)?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(FileError::new("write", path, error)),
        }
        let fail = |error: Errno| FileError::new("write", path, error);
        let fresh = Fresh::new(directory).map_err(fail)?;
        let shown = tidy(root.relative("write", path)?);
        let replacement = Self { fresh, name, path: path.to_vec(), shown, create: Create::Any };
        replacement.dress(root, None, Some(mode)).map_err(fail)?;
        Ok(replacement)
    }

    fn dress(&self, root: &Root, old: Option<&Stat>, mode: Option<u32>) -> Result<(), Errno> {
        let file = &self.fresh.file;
        match old {
            Some(old) if rustix::process::geteuid().is_root() => {
                rustix::fs::fchown(file, Some(Uid::from_raw(old.st_uid)), Some(Gid::from_raw(old.st_gid)))?;
            }
            Some(_) => {}
            None => root.give_away_file(file)?,
        }
        let mode = old.map_or(mode.unwrap_or(NEW), |old| old.st_mode) & 0o7777;
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
    }

    /// Gives the new content permissions of its own, whatever the old has.
    ///
    /// # Errors
    /// [`FileError`]: what the system says.
    pub fn set_mode(&self, mode: u32) -> Result<(), FileError> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::fchmod(&self.fresh.file, mode).map_err(|error| FileError::new("write", &self.path, error))
    }

    /// Says when the new content was last changed, in nanoseconds since 1970.
    ///
    /// # Errors
    /// [`FileError`]: what the system says.
    pub fn set_modified(&self, nanoseconds: i64) -> Result<(), FileError> {
        const SECOND: i64 = 1_000_000_000;
        let (tv_sec, tv_nsec) = (nanoseconds.div_euclid(SECOND), nanoseconds.rem_euclid(SECOND));
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access, last_modification: Timespec { tv_sec, tv_nsec } };
        rustix::fs::futimens(&self.fresh.file, &times).map_err(|error| FileError::new("write", &self.path, error))
    }

    /// Appends to the new content.
    ///
    /// # Errors
    /// [`FileError`]: the disk is full, or fails. The old content is untouched.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.fresh.file.write_all(bytes).map_err(|error| FileError::new("write", &self.path, error))
    }

    /// Puts the new content in the place of the old, and tells what is there now.
    ///
    /// # Errors
    /// [`FileError`]; the old content is untouched.
    pub fn commit(self) -> Result<FileEntry, FileError> {
        let Self { fresh, name, path, shown, create } = self;
        let stat = rustix::fs::fstat(&fresh.file);
        let put = stat.and_then(|stat| fresh.put(&name, create != Create::New).map(|()| stat));
        let stat = put.map_err(|error| FileError::new("write", &path, error))?;
        // It had no name, or a temporary one, when it was looked at.
        Ok(FileEntry { links: 1, ..entry(shown, &stat, None) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use hearth_protocol::ErrorCode;

    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path(), "/workspace", None).unwrap();
        (directory, root)
    }

    fn write(root: &Root, path: &str, text: &str, create: Create) -> Result<(), ErrorCode> {
        let written = Replacement::begin(root, path.as_bytes(), None, create).and_then(|mut new| {
            new.write_all(text.as_bytes())?;
            new.commit()
        });
        let there = written.map(|entry| assert_eq!(entry.size, text.len() as u64));
        there.map_err(|error| error.code())
    }

    #[test]
    fn b28_what_is_replaced_keeps_mode_and_owner() {
        let (directory, root) = root();
        let file = directory.path().join("tool");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&file, Some(1234), Some(2345)).unwrap();
        }
        let before = fs::metadata(&file).unwrap();
        write(&root, "tool", "new", Create::Any).unwrap();
        let after = fs::metadata(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn b28_what_is_dropped_before_its_end_leaves_the_old_and_nothing_else() {
        let (directory, root) = root();
        fs::write(directory.path().join("kept"), "old").unwrap();
        for path in ["kept", "new"] {
            let mut replacement = Replacement::begin(&root, path.as_bytes(), None, Create::Any).unwrap();
            replacement.write_all(b"half").unwrap();
        }
        assert_eq!(fs::read(directory.path().join("kept")).unwrap(), b"old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_replaced_keeps_the_attributes_that_users_give() {
        let (directory, root) = root();
        let file = directory.path().join("file");
        fs::write(&file, "old").unwrap();
        let set = rustix::fs::setxattr(&file, c"user.hearth", b"given", rustix::fs::XattrFlags::empty());
        if set.is_err() {
            return eprintln!("skipped: the file system has no attributes of users: {set:?}");
        }
        write(&root, "file", "new", Create::Any).unwrap();
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(&file, c"user.hearth", &mut value[..]).unwrap();
        assert_eq!((&value[..length], fs::read(&file).unwrap()), (b"given".as_slice(), b"new".to_vec()));
    }

    #[test]
    fn a_file_is_new_or_old_as_it_is_to_be() {
        let (directory, root) = root();
        assert_eq!(write(&root, "a", "1", Create::Existing), Err(ErrorCode::NotFound));
        assert_eq!(write(&root, "no/a", "1", Create::Existing), Err(ErrorCode::NotFound));
        assert!(!directory.path().join("no").exists());
        assert_eq!(write(&root, "a", "1", Create::New), Ok(()));
        assert_eq!(write(&root, "a", "2", Create::New), Err(ErrorCode::AlreadyExists));
        assert_eq!(write(&root, "a", "3", Create::Existing), Ok(()));
        // One that appears while the content comes.
        let late = Replacement::begin(&root, b"late", None, Create::New).unwrap();
        fs::write(directory.path().join("late"), "first").unwrap();
        assert_eq!(late.commit().unwrap_err().code(), ErrorCode::AlreadyExists);
        assert_eq!(fs::read(directory.path().join("late")).unwrap(), b"first");
        assert_eq!(fs::read(directory.path().join("a")).unwrap(), b"3");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn b27_a_link_that_stays_inside_is_written_through_and_no_other() {
        let (directory, root) = root();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("real")).unwrap();
        fs::write(directory.path().join("real/file"), "old").unwrap();
        symlink("real/file", directory.path().join("link")).unwrap();
        symlink("real/made", directory.path().join("dangling")).unwrap();
        symlink(outside.path().join("x"), directory.path().join("out")).unwrap();
        write(&root, "link", "new", Create::Any).unwrap();
        write(&root, "dangling", "made", Create::Any).unwrap();
        assert_eq!(write(&root, "out", "bad", Create::Any), Err(ErrorCode::OutsideRoot));
        assert!(fs::symlink_metadata(directory.path().join("link")).unwrap().is_symlink());
        assert_eq!(fs::read(directory.path().join("real/file")).unwrap(), b"new");
        assert_eq!(fs::read(directory.path().join("real/made")).unwrap(), b"made");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_regular_files_are_written_and_read() {
        let (directory, root) = root();
        fs::create_dir(directory.path().join("directory")).unwrap();
        let fifo = directory.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, fifo, Mode::from_raw_mode(0o600)).unwrap();
        assert_eq!(write(&root, "directory", "", Create::Any), Err(ErrorCode::IsADirectory));
        assert_eq!(write(&root, "fifo", "", Create::Any), Err(ErrorCode::NotARegularFile));
        assert_eq!(open_file(&root, b"fifo").unwrap_err().code(), ErrorCode::NotARegularFile);
        assert_eq!(open_file(&root, b"directory").unwrap_err().code(), ErrorCode::IsADirectory);
        let long = "x".repeat(256);
        assert_eq!(write(&root, &long, "", Create::Any), Err(ErrorCode::NameTooLong));
        assert_eq!(write(&root, &long[1..], "", Create::Any), Ok(()));
    }
}

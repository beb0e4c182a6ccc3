//! The directory in which an archive is unpacked before any of it is put in place: beneath the same root, on the same file system, and
//! closed to all but the agent.
//!
//! It never outlives its import. Dropping it removes it, whatever happened; a killed agent's is removed by the next import that could
//! have made it there, which knows it by its name and by the lock on it, which the kernel took back.
//!
//! An import that fails leaves no trace, not even in the times of the directory that its own was in.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Stat, StatxFlags};
use rustix::io::Errno;

use super::ArchiveError;
use super::pax::Timestamp;
use super::unpack::times;
use super::walk::{self, DIRECTORY};
use crate::root::Root;

const PREFIX: &str = ".hearth-import-";

/// Whether a directory of this name is one in which an archive is being unpacked: part of no tree.
pub fn is_staging(name: &[u8]) -> bool {
    name.starts_with(PREFIX.as_bytes())
}

/// A directory of the agent's own, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Staging {
    home: OwnedFd,
    name: CString,
    directory: OwnedFd,
    /// What the home was like before it, and with it; `None` when that is of no more interest.
    times: Option<(Stat, Stat)>,
}

impl Staging {
    /// Makes one in the root, where everything in it can be moved to `destination` from; else in `destination`, which is a directory
    /// that is open for reading. Removes what killed agents left there.
    pub(crate) fn make(root: &Root, destination: BorrowedFd<'_>) -> Result<Self, ArchiveError> {
        let fail = |error: Errno| ArchiveError::system("unpack in", root.name().as_bytes(), error);
        let top = rustix::fs::openat(root.directory(), c".", DIRECTORY, Mode::empty());
        if let Ok(top) = top
            && mount_of(top.as_fd()).is_some_and(|mount| mount_of(destination) == Some(mount))
        {
            match Self::make_in(top) {
                Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {}
                made => return made.map_err(fail),
            }
        }
        let destination = rustix::fs::openat(destination, c".", DIRECTORY, Mode::empty()).map_err(fail)?;
        Self::make_in(destination).map_err(fail)
    }

    fn make_in(home: OwnedFd) -> Result<Self, Errno> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        sweep(home.as_fd());
        let before = rustix::fs::fstat(&home)?;
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{PREFIX}{}-{number}", std::process::id());
            let name = CString::new(name).expect("a number holds no NUL");
            match rustix::fs::mkdirat(&home, &name, Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                made => made?,
            }
            // Until it is locked another agent's sweep may take it for a dead one's.
            match lock(home.as_fd(), &name) {
                Ok(Some(directory)) => {
                    let times = Some((before, rustix::fs::fstat(&home)?));
                    return Ok(Self { home, name, directory, times });
                }
                Ok(None) | Err(Errno::NOENT) => {}
                Err(error) => {
                    let _ = rustix::fs::unlinkat(&home, &name, AtFlags::REMOVEDIR);
                    return Err(error);
                }
            }
        }
    }

    /// Moves it to another directory of the same file system, where it is still removed when it is dropped.
    pub(crate) fn move_to(&mut self, home: OwnedFd) -> Result<(), Errno> {
        rustix::fs::renameat(&self.home, &self.name, &home, &self.name)?;
        self.home = home;
        Ok(())
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Removes it after an import that has succeeded: what it did to the times of the directory stays.
    pub(super) fn succeed(mut self) {
        self.times = None;
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let is_untouched = |with: &Stat| {
            rustix::fs::fstat(&self.home)
                .is_ok_and(|now| (now.st_mtime, now.st_mtime_nsec) == (with.st_mtime, with.st_mtime_nsec))
        };
        // A change of somebody else's meanwhile is not to be hidden.
        let before = self.times.take().filter(|(_, with)| is_untouched(with)).map(|(before, _)| before);
        remove(self.home.as_fd(), &self.name, self.directory.as_fd());
        if let Some(before) = before {
            let modified = Timestamp { seconds: before.st_mtime, nanoseconds: before.st_mtime_nsec as u32 };
            // Whose directory it is not, leaves it.
            let _ = rustix::fs::futimens(&self.home, &times(modified));
        }
    }
}

/// Removes what killed agents left in a directory. What cannot be removed stays: it is in nobody's way.
pub(crate) fn sweep(home: BorrowedFd<'_>) {
    let mut names = Vec::new();
    // What is not seen now is seen the next time.
    let _ = walk::each(home, |name, _| names.extend(is_staging(name.to_bytes()).then(|| name.to_owned())));
    for name in names {
        if let Ok(Some(directory)) = lock(home, &name) {
            remove(home, &name, directory.as_fd());
        }
    }
}

/// Opens a directory of the agent's own and locks it, for as long as it is open; `None` when another has the lock, it is gone meanwhile,
/// or somebody else made it.
fn lock(home: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>, Errno> {
    let directory = rustix::fs::openat(home, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        locked => locked?,
    }
    let stat = rustix::fs::fstat(&directory)?;
    let is_own = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o777 == 0o700;
    Ok((stat.st_nlink > 0 && is_own).then_some(directory))
}

fn remove(home: BorrowedFd<'_>, name: &CStr, directory: BorrowedFd<'_>) {
    empty(directory);
    let _ = rustix::fs::unlinkat(home, name, AtFlags::REMOVEDIR);
}

/// Removes all that is in a directory, however deep, with two descriptors: the directories in a directory are moved to the top before
/// it is removed. Goes on for as long as it gets anywhere.
fn empty(top: BorrowedFd<'_>) {
    let mut moved = 0;
    loop {
        let mut has_removed = false;
        let _ = walk::each(top, |name, _| {
            has_removed |= match rustix::fs::unlinkat(top, name, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => remove_directory(top, name, &mut moved),
                removed => removed.is_ok(),
            };
        });
        if !has_removed {
            return;
        }
    }
}

/// Nobody but the agent is in here, so that what has been a directory a call ago still is one.
fn remove_directory(top: BorrowedFd<'_>, name: &CStr, moved: &mut u64) -> bool {
    let open = || rustix::fs::openat(top, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
    let opened = open().or_else(|_| rustix::fs::chmodat(top, name, Mode::RWXU, AtFlags::empty()).and_then(|()| open()));
    let Ok(directory) = opened else { return false };
    let _ = rustix::fs::fchmod(&directory, Mode::RWXU);
    let _ = walk::each(directory.as_fd(), |name, _| {
        if let Err(Errno::ISDIR | Errno::PERM) = rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
            *moved += 1;
            let aside = format!("moved-{moved}");
            let aside = || rustix::fs::renameat(&directory, name, top, &aside);
            // Moving a directory writes into it.
            if aside() == Err(Errno::ACCESS)
                && rustix::fs::chmodat(&directory, name, Mode::RWXU, AtFlags::empty()).is_ok()
            {
                let _ = aside();
            }
        }
    });
    rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR).is_ok()
}

/// Names the mount that a directory is on: only within one can things be moved.
fn mount_of(directory: BorrowedFd<'_>) -> Option<(u64, u32, u32)> {
    let statx = rustix::fs::statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    let has_mount = StatxFlags::from_bits_retain(statx.stx_mask).contains(StatxFlags::MNT_ID);
    has_mount.then_some((statx.stx_mnt_id, statx.stx_dev_major, statx.stx_dev_minor))
}

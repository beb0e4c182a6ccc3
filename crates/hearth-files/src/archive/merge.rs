//! The unpacked tree takes its place: what is new is moved there whole, what replaces something is exchanged for it, and what fails on
//! the way is taken back, so that either all of the archive is in the destination or nothing of it.
//!
//! Conflicts are looked for before anything moves. Into an empty destination each entry of the archive's top is one rename, however
//! large; a destination that is missing is one rename altogether.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hearth_protocol::files::FileKind;
use rustix::fs::{AtFlags, FileType, Mode, RenameFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::error::Rule;
use super::pax::Timestamp;
use super::unpack::times;
use super::walk::{self, DIRECTORY};
use super::{ArchiveError, path};
use crate::entry::describe;

/// Where everything is.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    /// What was unpacked.
    pub(super) from: BorrowedFd<'a>,
    /// The destination.
    pub(super) to: BorrowedFd<'a>,
    /// An empty place on the same file system.
    pub(super) spare: BorrowedFd<'a>,
}

struct Merge<'a> {
    places: Places<'a>,
    /// Directories of the destination that stay as they are.
    kept: &'a BTreeSet<Vec<u8>>,
    done: Vec<Done>,
    entered: Vec<Entered>,
}

/// A step, to be taken back.
enum Done {
    Moved(Vec<u8>),
    Exchanged(Vec<u8>),
}

/// A directory that was there already: what it was like, and what the archive wants it to be like.
struct Entered {
    path: Vec<u8>,
    before: (u32, Timestamps),
    after: Option<(u32, Timestamps)>,
}

/// Moves everything to the destination, a directory that is there already.
///
/// # Errors
/// When anything is in the way, or the system refuses; all is as it was then, but for [`ArchiveError::Unsettled`].
pub(super) fn merge(places: Places<'_>, kept: &BTreeSet<Vec<u8>>) -> Result<(), ArchiveError> {
    let mut merge = Merge { places, kept, done: Vec::new(), entered: Vec::new() };
    merge.check()?;
    merge.apply().map_err(|error| match merge.undo() {
        Ok(()) => error,
        Err(undo) => ArchiveError::Unsettled { error: Box::new(error), undo },
    })
}

/// What becomes of one entry.
enum Way {
    Move,
    Exchange,
    Enter,
}

impl Merge<'_> {
    fn check(&self) -> Result<(), ArchiveError> {
        let mut waiting = vec![Vec::new()];
        while let Some(path) = waiting.pop() {
            let (from, to) = self.open(&path)?;
            if walk::is_empty(to.as_fd()).map_err(|error| system(&path, error))? {
                continue;
            }
            for (name, kind) in walk::names(from.as_fd()).map_err(|error| system(&path, error))? {
                if let Way::Enter = self.way(&path, (to.as_fd(), &name), kind)? {
                    waiting.push(path::join(&path, name.to_bytes()));
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self) -> Result<(), ArchiveError> {
        let mut waiting = vec![Vec::new()];
        while let Some(path) = waiting.pop() {
            let (from, to) = self.open(&path)?;
            self.note(&path, from.as_fd(), to.as_fd()).map_err(|error| system(&path, error))?;
            for (name, kind) in walk::names(from.as_fd()).map_err(|error| system(&path, error))? {
                let child = path::join(&path, name.to_bytes());
                let fail = |error| system(&child, error);
                match self.way(&path, (to.as_fd(), &name), kind)? {
                    Way::Enter => waiting.push(child),
                    Way::Move => {
                        place(from.as_fd(), to.as_fd(), &name).map_err(fail)?;
                        self.done.push(Done::Moved(child));
                    }
                    Way::Exchange => {
                        exchange(from.as_fd(), to.as_fd(), &name, self.places.spare).map_err(fail)?;
                        self.done.push(Done::Exchanged(child));
                    }
                }
            }
        }
        let wanted = self.entered.iter().filter_map(|entered| Some((entered, entered.after.as_ref()?)));
        wanted.rev().try_for_each(|(entered, (mode, times))| {
            self.set(&entered.path, *mode, times).map_err(|error| system(&entered.path, error))
        })
    }

    /// Decides what becomes of an entry, by what bears its name in the destination.
    fn way(&self, path: &[u8], (to, name): (BorrowedFd<'_>, &CString), kind: FileType) -> Result<Way, ArchiveError> {
        let child = || path::join(path, name.to_bytes());
        let found = match rustix::fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => crate::entry::kind(&stat),
            Err(Errno::NOENT) => return Ok(Way::Move),
            Err(error) => return Err(system(&child(), error)),
        };
        let rule = match (kind.is_dir(), found) {
            (true, FileKind::Directory) => return Ok(Way::Enter),
            (false, FileKind::Directory) => Rule::OverDirectory,
            (false, _) => return Ok(Way::Exchange),
            (true, FileKind::Symlink) => Rule::ThroughSymlink { link: child() },
            (true, other) => Rule::NoDirectory { path: child(), found: describe(other) },
        };
        Err(ArchiveError::member(&child(), rule))
    }

    /// Remembers what a directory is like, before anything in it or in its counterpart moves.
    fn note(&mut self, path: &[u8], from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
        let (new, old) = (rustix::fs::fstat(from)?, rustix::fs::fstat(to)?);
        let is_described = !path.is_empty() && !self.kept.contains(path);
        let after = is_described.then(|| (new.st_mode & 0o7777, times(modified(&new))));
        let before = (old.st_mode & 0o7777, all_times(&old));
        self.entered.push(Entered { path: path.to_vec(), before, after });
        Ok(())
    }

    /// Takes everything back, the last step first. Goes on after a failure, and returns the first.
    fn undo(&self) -> io::Result<()> {
        let steps = self.done.iter().rev().map(|done| self.take_back(done));
        let settings = self.entered.iter().map(|entered| {
            let (mode, times) = &entered.before;
            self.set(&entered.path, *mode, times)
        });
        let failed = steps.chain(settings).filter_map(Result::err);
        failed.reduce(|first, _| first).map_or(Ok(()), |error| Err(error.into()))
    }

    fn take_back(&self, done: &Done) -> Result<(), Errno> {
        let (Done::Moved(path) | Done::Exchanged(path)) = done;
        let (directory, name) = path::split(path);
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let from = walk::open(self.places.from, directory, DIRECTORY)?;
        let to = walk::open(self.places.to, directory, DIRECTORY)?;
        match done {
            Done::Moved(_) => place(to.as_fd(), from.as_fd(), &name),
            Done::Exchanged(_) => exchange(from.as_fd(), to.as_fd(), &name, self.places.spare),
        }
    }

    fn set(&self, path: &[u8], mode: u32, times: &Timestamps) -> Result<(), Errno> {
        let directory = walk::open(self.places.to, path, DIRECTORY)?;
        if rustix::fs::fstat(&directory)?.st_mode & 0o7777 != mode {
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode))?;
        }
        rustix::fs::futimens(&directory, times)
    }

    fn open(&self, path: &[u8]) -> Result<(OwnedFd, OwnedFd), ArchiveError> {
        let from = walk::open(self.places.from, path, DIRECTORY).map_err(|error| system(path, error))?;
        let to = walk::open(self.places.to, path, DIRECTORY).map_err(|error| match error {
            Errno::XDEV => ArchiveError::member(path, Rule::OtherFileSystem),
            error => system(path, error),
        })?;
        Ok((from, to))
    }
}

fn system(path: &[u8], error: Errno) -> ArchiveError {
    ArchiveError::member(path, Rule::system("put it in place")(error))
}

/// Moves something to where nothing is.
pub(super) fn place(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    rename_new((from, name), (to, name))
}

/// As [`place`], under another name.
pub(super) fn rename_new(from: (BorrowedFd<'_>, &CStr), to: (BorrowedFd<'_>, &CStr)) -> Result<(), Errno> {
    let rename = || match rustix::fs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE) {
        // Some file systems cannot do it without a look before.
        Err(Errno::INVAL) => match rustix::fs::statat(to.0, to.1, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => rustix::fs::renameat(from.0, from.1, to.0, to.1),
            found => found.and(Err(Errno::EXIST)),
        },
        renamed => renamed,
    };
    match rename() {
        Err(Errno::ACCESS) => with_leave_to_move(from, to, rename),
        renamed => renamed,
    }
}

/// Moving a directory writes into it, which one without that permission does not let its owner do.
fn with_leave_to_move(
    from: (BorrowedFd<'_>, &CStr),
    to: (BorrowedFd<'_>, &CStr),
    rename: impl Fn() -> Result<(), Errno>,
) -> Result<(), Errno> {
    let stat = rustix::fs::statat(from.0, from.1, AtFlags::SYMLINK_NOFOLLOW)?;
    if !FileType::from_raw_mode(stat.st_mode).is_dir() || stat.st_mode & 0o200 != 0 {
        return Err(Errno::ACCESS);
    }
    let set = |(directory, name): (BorrowedFd<'_>, &CStr), mode| {
        rustix::fs::chmodat(directory, name, Mode::from_raw_mode(mode), AtFlags::empty())
    };
    set(from, 0o700)?;
    let renamed = rename();
    set(if renamed.is_ok() { to } else { from }, stat.st_mode & 0o7777).and(renamed)
}

/// Exchanges two entries of one name.
fn exchange(one: BorrowedFd<'_>, other: BorrowedFd<'_>, name: &CStr, spare: BorrowedFd<'_>) -> Result<(), Errno> {
    match rustix::fs::renameat_with(one, name, other, name, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL) => exchange_in_steps(one, other, name, spare),
        exchanged => exchanged,
    }
}

/// As [`exchange`], where the file system does not know how.
fn exchange_in_steps(
    one: BorrowedFd<'_>,
    other: BorrowedFd<'_>,
    name: &CStr,
    spare: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let aside = c"exchanged";
    rustix::fs::renameat(other, name, spare, aside)?;
    if let Err(error) = rustix::fs::renameat(one, name, other, name) {
        return rustix::fs::renameat(spare, aside, other, name).and(Err(error));
    }
    rustix::fs::renameat(spare, aside, one, name)
}

fn modified(stat: &Stat) -> Timestamp {
    Timestamp { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 }
}

fn all_times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::*;

    /// Three directories beside each other, with a file or directory at each of these paths.
    fn room(paths: &[&str]) -> (tempfile::TempDir, [OwnedFd; 3]) {
        let room = tempfile::tempdir().unwrap();
        ["from", "to", "spare"].iter().for_each(|name| fs::create_dir(room.path().join(name)).unwrap());
        for path in paths {
            let path = room.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, path.as_os_str().as_encoded_bytes()).unwrap();
        }
        let open = |name: &str| fs::File::open(room.path().join(name)).unwrap().into();
        let directories = [open("from"), open("to"), open("spare")];
        (room, directories)
    }

    fn places(directories: &[OwnedFd; 3]) -> Places<'_> {
        let [from, to, spare] = directories;
        Places { from: from.as_fd(), to: to.as_fd(), spare: spare.as_fd() }
    }

    /// Names, contents, modes and times.
    fn everything(directory: &Path) -> Vec<(String, Vec<u8>, u32, i64, i64)> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let (path, stat) = (entry.path(), entry.metadata().unwrap());
            let content = if stat.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            entries.push((path.display().to_string(), content, stat.mode(), stat.mtime(), stat.mtime_nsec()));
            if stat.is_dir() {
                entries.extend(everything(&path));
            }
        }
        entries.sort();
        entries
    }

    #[test]
    fn what_comes_in_the_way_at_the_last_moment_has_everything_taken_back() {
        let paths =
            ["from/a", "from/d/new", "from/d/old", "from/d/e/new", "from/z/x", "to/a", "to/d/old", "to/d/e/kept"];
        let (room, directories) = room(&paths);
        let kept = BTreeSet::new();
        let mut merge = Merge { places: places(&directories), kept: &kept, done: Vec::new(), entered: Vec::new() };
        merge.check().unwrap();
        fs::write(room.path().join("to/z"), "a file where a directory is to be").unwrap();
        let before = everything(&room.path().join("to"));
        let error = merge.apply().unwrap_err();
        assert!(matches!(error, ArchiveError::Member { rule: Rule::NoDirectory { .. }, .. }), "{error}");
        assert_eq!(merge.done.len(), 1, "some of it was done");
        merge.undo().unwrap();
        assert_eq!(everything(&room.path().join("to")), before);
        // And deeper down, when nearly all has been done.
        fs::remove_file(room.path().join("to/z")).unwrap();
        fs::create_dir_all(room.path().join("to/d/e/new")).unwrap();
        let before = everything(&room.path().join("to"));
        let mut merge = Merge { places: places(&directories), kept: &kept, done: Vec::new(), entered: Vec::new() };
        let error = merge.apply().unwrap_err();
        assert!(matches!(error, ArchiveError::Member { rule: Rule::OverDirectory, .. }), "{error}");
        assert_eq!(merge.done.len(), 4);
        merge.undo().unwrap();
        assert_eq!(everything(&room.path().join("to")), before);
    }

    #[test]
    fn entries_are_exchanged_where_the_file_system_does_not_know_how() {
        let (room, directories) = room(&["from/a", "to/a"]);
        let [from, to, spare] = &directories;
        exchange_in_steps(from.as_fd(), to.as_fd(), c"a", spare.as_fd()).unwrap();
        assert!(fs::read_to_string(room.path().join("to/a")).unwrap().ends_with("from/a"));
        assert!(fs::read_to_string(room.path().join("from/a")).unwrap().ends_with("to/a"));
        fs::remove_file(room.path().join("from/a")).unwrap();
        assert!(exchange_in_steps(from.as_fd(), to.as_fd(), c"a", spare.as_fd()).is_err());
        assert!(room.path().join("to/a").exists(), "put back");
        assert_eq!(fs::read_dir(room.path().join("spare")).unwrap().count(), 0);
    }
}

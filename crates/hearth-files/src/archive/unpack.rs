//! Members become files beneath the staging directory.
//!
//! A member costs few system calls: the directories on the way to it stay open, each opened in the one before it without following a
//! link, so that no path is resolved again and no member is written through what another has put there. A directory gets its mode and
//! time when the archive goes on elsewhere; one that it comes back to gets them again.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use hearth_protocol::files::FileKind;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use super::error::Rule;
use super::path;
use super::pax::Timestamp;
use super::reader::{Kind, Member, Reader};
use super::walk::{self, DIRECTORY, PLACE};
use super::{ArchiveError, ImportOptions};
use crate::entry::{describe, kind};
use crate::root::Owner;

/// How many directories on the way to the present one stay open.
const OPEN: usize = 32;
/// A directory while it is filled.
const FILLING: u32 = 0o700;
/// A directory that no member describes.
const UNDESCRIBED: u32 = 0o755;

/// The tree that members go into.
pub(super) struct Tree<'a> {
    base: BorrowedFd<'a>,
    rules: Rules<'a>,
    /// Which permissions the system takes from whatever is made here.
    withheld: u32,
    /// The directories on the way to the present one, from the base.
    levels: Vec<Level>,
    /// The path of the present one.
    path: Vec<u8>,
    /// Directories that the archive does not describe and that are in the destination: they stay as they are there.
    kept: BTreeSet<Vec<u8>>,
    /// A member's path in its one form.
    clean: Vec<u8>,
}

/// What is particular to one import.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    /// What is there already, if anything is.
    pub(super) destination: Option<BorrowedFd<'a>>,
    pub(super) owner: Option<Owner>,
    pub(super) options: ImportOptions<'a>,
}

impl<'a> Rules<'a> {
    /// The permissions that members may have.
    fn permissions(&self) -> u32 {
        if self.options.distrusted { 0o777 } else { 0o7777 }
    }

    /// Whether there may be such a member.
    fn allow(&self, clean: &[u8]) -> Result<(), Rule> {
        match self.options.only {
            Some(only) if !only.contains(clean) => Err(Rule::Unasked),
            _ => Ok(()),
        }
    }

    /// Where a hard link may lead besides what is before it in the archive.
    fn linked(&self) -> Option<BorrowedFd<'a>> {
        self.destination.filter(|_| !self.options.distrusted)
    }
}

struct Level {
    /// The length of its path.
    end: usize,
    directory: Option<OwnedFd>,
    mode: u32,
    modified: Option<Timestamp>,
}

impl<'a> Tree<'a> {
    /// Begins with an empty directory, in which nothing has been made yet.
    pub(super) fn new(base: BorrowedFd<'a>, rules: Rules<'a>) -> Result<Self, Errno> {
        let probe = c"probe";
        rustix::fs::mkdirat(base, probe, Mode::from_raw_mode(0o777))?;
        let withheld = 0o777 & !rustix::fs::statat(base, probe, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
        rustix::fs::unlinkat(base, probe, AtFlags::REMOVEDIR)?;
        let directory = Some(walk::open(base, b"", DIRECTORY)?);
        let level = Level { end: 0, directory, mode: UNDESCRIBED, modified: None };
        let (levels, path, kept, clean) = (vec![level], Vec::new(), BTreeSet::new(), Vec::new());
        Ok(Self { base, rules, withheld, levels, path, kept, clean })
    }

    /// Unpacks one member, and returns how many bytes of data it has.
    pub(super) fn add<R: Read>(&mut self, member: &Member, reader: &mut Reader<R>) -> Result<u64, ArchiveError> {
        let mut clean = std::mem::take(&mut self.clean);
        let allowed = path::clean(&member.path, &mut clean).and_then(|()| self.rules.allow(&clean));
        let result = match allowed {
            Ok(()) if member.kind == Kind::File => self.file(member, &clean, reader),
            Ok(()) => self.other(member, &clean).map(|()| 0).map_err(|rule| ArchiveError::member(&member.path, rule)),
            Err(rule) => Err(ArchiveError::member(&member.path, rule)),
        };
        self.clean = clean;
        result
    }

    /// Gives the directories that are still open their modes and times.
    ///
    /// Returns those that the archive does not describe and that must stay as they are in the destination.
    pub(super) fn finish(mut self) -> Result<BTreeSet<Vec<u8>>, ArchiveError> {
        self.leave(0).map_err(|rule| ArchiveError::member(&self.path, rule))?;
        Ok(self.kept)
    }

    fn other(&mut self, member: &Member, clean: &[u8]) -> Result<(), Rule> {
        if member.kind == Kind::Directory {
            return self.directory(member, clean);
        }
        let name = self.place(clean)?;
        let directory = self.present();
        match member.kind {
            Kind::Symlink => {
                path::check_target(&member.link)?;
                make(directory, &name, || rustix::fs::symlinkat(&*member.link, directory, &name))?;
            }
            Kind::HardLink => return self.hard_link(member, directory, &name),
            _ => {
                let mode = Mode::from_raw_mode(member.mode & 0o777 & self.rules.permissions());
                make(directory, &name, || rustix::fs::mkfifoat(directory, &name, mode))?;
            }
        }
        self.describe(member, directory, &name)
    }

    /// Gives what is not opened its owner, mode and time.
    fn describe(&self, member: &Member, directory: BorrowedFd<'_>, name: &CString) -> Result<(), Rule> {
        if let Some((uid, gid)) = self.owner() {
            let owned = rustix::fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
            owned.map_err(Rule::system("give it to its owner"))?;
        }
        let mode = member.mode & self.rules.permissions();
        if member.kind == Kind::Fifo && self.is_short_of(mode) {
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::chmodat(directory, name, mode, AtFlags::empty()).map_err(Rule::system("set its mode"))?;
        }
        let times = times(member.modified);
        let set = rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW);
        set.map_err(Rule::system("set its time"))
    }

    fn directory(&mut self, member: &Member, clean: &[u8]) -> Result<(), Rule> {
        self.enter(clean)?;
        self.kept.remove(clean);
        let level = self.levels.last_mut().expect("the base stays to the end");
        (level.mode, level.modified) = (member.mode & self.rules.permissions(), Some(member.modified));
        Ok(())
    }

    fn file<R: Read>(&mut self, member: &Member, clean: &[u8], reader: &mut Reader<R>) -> Result<u64, ArchiveError> {
        let fail = |rule| ArchiveError::member(&member.path, rule);
        let mode = member.mode & self.rules.permissions();
        let name = self.place(clean).map_err(fail)?;
        let directory = self.present();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            make(directory, &name, || rustix::fs::openat(directory, &name, flags, Mode::from_raw_mode(mode & 0o777)));
        let mut file = File::from(file.map_err(fail)?);
        let written = match &member.segments {
            None => write(&mut file, member, reader)?,
            Some(_) => write_sparse(&file, member, reader)?,
        };
        if let Some((uid, gid)) = self.owner() {
            rustix::fs::fchown(&file, uid, gid).map_err(Rule::system("give it to its owner")).map_err(fail)?;
        }
        if self.is_short_of(mode) {
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::fchmod(&file, mode).map_err(Rule::system("set its mode")).map_err(fail)?;
        }
        let set = rustix::fs::futimens(&file, &times(member.modified));
        set.map_err(Rule::system("set its time")).map_err(fail)?;
        Ok(written)
    }

    /// Links to what is before it in the archive, else to what is in the destination.
    fn hard_link(&self, member: &Member, directory: BorrowedFd<'_>, name: &CString) -> Result<(), Rule> {
        let mut target = Vec::new();
        path::clean(&member.link, &mut target).map_err(|rule| match rule {
            Rule::Absolute | Rule::Climbs => Rule::LinkOutside { target: member.link.clone() },
            Rule::Empty => Rule::LinkNowhere { target: Vec::new() },
            other => other,
        })?;
        let (parent, target_name) = path::split(&target);
        for base in [Some(self.base), self.rules.linked()].into_iter().flatten() {
            let linked = walk::open(base, parent, PLACE).and_then(|parent| {
                let target = rustix::fs::statat(&parent, target_name, AtFlags::SYMLINK_NOFOLLOW)?;
                match kind(&target) {
                    FileKind::Directory => Err(Errno::NOENT),
                    _ => Ok(make(directory, name, || {
                        rustix::fs::linkat(&parent, target_name, directory, name, AtFlags::empty())
                    })),
                }
            });
            match linked {
                Ok(made) => return made,
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(Errno::LOOP | Errno::XDEV) => return Err(Rule::LinkOutside { target: member.link.clone() }),
                Err(error) => return Err(Rule::system("find its target")(error)),
            }
        }
        Err(Rule::LinkNowhere { target: member.link.clone() })
    }

    /// Goes to the directory that a member goes into, made where it is missing, and names the member in it.
    fn place(&mut self, clean: &[u8]) -> Result<CString, Rule> {
        let (directory, name) = path::split(clean);
        if name.is_empty() {
            return Err(Rule::Destination);
        }
        let name = CString::new(name).map_err(|_| Rule::Nul)?;
        self.enter(directory).map(|()| name)
    }

    /// Goes to a directory from the present one.
    fn enter(&mut self, path: &[u8]) -> Result<(), Rule> {
        if path == self.path {
            return Ok(());
        }
        let is_on_the_way = |level: &&Level| {
            path.starts_with(&self.path[..level.end])
                && (level.end == 0 || matches!(path.get(level.end), None | Some(b'/')))
        };
        let shared = self.levels.iter().take_while(is_on_the_way).count();
        self.leave(shared)?;
        let rest = path[self.path.len()..].split(|&byte| byte == b'/');
        rest.filter(|name| !name.is_empty()).try_for_each(|name| self.descend(name))
    }

    fn descend(&mut self, name: &[u8]) -> Result<(), Rule> {
        let c_name = CString::new(name).map_err(|_| Rule::Nul)?;
        let child = path::join(&self.path, name);
        let parent = self.present();
        let (directory, mode, modified) = match rustix::fs::mkdirat(parent, &c_name, Mode::from_raw_mode(FILLING)) {
            Ok(()) => (self.new_directory(&c_name, &child)?, UNDESCRIBED, None),
            Err(Errno::EXIST) => self.old_directory(&c_name, &child)?,
            Err(error) => return Err(Rule::system("make a directory")(error)),
        };
        self.path = child;
        self.levels.push(Level { end: self.path.len(), directory: Some(directory), mode, modified });
        if let Some(far) = self.levels.len().checked_sub(OPEN) {
            self.levels[far].directory = None;
        }
        Ok(())
    }

    fn new_directory(&mut self, name: &CString, path: &[u8]) -> Result<OwnedFd, Rule> {
        let parent = self.present();
        let opened = rustix::fs::openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        let directory = opened.map_err(Rule::system("open a directory"))?;
        if let Some((uid, gid)) = self.owner() {
            rustix::fs::fchown(&directory, uid, gid).map_err(Rule::system("give it to its owner"))?;
        }
        if let Some(destination) = self.rules.destination
            && is_directory_in(destination, path)?
        {
            self.kept.insert(path.to_vec());
        }
        Ok(directory)
    }

    /// Opens a directory that an earlier member has made, with the mode and time that it has been given.
    fn old_directory(&self, name: &CString, path: &[u8]) -> Result<(OwnedFd, u32, Option<Timestamp>), Rule> {
        let parent = self.present();
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(Rule::system("look at a directory"))?;
        match kind(&stat) {
            FileKind::Directory => {}
            FileKind::Symlink => return Err(Rule::ThroughSymlink { link: path.to_vec() }),
            other => return Err(Rule::NoDirectory { path: path.to_vec(), found: describe(other) }),
        }
        let open = || rustix::fs::openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        let opened = match open() {
            Err(Errno::ACCESS) => rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty()).and_then(|()| open()),
            opened => opened,
        };
        let directory = opened.map_err(Rule::system("open a directory"))?;
        rustix::fs::fchmod(&directory, Mode::RWXU).map_err(Rule::system("open a directory"))?;
        let modified = Timestamp { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 };
        Ok((directory, stat.st_mode & 0o7777, Some(modified)))
    }

    /// Leaves all but the first levels, the deepest first.
    fn leave(&mut self, keep: usize) -> Result<(), Rule> {
        while self.levels.len() > keep {
            let level = self.levels.pop().expect("there is one more than is kept");
            let directory = match level.directory {
                Some(directory) => directory,
                None => self.open_again(level.end)?,
            };
            if level.mode != FILLING {
                let set = rustix::fs::fchmod(&directory, Mode::from_raw_mode(level.mode));
                set.map_err(Rule::system("set a directory's mode"))?;
            }
            if let Some(modified) = level.modified {
                let set = rustix::fs::futimens(&directory, &times(modified));
                set.map_err(Rule::system("set a directory's time"))?;
            }
            self.path.truncate(self.levels.last().map_or(0, |level| level.end));
        }
        if let Some(last) = self.levels.len().checked_sub(1)
            && self.levels[last].directory.is_none()
        {
            self.levels[last].directory = Some(self.open_again(self.levels[last].end)?);
        }
        Ok(())
    }

    /// The directory where members go.
    fn present(&self) -> BorrowedFd<'_> {
        let directory = self.levels.last().and_then(|level| level.directory.as_ref());
        directory.map(AsFd::as_fd).expect("the last level is open but while it is left")
    }

    fn open_again(&self, end: usize) -> Result<OwnedFd, Rule> {
        walk::open(self.base, &self.path[..end], DIRECTORY).map_err(Rule::system("open a directory"))
    }

    fn owner(&self) -> Option<(Option<Uid>, Option<Gid>)> {
        self.rules.owner.map(|Owner { uid, gid }| (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
    }

    /// Whether making something with this mode has not given it all of that.
    fn is_short_of(&self, mode: u32) -> bool {
        mode & (self.withheld | 0o7000) != 0
    }
}

/// Whether a directory is in the destination. Something else there would be in the way in the end: so it is said of the member that
/// needs it, before more is unpacked.
fn is_directory_in(destination: BorrowedFd<'_>, path: &[u8]) -> Result<bool, Rule> {
    let error = match walk::open(destination, path, PLACE) {
        Ok(_) => return Ok(true),
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::XDEV) => return Err(Rule::OtherFileSystem),
        Err(error) => error,
    };
    let (parent, name) = path::split(path);
    let found = walk::open(destination, parent, PLACE)
        .and_then(|parent| rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW));
    match found.map(|stat| kind(&stat)) {
        Ok(FileKind::Symlink) => Err(Rule::ThroughSymlink { link: path.to_vec() }),
        Ok(FileKind::Directory) | Err(_) => Err(Rule::system("look at the destination")(error)),
        Ok(other) => Err(Rule::NoDirectory { path: path.to_vec(), found: describe(other) }),
    }
}

/// Makes something. Where an earlier member of the same path is, it goes: the later one counts.
fn make<T>(directory: BorrowedFd<'_>, name: &CString, make: impl Fn() -> Result<T, Errno>) -> Result<T, Rule> {
    match make() {
        Err(Errno::EXIST) => match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => return Err(Rule::OverDirectory),
            removed => removed.and_then(|()| make()),
        },
        made => made,
    }
    .map_err(Rule::system("make it"))
}

fn write<R: Read>(file: &mut File, member: &Member, reader: &mut Reader<R>) -> Result<u64, ArchiveError> {
    let mut left = member.length;
    while left > 0 {
        let bytes = reader.data(left)?;
        left -= bytes.len() as u64;
        file.write_all(bytes)
            .map_err(Rule::system("write it"))
            .map_err(|rule| ArchiveError::member(&member.path, rule))?;
    }
    Ok(member.length)
}

/// Writes the pieces that are data, and leaves the rest a hole.
fn write_sparse<R: Read>(file: &File, member: &Member, reader: &mut Reader<R>) -> Result<u64, ArchiveError> {
    let fail = |error| ArchiveError::member(&member.path, Rule::system("write it")(error));
    // First, so that a length that the file system cannot hold is known before anything is written.
    file.set_len(member.length).map_err(fail)?;
    let mut written = 0;
    for segment in member.segments.iter().flatten() {
        let (mut at, end) = (segment.offset, segment.offset + segment.length);
        while at < end {
            let bytes = reader.data(end - at)?;
            file.write_all_at(bytes, at).map_err(fail)?;
            at += bytes.len() as u64;
        }
        written += segment.length;
    }
    Ok(written)
}

pub(super) fn times(modified: Timestamp) -> Timestamps {
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let last_modification = Timespec { tv_sec: modified.seconds, tv_nsec: i64::from(modified.nanoseconds) };
    Timestamps { last_access, last_modification }
}

//! The way back to a checkpoint.

use std::collections::HashMap;
use std::io::Write;

use hearth_protocol::files::FileKind;
use hearth_protocol::history::ResetDone;
use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::io::Errno;

use super::error::HistoryError;
use super::order::{is_beneath, split};
use super::packs::Fetching;
use super::plan::{Dress, Leftovers, Places, Plan, Ready};
use super::record::{Content, Entry, Moment, Stamp};
use super::scan::{Compared, Found, Met, Scan, compare};
use super::store::History;
use crate::copy::data;
use crate::error::FileError;
use crate::remove::Wanted;
use crate::root::{Owner, Root};

/// Makes a workspace what it was at a checkpoint: contents, permissions, owners, times, links. What was not there then goes. What has not
/// changed is not touched. What is left over, where anything is, is out of the workspace and goes when it is dropped.
///
/// # Errors
/// [`HistoryError`]; all is as it was before, but for [`HistoryError::Unsettled`].
pub fn reset(
    history: &History,
    root: &Root,
    name: &str,
    wanted: Wanted<'_>,
) -> Result<(ResetDone, Option<Leftovers>), HistoryError> {
    let mut resetting = Resetting {
        scan: Scan::beside(root, history, name)?,
        plan: Plan::new(root)?,
        fetching: Fetching::new(history).map_err(HistoryError::store("read the checkpoint"))?,
        wanted,
        done: ResetDone::default(),
        tree: None,
        first_names: HashMap::new(),
        holders: HashMap::new(),
        directories: Vec::new(),
        stamps: Vec::new(),
        restored: Vec::new(),
    };
    while let Some(met) = resetting.scan.next(wanted)? {
        resetting.meet(met)?;
    }
    let Resetting { mut plan, done, mut stamps, restored, directories, mut scan, .. } = resetting;
    stamps.append(&mut scan.unchanged);
    dress_directories(&mut plan, directories);
    let top = rustix::io::fcntl_dupfd_cloexec(plan.top(), 0);
    let top = top.map_err(|error| FileError::new("change", root.name().as_bytes(), error))?;
    let leftovers = plan.carry_out()?.move_to(&history.leftovers());
    let mut places = Places::default();
    for restored in restored {
        stamps.push((restored.place, restored.look(&mut places, &top)));
    }
    history.refresh(name, &stamps)?;
    Ok((done, leftovers))
}

/// A directory of the checkpoint.
struct Directory {
    path: Vec<u8>,
    dress: Dress,
    /// Whether it must be made, or was other than it is to be.
    is_changed: bool,
}

/// A file that is made again.
struct Restored {
    /// Of its entry.
    place: u64,
    path: Vec<u8>,
    size: u64,
    modified: Moment,
}

impl Restored {
    /// What `stat` says of it; `None` when that can no longer be what was made.
    ///
    /// A write shows in the time, which is in the past. One in this very moment that also sets back the time would not.
    fn look(&self, places: &mut Places, top: &std::os::fd::OwnedFd) -> Option<Stamp> {
        use std::os::fd::AsFd;
        let (parent, name) = places.parent(top.as_fd(), &self.path).ok()?;
        let stat = rustix::fs::statx(parent, &name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).ok()?;
        let stamp = Stamp::of(&stat);
        let is_own = FileType::from_raw_mode(stat.stx_mode.into()).is_file()
            && stamp.size == self.size
            && stamp.modified == self.modified
            && stamp.modified < Moment::tick();
        is_own.then_some(stamp)
    }
}

/// What tells a file from all others while it is there.
type Identity = (u64, u64);
/// A path, and what bears it now, if that is to stay.
type FirstName = (Vec<u8>, Option<Identity>);

struct Resetting<'a> {
    plan: Plan<'a>,
    fetching: Fetching<'a>,
    scan: Scan,
    wanted: Wanted<'a>,
    done: ResetDone,
    /// The uppermost directory that is being made again, and its number.
    tree: Option<(Vec<u8>, u64)>,
    /// The first name of each file with several.
    first_names: HashMap<u32, FirstName>,
    /// Which file of the checkpoint one with several names is to be.
    holders: HashMap<Identity, u32>,
    /// Those that are not left yet, and those of which something must be done.
    directories: Vec<Directory>,
    stamps: Vec<(u64, Option<Stamp>)>,
    restored: Vec<Restored>,
}

impl Resetting<'_> {
    fn meet(&mut self, met: Met) -> Result<(), HistoryError> {
        match met {
            Met::New(found) => {
                let path = self.scan.path().to_vec();
                self.remove(path, &found);
                Ok(())
            }
            Met::Gone(entry) => self.restore(entry),
            Met::Both(entry, found) if entry.kind != found.kind => {
                if !is_made(&entry) {
                    self.done.left_out += 1;
                    self.scan.pass();
                    return Ok(());
                }
                self.remove(entry.path.clone(), &found);
                self.restore(entry)
            }
            Met::Both(entry, found) => self.keep_or_restore(entry, &found),
        }
    }

    fn remove(&mut self, path: Vec<u8>, found: &Found) {
        if found.kind == FileKind::Directory {
            self.scan.pass();
        }
        self.touch_parent(&path);
        self.done.removed += 1;
        self.plan.removals.push(path);
    }

    fn keep_or_restore(&mut self, entry: Entry, found: &Found) -> Result<(), HistoryError> {
        let dress = dress(&entry);
        let is_dressed = entry.mode == found.mode || entry.kind == FileKind::Symlink;
        let is_owned = !rustix::process::geteuid().is_root() || (entry.uid, entry.gid) == (found.uid, found.gid);
        if entry.kind == FileKind::Directory {
            let is_changed = !(is_dressed && is_owned);
            self.done.adjusted += u64::from(is_changed);
            self.enter(Directory { path: entry.path, dress, is_changed });
            return Ok(());
        }
        let compared = compare(&mut self.scan, &mut self.fetching, &entry, found)?;
        if compared == Compared::Different {
            return self.restore(entry);
        }
        if !self.is_linked_right(&entry, found) {
            return self.restore(entry);
        }
        if is_dressed && is_owned && entry.modified == found.stamp.modified {
            if let Compared::Read(stamp) = compared
                && stamp != entry.stamp
            {
                self.stamps.push((self.scan.place(), stamp));
            }
            self.scan.take_back(entry);
            return Ok(());
        }
        self.done.adjusted += 1;
        self.note(&entry);
        self.plan.dressings.push((entry.path, dress));
        Ok(())
    }

    /// Whether a file shares its inode with those, and only those, that it is to share it with, as far as they came before.
    fn is_linked_right(&mut self, entry: &Entry, found: &Found) -> bool {
        if entry.kind != FileKind::File || (entry.link == 0 && found.links < 2) {
            return true;
        }
        let inode = found.identity();
        let own = if entry.link == 0 { u32::MAX } else { entry.link };
        match self.holders.get(&inode) {
            // A file of one name shares with nobody.
            Some(holder) => *holder == own && entry.link != 0,
            None => {
                let first = self.first_names.get(&entry.link).filter(|_| entry.link != 0);
                let is_right = first.is_none_or(|(_, there)| *there == Some(inode));
                if is_right {
                    self.holders.insert(inode, own);
                    if entry.link != 0 {
                        self.first_names.entry(entry.link).or_insert((entry.path.clone(), Some(inode)));
                    }
                }
                is_right
            }
        }
    }

    /// Makes something again.
    fn restore(&mut self, entry: Entry) -> Result<(), HistoryError> {
        if !is_made(&entry) {
            self.done.left_out += 1;
            return Ok(());
        }
        self.touch_parent(&entry.path);
        self.done.restored += 1;
        let dress = dress(&entry);
        let (spot, own) = self.spot(&entry.path);
        if entry.kind == FileKind::Directory {
            let made = self.plan.directory_at(&spot);
            made.map_err(|error| FileError::new("make", &entry.path, error))?;
            if let Some(number) = own {
                self.plan.puts.push((entry.path.clone(), Ready::Staged(number)));
                self.tree = Some((entry.path.clone(), number));
            }
            self.enter(Directory { path: entry.path, dress, is_changed: true });
            return Ok(());
        }
        self.note(&entry);
        if let Some((first, _)) = self.first_names.get(&entry.link).filter(|_| entry.link != 0) {
            self.plan.puts.push((entry.path, Ready::LinkTo(first.clone())));
            return Ok(());
        }
        self.stage(&entry, &spot, &dress)?;
        if entry.link != 0 {
            self.first_names.insert(entry.link, (entry.path.clone(), None));
        }
        self.plan.puts.extend(own.map(|number| (entry.path, Ready::Staged(number))));
        Ok(())
    }

    /// Where something is made: in the directory above it, if that is made too and comes to its place with all that is in it; else by itself,
    /// under a number.
    fn spot(&mut self, path: &[u8]) -> (Vec<u8>, Option<u64>) {
        if let Some((tree, number)) = &self.tree
            && is_beneath(path, tree)
        {
            return ([number.to_string().as_bytes(), &path[tree.len()..]].concat(), None);
        }
        let number = self.plan.number();
        (number.to_string().into_bytes(), Some(number))
    }

    fn note(&mut self, entry: &Entry) {
        if entry.kind == FileKind::File {
            let Entry { path, size, modified, .. } = entry;
            self.restored.push(Restored {
                place: self.scan.place(),
                path: path.clone(),
                size: *size,
                modified: *modified,
            });
        }
    }

    fn stage(&mut self, entry: &Entry, spot: &[u8], dress: &Dress) -> Result<(), HistoryError> {
        let fail = |error: Errno| HistoryError::from(FileError::new("make", &entry.path, error));
        match (&entry.content, entry.kind) {
            (Content::Target(target), _) => self.plan.symlink_at(spot, target).map_err(fail)?,
            (_, FileKind::Fifo) => self.plan.fifo_at(spot).map_err(fail)?,
            _ => {
                let file = self.plan.file_at(spot).map_err(fail)?;
                self.fill(entry, &file)?;
                return self.plan.dress_file(&file, dress).map_err(fail);
            }
        }
        self.plan.dress_at(spot, dress).map_err(fail)
    }

    fn fill(&mut self, entry: &Entry, mut file: &std::fs::File) -> Result<(), HistoryError> {
        if !(self.wanted)() {
            return Err(HistoryError::Cancelled);
        }
        let fetch = HistoryError::store("read what was kept");
        if let Content::Large(number) = entry.content {
            let from = self.fetching.large(number).map_err(fetch)?;
            let copied = data::copy(&from, file, entry.size, self.wanted);
            let copied = copied.map_err(|error| FileError::new("make", &entry.path, error))?;
            return copied.map(drop).ok_or(HistoryError::Cancelled);
        }
        let content = self.fetching.small(entry).map_err(fetch)?;
        file.write_all(&content).map_err(|error| FileError::new("make", &entry.path, error).into())
    }

    fn enter(&mut self, directory: Directory) {
        // What was left on the way here needs nothing, unless it has changed.
        while let Some(last) = self.directories.last()
            && !last.is_changed
            && !is_beneath(&directory.path, &last.path)
        {
            self.directories.pop();
        }
        self.directories.push(directory);
    }

    /// Notes that a directory's own time will change.
    fn touch_parent(&mut self, path: &[u8]) {
        let parent = split(path).0;
        if parent.is_empty() {
            return;
        }
        if let Some(directory) = self.directories.iter_mut().rev().find(|directory| directory.path == parent) {
            directory.is_changed = true;
        }
    }
}

/// Whether it can be made again.
fn is_made(entry: &Entry) -> bool {
    match entry.kind {
        FileKind::Socket | FileKind::Device => false,
        FileKind::File => entry.size == 0 || entry.content != Content::None,
        FileKind::Directory | FileKind::Symlink | FileKind::Fifo => true,
    }
}

fn dress(entry: &Entry) -> Dress {
    Dress {
        mode: (entry.kind != FileKind::Symlink).then_some(entry.mode),
        owner: Some(Owner { uid: entry.uid, gid: entry.gid }),
        modified: Some(entry.modified),
    }
}

/// Directories get what is theirs when all that is in them has, the innermost first.
fn dress_directories(plan: &mut Plan<'_>, directories: Vec<Directory>) {
    let changed = directories.into_iter().rev().filter(|directory| directory.is_changed);
    plan.dressings.extend(changed.map(|directory| (directory.path, directory.dress)));
}

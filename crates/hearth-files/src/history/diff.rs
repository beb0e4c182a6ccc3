//! What has changed since a checkpoint.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use hearth_protocol::files::FileKind;
use hearth_protocol::history::{Change, ChangeKind, Diffed};
use hearth_protocol::limits;
use rustix::fs::{Mode, OFlags};

use super::bodies::Body;
use super::error::HistoryError;
use super::order::is_repository;
use super::packs::Fetching;
use super::record::{Content, Entry, Stamp};
use super::render::{self, Side};
use super::scan::{Compared, Found, Met, Scan, compare};
use super::store::History;
use crate::copy::data;
use crate::remove::Wanted;
use crate::root::Root;

/// The most that is remembered of files that were touched and not changed.
const TOUCHED: usize = 1_000_000;

/// Something that is other than it was.
struct Difference {
    change: ChangeKind,
    old: Option<Entry>,
    new: Option<Found>,
}

/// Tells each change since a checkpoint, in the order of a walk.
///
/// # Errors
/// [`HistoryError`]: no such checkpoint, or what `each` fails with.
pub fn changes(
    history: &History,
    root: &Root,
    name: &str,
    wanted: Wanted<'_>,
    mut each: impl FnMut(&Change) -> io::Result<()>,
) -> Result<Diffed, HistoryError> {
    differences(history, root, name, wanted, |differing, difference| {
        each(&difference.describe(differing)).map_err(HistoryError::Transfer)?;
        Ok(difference.is_patchable(differing))
    })
}

/// Writes all changes since a checkpoint as a patch.
///
/// # Errors
/// As [`changes`].
pub fn diff(
    history: &History,
    root: &Root,
    name: &str,
    wanted: Wanted<'_>,
    out: &mut impl Write,
) -> Result<Diffed, HistoryError> {
    differences(history, root, name, wanted, |differing, difference| {
        if !difference.is_patchable(differing) {
            return Ok(false);
        }
        let path = difference.path(differing).to_vec();
        let old = difference.old.as_ref().map(|entry| differing.before(entry)).transpose()?.flatten();
        let new = difference.new.as_ref().map(|found| differing.after(found)).transpose()?.flatten();
        let mut write = |old: Option<&Side>, new: Option<&Side>| {
            render::difference(&path, old, new, out).map_err(HistoryError::Transfer)
        };
        match (old, new) {
            // It went away meanwhile, or may not be read.
            (_, None) if difference.new.is_some() => Ok(false),
            (Some(old), Some(new)) if old.mode & 0o170_000 != new.mode & 0o170_000 => {
                Ok(write(Some(&old), None)? & write(None, Some(&new))?)
            }
            (old, new) => write(old.as_ref(), new.as_ref()),
        }
    })
}

/// Goes through what differs, and remembers what was only touched. `each` tells whether a patch can carry it.
fn differences(
    history: &History,
    root: &Root,
    name: &str,
    wanted: Wanted<'_>,
    mut each: impl FnMut(&mut Differing<'_>, &Difference) -> Result<bool, HistoryError>,
) -> Result<Diffed, HistoryError> {
    let fetching = Fetching::new(history).map_err(HistoryError::store("read the checkpoint"))?;
    let mut differing = Differing { history, scan: Scan::beside(root, history, name)?, fetching, wanted };
    let (mut sums, mut touched) = (Diffed::default(), Vec::new());
    while let Some(met) = differing.scan.next(wanted)? {
        let Some(difference) = differing.look(met, &mut touched)? else { continue };
        match difference.change {
            ChangeKind::Created => sums.created += 1,
            ChangeKind::Deleted => sums.deleted += 1,
            _ => sums.modified += 1,
        }
        if !each(&mut differing, &difference)? {
            sums.left_out += 1;
        }
    }
    sums.skipped = differing.scan.skipped;
    touched.append(&mut differing.scan.unchanged);
    history.refresh(name, &touched)?;
    Ok(sums)
}

struct Differing<'a> {
    history: &'a History,
    scan: Scan,
    fetching: Fetching<'a>,
    wanted: Wanted<'a>,
}

impl Differing<'_> {
    fn look(&mut self, met: Met, touched: &mut Vec<(u64, Option<Stamp>)>) -> Result<Option<Difference>, HistoryError> {
        let is_told = |kind: FileKind| kind != FileKind::Directory;
        let difference = |change, old, new| Ok(Some(Difference { change, old, new }));
        match met {
            Met::Gone(entry) if is_told(entry.kind) => difference(ChangeKind::Deleted, Some(entry), None),
            Met::New(found) if is_told(found.kind) => difference(ChangeKind::Created, None, Some(found)),
            Met::Gone(_) | Met::New(_) => Ok(None),
            Met::Both(entry, found) if entry.kind != found.kind => match (is_told(entry.kind), is_told(found.kind)) {
                (true, true) => difference(ChangeKind::Replaced, Some(entry), Some(found)),
                (true, false) => difference(ChangeKind::Deleted, Some(entry), None),
                (false, _) => difference(ChangeKind::Created, None, Some(found)),
            },
            Met::Both(entry, _) if !is_told(entry.kind) => Ok(None),
            Met::Both(entry, found) => {
                let compared = compare(&mut self.scan, &mut self.fetching, &entry, &found)?;
                if let Compared::Read(stamp) = compared
                    && entry.stamp != stamp
                    && touched.len() < TOUCHED
                {
                    touched.push((self.scan.place(), stamp));
                }
                // The permissions of a link are nobody's.
                let is_dressed = entry.mode == found.mode || entry.kind == FileKind::Symlink;
                match compared {
                    Compared::Different => difference(ChangeKind::Modified, Some(entry), Some(found)),
                    _ if !is_dressed => difference(ChangeKind::Mode, Some(entry), Some(found)),
                    _ => {
                        self.scan.take_back(entry);
                        Ok(None)
                    }
                }
            }
        }
    }

    /// What an entry was; `None` when its content was not kept.
    fn before(&mut self, entry: &Entry) -> Result<Option<Side>, HistoryError> {
        let fail = HistoryError::store("read what was kept");
        let body = match &entry.content {
            Content::Target(target) => Body::Memory(target.clone()),
            Content::Large(number) if !Body::fits(entry.size) => {
                Body::File(self.fetching.large(*number).map_err(fail)?, entry.size)
            }
            Content::Large(number) => {
                let mut bytes = Vec::new();
                let file = self.fetching.large(*number).map_err(&fail)?;
                file.take(entry.size).read_to_end(&mut bytes).map_err(fail)?;
                Body::Memory(bytes)
            }
            Content::None if entry.size > 0 => return Ok(None),
            _ => Body::Memory(self.fetching.small(entry).map_err(fail)?),
        };
        Ok(Some(Side { mode: git_mode(entry.kind, entry.mode), body }))
    }

    /// What was found; `None` when it is gone meanwhile, or may not be read.
    fn after(&mut self, found: &Found) -> Result<Option<Side>, HistoryError> {
        let mode = git_mode(found.kind, found.mode);
        if found.kind == FileKind::Symlink {
            return Ok(self.scan.target().map(|target| Side { mode, body: Body::Memory(target) }));
        }
        let Some((file, stamp)) = self.scan.open()? else { return Ok(None) };
        let body = if Body::fits(stamp.size) {
            let mut bytes = Vec::with_capacity(stamp.size as usize);
            file.take(stamp.size).read_to_end(&mut bytes).map_err(|error| self.scan.failed(error))?;
            Body::Memory(bytes)
        } else if stamp.size > limits::PATCHED_FILE {
            Body::File(file, stamp.size)
        } else {
            self.hold(&file, stamp.size)?
        };
        Ok(Some(Side { mode, body }))
    }

    /// Keeps a large file as it is now: it is read twice, and must not change in between.
    fn hold(&self, file: &File, size: u64) -> Result<Body, HistoryError> {
        let fail = HistoryError::store("hold a large file still");
        let copy = File::from(unnamed(&self.history.large_contents()).map_err(&fail)?);
        data::copy(file, &copy, size, self.wanted).map_err(&fail)?.ok_or(HistoryError::Cancelled)?;
        let length = copy.metadata().map_err(fail)?.len();
        Ok(Body::File(copy, length))
    }
}

/// Makes a file without a name in a directory of the store.
fn unnamed(directory: &PathBuf) -> io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => Ok(file),
        // A file system that has no such files.
        Err(_) => {
            let name = directory.join(format!("held-{}", std::process::id()));
            let file = File::options().read(true).write(true).create_new(true).open(&name)?;
            std::fs::remove_file(&name)?;
            Ok(file.into())
        }
    }
}

/// The mode that git would give it, but with all its permissions.
fn git_mode(kind: FileKind, mode: u32) -> u32 {
    if kind == FileKind::Symlink { 0o120_000 } else { 0o100_000 | mode }
}

impl Difference {
    fn path<'a>(&'a self, differing: &'a Differing<'_>) -> &'a [u8] {
        self.old.as_ref().map_or_else(|| differing.scan.path(), |entry| &entry.path)
    }

    fn describe(&self, differing: &Differing<'_>) -> Change {
        let (old, new) = (self.old.as_ref(), self.new.as_ref());
        let kind = new.map(|found| found.kind).or(old.map(|entry| entry.kind)).unwrap_or(FileKind::File);
        let length = |kind: FileKind, target: Option<&Content>, size| match (kind, target) {
            (FileKind::Symlink, Some(Content::Target(target))) => target.len() as u64,
            _ => size,
        };
        Change {
            path: self.path(differing).to_vec().into(),
            change: self.change,
            kind,
            bytes_before: old.map(|entry| length(entry.kind, Some(&entry.content), entry.size)),
            bytes: new.map(|found| length(found.kind, None, found.stamp.size)),
        }
    }

    /// Whether both sides are what a patch can carry, and known. Git takes nothing of a repository's own directory.
    fn is_patchable(&self, differing: &Differing<'_>) -> bool {
        if is_repository(self.path(differing)) {
            return false;
        }
        let carried = |kind: FileKind| matches!(kind, FileKind::File | FileKind::Symlink);
        let is_kept = |entry: &Entry| entry.kind != FileKind::File || entry.size == 0 || entry.content != Content::None;
        let old = self.old.as_ref().is_none_or(|entry| carried(entry.kind) && is_kept(entry));
        let new = self.new.as_ref().is_none_or(|found| carried(found.kind));
        let fits = |size: Option<u64>| size.is_none_or(|size| size <= limits::PATCHED_FILE);
        let sizes =
            fits(self.old.as_ref().map(|entry| entry.size)) && fits(self.new.as_ref().map(|found| found.stamp.size));
        old && new && sizes
    }
}

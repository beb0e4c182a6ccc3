//! Taking a checkpoint.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;

use hearth_protocol::files::FileKind;
use hearth_protocol::history::Checkpoint;
use hearth_protocol::limits;

use super::error::HistoryError;
use super::packs::{Adding, Fetching, SMALL};
use super::record::{Content, Entry, Moment, Stamp};
use super::scan::{Compared, Found, Met, Scan, compare};
use super::store::{Header, History};
use crate::remove::Wanted;
use crate::root::Root;

/// The most files with several names whose names are remembered as one file's; names beyond become files of their own.
const LINKS: usize = 1_000_000;

/// Takes a checkpoint of a workspace, in the place of one that has the name already. Only what has changed since the last one is read.
///
/// Sockets, devices and what may not be read are noted without content.
///
/// # Errors
/// [`HistoryError`], and no checkpoint was taken: a full disk, or too many checkpoints.
pub fn take(
    history: &History,
    root: &Root,
    name: &str,
    taken_ms: u64,
    wanted: Wanted<'_>,
) -> Result<Checkpoint, HistoryError> {
    let fail = HistoryError::store("write the checkpoint");
    let names = history.names().map_err(&fail)?;
    let is_new = !names.iter().any(|there| there == name);
    if is_new && names.len() >= limits::CHECKPOINTS {
        return Err(HistoryError::TooManyCheckpoints { limit: limits::CHECKPOINTS });
    }
    let base = history.freshest().map_err(&fail)?;
    let mut taking = Taking {
        scan: base.map_or_else(|| Scan::alone(root), |base| Scan::beside(root, history, &base))?.with_mounts(),
        adding: Adding::begin(history).map_err(&fail)?,
        fetching: Fetching::new(history).map_err(&fail)?,
        links: HashMap::new(),
        wanted,
    };
    let mut header = Header { taken_ms, ..Header::default() };
    let mut draft = history.begin().map_err(&fail)?;
    while let Some(met) = taking.scan.next(wanted)? {
        let Some(entry) = taking.entry(met)? else { continue };
        draft.writer.add(&entry).map_err(&fail)?;
        header.entries += 1;
        if entry.kind == FileKind::File {
            header.files += 1;
            header.bytes += entry.size;
        }
    }
    header.skipped = taking.scan.skipped;
    taking.adding.keep().and_then(|()| history.publish(draft, &header, name)).map_err(fail)?;
    if !is_new {
        history.collect()?;
    }
    history.describe(name)
}

struct Taking<'a> {
    scan: Scan,
    adding: Adding<'a>,
    fetching: Fetching<'a>,
    /// The numbers of files with several names.
    links: HashMap<(u64, u64), u32>,
    wanted: Wanted<'a>,
}

/// A content, its length, and what `stat` says of it.
type Kept = (Content, u64, Option<Stamp>);

impl Taking<'_> {
    fn entry(&mut self, met: Met) -> Result<Option<Entry>, HistoryError> {
        let (old, found) = match met {
            Met::Gone(_) => return Ok(None),
            Met::New(found) => (None, found),
            Met::Both(entry, found) => (Some(entry).filter(|entry| entry.kind == found.kind), found),
        };
        let path = self.scan.path().to_vec();
        let (content, size, stamp) = self.content(old, &found)?;
        let Found { kind, mode, uid, gid, .. } = found;
        let link = self.link(&found);
        Ok(Some(Entry { path, kind, mode, uid, gid, size, modified: found.stamp.modified, link, content, stamp }))
    }

    fn link(&mut self, found: &Found) -> u32 {
        if found.kind != FileKind::File || found.links < 2 || self.links.len() >= LINKS {
            return 0;
        }
        let next = self.links.len() as u32 + 1;
        *self.links.entry(found.identity()).or_insert(next)
    }

    fn content(&mut self, old: Option<Entry>, found: &Found) -> Result<Kept, HistoryError> {
        match found.kind {
            FileKind::File | FileKind::Symlink => {}
            FileKind::Directory => return Ok((Content::None, 0, self.scan.stamp(found))),
            _ => return Ok((Content::None, 0, None)),
        }
        if let Some(old) = old {
            match compare(&mut self.scan, &mut self.fetching, &old, found)? {
                Compared::Same => return Ok((old.content, old.size, old.stamp)),
                Compared::Read(stamp) => return Ok((old.content, old.size, stamp)),
                Compared::Different => {}
            }
        }
        let tick = Moment::tick();
        if found.kind == FileKind::Symlink {
            let target = self.scan.target().unwrap_or_default();
            return Ok((Content::Target(target), 0, Some(found.stamp).filter(|stamp| stamp.is_settled(tick))));
        }
        match self.scan.open()? {
            Some((file, stamp)) => self.keep(&file, stamp, tick),
            None => Ok((Content::None, found.stamp.size, None)),
        }
    }

    fn keep(&mut self, file: &File, stamp: Stamp, tick: Moment) -> Result<Kept, HistoryError> {
        let (content, size) = if stamp.size <= SMALL {
            let mut bytes = Vec::with_capacity(stamp.size as usize + 1);
            // One that grows meanwhile is kept as long as it was.
            file.take(stamp.size).read_to_end(&mut bytes).map_err(|error| self.scan.failed(error))?;
            let content = self.adding.small(&bytes).map_err(HistoryError::store("keep a file's content"))?;
            (content, bytes.len() as u64)
        } else {
            let kept = self.adding.large(file, stamp.size, self.wanted);
            kept.map_err(HistoryError::store("keep a file's content"))?.ok_or(HistoryError::Cancelled)?
        };
        let stamp = Some(stamp).filter(|stamp| stamp.size == size && stamp.is_settled(tick));
        Ok((content, size, stamp))
    }
}

//! Fitting a patch to what is there. Nothing moves here: what is to be is made beside the workspace, and planned.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};

use hearth_protocol::history::Patched;
use hearth_protocol::limits;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::binary::{Binary, apply_delta};
use super::error::PatchError;
use super::parse::{Body, FilePatch};
use super::text::{self, Hunk};
use crate::error::FileError;
use crate::history::bodies::GitName;
use crate::history::order::split;
use crate::history::plan::{Dress, Places, Plan, Ready};
use crate::remove::Wanted;
use crate::root::Root;

/// The largest file that hunks of text are applied to, in bytes.
const TEXT: u64 = 64 * 1024 * 1024;
const LINK: u32 = 0o120_000;
const FILE: u32 = 0o100_000;
const KIND: u32 = 0o170_000;

/// What will be at a path.
#[derive(Debug, Clone)]
struct State {
    /// Kind and permissions.
    mode: u32,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    /// That of this path, as it is.
    There(Vec<u8>),
    /// Under this number beside the workspace.
    Staged(u64),
    Target(Vec<u8>),
}

pub(super) struct Applying<'a> {
    plan: Plan<'a>,
    places: Places,
    wanted: Wanted<'a>,
    /// What will be at each path that the patch is about; `None` for nothing.
    states: BTreeMap<Vec<u8>, Option<State>>,
    /// Where something was that goes, or moves.
    vacated: BTreeSet<Vec<u8>>,
    /// Where nothing must be, but for what goes.
    fresh: BTreeSet<Vec<u8>>,
    patched: Patched,
}

impl<'a> Applying<'a> {
    pub(super) fn new(plan: Plan<'a>, wanted: Wanted<'a>) -> Self {
        Self {
            plan,
            places: Places::default(),
            wanted,
            states: BTreeMap::new(),
            vacated: BTreeSet::new(),
            fresh: BTreeSet::new(),
            patched: Patched::default(),
        }
    }

    /// Fits what a patch says of one file.
    pub(super) fn file(&mut self, mut file: FilePatch) -> Result<(), PatchError> {
        if !(self.wanted)() {
            return Err(PatchError::History(crate::history::HistoryError::Cancelled));
        }
        self.patched.files += 1;
        if file.is_plain {
            self.settle_names(&mut file)?;
        }
        let moves = file.old.is_some() && file.new.is_some() && file.old != file.new;
        let source = match &file.old {
            None => None,
            Some(old) => {
                // A copy is of what was before all of the patch; so is what changes its place with another.
                let there = self.source(old, file.is_copy || (moves && self.fresh.contains(old)))?;
                let there = there.ok_or_else(|| PatchError::conflict(old, "there is no such file"))?;
                if file.old_mode.is_some_and(|mode| mode & KIND != there.mode & KIND) {
                    return Err(PatchError::conflict(
                        old,
                        "it is a file where the patch has a link, or the other way round",
                    ));
                }
                Some(there)
            }
        };
        let made = self.make(&file, source)?;
        if let Some(old) = file.old.as_ref().filter(|old| !file.is_copy && file.new.as_ref() != Some(old)) {
            self.vacated.insert(old.clone());
            // One that was made there meanwhile stays.
            if !(moves && self.fresh.contains(old)) {
                self.states.insert(old.clone(), None);
            }
        }
        if let (Some(new), Some(made)) = (file.new, made) {
            if file.old.is_none() || moves {
                if matches!(self.states.get(&new), Some(Some(_))) {
                    return Err(PatchError::conflict(&new, "it is there already"));
                }
                self.fresh.insert(new.clone());
            }
            self.states.insert(new, Some(made));
        }
        Ok(())
    }

    /// Finds out which of two names is meant, and whether a file begins or ends, where the patch does not say so.
    fn settle_names(&mut self, file: &mut FilePatch) -> Result<(), PatchError> {
        let (Some(old), Some(new)) = (file.old.clone(), file.new.clone()) else { return Ok(()) };
        let mut there = None;
        for name in [&new, &old] {
            if there.is_none() && self.source(name, false)?.is_some() {
                there = Some(name.clone());
            }
        }
        let begins = matches!(&file.body, Body::Text(hunks) if !hunks.iter().any(Hunk::has_before));
        match there {
            Some(name) => (file.old, file.new) = (Some(name.clone()), Some(name)),
            None if begins => file.old = None,
            None => file.old = Some(new),
        }
        Ok(())
    }

    /// What is at a path, after all that was fitted before, or (`original`) before it.
    fn source(&mut self, path: &[u8], original: bool) -> Result<Option<State>, PatchError> {
        match self.states.get(path) {
            Some(state) if !original => Ok(state.clone()),
            _ => self.look(path),
        }
    }

    fn look(&mut self, path: &[u8]) -> Result<Option<State>, PatchError> {
        let fail = |error: Errno| PatchError::from(FileError::new("patch", path, error));
        let (parent, name) = match self.places.parent(self.plan.top(), path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::LOOP) => return self.look_behind_link(path),
            found => found.map_err(fail)?,
        };
        let stat = match rustix::fs::statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat.map_err(fail)?,
        };
        let mode = stat.st_mode & (KIND | 0o7777);
        let content = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Content::There(path.to_vec()),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, &name, Vec::new()).map_err(fail)?;
                return Ok(Some(State { mode: LINK, content: Content::Target(target.into_bytes()) }));
            }
            // What is made in its place must wait for it to go.
            FileType::Directory => return Ok(None),
            _ => return Err(PatchError::conflict(path, "it is neither a file nor a link")),
        };
        Ok(Some(State { mode, content }))
    }

    /// Nothing is behind a link that goes; all that is behind another is refused.
    fn look_behind_link(&mut self, path: &[u8]) -> Result<Option<State>, PatchError> {
        let mut above = split(path).0;
        while !above.is_empty() {
            if self.vacated.contains(above) {
                return Ok(None);
            }
            above = split(above).0;
        }
        Err(PatchError::Outside { path: path.to_vec(), reason: "goes through a symbolic link" })
    }

    /// Makes what will be; `None` when nothing will.
    fn make(&mut self, file: &FilePatch, source: Option<State>) -> Result<Option<State>, PatchError> {
        let mode = self.mode(file, source.as_ref())?;
        let content = match &file.body {
            Body::None => source.map(|state| state.content),
            Body::Text(hunks) => Some(self.text(file, source, hunks, mode)?),
            Body::Binary { forward, .. } => Some(self.binary(file, source, *forward)?),
        };
        if file.new.is_none() {
            let is_rest = match (&file.body, &content) {
                (Body::None, _) | (_, None) => false,
                (_, Some(Content::Target(target))) => !target.is_empty(),
                (_, Some(Content::Staged(number))) => {
                    self.plan.reopen(*number).and_then(|file| Ok(rustix::fs::fstat(file)?.st_size > 0)).unwrap_or(true)
                }
                (_, Some(Content::There(_))) => true,
            };
            return if is_rest {
                Err(PatchError::conflict(file.name(), "it holds more than the patch removes"))
            } else {
                Ok(None)
            };
        }
        let content = match content {
            Some(content) => content,
            None if mode & KIND == LINK => return Err(PatchError::conflict(file.name(), "a link to nothing")),
            None => Content::Staged(self.staged(file.name(), |_| Ok(()))?),
        };
        Ok(Some(State { mode, content }))
    }

    /// The kind and permissions that it will have.
    fn mode(&self, file: &FilePatch, source: Option<&State>) -> Result<u32, PatchError> {
        let Some(source) = source else { return Ok(file.new_mode.unwrap_or(FILE | 0o644)) };
        let Some(new) = file.new_mode else { return Ok(source.mode) };
        if new & KIND != source.mode & KIND {
            return Err(PatchError::conflict(
                file.name(),
                "a file does not become a link, nor a link a file, in one step",
            ));
        }
        let is_gits = |mode: u32| matches!(mode & 0o7777, 0o644 | 0o755);
        // Git knows of a file only whether it may be executed.
        Ok(match file.old_mode {
            Some(old) if is_gits(old) && is_gits(new) && new & 0o111 == 0 => source.mode & !0o111,
            Some(old) if is_gits(old) && is_gits(new) => source.mode | (source.mode & 0o444) >> 2,
            _ => new,
        })
    }

    fn text(
        &mut self,
        file: &FilePatch,
        source: Option<State>,
        hunks: &[Hunk],
        mode: u32,
    ) -> Result<Content, PatchError> {
        let path = file.old.as_deref().or(file.new.as_deref()).unwrap_or_default();
        let old = match source.map(|state| state.content) {
            None => Vec::new(),
            Some(Content::Target(target)) => target,
            Some(content) => self.read(path, &content)?,
        };
        self.patched.hunks += hunks.len() as u64;
        let applied = text::apply(&old, hunks, self.wanted).map_err(|number| PatchError::Conflict {
            path: path.to_vec(),
            hunk: Some((number + 1, hunks[number].line)),
            reason: "it matches nowhere in the file".into(),
        })?;
        self.patched.moved += applied.moved;
        if mode & KIND == LINK {
            let is_target = !applied.content.contains(&0) && (file.new.is_none() || !applied.content.is_empty());
            return is_target
                .then_some(Content::Target(applied.content))
                .ok_or_else(|| PatchError::conflict(path, "that is nothing a link can say"));
        }
        Ok(Content::Staged(self.staged(path, |to| to.write_all(&applied.content))?))
    }

    fn binary(&mut self, file: &FilePatch, source: Option<State>, binary: Binary) -> Result<Content, PatchError> {
        let path = file.name().to_vec();
        let fail = |error: io::Error| PatchError::from(FileError::new("patch", &path, error));
        self.patched.hunks += 1;
        let old = source.map(|state| self.open(&path, &state.content)).transpose()?.flatten();
        let length = |file: &File| Ok::<u64, io::Error>(file.metadata()?.len());
        if let (Some((before, _)), Some(old)) = (&file.git_names, &old)
            && *before != git_name(old, length(old).map_err(fail)?).map_err(fail)?
        {
            return Err(self.binary_conflict(&path, "the file is not the one that the patch was made for"));
        }
        let unpacked = self.plan.reopen(binary.number).map_err(|error| fail(error.into()))?;
        let number = match (binary.is_delta, old) {
            (false, _) => binary.number,
            (true, None) => {
                return Err(self.binary_conflict(&path, "there is nothing that it could be a difference from"));
            }
            (true, Some(old)) => {
                let size = length(&old).map_err(fail)?;
                let mut fits = false;
                let number = self.staged(&path, |to| {
                    fits = apply_delta(&unpacked, &old, size, limits::PATCHED_FILE, to)?.is_some();
                    Ok(())
                })?;
                if !fits {
                    return Err(self.binary_conflict(&path, "it does not fit the file"));
                }
                number
            }
        };
        let made = self.plan.reopen(number).map_err(|error| fail(error.into()))?;
        if let Some((_, after)) = &file.git_names
            && file.new.is_some()
            && *after != git_name(&made, length(&made).map_err(fail)?).map_err(fail)?
        {
            return Err(self.binary_conflict(&path, "what comes of it is not what the patch announces"));
        }
        Ok(Content::Staged(number))
    }

    fn binary_conflict(&self, path: &[u8], reason: &str) -> PatchError {
        PatchError::Conflict { path: path.to_vec(), hunk: None, reason: reason.into() }
    }

    /// Opens a content; `None` for what a link says.
    fn open(&mut self, path: &[u8], content: &Content) -> Result<Option<File>, PatchError> {
        let opened = match content {
            Content::Target(_) => return Ok(None),
            Content::Staged(number) => self.plan.reopen(*number),
            Content::There(at) => self.places.parent(self.plan.top(), at).and_then(|(parent, name)| {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                rustix::fs::openat(parent, &name, flags, Mode::empty()).map(File::from)
            }),
        };
        opened.map(Some).map_err(|error| FileError::new("patch", path, error).into())
    }

    fn read(&mut self, path: &[u8], content: &Content) -> Result<Vec<u8>, PatchError> {
        let Some(file) = self.open(path, content)? else { return Ok(Vec::new()) };
        let mut bytes = Vec::new();
        let read = file.take(TEXT + 1).read_to_end(&mut bytes);
        read.map_err(|error| PatchError::from(FileError::new("patch", path, error)))?;
        if bytes.len() as u64 > TEXT {
            return Err(PatchError::TooLarge { what: String::from_utf8_lossy(path).into_owned(), limit: TEXT });
        }
        Ok(bytes)
    }

    fn staged(
        &mut self,
        path: &[u8],
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<u64, PatchError> {
        let fail = |error: io::Error| PatchError::from(FileError::new("patch", path, error));
        let (number, file) = self.plan.file().map_err(|error| fail(error.into()))?;
        let mut to = BufWriter::new(file);
        write(&mut to).and_then(|()| to.flush()).map_err(fail)?;
        Ok(number)
    }

    /// Checks what could only be known now, and plans all of it.
    pub(super) fn finish(mut self, root: &Root) -> Result<(Plan<'a>, Patched), PatchError> {
        for path in std::mem::take(&mut self.fresh) {
            if !self.vacated.contains(&path) && self.look(&path)?.is_some() {
                return Err(PatchError::conflict(&path, "it is there already"));
            }
        }
        self.plan.prunes = true;
        let mut made = BTreeSet::new();
        for (path, state) in std::mem::take(&mut self.states) {
            // What is in a directory comes behind it.
            let above = std::iter::successors(Some(split(&path).0), |above| Some(split(above).0));
            if state.is_some() && above.take_while(|above| !above.is_empty()).any(|above| made.contains(above)) {
                return Err(PatchError::conflict(
                    &path,
                    "the patch makes a file or a link where its directory would be",
                ));
            }
            if state.is_some() {
                made.insert(path.clone());
            }
            let there = self.look(&path)?;
            match (state, there) {
                (None, None) => {}
                (None, Some(_)) => self.plan.removals.push(path),
                (Some(state), there) => self.put(root, path, state, there)?,
            }
        }
        Ok((self.plan, self.patched))
    }

    fn put(&mut self, root: &Root, path: Vec<u8>, state: State, there: Option<State>) -> Result<(), PatchError> {
        let is_link = state.mode & KIND == LINK;
        let owner = self.owner(&path).or(root.owner());
        let dress = Dress { mode: (!is_link).then_some(state.mode & 0o7777), owner, modified: None };
        let fail = |error: Errno| PatchError::from(FileError::new("patch", &path, error));
        let number = match state.content {
            Content::There(at) if at == path => {
                if there.is_some_and(|there| there.mode != state.mode) {
                    self.plan.dressings.push((path, dress));
                }
                return Ok(());
            }
            Content::There(at) => {
                // Moved or copied without a change: its content is that of before the patch, so it is read now.
                let from = self.open(&at, &Content::There(at.clone()))?;
                self.staged(&path, |to| from.map_or(Ok(()), |mut from| io::copy(&mut from, to).map(drop)))?
            }
            // One content may have been given to two paths.
            Content::Staged(number) => number,
            Content::Target(target) => self.plan.symlink(&target).map_err(fail)?,
        };
        self.plan.dress(number, &dress).map_err(fail)?;
        self.plan.puts.push((path, Ready::Staged(number)));
        Ok(())
    }

    /// Whom what is at a path belongs to.
    fn owner(&mut self, path: &[u8]) -> Option<crate::root::Owner> {
        let (parent, name) = self.places.parent(self.plan.top(), path).ok()?;
        let stat = rustix::fs::statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let is_file = !FileType::from_raw_mode(stat.st_mode).is_dir();
        is_file.then_some(crate::root::Owner { uid: stat.st_uid, gid: stat.st_gid })
    }
}

fn git_name(mut file: &File, length: u64) -> io::Result<String> {
    file.rewind()?;
    let mut hasher = GitName::new(length);
    io::copy(&mut file, &mut hasher)?;
    Ok(hasher.finish())
}

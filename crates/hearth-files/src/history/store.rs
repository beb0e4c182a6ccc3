//! Where checkpoints and contents are kept: a directory of the agent's own, which nobody else may enter.
//!
//! ```text
//! checkpoints/NAME     a header and the entries ([`record`](super::record))
//! packs/N              small contents, one behind the other, of the N-th that was taken
//! leftovers            what a reset has moved out of the workspace, until it is removed
//! large/NUMBER         one large content: a clone of the file where the file system can, else a copy with its holes
//! ```
//!
//! A checkpoint is there from the rename on that gives it its name; what a killed agent wrote for one that never got a name is removed with
//! the next. Nothing is flushed to disk on purpose: a guest is saved with what its memory holds, or writes all back when it ends in order; one that was ended may
//! have lost the latest.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use hearth_protocol::history::Checkpoint;
use rustix::fs::FallocateFlags;

use super::error::HistoryError;
use super::record::{Content, Entry, FIXED, Reader, Stamp, Writer, damaged, restamp};
use crate::archive::staging;

/// What a list of entries begins with: the format's name and version.
const MAGIC: &[u8; 8] = b"hearth\0\x01";
/// The length of a list's header in bytes.
const HEADER: usize = 48;
/// What is gathered before it is written, in bytes.
const BUFFER: usize = 256 * 1024;
/// The least that is worth giving back to the file system, in bytes.
const BLOCK: u64 = 4096;
/// What a list is called that is not whole yet.
const UNFINISHED: &str = ".unfinished-";

/// The history of one workspace.
#[derive(Debug)]
pub struct History {
    place: PathBuf,
}

/// What a list of entries says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Header {
    pub(super) taken_ms: u64,
    pub(super) entries: u64,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) skipped: u64,
}

impl Header {
    fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        let fields = [self.taken_ms, self.entries, self.files, self.bytes, self.skipped];
        for (place, field) in bytes[8..].chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; HEADER]) -> io::Result<Self> {
        let field = |number: usize| {
            let at = 8 + number * 8;
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
        };
        let header =
            Self { taken_ms: field(0), entries: field(1), files: field(2), bytes: field(3), skipped: field(4) };
        if bytes[..8] == *MAGIC { Ok(header) } else { Err(damaged()) }
    }

    fn describe(&self, name: &str) -> Checkpoint {
        let Self { taken_ms, files, bytes, skipped, .. } = *self;
        Checkpoint { name: name.to_owned(), taken_ms, files, bytes, skipped }
    }
}

/// The entries of a checkpoint, as they are read.
pub(super) type Entries = Reader<BufReader<File>>;

impl History {
    /// Opens the history kept at `place`, which is made where it is missing. Nothing but history may be there.
    ///
    /// # Errors
    /// [`HistoryError::Store`].
    pub fn open(place: &Path) -> Result<Self, HistoryError> {
        let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        for name in ["checkpoints", "packs", "large", "leftovers"] {
            make(&place.join(name)).map_err(HistoryError::store("make the place for history"))?;
        }
        Ok(Self { place: place.to_owned() })
    }

    pub(super) fn pack(&self, number: u32) -> PathBuf {
        self.place.join("packs").join(number.to_string())
    }

    pub(super) fn large(&self, number: u64) -> PathBuf {
        self.place.join("large").join(number.to_string())
    }

    /// Where what a reset has replaced is until it is removed.
    pub(super) fn leftovers(&self) -> PathBuf {
        self.place.join("leftovers")
    }

    /// Where large contents are.
    pub(super) fn large_contents(&self) -> PathBuf {
        self.place.join("large")
    }

    fn checkpoint(&self, name: &str) -> PathBuf {
        self.place.join("checkpoints").join(name)
    }

    /// The names of all checkpoints.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(self.place.join("checkpoints"))?.map(|entry| Ok(entry?.file_name()));
        let names: Vec<_> = names.collect::<io::Result<_>>()?;
        let names = names.into_iter().filter_map(|name| name.into_string().ok());
        Ok(names.filter(|name| !name.starts_with(UNFINISHED)).collect())
    }

    /// The checkpoint that `stat` was asked for most recently: in which most files need not be read.
    pub(super) fn freshest(&self) -> io::Result<Option<String>> {
        let age = |name: &String| fs::metadata(self.checkpoint(name)).and_then(|metadata| metadata.modified()).ok();
        Ok(self.names()?.into_iter().max_by_key(age))
    }

    /// A number that no content has yet.
    pub(super) fn next_number(&self) -> io::Result<u32> {
        let mut next = 0;
        for directory in ["packs", "large"] {
            for entry in fs::read_dir(self.place.join(directory))? {
                let number = entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()).unwrap_or(0);
                let number = if directory == "large" { number >> 32 } else { number };
                next = next.max(number as u32 + 1);
            }
        }
        Ok(next)
    }

    /// Opens the entries of a checkpoint.
    pub(super) fn entries(&self, name: &str) -> Result<(Header, Entries), HistoryError> {
        let fail = HistoryError::store("read the checkpoint");
        let file = match File::open(self.checkpoint(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(HistoryError::UnknownCheckpoint { name: name.to_owned() });
            }
            opened => opened.map_err(&fail)?,
        };
        let mut file = BufReader::with_capacity(BUFFER, file);
        let mut header = [0; HEADER];
        file.read_exact(&mut header).map_err(&fail)?;
        let header = Header::decode(&header).map_err(&fail)?;
        Ok((header, Reader::new(file, header.entries, HEADER as u64)))
    }

    /// Begins a list of entries.
    pub(super) fn begin(&self) -> io::Result<Draft> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{UNFINISHED}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = self.checkpoint(&name);
        let mut file = BufWriter::with_capacity(BUFFER, File::create(&path)?);
        let path = Unfinished(Some(path));
        file.write_all(&[0; HEADER])?;
        Ok(Draft { writer: Writer::new(file), path })
    }

    /// Gives a list its name.
    pub(super) fn publish(&self, draft: Draft, header: &Header, name: &str) -> io::Result<()> {
        let Draft { writer, mut path } = draft;
        let mut file = writer.into_inner().into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header.encode())?;
        let unfinished = path.0.as_deref().expect("it is given its name once");
        fs::rename(unfinished, self.checkpoint(name))?;
        path.0 = None;
        Ok(())
    }

    /// Tells a checkpoint what `stat` says of some of its entries now, by where they are. Whoever reads it meanwhile sees the one or the
    /// other, or a mixture that is like nothing `stat` says, and reads the file instead.
    pub(super) fn refresh(&self, name: &str, news: &[(u64, Option<Stamp>)]) -> Result<(), HistoryError> {
        let write = || -> io::Result<()> {
            let file = File::options().read(true).write(true).open(self.checkpoint(name))?;
            news.iter().try_for_each(|(place, stamp)| {
                let mut fixed = [0; FIXED];
                file.read_exact_at(&mut fixed, *place)?;
                restamp(&mut fixed, *stamp);
                file.write_all_at(&fixed, *place)
            })
        };
        if news.is_empty() { Ok(()) } else { write().map_err(HistoryError::store("write the checkpoint")) }
    }

    /// Describes one checkpoint.
    ///
    /// # Errors
    /// [`HistoryError::UnknownCheckpoint`].
    pub fn describe(&self, name: &str) -> Result<Checkpoint, HistoryError> {
        self.entries(name).map(|(header, _)| header.describe(name))
    }

    /// Describes all checkpoints, the oldest first.
    ///
    /// # Errors
    /// [`HistoryError::Store`].
    pub fn list(&self) -> Result<Vec<Checkpoint>, HistoryError> {
        let names = self.names().map_err(HistoryError::store("list the checkpoints"))?;
        let mut all: Vec<_> = names.iter().map(|name| self.describe(name)).collect::<Result<_, _>>()?;
        all.sort_by(|one, other| (one.taken_ms, &one.name).cmp(&(other.taken_ms, &other.name)));
        Ok(all)
    }

    /// Removes a checkpoint, and what no other one needs.
    ///
    /// # Errors
    /// [`HistoryError::UnknownCheckpoint`].
    pub fn remove(&self, name: &str) -> Result<(), HistoryError> {
        match fs::remove_file(self.checkpoint(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(HistoryError::UnknownCheckpoint { name: name.to_owned() });
            }
            removed => removed.map_err(HistoryError::store("remove the checkpoint"))?,
        }
        self.collect()
    }

    /// Gives back the room of contents that no checkpoint needs: whole files, and holes in packs, so that nothing has to move.
    pub(super) fn collect(&self) -> Result<(), HistoryError> {
        let fail = HistoryError::store("clear up the history");
        let mut needed = Needed::default();
        for name in self.names().map_err(&fail)? {
            let (_, mut entries) = self.entries(&name)?;
            while let Some(entry) = entries.next().map_err(&fail)? {
                needed.add(&entry);
            }
            needed.tidy();
        }
        self.sweep(&needed).map_err(fail)
    }

    fn sweep(&self, needed: &Needed) -> io::Result<()> {
        staging::sweep(File::open(self.leftovers())?.as_fd());
        for entry in fs::read_dir(self.place.join("large"))? {
            let entry = entry?;
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if number.is_none_or(|number| !needed.large.contains(&number)) {
                fs::remove_file(entry.path())?;
            }
        }
        for entry in fs::read_dir(self.place.join("packs"))? {
            let entry = entry?;
            let number = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            match number.and_then(|number| needed.packed.get(&number)) {
                None => fs::remove_file(entry.path())?,
                Some(ranges) => punch(&entry.path(), ranges)?,
            }
        }
        let of_dead = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.starts_with(UNFINISHED));
        for entry in fs::read_dir(self.place.join("checkpoints"))?.flatten() {
            if of_dead(&entry.file_name()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// What some checkpoint needs.
#[derive(Default)]
struct Needed {
    packed: HashMap<u32, Vec<(u64, u64)>>,
    large: BTreeSet<u64>,
}

impl Needed {
    fn add(&mut self, entry: &Entry) {
        match &entry.content {
            Content::Packed(place) => {
                self.packed.entry(place.pack).or_default().push((place.offset, place.offset + place.stored));
            }
            Content::Large(number) => drop(self.large.insert(*number)),
            Content::None | Content::Target(_) => {}
        }
    }

    /// Checkpoints share most of their contents.
    fn tidy(&mut self) {
        for ranges in self.packed.values_mut() {
            ranges.sort_unstable();
            ranges.dedup();
        }
    }
}

/// Makes holes between what is needed of a file. A file system that cannot keeps it whole.
fn punch(path: &Path, needed: &[(u64, u64)]) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let length = file.metadata()?.len();
    let mut from = 0;
    for (start, end) in needed.iter().copied().chain([(length, length)]) {
        if start.saturating_sub(from) >= BLOCK {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = rustix::fs::fallocate(&file, flags, from, start - from);
        }
        from = from.max(end);
    }
    Ok(())
}

/// A list of entries that has no name yet; gone when it is dropped.
pub(super) struct Draft {
    pub(super) writer: Writer<BufWriter<File>>,
    path: Unfinished,
}

struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

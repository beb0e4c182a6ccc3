//! Contents, into the store and out of it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use zstd::bulk::{Compressor, Decompressor};

use super::record::{Content, Entry, Packed, damaged};
use super::store::History;
use crate::copy::data;
use crate::remove::Wanted;

/// The largest content that is kept in a pack, and held in memory on its way, in bytes.
pub(super) const SMALL: u64 = 512 * 1024;
/// How hard small contents are compressed: as fast as it goes.
const LEVEL: i32 = 1;
/// What is compared of large contents at a time, in bytes.
const PIECE: usize = 256 * 1024;

/// What is added to the store for one checkpoint; gone when it is dropped before [`Adding::keep`].
pub(super) struct Adding<'a> {
    history: &'a History,
    number: u32,
    pack: Option<BufWriter<File>>,
    length: u64,
    large: Vec<PathBuf>,
    compressor: Compressor<'static>,
    kept: bool,
}

impl<'a> Adding<'a> {
    pub(super) fn begin(history: &'a History) -> io::Result<Self> {
        let (number, compressor) = (history.next_number()?, Compressor::new(LEVEL)?);
        Ok(Self { history, number, pack: None, length: 0, large: Vec::new(), compressor, kept: false })
    }

    /// Adds a content to the pack.
    pub(super) fn small(&mut self, content: &[u8]) -> io::Result<Content> {
        if content.is_empty() {
            return Ok(Content::None);
        }
        let smaller = self.compressor.compress(content)?;
        let compressed = smaller.len() < content.len();
        let stored = if compressed { &smaller } else { content };
        let pack = match &mut self.pack {
            Some(pack) => pack,
            None => {
                let file = File::create_new(self.history.pack(self.number))?;
                self.pack.insert(BufWriter::with_capacity(1 << 18, file))
            }
        };
        pack.write_all(stored)?;
        let place = Packed { pack: self.number, offset: self.length, stored: stored.len() as u64, compressed };
        self.length += place.stored;
        Ok(Content::Packed(place))
    }

    /// Adds a content as a file of its own, and tells its length; `None` when it was given up.
    pub(super) fn large(&mut self, from: &File, size: u64, wanted: Wanted<'_>) -> io::Result<Option<(Content, u64)>> {
        let number = u64::from(self.number) << 32 | self.large.len() as u64;
        let path = self.history.large(number);
        let to = File::create_new(&path)?;
        self.large.push(path);
        let copied = data::copy(from, &to, size, wanted)?;
        let length = to.metadata()?.len();
        Ok(copied.map(|_| (Content::Large(number), length)))
    }

    /// Makes everything that was added stay.
    pub(super) fn keep(mut self) -> io::Result<()> {
        if let Some(pack) = &mut self.pack {
            pack.flush()?;
        }
        self.kept = true;
        Ok(())
    }
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        if !self.kept {
            if self.pack.is_some() {
                let _ = fs::remove_file(self.history.pack(self.number));
            }
            self.large.iter().for_each(|path| drop(fs::remove_file(path)));
        }
    }
}

/// What reads contents: mostly of one pack, one behind the other.
pub(super) struct Fetching<'a> {
    history: &'a History,
    pack: Option<(u32, File)>,
    stored: Vec<u8>,
    decompressor: Decompressor<'static>,
}

impl<'a> Fetching<'a> {
    pub(super) fn new(history: &'a History) -> io::Result<Self> {
        Ok(Self { history, pack: None, stored: Vec::new(), decompressor: Decompressor::new()? })
    }

    /// Reads a content that is in a pack, or is none.
    pub(super) fn small(&mut self, entry: &Entry) -> io::Result<Vec<u8>> {
        let Content::Packed(place) = entry.content else { return Ok(Vec::new()) };
        if entry.size > SMALL || place.stored > SMALL {
            return Err(damaged());
        }
        let history = self.history;
        let file = match &mut self.pack {
            Some((number, file)) if *number == place.pack => file,
            other => &mut other.insert((place.pack, File::open(history.pack(place.pack))?)).1,
        };
        self.stored.resize(place.stored as usize, 0);
        file.read_exact_at(&mut self.stored, place.offset)?;
        let content = match place.compressed {
            true => self.decompressor.decompress(&self.stored, entry.size as usize)?,
            false => self.stored.clone(),
        };
        if content.len() as u64 == entry.size { Ok(content) } else { Err(damaged()) }
    }

    /// Opens a content that is a file of its own.
    pub(super) fn large(&self, number: u64) -> io::Result<File> {
        File::open(self.history.large(number))
    }

    /// Whether a file has the content of an entry, which has its length.
    pub(super) fn is_same(&mut self, entry: &Entry, file: &File) -> io::Result<bool> {
        match entry.content {
            Content::Large(number) => is_same_file(&self.large(number)?, file),
            _ => {
                let content = self.small(entry)?;
                let mut there = Vec::with_capacity(content.len() + 1);
                file.take(entry.size + 1).read_to_end(&mut there)?;
                Ok(there == content)
            }
        }
    }
}

/// Compares two files, and passes over what is a hole in both.
fn is_same_file(one: &File, other: &File) -> io::Result<bool> {
    let (mut first, mut second) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    loop {
        let count = fill(one, at, &mut first)?;
        if count != fill(other, at, &mut second)? || first[..count] != second[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
        at += count as u64;
        if first[..count].iter().all(|&byte| byte == 0) {
            at = next_data(one, at)?.min(next_data(other, at)?).max(at);
        }
    }
}

/// Where data is next, or the file ends.
fn next_data(file: &File, at: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(data),
        Err(Errno::NXIO) => Ok(file.metadata()?.len()),
        // A file system that knows no holes.
        Err(_) => Ok(at),
    }
}

/// Reads as much as fits, or there is.
fn fill(from: &File, at: u64, place: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < place.len() {
        match from.read_at(&mut place[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

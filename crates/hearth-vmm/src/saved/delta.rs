//! What a guest has changed of the memory it was restored from, and pages of memory on disk.
//!
//! A file of pages, be they a guest's changes or a template's whole memory: the magic bytes, the number of runs, each run as two little-endian 64-bit numbers (first page, pages), then the pages
//! themselves in the same order. Its digest is kept by whoever keeps the file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::{PAGE, RamError, SealedRam, ram};
use crate::MemoryMib;

const MAGIC: &[u8; 8] = b"HRTHPGS1";
/// How much is read or written at once, in bytes.
const PIECE: usize = 1 << 20;
/// The most threads that place what is read.
const HANDS: usize = 4;

/// Neighbouring pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The number of the first.
    pub first: u64,
    /// How many there are.
    pub pages: u64,
}

/// Pages of memory with their places.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Delta {
    runs: Vec<Run>,
    content: Vec<u8>,
}

/// Why pages cannot be read, or not be put where they belong.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// It cannot be read, or ends too early.
    #[error("cannot read saved memory")]
    Read {
        /// Why.
        source: io::Error,
    },
    /// It begins with something else.
    #[error("this is not a file of saved memory")]
    Magic,
    /// It names pages twice, out of order, or outside of the memory.
    #[error("run {number} of saved memory is out of place")]
    Run {
        /// Which.
        number: u64,
    },
    /// It goes on behind its end.
    #[error("there is something behind the end of saved memory")]
    Trailing,
    /// It cannot be written to where it belongs.
    #[error("cannot write memory")]
    Write {
        /// Why.
        source: io::Error,
    },
    /// There is no room for it.
    #[error(transparent)]
    Ram(#[from] RamError),
}

impl Delta {
    /// Makes one of runs in order and the content of their pages.
    pub(crate) fn new(runs: Vec<Run>, content: Vec<u8>) -> Self {
        debug_assert_eq!(runs.iter().map(|run| run.pages).sum::<u64>() * PAGE, content.len() as u64);
        Self { runs, content }
    }

    /// Takes all pages of a file of memory that are not zero.
    pub(crate) fn of_memory(file: &File) -> io::Result<Self> {
        let mut runs = Vec::new();
        let mut content = Vec::with_capacity(ram::resident(file)? as usize);
        ram::for_each_piece(file, PIECE, |at, bytes| {
            for (page, bytes) in pages_not_zero(at, bytes) {
                Run::add(&mut runs, page);
                content.extend_from_slice(bytes);
            }
            Ok(())
        })?;
        Ok(Self::new(runs, content))
    }

    /// Its runs, in order.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The content of all pages, in order.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// Writes it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        write_head(&self.runs, out)?;
        out.write_all(&self.content)
    }
}

/// Those pages of a piece of memory at a place that are not zero, with their numbers.
fn pages_not_zero(at: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    (at / PAGE..).zip(bytes.chunks(PAGE as usize)).filter(|(_, page)| page.iter().any(|byte| *byte != 0))
}

impl SealedRam {
    /// Makes memory of its own of this with a guest's changes.
    ///
    /// # Errors
    /// [`DeltaError::Write`], [`DeltaError::Ram`].
    pub fn with(&self, delta: &Delta) -> Result<Self, DeltaError> {
        let failed = |source| DeltaError::Write { source };
        let size = (self.size() >> 20) as u32;
        let memory = MemoryMib::new(size).map_err(|error| failed(io::Error::other(error)))?;
        let ram = Self::unsealed(memory)?;
        self.for_each_piece(PIECE, |at, bytes| ram.write(at, bytes)).map_err(failed)?;
        each_place(&delta.runs, |at, part| ram.write(at, &delta.content[part])).map_err(failed)?;
        Ok(ram.seal()?)
    }

    /// Writes it as what it has of its own: all pages that are not zero.
    ///
    /// # Errors
    /// Those of `out`, and of reading it.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut runs = Vec::new();
        self.for_each_piece(PIECE, |at, bytes| {
            pages_not_zero(at, bytes).for_each(|(page, _)| Run::add(&mut runs, page));
            Ok(())
        })?;
        write_head(&runs, out)?;
        let (mut buffer, mut begun, mut runs) = (vec![0; PIECE], None, runs.into_iter());
        loop {
            let batch = take_batch(&mut begun, &mut runs);
            let bytes = &mut buffer[..length(&batch) as usize];
            if batch.is_empty() {
                return Ok(());
            }
            each_place(&batch, |at, part| self.read(at, &mut bytes[part]))?;
            out.write_all(bytes)?;
        }
    }

    /// Reads the memory of a machine that [`Self::write_to`] has written.
    ///
    /// # Errors
    /// [`DeltaError`].
    pub fn read_from(input: impl Read + Send, memory: MemoryMib) -> Result<Self, DeltaError> {
        let ram = Self::unsealed(memory)?;
        read_pages(input, memory.bytes(), |batch, bytes| each_place(batch, |at, part| ram.write(at, &bytes[part])))?;
        Ok(ram.seal()?)
    }
}

impl SealedRam {
    /// Whether it is, byte for byte, what [`Self::write_to`] has written.
    ///
    /// # Errors
    /// Those of reading either.
    pub fn is_as_written(&self, input: &mut impl Read) -> io::Result<bool> {
        let mut same = Same { input, buffer: Vec::new(), differs: false };
        match self.write_to(&mut same) {
            Err(_) if same.differs => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Ok(input.read(&mut [0])? == 0),
        }
    }
}

/// Compares what is written with what can be read, and takes no more once they differ.
struct Same<'a, R> {
    input: &'a mut R,
    buffer: Vec<u8>,
    differs: bool,
}

impl<R: Read> Write for Same<'_, R> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.resize(bytes.len(), 0);
        match self.input.read_exact(&mut self.buffer) {
            Ok(()) if self.buffer == bytes => return Ok(bytes.len()),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
        self.differs = true;
        Err(io::Error::other("it differs"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Run {
    /// Adds a page behind all others.
    pub(super) fn add(runs: &mut Vec<Self>, page: u64) {
        match runs.last_mut() {
            Some(run) if run.first + run.pages == page => run.pages += 1,
            _ => runs.push(Self { first: page, pages: 1 }),
        }
    }
}

/// Reads what [`Delta::write_to`] or [`SealedRam::write_to`] has written for a memory of `size` bytes, to the end of `input`: hands on some runs
/// at a time with their content, at most a MiB, in any order and several at once, and never more than the memory has, whatever the file says.
///
/// # Errors
/// [`DeltaError`]; what `each` fails with is a [`DeltaError::Write`].
pub fn read_pages(
    input: impl Read + Send,
    size: u64,
    each: impl Fn(&[Run], &[u8]) -> io::Result<()> + Sync,
) -> Result<(), DeltaError> {
    let reader = Mutex::new(PageReader::new(input, size)?);
    let work = || {
        let mut buffer = Vec::new();
        loop {
            let next = reader.lock().unwrap_or_else(PoisonError::into_inner).next(&mut buffer)?;
            let Some(runs) = next else { return Ok(()) };
            if let Err(source) = each(&runs, &buffer) {
                reader.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
                return Err(DeltaError::Write { source });
            }
        }
    };
    // Placing pages takes longer than reading and summing them up, which one does at a time.
    let hands = thread::available_parallelism().map_or(1, usize::from).min(HANDS);
    thread::scope(|scope| {
        // Where there can be no more threads, this one does all.
        let others = (1..hands).map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok());
        let others: Vec<_> = others.collect();
        let own = work();
        let ended = others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ended.fold(own, Result::and)
    })
}

/// Reads pages some at a time.
struct PageReader<R> {
    input: R,
    runs: std::vec::IntoIter<Run>,
    /// What is left of a run that was begun.
    begun: Option<Run>,
    ended: bool,
}

impl<R: Read> PageReader<R> {
    fn new(mut input: R, size: u64) -> Result<Self, DeltaError> {
        let runs = read_head(&mut input, size)?.into_iter();
        Ok(Self { input, runs, begun: None, ended: false })
    }

    /// Takes the next runs, and fills `buffer` with their content; `None` at the end, and behind an error.
    fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Vec<Run>>, DeltaError> {
        if self.ended {
            return Ok(None);
        }
        let batch = take_batch(&mut self.begun, &mut self.runs);
        self.ended = true;
        if batch.is_empty() {
            return expect_end(&mut self.input).map(|()| None);
        }
        buffer.resize(length(&batch) as usize, 0);
        self.input.read_exact(buffer).map_err(|source| DeltaError::Read { source })?;
        self.ended = false;
        Ok(Some(batch))
    }
}

/// The bytes of all pages.
fn length(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.pages).sum::<u64>() * PAGE
}

/// Takes as many runs as have [`PIECE`] bytes together, the last one cut where need be; its rest has `begun`.
fn take_batch(begun: &mut Option<Run>, runs: &mut impl Iterator<Item = Run>) -> Vec<Run> {
    let (mut batch, mut room) = (Vec::new(), PIECE as u64 / PAGE);
    while room > 0
        && let Some(run) = begun.take().or_else(|| runs.next())
    {
        let pages = run.pages.min(room);
        batch.push(Run { pages, ..run });
        room -= pages;
        *begun = (pages < run.pages).then(|| Run { first: run.first + pages, pages: run.pages - pages });
    }
    batch
}

/// Calls `each` with the place of every run, and where its bytes are among those of all.
fn each_place(runs: &[Run], mut each: impl FnMut(u64, Range<usize>) -> io::Result<()>) -> io::Result<()> {
    let mut begin = 0;
    runs.iter().try_for_each(|run| {
        let end = begin + (run.pages * PAGE) as usize;
        each(run.first * PAGE, std::mem::replace(&mut begin, end)..end)
    })
}

fn write_head(runs: &[Run], out: &mut impl Write) -> io::Result<()> {
    let mut head = Vec::with_capacity(16 + runs.len() * 16);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&(runs.len() as u64).to_le_bytes());
    for run in runs {
        head.extend_from_slice(&run.first.to_le_bytes());
        head.extend_from_slice(&run.pages.to_le_bytes());
    }
    out.write_all(&head)
}

/// Each run takes a page at least and lies behind the one before it, so their number is bounded by the memory's size.
fn read_head(input: &mut impl Read, size: u64) -> Result<Vec<Run>, DeltaError> {
    let failed = |source| DeltaError::Read { source };
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic).map_err(failed)?;
    if &magic != MAGIC {
        return Err(DeltaError::Magic);
    }
    let count = read_number(input).map_err(failed)?;
    let (mut runs, mut end) = (Vec::new(), 0);
    for number in 0..count {
        let run = Run { first: read_number(input).map_err(failed)?, pages: read_number(input).map_err(failed)? };
        let after = run.first.checked_add(run.pages).filter(|after| *after <= size / PAGE);
        let Some(after) = after.filter(|_| run.first >= end && run.pages > 0) else {
            return Err(DeltaError::Run { number });
        };
        end = after;
        runs.push(run);
    }
    Ok(runs)
}

fn expect_end(input: &mut impl Read) -> Result<(), DeltaError> {
    match input.read(&mut [0]).map_err(|source| DeltaError::Read { source })? {
        0 => Ok(()),
        _ => Err(DeltaError::Trailing),
    }
}

fn read_number(input: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 100 * PAGE;

    struct Unsure;

    impl Read for Unsure {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    fn delta() -> Delta {
        let runs = vec![Run { first: 2, pages: 1 }, Run { first: 50, pages: 2 }];
        Delta::new(runs, (0..3 * PAGE).map(|byte| byte as u8).collect())
    }

    fn read(mut bytes: &[u8], size: u64) -> Result<Delta, DeltaError> {
        let mut reader = PageReader::new(&mut bytes, size)?;
        let (mut runs, mut content, mut buffer) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(batch) = reader.next(&mut buffer)? {
            runs.extend(batch);
            content.extend_from_slice(&buffer);
        }
        Ok(Delta::new(runs, content))
    }

    fn bytes(delta: &Delta) -> Vec<u8> {
        let mut bytes = Vec::new();
        delta.write_to(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_delta_survives_its_file() {
        assert_eq!(read(&bytes(&delta()), SIZE).unwrap(), delta());
    }

    #[test]
    fn a_delta_cut_short_or_with_more_behind_it_is_refused() {
        let whole = bytes(&delta());
        for end in [0, 7, 15, 20, 48, whole.len() - 1] {
            assert!(matches!(read(&whole[..end], SIZE), Err(DeltaError::Read { .. })), "{end}");
        }
        let more = [&whole[..], b"x"].concat();
        assert!(matches!(read(&more, SIZE), Err(DeltaError::Trailing)));
    }

    #[test]
    fn runs_of_any_length_are_handed_on_a_piece_at_a_time() {
        let most = PIECE as u64 / PAGE;
        let runs = [Run { first: 1, pages: 1 }, Run { first: 3, pages: 2 * most }, Run { first: 1000, pages: 2 }];
        let (mut begun, mut runs) = (None, runs.into_iter());
        let batches: Vec<_> = std::iter::repeat_with(|| take_batch(&mut begun, &mut runs)).take(4).collect();
        let run = |first, pages| Run { first, pages };
        let cut = vec![run(1, 1), run(3, most - 1)];
        assert_eq!(batches, [cut, vec![run(2 + most, most)], vec![run(2 + 2 * most, 1), run(1000, 2)], vec![]]);
    }

    #[test]
    fn pages_are_placed_once_each_by_all_hands_and_the_first_error_is_told() {
        let content: Vec<u8> = (0..6 * PIECE / PAGE as usize).flat_map(|page| [page as u8; PAGE as usize]).collect();
        let pages = content.len() as u64 / PAGE;
        let whole = bytes(&Delta::new(vec![Run { first: 7, pages }], content.clone()));
        let placed = Mutex::new(vec![1; content.len()]);
        let place = |runs: &[Run], bytes: &[u8]| {
            each_place(runs, |at, part| {
                let at = (at - 7 * PAGE) as usize;
                placed.lock().unwrap()[at..at + part.len()].copy_from_slice(&bytes[part]);
                Ok(())
            })
        };
        read_pages(&whole[..], (pages + 7) * PAGE, place).unwrap();
        assert!(*placed.lock().unwrap() == content);
        let full =
            |runs: &[Run], _: &[u8]| if runs[0].first > 1000 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) };
        let error = read_pages(&whole[..], (pages + 7) * PAGE, full).unwrap_err();
        assert!(matches!(error, DeltaError::Write { .. }), "{error}");
        // An input that is not what was written says so at its end.
        let error = read_pages(whole.chain(Unsure), (pages + 7) * PAGE, |_, _| Ok(())).unwrap_err();
        assert!(matches!(error, DeltaError::Read { source } if source.kind() == io::ErrorKind::InvalidData));
        let error = read_pages(&whole[..whole.len() - 1], (pages + 7) * PAGE, |_, _| Ok(())).unwrap_err();
        assert!(matches!(error, DeltaError::Read { .. }), "{error}");
    }

    #[test]
    fn runs_outside_of_memory_or_out_of_order_are_refused() {
        let whole = bytes(&delta());
        assert!(matches!(read(&whole, 51 * PAGE), Err(DeltaError::Run { number: 1 })));
        let mut overlapping = whole;
        overlapping[32..40].copy_from_slice(&2_u64.to_le_bytes());
        assert!(matches!(read(&overlapping, SIZE), Err(DeltaError::Run { number: 1 })));
    }

    #[test]
    fn a_templates_memory_survives_its_file_without_its_zeros() {
        let memory = MemoryMib::new(96).unwrap();
        let ram = SealedRam::unsealed(memory).unwrap();
        ram.write(7 * PAGE, &[9; 5000]).unwrap();
        ram.write(20 * PAGE, &[0; 4096]).unwrap();
        ram.write((96 << 20) - 1, b"e").unwrap();
        let mut file = Vec::new();
        ram.seal().unwrap().write_to(&mut file).unwrap();
        assert_eq!(file.len() as u64, 16 + 2 * 16 + 3 * PAGE);
        let again = SealedRam::read_from(&file[..], memory).unwrap();
        let mut bytes = [0; 2];
        again.read(7 * PAGE + 4999, &mut bytes).unwrap();
        assert_eq!(bytes, [9, 0]);
        again.read((96 << 20) - 2, &mut bytes).unwrap();
        assert_eq!((bytes, again.resident()), ([0, b'e'], 3 * PAGE));
        assert!(again.is_as_written(&mut &file[..]).unwrap());
        let mut other = file.clone();
        other[16 + 2 * 16 + 100] ^= 1;
        for differing in [&other[..], &file[..file.len() - 1], &[&file[..], b"x"].concat()] {
            assert!(!again.is_as_written(&mut &*differing).unwrap());
        }
        assert!(SealedRam::read_from(&file[..file.len() - 1], memory).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_take_more_than_the_memory(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&[&MAGIC[..], &noise].concat(), SIZE);
        }
    }
}

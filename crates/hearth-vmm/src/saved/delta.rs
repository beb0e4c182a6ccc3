//! What a guest has changed of the memory it was restored from, and pages of memory on disk.
//!
//! A file of pages, be they a guest's changes or a template's whole memory: the magic bytes, the number of runs, each run as two little-endian 64-bit numbers (first page, pages), then the pages
//! themselves in the same order. Its digest is kept by whoever keeps the file.

use std::fs::File;
use std::io::{self, Read, Write};

use super::{PAGE, RamError, SealedRam, ram};
use crate::MemoryMib;

const MAGIC: &[u8; 8] = b"HRTHPGS1";
/// How much is read or written at once, in bytes.
const PIECE: usize = 1 << 20;

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

/// What a file says is no delta.
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

    /// Reads one for a memory of `size` bytes. Never takes more than that much memory, whatever the file says.
    ///
    /// # Errors
    /// [`DeltaError`].
    pub fn read_from(input: &mut impl Read, size: u64) -> Result<Self, DeltaError> {
        let runs = read_head(input, size)?;
        let length = length(&runs);
        let failed = |source| DeltaError::Read { source };
        let mut content = Vec::new();
        content.try_reserve_exact(length as usize).map_err(|error| failed(io::Error::other(error)))?;
        input.take(length).read_to_end(&mut content).map_err(failed)?;
        if content.len() as u64 != length {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        expect_end(input)?;
        Ok(Self { runs, content })
    }
}

/// Those pages of a piece of memory at a place that are not zero, with their numbers.
fn pages_not_zero(at: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    (at / PAGE..).zip(bytes.chunks(PAGE as usize)).filter(|(_, page)| page.iter().any(|byte| *byte != 0))
}

impl SealedRam {
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
        let mut buffer = vec![0; PIECE];
        for_each_piece(&runs, |at, length| {
            self.read(at, &mut buffer[..length])?;
            out.write_all(&buffer[..length])
        })
    }

    /// Reads memory of `size` bytes that [`Self::write_to`] has written.
    ///
    /// # Errors
    /// [`DeltaError`].
    pub fn read_from(input: &mut impl Read, memory: MemoryMib) -> Result<Self, DeltaError> {
        let runs = read_head(input, memory.bytes())?;
        let ram = Self::unsealed(memory)?;
        let mut buffer = vec![0; PIECE];
        for_each_piece(&runs, |at, length| {
            input.read_exact(&mut buffer[..length])?;
            ram.write(at, &buffer[..length])
        })
        .map_err(|source| DeltaError::Read { source })?;
        expect_end(input)?;
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

/// The bytes of all pages.
fn length(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.pages).sum::<u64>() * PAGE
}

/// Calls `each` with place and length of every piece of the runs, none of them longer than [`PIECE`].
fn for_each_piece(runs: &[Run], mut each: impl FnMut(u64, usize) -> io::Result<()>) -> io::Result<()> {
    for run in runs {
        let (mut at, end) = (run.first * PAGE, (run.first + run.pages) * PAGE);
        while at < end {
            let length = (end - at).min(PIECE as u64);
            each(at, length as usize)?;
            at += length;
        }
    }
    Ok(())
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

    fn delta() -> Delta {
        let runs = vec![Run { first: 2, pages: 1 }, Run { first: 50, pages: 2 }];
        Delta::new(runs, (0..3 * PAGE).map(|byte| byte as u8).collect())
    }

    fn bytes(delta: &Delta) -> Vec<u8> {
        let mut bytes = Vec::new();
        delta.write_to(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_delta_survives_its_file() {
        assert_eq!(Delta::read_from(&mut &bytes(&delta())[..], SIZE).unwrap(), delta());
    }

    #[test]
    fn a_delta_cut_short_or_with_more_behind_it_is_refused() {
        let whole = bytes(&delta());
        for end in [0, 7, 15, 20, 48, whole.len() - 1] {
            assert!(matches!(Delta::read_from(&mut &whole[..end], SIZE), Err(DeltaError::Read { .. })), "{end}");
        }
        let more = [&whole[..], b"x"].concat();
        assert!(matches!(Delta::read_from(&mut &more[..], SIZE), Err(DeltaError::Trailing)));
    }

    #[test]
    fn runs_outside_of_memory_or_out_of_order_are_refused() {
        let whole = bytes(&delta());
        assert!(matches!(Delta::read_from(&mut &whole[..], 51 * PAGE), Err(DeltaError::Run { number: 1 })));
        let mut overlapping = whole;
        overlapping[32..40].copy_from_slice(&2_u64.to_le_bytes());
        assert!(matches!(Delta::read_from(&mut &overlapping[..], SIZE), Err(DeltaError::Run { number: 1 })));
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
        let again = SealedRam::read_from(&mut &file[..], memory).unwrap();
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
        assert!(SealedRam::read_from(&mut &file[..file.len() - 1], memory).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_take_more_than_the_memory(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Delta::read_from(&mut &[&MAGIC[..], &noise].concat()[..], SIZE);
        }
    }
}

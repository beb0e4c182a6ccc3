//! The bytes of an archive: read in large pieces, handed out in blocks without another copy.

use std::io::{self, Read};

use super::ArchiveError;

/// The unit of which archives are made.
pub(super) const BLOCK: usize = 512;
/// What is read at a time, in bytes.
const BUFFER: usize = 256 * 1024;

/// A reader that knows where it is.
pub(super) struct Source<R> {
    input: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Where `start` is in the whole.
    position: u64,
    /// How much may come at most.
    limit: u64,
    received: u64,
}

impl<R: Read> Source<R> {
    pub(super) fn new(input: R, limit: Option<u64>) -> Self {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Self { input, buffer, start: 0, end: 0, position: 0, limit: limit.unwrap_or(u64::MAX), received: 0 }
    }

    /// The next block; `None` at the end.
    pub(super) fn block(&mut self) -> Result<Option<&[u8; BLOCK]>, ArchiveError> {
        while self.end - self.start < BLOCK {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            match (self.fill()?, self.end) {
                (0, 0) => return Ok(None),
                (0, _) => return Err(self.cut_off("inside a block")),
                _ => {}
            }
        }
        let block = &self.buffer[self.start..self.start + BLOCK];
        self.start += BLOCK;
        self.position += BLOCK as u64;
        Ok(Some(block.try_into().expect("it has the length of a block")))
    }

    /// The next bytes, at least one and at most `most`, which is not zero.
    pub(super) fn take(&mut self, most: u64) -> Result<&[u8], ArchiveError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.fill()? == 0 {
                return Err(self.cut_off("inside a member"));
            }
        }
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(self.end - self.start);
        let bytes = &self.buffer[self.start..self.start + length];
        self.start += length;
        self.position += length as u64;
        Ok(bytes)
    }

    /// Passes over bytes.
    pub(super) fn skip(&mut self, mut count: u64) -> Result<(), ArchiveError> {
        while count > 0 {
            count -= self.take(count)?.len() as u64;
        }
        Ok(())
    }

    pub(super) fn cut_off(&self, inside: &'static str) -> ArchiveError {
        ArchiveError::CutOff { position: self.position + (self.end - self.start) as u64, inside }
    }

    pub(super) fn damaged(&self, damage: impl Into<String>) -> ArchiveError {
        ArchiveError::Damaged { position: self.position, damage: damage.into() }
    }

    fn fill(&mut self) -> Result<usize, ArchiveError> {
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    self.received += count as u64;
                    return if self.received > self.limit {
                        Err(ArchiveError::TooLarge { limit: self.limit })
                    } else {
                        Ok(count)
                    };
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.explain(error)),
            }
        }
    }

    /// What a reader's error means: see [`super::codec::Decoder`], which tells the transfer's from its own.
    fn explain(&self, error: io::Error) -> ArchiveError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.cut_off("inside its compressed form"),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => self.damaged(error.to_string()),
            _ => ArchiveError::Transfer(error),
        }
    }
}

//! Files whose size and checksum are kept elsewhere, and checked as they are read.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// How much goes to or comes from the system at once, in bytes.
const BUFFER: usize = 64 * 1024;

/// What a file must be. The checksum is XXH3 with 64 bits: it finds damage, and is no defence against forgery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its size.
    pub bytes: u64,
    /// Its checksum, 16 hexadecimal digits.
    pub xxh3: String,
}

/// Counts and sums up what is written.
pub(crate) struct CheckedWriter<W> {
    out: W,
    bytes: u64,
    sum: Xxh3,
}

impl CheckedWriter<BufWriter<File>> {
    /// Makes a file for this user alone, has it written, and returns what it is.
    pub(crate) fn create(
        path: &Path,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<FileRecord> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        let mut checked = Self { out: BufWriter::with_capacity(BUFFER, file), bytes: 0, sum: Xxh3::new() };
        write(&mut checked)?;
        checked.out.flush()?;
        Ok(FileRecord { bytes: checked.bytes, xxh3: format!("{:016x}", checked.sum.digest()) })
    }
}

impl<W: Write> Write for CheckedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.sum.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Sums up what is read.
pub(crate) struct CheckedReader {
    file: BufReader<File>,
    sum_to_be: String,
    left: u64,
    sum: Xxh3,
}

impl CheckedReader {
    /// Opens a file; `None` when its size is wrong.
    pub(crate) fn open(path: &Path, record: &FileRecord) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let right = file.metadata()?.len() == record.bytes;
        let file = BufReader::with_capacity(BUFFER, file);
        Ok(right.then(|| Self { file, sum_to_be: record.xxh3.clone(), left: record.bytes, sum: Xxh3::new() }))
    }

    /// Whether all of it was read, and was what it must be.
    pub(crate) fn is_whole(&self) -> bool {
        self.left == 0 && format!("{:016x}", self.sum.digest()) == self.sum_to_be
    }
}

impl Read for CheckedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.file.read(&mut buffer[..most])?;
        self.sum.update(&buffer[..count]);
        self.left -= count as u64;
        Ok(count)
    }
}

/// What fails at its end, as [`io::ErrorKind::InvalidData`], unless it was what it must be: for whoever reads without knowing of checksums.
pub(crate) struct SureReader(pub(crate) CheckedReader);

impl Read for SureReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        let is_sure = count > 0 || buffer.is_empty() || self.0.is_whole();
        if is_sure { Ok(count) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_of_any_byte_and_of_the_size_is_found() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("f");
        let record = CheckedWriter::create(&path, &mut |out| out.write_all(b"hello")).unwrap();
        assert_eq!(record.bytes, 5);
        let whole = |record: &FileRecord| {
            let Some(mut reader) = CheckedReader::open(&path, record).unwrap() else { return false };
            io::copy(&mut reader, &mut io::sink()).unwrap();
            let sure = io::copy(&mut SureReader(CheckedReader::open(&path, record).unwrap().unwrap()), &mut io::sink());
            assert_eq!(sure.is_ok(), reader.is_whole());
            reader.is_whole()
        };
        assert!(whole(&record));
        for damaged in [&b"hellO"[..], b"hell", b"hello!"] {
            std::fs::write(&path, damaged).unwrap();
            assert!(!whole(&record), "{damaged:?}");
        }
    }
}

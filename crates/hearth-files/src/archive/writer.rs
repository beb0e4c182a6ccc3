//! Members written as an archive: GNU's headers, which GNU tar, bsdtar, Python, Go and busybox read, with GNU's long names and sparse
//! files; and a POSIX record before a member only where a time has a part of a second, which nothing else can say.

use std::io;

use hearth_protocol::archive::Compression;

use super::codec::{Encoder, Sink};
use super::header;
use super::pax::{self, Timestamp};
use super::source::BLOCK;
use super::sparse::Segment;

/// What is gathered before it is written, in bytes. A small file is read straight into it.
const BUFFER: usize = 256 * 1024;
/// The least space that data is read into, in bytes.
const SPACE: usize = 8 * 1024;

/// What a header says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) path: &'a [u8],
    /// The letter of its kind.
    pub(super) kind: u8,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// How many bytes follow.
    pub(super) size: u64,
    pub(super) modified: Timestamp,
    pub(super) link: &'a [u8],
}

/// Writes an archive.
pub(super) struct Writer<S: Sink> {
    output: Encoder<S>,
    /// Never grows: when it is nearly full it goes out.
    buffer: Vec<u8>,
    /// How much has come since the last whole block.
    odd: usize,
}

impl<S: Sink> Writer<S> {
    pub(super) fn new(sink: S, compression: Compression) -> io::Result<Self> {
        Ok(Self { output: Encoder::new(sink, compression)?, buffer: Vec::with_capacity(BUFFER), odd: 0 })
    }

    /// Writes a member's header; its data follows.
    pub(super) fn header(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let block = self.announce(entry)?;
        self.seal(block)
    }

    /// Writes the header of a sparse file, with its map. The data of its pieces follows.
    pub(super) fn sparse_header(&mut self, entry: &Entry<'_>, length: u64, segments: &[Segment]) -> io::Result<()> {
        let mut block = self.announce(&Entry { kind: b'S', ..*entry })?;
        set_number(&mut block[header::SPARSE_REAL_SIZE], length as i64);
        let in_header = segments.len().min(header::SPARSE.len() / header::PIECE);
        set_pieces(&mut block[header::SPARSE], &segments[..in_header]);
        block[header::SPARSE_MORE] = u8::from(segments.len() > in_header);
        self.seal(block)?;
        let mut chunks = segments[in_header..].chunks(header::EXTENSION.len() / header::PIECE).peekable();
        while let Some(chunk) = chunks.next() {
            let mut block = [0; BLOCK];
            set_pieces(&mut block[header::EXTENSION], chunk);
            block[header::EXTENSION_MORE] = u8::from(chunks.peek().is_some());
            self.put(&block)?;
        }
        Ok(())
    }

    /// Has `read` append data to a buffer that has room for some KiB at least, and returns what it returns. What it appends beyond `most`
    /// bytes is dropped.
    pub(super) fn data<E>(
        &mut self,
        most: u64,
        read: impl FnOnce(&mut Vec<u8>) -> Result<usize, E>,
    ) -> io::Result<Result<usize, E>> {
        self.make_room()?;
        let start = self.buffer.len();
        let result = read(&mut self.buffer);
        let end = usize::try_from(most).unwrap_or(usize::MAX).saturating_add(start);
        self.buffer.truncate(end);
        self.advance(self.buffer.len() - start);
        Ok(result)
    }

    /// Writes zeros.
    pub(super) fn zeros(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            self.make_room()?;
            let (start, room) = (self.buffer.len(), self.buffer.capacity() - self.buffer.len());
            let length = usize::try_from(count).unwrap_or(usize::MAX).min(room);
            self.buffer.resize(start + length, 0);
            self.advance(length);
            count -= length as u64;
        }
        Ok(())
    }

    fn make_room(&mut self) -> io::Result<()> {
        if self.buffer.capacity() - self.buffer.len() < SPACE { self.drain() } else { Ok(()) }
    }

    fn advance(&mut self, count: usize) {
        self.odd = (self.odd + count) % BLOCK;
    }

    /// Fills the last block of a member's data.
    pub(super) fn end_member(&mut self) -> io::Result<()> {
        self.zeros(((BLOCK - self.odd) % BLOCK) as u64)
    }

    /// Writes the mark at the end, and all that is still held.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.zeros(2 * BLOCK as u64)?;
        self.drain()?;
        self.output.finish()
    }

    /// Writes what does not fit in a header before it, and returns the header as far as it is made.
    fn announce(&mut self, entry: &Entry<'_>) -> io::Result<[u8; BLOCK]> {
        if entry.modified.nanoseconds != 0 {
            let mut records = Vec::with_capacity(64);
            pax::write_record(&mut records, "mtime", decimal(entry.modified).as_bytes());
            self.description(b'x', b"././@PaxHeader", &records)?;
        }
        for (kind, text) in [(b'K', entry.link), (b'L', entry.path)] {
            if text.len() > header::NAME.len() {
                self.description(kind, b"././@LongLink", &[text, b"\0"].concat())?;
            }
        }
        Ok(block(entry))
    }

    fn description(&mut self, kind: u8, name: &[u8], text: &[u8]) -> io::Result<()> {
        let (size, modified) = (text.len() as u64, Timestamp::default());
        let entry = Entry { path: name, kind, mode: 0o644, uid: 0, gid: 0, size, modified, link: b"" };
        self.seal(block(&entry))?;
        self.put(text)?;
        self.end_member()
    }

    fn seal(&mut self, mut block: [u8; BLOCK]) -> io::Result<()> {
        block[header::CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        let (digits, end) = block[header::CHECKSUM].split_at_mut(6);
        set_octal(digits, u64::from(sum));
        end.copy_from_slice(b"\0 ");
        self.put(&block)
    }

    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.make_room()?;
            let length = bytes.len().min(SPACE);
            self.buffer.extend_from_slice(&bytes[..length]);
            self.advance(length);
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn drain(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.buffer);
        self.buffer = self.output.take(piece)?;
        Ok(())
    }
}

fn block(entry: &Entry<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    // What is cut here stands in full before it.
    let mut text = |range: std::ops::Range<usize>, text: &[u8]| {
        let length = text.len().min(range.len());
        block[range.start..range.start + length].copy_from_slice(&text[..length]);
    };
    text(header::NAME, entry.path);
    text(header::LINK, entry.link);
    text(header::MAGIC, header::GNU_MAGIC);
    for (range, number) in [
        (header::MODE, i64::from(entry.mode)),
        (header::UID, i64::from(entry.uid)),
        (header::GID, i64::from(entry.gid)),
        (header::SIZE, entry.size as i64),
        (header::MODIFIED, entry.modified.seconds),
    ] {
        set_number(&mut block[range], number);
    }
    block[header::KIND] = entry.kind;
    block
}

/// As many octal digits as there is room for.
fn set_octal(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 8) as u8;
        number /= 8;
    }
}

/// Octal digits and a NUL where they are enough, else binary with a mark.
fn set_number(field: &mut [u8], number: i64) {
    let digits = field.len() - 1;
    if number >= 0 && number < 1_i64 << (3 * digits) {
        set_octal(&mut field[..digits], number.unsigned_abs());
        field[digits] = 0;
        return;
    }
    let filler = if number < 0 { 0xff } else { 0 };
    field.fill(filler);
    let bytes = number.to_be_bytes();
    let length = bytes.len().min(digits);
    field[digits + 1 - length..].copy_from_slice(&bytes[bytes.len() - length..]);
    field[0] = if number < 0 { 0xff } else { 0x80 };
}

fn set_pieces(field: &mut [u8], segments: &[Segment]) {
    for (piece, segment) in field.chunks_exact_mut(header::PIECE).zip(segments) {
        let (offset, length) = piece.split_at_mut(header::PIECE / 2);
        set_number(offset, segment.offset as i64);
        set_number(length, segment.length as i64);
    }
}

/// A time as a record has it.
fn decimal(time: Timestamp) -> String {
    let digits = |nanoseconds: u32| format!("{nanoseconds:09}").trim_end_matches('0').to_owned();
    match time {
        Timestamp { seconds: 0.., nanoseconds } => format!("{}.{}", time.seconds, digits(nanoseconds)),
        Timestamp { seconds, nanoseconds } => {
            format!("-{}.{}", (seconds + 1).unsigned_abs(), digits(1_000_000_000 - nanoseconds))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_as_they_were() {
        for number in [0, 1, 0o777, 0o7777777, 0o10000000, 100 << 30, i64::MAX, -1, -2_000_000_000, i64::MIN] {
            let mut field = [0; 12];
            set_number(&mut field, number);
            assert_eq!(header::number(&field, 0..12, "size"), Ok(number), "{number}");
        }
        let mut field = [0; 8];
        set_number(&mut field, i64::from(u32::MAX));
        assert_eq!(header::number(&field, 0..8, "uid"), Ok(i64::from(u32::MAX)));
    }

    #[test]
    fn times_before_1970_have_their_fraction_the_other_way() {
        let text = |seconds, nanoseconds| decimal(Timestamp { seconds, nanoseconds });
        assert_eq!(text(12, 500_000_000), "12.5");
        assert_eq!(text(0, 1), "0.000000001");
        assert_eq!(text(-2, 750_000_000), "-1.25");
        assert_eq!(text(-1, 750_000_000), "-0.25");
    }
}

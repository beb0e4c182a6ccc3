//! An archive as a row of members. Reads what GNU tar, bsdtar, Python and their kin write: v7, `ustar`, GNU and POSIX headers, long
//! names of both kinds, and sparse files in all four forms.
//!
//! Stricter than they are where leniency hides damage: the mark at the end must be there, and nothing but zeros behind it; every
//! header's sum must be right; a header without a member is an error. So an archive that was cut off or damaged is found out, as far as
//! the format allows: it keeps no sum of the content.

use std::io::Read;

use super::ArchiveError;
use super::codec::Decoder;
use super::error::Rule;
use super::header::{self, BadNumber, Header};
use super::pax::{BadRecord, Extended, Timestamp, decimal};
use super::source::{BLOCK, Source};
use super::sparse::{self, SEGMENTS, Segment};

/// The most headers in one archive: what bounds the time that a small one can take.
const MEMBERS: u64 = 10_000_000;
/// The longest extended header, in bytes.
const LONGEST_RECORDS: u64 = 1 << 20;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
}

/// One member, as the archive has it: nothing about it is trusted.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) modified: Timestamp,
    /// A file's length, with its holes.
    pub(super) length: u64,
    /// Where its data goes, for a sparse file.
    pub(super) segments: Option<Vec<Segment>>,
}

/// Reads an archive member by member.
pub(super) struct Reader<R: Read> {
    source: Source<Decoder<R>>,
    /// What a global header said about the time.
    modified: Option<Timestamp>,
    headers: u64,
    /// How much of the present member's data is still to come, and what fills its last block.
    left: u64,
    padding: u64,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R, limit: Option<u64>) -> Result<Self, ArchiveError> {
        let decoder = Decoder::new(input).map_err(ArchiveError::Transfer)?;
        Ok(Self { source: Source::new(decoder, limit), modified: None, headers: 0, left: 0, padding: 0 })
    }

    /// The next member, once the rest of this one is passed over; `None` at the end, when all has been read.
    pub(super) fn next(&mut self) -> Result<Option<Member>, ArchiveError> {
        self.source.skip(self.left + self.padding)?;
        let mut extended = Extended { modified: self.modified, ..Extended::default() };
        let mut is_announced = false;
        loop {
            let block = self.source.block()?.copied();
            let block = block.ok_or_else(|| self.source.cut_off("without the mark at its end"))?;
            let header = Header(&block);
            if header.is_zero() && is_announced {
                return Err(self.source.damaged("an extended header describes no member"));
            }
            if header.is_zero() {
                return self.end().map(|()| None);
            }
            self.check(header)?;
            match header.kind() {
                b'x' | b'X' => {
                    let records = self.records(header)?;
                    extended.add(&records).map_err(|error| self.bad_record(&error))?;
                }
                b'g' => self.global(header, &mut extended)?,
                b'L' => extended.path = Some(self.long_text(header)?),
                b'K' => extended.link = Some(self.long_text(header)?),
                b'V' => drop(self.records(header)?),
                _ => return self.member(header, extended).map(Some),
            }
            is_announced = !matches!(header.kind(), b'g' | b'V');
        }
    }

    /// The next bytes of the member's data, at least one and at most `most`, which must not exceed what is left of it.
    pub(super) fn data(&mut self, most: u64) -> Result<&[u8], ArchiveError> {
        let bytes = self.source.take(most)?;
        self.left -= bytes.len() as u64;
        Ok(bytes)
    }

    fn check(&mut self, header: Header<'_>) -> Result<(), ArchiveError> {
        if !header.sum_is_right() {
            return Err(self.source.damaged(match self.headers {
                0 => "this is no tar archive, neither plain nor compressed with gzip, zstd, bzip2 or xz",
                _ => "a header's checksum is wrong",
            }));
        }
        self.headers += 1;
        if self.headers > MEMBERS { Err(ArchiveError::TooManyMembers { limit: MEMBERS }) } else { Ok(()) }
    }

    /// Reads what is behind the mark at the end, up to the end of the transfer: a compressed stream's own sum comes last.
    fn end(&mut self) -> Result<(), ArchiveError> {
        while let Some(block) = self.source.block()? {
            if !Header(block).is_zero() {
                return Err(self.source.damaged("something follows the mark at the archive's end"));
            }
        }
        Ok(())
    }

    /// Reads the data of a header that only describes.
    fn records(&mut self, header: Header<'_>) -> Result<Vec<u8>, ArchiveError> {
        let length = header.length(header::SIZE, "size").map_err(|error| self.bad_number(error))?;
        if length > LONGEST_RECORDS {
            return Err(self.source.damaged(format!("an extended header has more than {LONGEST_RECORDS} bytes")));
        }
        let mut records = Vec::new();
        while (records.len() as u64) < length {
            let missing = length - records.len() as u64;
            records.extend_from_slice(self.source.take(missing)?);
        }
        self.source.skip(padding(length))?;
        Ok(records)
    }

    /// GNU's long names: the text, usually with a NUL behind it.
    fn long_text(&mut self, header: Header<'_>) -> Result<Vec<u8>, ArchiveError> {
        let mut text = self.records(header)?;
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        text.truncate(end);
        Ok(text)
    }

    /// A header for all members that follow can only mean their time: a path, size or target for all of them is an attempt to have two
    /// programs read one archive in two ways.
    fn global(&mut self, header: Header<'_>, extended: &mut Extended) -> Result<(), ArchiveError> {
        let records = self.records(header)?;
        let mut global = Extended::default();
        global.add(&records).map_err(|error| self.bad_record(&error))?;
        if (Extended { modified: None, ..global.clone() }) != Extended::default() {
            return Err(self.source.damaged("a global header says what only one member's can"));
        }
        self.modified = global.modified.or(self.modified);
        extended.modified = extended.modified.or(self.modified);
        Ok(())
    }

    fn member(&mut self, header: Header<'_>, extended: Extended) -> Result<Member, ArchiveError> {
        let bad = |source: &Source<_>, error: BadNumber| source.damaged(error.to_string());
        let number = |range, name| header.number(range, name).map_err(|error| bad(&self.source, error));
        let mode = (number(header::MODE, "mode")? & 0o7777) as u32;
        let modified = Timestamp { seconds: number(header::MODIFIED, "time")?, nanoseconds: 0 };
        let Extended { path, link, size, modified: exact, sparse } = extended;
        let is_sparse = sparse.is_used() || header.kind() == b'S';
        let path = sparse.name.clone().or(path).unwrap_or_else(|| header.name().into_owned());
        let kind = kind(header.kind(), &path).map_err(|rule| ArchiveError::member(&path, rule))?;
        let mut member = Member {
            path,
            link: link.unwrap_or_else(|| header.link().to_vec()),
            kind,
            mode,
            modified: exact.unwrap_or(modified),
            length: 0,
            segments: None,
        };
        // Links, FIFOs and plain directories have no data, whatever their header's size says: some programs put a file's there.
        let has_data = kind == Kind::File || (kind == Kind::Directory && header.kind() != b'5');
        let in_header = || header.length(header::SIZE, "size").map_err(|error| bad(&self.source, error));
        let size = if has_data { size.map_or_else(in_header, Ok)? } else { 0 };
        let size = Some(size).filter(|&size| size <= i64::MAX as u64);
        let size = size.ok_or_else(|| self.source.damaged("a member's size is not a number that can be"))?;
        (self.left, self.padding, member.length) = (size, padding(size), size);
        if is_sparse && kind == Kind::File {
            self.sparse(header, sparse, &mut member)?;
        }
        Ok(member)
    }

    /// Finds out where a sparse member's data goes. What is stored of it is what is left then.
    fn sparse(
        &mut self,
        header: Header<'_>,
        records: super::pax::SparseRecords,
        member: &mut Member,
    ) -> Result<(), ArchiveError> {
        let (segments, real_size) = if header.kind() == b'S' {
            let real_size = header.length(header::SPARSE_REAL_SIZE, "real size");
            (self.gnu_map(header)?, real_size.map_err(|error| self.bad_number(error))?)
        } else {
            let real_size = records.real_size.ok_or_else(|| self.source.damaged("a sparse file's size is missing"))?;
            let segments = match (records.major, records.minor) {
                (0, 0 | 1) => records.segments,
                (1, 0) => self.map_before_data()?,
                (major, minor) => {
                    return Err(self.source.damaged(format!("version {major}.{minor} of sparse files is unknown")));
                }
            };
            (segments, real_size)
        };
        if real_size > i64::MAX as u64 || !sparse::is_sound(&segments, real_size, self.left) {
            return Err(self.source.damaged("the map of a sparse file makes no sense"));
        }
        (member.length, member.segments) = (real_size, Some(segments));
        Ok(())
    }

    /// GNU's own form: four pieces in the header, then blocks of 21, as long as each says that one more follows.
    fn gnu_map(&mut self, header: Header<'_>) -> Result<Vec<Segment>, ArchiveError> {
        let mut segments = Vec::new();
        let read = |pieces: &[u8], segments: &mut Vec<Segment>| {
            for piece in pieces.chunks_exact(header::PIECE).filter(|piece| piece[0] != 0 || piece[12] != 0) {
                let number = |range| header::number(piece, range, "map").map(u64::try_from);
                match (number(0..12)?, number(12..24)?) {
                    (Ok(offset), Ok(length)) => segments.push(Segment { offset, length }),
                    _ => return Err(BadNumber { field: "map" }),
                }
            }
            Ok(())
        };
        read(&header.0[header::SPARSE], &mut segments).map_err(|error| self.bad_number(error))?;
        let mut more = header.0[header::SPARSE_MORE] != 0;
        while more {
            let block = self.source.block()?.copied();
            let block = block.ok_or_else(|| self.source.cut_off("inside the map of a sparse file"))?;
            read(&block[header::EXTENSION], &mut segments).map_err(|error| self.bad_number(error))?;
            if segments.len() > SEGMENTS {
                return Err(self.bad_record(&BadRecord::TooManySegments));
            }
            more = block[header::EXTENSION_MORE] != 0;
        }
        Ok(segments)
    }

    /// POSIX 1.0: a decimal number a line before the data, the count of pieces first; filled up to whole blocks.
    fn map_before_data(&mut self) -> Result<Vec<Segment>, ArchiveError> {
        let mut numbers = Numbers::default();
        while !numbers.is_whole() {
            if self.left < BLOCK as u64 {
                return Err(self.source.damaged("the map of a sparse file has no end"));
            }
            let block = self.source.block()?.copied();
            let block = block.ok_or_else(|| self.source.cut_off("inside the map of a sparse file"))?;
            self.left -= BLOCK as u64;
            numbers.add(&block).ok_or_else(|| self.source.damaged("the map of a sparse file makes no sense"))?;
        }
        Ok(numbers.segments)
    }

    fn bad_number(&self, error: BadNumber) -> ArchiveError {
        self.source.damaged(error.to_string())
    }

    fn bad_record(&self, error: &BadRecord) -> ArchiveError {
        self.source.damaged(error.to_string())
    }
}

/// The numbers of a POSIX 1.0 map, as they come.
#[derive(Default)]
struct Numbers {
    count: Option<u64>,
    offset: Option<u64>,
    digits: Vec<u8>,
    segments: Vec<Segment>,
}

impl Numbers {
    fn is_whole(&self) -> bool {
        self.count == Some(self.segments.len() as u64)
    }

    fn add(&mut self, block: &[u8]) -> Option<()> {
        for &byte in block {
            match byte {
                _ if self.is_whole() => return Some(()),
                b'\n' => self.number()?,
                _ if self.digits.len() < 20 => self.digits.push(byte),
                _ => return None,
            }
        }
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        let number = decimal(&self.digits)?;
        self.digits.clear();
        match (self.count, self.offset.take()) {
            (None, _) if number > SEGMENTS as u64 => return None,
            (None, _) => self.count = Some(number),
            (_, None) => self.offset = Some(number),
            (_, Some(offset)) => self.segments.push(Segment { offset, length: number }),
        }
        Some(())
    }
}

/// What a header's letter means. Before POSIX a directory was a file whose name ends in a slash.
fn kind(letter: u8, path: &[u8]) -> Result<Kind, Rule> {
    let unsupported = |kind: &str| Err(Rule::Unsupported { kind: kind.to_owned() });
    match letter {
        b'0' | 0 if path.ends_with(b"/") => Ok(Kind::Directory),
        b'0' | 0 | b'7' | b'S' => Ok(Kind::File),
        b'1' => Ok(Kind::HardLink),
        b'2' => Ok(Kind::Symlink),
        b'3' => unsupported("a character device"),
        b'4' => unsupported("a block device"),
        b'5' | b'D' => Ok(Kind::Directory),
        b'6' => Ok(Kind::Fifo),
        b'M' => unsupported("the rest of a file from another volume"),
        letter => unsupported(&format!("of the unknown kind '{}'", letter.escape_ascii())),
    }
}

/// What fills the last block.
fn padding(length: u64) -> u64 {
    length.wrapping_neg() % BLOCK as u64
}

//! Byte order marks: what a file begins with that says how its text is written. As ripgrep has it, the mark is no part of the text, and
//! UTF-16 is searched as UTF-8.

use std::char::{REPLACEMENT_CHARACTER, decode_utf16};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// What is decoded at a time, in bytes.
const PIECE: u64 = 64 * 1024;

/// Passes over the mark that a file begins with, and tells whether what follows is UTF-16.
pub(super) fn pass_mark(file: &mut File) -> io::Result<Option<Utf16<'_>>> {
    let mut head = [0; 3];
    let count = file.read_at(&mut head, 0)?;
    let (mark, order) = match head[..count] {
        [0xef, 0xbb, 0xbf] => (3, None),
        [0xff, 0xfe, ..] => (2, Some(u16::from_le_bytes as fn([u8; 2]) -> u16)),
        [0xfe, 0xff, ..] => (2, Some(u16::from_be_bytes as fn([u8; 2]) -> u16)),
        _ => return Ok(None),
    };
    file.seek(SeekFrom::Start(mark))?;
    Ok(order.map(|order| Utf16 { file, order, raw: Vec::new(), text: Vec::new(), told: 0 }))
}

/// Reads UTF-16 as UTF-8. What is none becomes U+FFFD.
pub(super) struct Utf16<'a> {
    file: &'a mut File,
    order: fn([u8; 2]) -> u16,
    raw: Vec<u8>,
    text: Vec<u8>,
    told: usize,
}

impl Utf16<'_> {
    /// Decodes more, if there is more. Half a unit and half a pair wait for their other half.
    fn decode(&mut self) -> io::Result<()> {
        let count = self.file.by_ref().take(PIECE).read_to_end(&mut self.raw)?;
        let (pairs, odd) = self.raw.as_chunks::<2>();
        let mut units: Vec<u16> = pairs.iter().map(|&pair| (self.order)(pair)).collect();
        let (mut waiting, is_over) = (odd.to_vec(), count == 0);
        if !is_over && units.last().is_some_and(|unit| (0xd800..0xdc00).contains(unit)) {
            units.pop();
            waiting = self.raw[2 * units.len()..].to_vec();
        }
        let lone = (is_over && !waiting.is_empty()).then_some(REPLACEMENT_CHARACTER);
        let text = decode_utf16(units).map(|read| read.unwrap_or(REPLACEMENT_CHARACTER)).chain(lone);
        self.text = text.collect::<String>().into_bytes();
        self.told = 0;
        self.raw = if is_over { Vec::new() } else { waiting };
        Ok(())
    }
}

impl Read for Utf16<'_> {
    fn read(&mut self, place: &mut [u8]) -> io::Result<usize> {
        while self.told == self.text.len() {
            self.decode()?;
            if self.text.is_empty() && self.raw.is_empty() {
                return Ok(0);
            }
        }
        let count = (&self.text[self.told..]).read(place)?;
        self.told += count;
        Ok(count)
    }
}

//! What is binary in a patch: compressed, in base 85, a content as it is or as its difference from the old one.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;

use flate2::write::ZlibDecoder;

use crate::history::render::{DIGITS, LINE};

/// A content in a patch, unpacked beside the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Binary {
    /// Under this number.
    pub(super) number: u64,
    /// Whether it is what makes the new content of the old, and not that itself.
    pub(super) is_delta: bool,
}

/// Takes lines of base 85 in.
pub(super) struct Unpacking {
    decoder: ZlibDecoder<Bounded>,
}

/// A file that takes so many bytes and no more.
struct Bounded {
    file: BufWriter<File>,
    left: u64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "there is more than was announced"));
        }
        self.file.write_all(bytes)?;
        self.left -= bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Unpacking {
    pub(super) fn new(file: File, size: u64) -> Self {
        Self { decoder: ZlibDecoder::new(Bounded { file: BufWriter::new(file), left: size }) }
    }

    /// Takes in one line; false when it is none.
    pub(super) fn line(&mut self, line: &[u8]) -> io::Result<bool> {
        match decode(line) {
            Some(bytes) => self.decoder.write_all(&bytes).map(|()| true),
            None => Ok(false),
        }
    }

    /// The end of the lines; false when there was too little.
    pub(super) fn finish(self) -> io::Result<bool> {
        let Bounded { mut file, left } = self.decoder.finish()?;
        file.flush()?;
        Ok(left == 0)
    }
}

/// The bytes of one line.
fn decode(line: &[u8]) -> Option<Vec<u8>> {
    let (&first, digits) = line.split_first()?;
    let length = match first {
        b'A'..=b'Z' => first - b'A' + 1,
        b'a'..=b'z' => first - b'a' + 27,
        _ => return None,
    };
    let length = usize::from(length);
    if length > LINE || digits.len() != length.div_ceil(4) * 5 {
        return None;
    }
    let mut bytes = Vec::with_capacity(LINE);
    for group in digits.chunks(5) {
        let number = group.iter().try_fold(0_u64, |all, digit| {
            let value = DIGITS.iter().position(|known| known == digit)?;
            Some(all * 85 + value as u64)
        });
        bytes.extend_from_slice(&u32::try_from(number?).ok()?.to_be_bytes());
    }
    bytes.truncate(length);
    Some(bytes)
}

/// Makes the new content of the old by a delta: pieces of the old, and bytes of its own. Tells the new length; `None` when it does not fit.
pub(super) fn apply_delta(
    delta: &File,
    old: &File,
    old_size: u64,
    limit: u64,
    to: &mut impl Write,
) -> io::Result<Option<u64>> {
    let mut delta = BufReader::new(delta);
    let (Some(source), Some(size)) = (number(&mut delta)?, number(&mut delta)?) else { return Ok(None) };
    if source != old_size || size > limit {
        return Ok(None);
    }
    let mut made = 0;
    let mut buffer = vec![0; 1 << 16];
    while let Some(order) = byte(&mut delta)? {
        let count = match order {
            0 => return Ok(None),
            order if order & 0x80 != 0 => {
                let (mut offset, mut length) = (0_u64, 0_u64);
                for bit in 0..7 {
                    if order & 1 << bit != 0 {
                        let Some(part) = byte(&mut delta)? else { return Ok(None) };
                        if bit < 4 {
                            offset |= u64::from(part) << (8 * bit);
                        } else {
                            length |= u64::from(part) << (8 * (bit - 4));
                        }
                    }
                }
                let length = if length == 0 { 0x10000 } else { length };
                if offset + length > old_size || made + length > size {
                    return Ok(None);
                }
                copy_piece(old, offset, length, &mut buffer, to)?;
                length
            }
            count => {
                let own = &mut buffer[..usize::from(count)];
                if made + u64::from(count) > size || delta.read_exact(own).is_err() {
                    return Ok(None);
                }
                to.write_all(own)?;
                u64::from(count)
            }
        };
        made += count;
    }
    Ok((made == size).then_some(size))
}

fn copy_piece(old: &File, mut offset: u64, mut length: u64, buffer: &mut [u8], to: &mut impl Write) -> io::Result<()> {
    while length > 0 {
        let count = length.min(buffer.len() as u64) as usize;
        old.read_exact_at(&mut buffer[..count], offset)?;
        to.write_all(&buffer[..count])?;
        (offset, length) = (offset + count as u64, length - count as u64);
    }
    Ok(())
}

fn byte(from: &mut impl Read) -> io::Result<Option<u8>> {
    let mut byte = [0];
    Ok((from.read(&mut byte)? == 1).then_some(byte[0]))
}

/// A number in sevens of bits, the least first.
fn number(from: &mut impl Read) -> io::Result<Option<u64>> {
    let mut number = 0_u64;
    for shift in (0..63).step_by(7) {
        let Some(byte) = byte(from)? else { return Ok(None) };
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

//! One block of 512 bytes that describes a member, in any of the three formats that are in use: v7, POSIX (`ustar`) and GNU.
//!
//! Shapes and offsets are those of `struct posix_header` and `struct oldgnu_header` in GNU tar's `tar.h`.

use std::borrow::Cow;
use std::ops::Range;

use super::source::BLOCK;

/// A field that is not what the format says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header's {field} is not a number that can be")]
pub(super) struct BadNumber {
    pub(super) field: &'static str,
}

pub(super) const NAME: Range<usize> = 0..100;
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const UID: Range<usize> = 108..116;
pub(super) const GID: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MODIFIED: Range<usize> = 136..148;
pub(super) const CHECKSUM: Range<usize> = 148..156;
pub(super) const KIND: usize = 156;
pub(super) const LINK: Range<usize> = 157..257;
pub(super) const MAGIC: Range<usize> = 257..265;
pub(super) const GNU_MAGIC: &[u8; 8] = b"ustar  \0";
const POSIX_MAGIC: &[u8; 6] = b"ustar\0";
const PREFIX: Range<usize> = 345..500;
/// The prefix is shorter where star's own mark stands.
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_MARK: Range<usize> = 508..512;
/// Four pieces of a sparse file, in GNU's header, and how many in each block that follows one.
pub(super) const SPARSE: Range<usize> = 386..482;
pub(super) const SPARSE_MORE: usize = 482;
pub(super) const SPARSE_REAL_SIZE: Range<usize> = 483..495;
pub(super) const EXTENSION: Range<usize> = 0..504;
pub(super) const EXTENSION_MORE: usize = 504;
/// The length of one piece: offset and size, twelve digits each.
pub(super) const PIECE: usize = 24;

/// A view of the block.
#[derive(Clone, Copy)]
pub(super) struct Header<'a>(pub(super) &'a [u8; BLOCK]);

impl<'a> Header<'a> {
    pub(super) fn is_zero(self) -> bool {
        self.0.iter().all(|&byte| byte == 0)
    }

    /// Whether the sum of its bytes is the one it names; as old systems did, with signed bytes too.
    pub(super) fn sum_is_right(self) -> bool {
        let Ok(named) = number(self.0, CHECKSUM, "checksum") else { return false };
        let outside = || self.0[..CHECKSUM.start].iter().chain(&self.0[CHECKSUM.end..]);
        let blanks = CHECKSUM.len() as i64 * i64::from(b' ');
        let unsigned: i64 = outside().map(|&byte| i64::from(byte)).sum();
        let signed: i64 = outside().map(|&byte| i64::from(byte as i8)).sum();
        named == unsigned + blanks || named == signed + blanks
    }

    pub(super) fn kind(self) -> u8 {
        self.0[KIND]
    }

    /// The path, joined of its two parts where the format has two.
    pub(super) fn name(self) -> Cow<'a, [u8]> {
        let name = text(&self.0[NAME]);
        let range = if &self.0[STAR_MARK] == b"tar\0" { STAR_PREFIX } else { PREFIX };
        match text(&self.0[range]) {
            [] => Cow::Borrowed(name),
            prefix if self.0[MAGIC].starts_with(POSIX_MAGIC) => Cow::Owned([prefix, b"/", name].concat()),
            _ => Cow::Borrowed(name),
        }
    }

    pub(super) fn link(self) -> &'a [u8] {
        text(&self.0[LINK])
    }

    pub(super) fn number(self, range: Range<usize>, field: &'static str) -> Result<i64, BadNumber> {
        number(self.0, range, field)
    }

    /// A number that cannot be less than nothing.
    pub(super) fn length(self, range: Range<usize>, field: &'static str) -> Result<u64, BadNumber> {
        u64::try_from(self.number(range, field)?).map_err(|_| BadNumber { field })
    }
}

/// What stands before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A number: octal digits between blanks, or, marked by the highest bit, a binary one. A blank field is zero.
pub(super) fn number(block: &[u8], range: Range<usize>, name: &'static str) -> Result<i64, BadNumber> {
    let (bad, field) = (BadNumber { field: name }, &block[range]);
    if field[0] & 0x80 != 0 {
        return binary(field).ok_or(bad);
    }
    let digits = field.trim_ascii_start().split(|&byte| byte == 0 || byte == b' ').next().unwrap_or_default();
    let value = digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    });
    value.ok_or(bad)
}

/// Big-endian, in two's complement below the mark: 0x80 begins what is positive, 0xff what is negative.
fn binary(field: &[u8]) -> Option<i64> {
    let negative = match field[0] {
        0x80 => false,
        0xff => true,
        _ => return None,
    };
    let (high, low) = field[1..].split_at((field.len() - 1).saturating_sub(8));
    let filler = if negative { 0xff } else { 0 };
    let mut bytes = [filler; 8];
    bytes[8 - low.len()..].copy_from_slice(low);
    let value = i64::from_be_bytes(bytes);
    (high.iter().all(|&byte| byte == filler) && (value < 0) == negative).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_as_octal_or_binary() {
        let read = |field: &[u8]| number(field, 0..field.len(), "size").ok();
        assert_eq!(read(b"0000644\0"), Some(0o644));
        assert_eq!(read(b"   644 \0"), Some(0o644));
        assert_eq!(read(b"00000000644 "), Some(0o644));
        assert_eq!(read(&[0; 12]), Some(0));
        assert_eq!(read(b"77777777777\0"), Some(0o77_777_777_777));
        assert_eq!(read(&[0x80, 0, 0, 0, 0, 0, 0, 0x19, 0, 0, 0, 0]), Some(100 << 30));
        assert_eq!(read(&[0xff; 12]), Some(-1));
        assert_eq!(read(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        for bad in [b"0000648\0".as_slice(), b"-1\0", &[0x81; 12], &[0x80, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}

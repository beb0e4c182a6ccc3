//! The records of extended headers (`LENGTH KEY=VALUE\n`), as far as they matter here: what a plain header cannot say about a
//! member's name, target, size and time, and where a sparse file has its data.

use super::sparse::Segment;

/// Seconds and nanoseconds since 1970; the nanoseconds count forward even before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Timestamp {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

/// A record that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRecord {
    #[error("an extended header's records do not have the lengths that they name")]
    Length,
    #[error("an extended header's {0} makes no sense")]
    Value(&'static str),
    #[error("an extended header lists more than {} pieces of a sparse file", super::sparse::SEGMENTS)]
    TooManySegments,
}

/// What extended headers say about a member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) modified: Option<Timestamp>,
    pub(super) sparse: SparseRecords,
}

/// What they say about a sparse file: versions 0.0 and 0.1 list the pieces here, 1.0 before the data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct SparseRecords {
    pub(super) major: u64,
    pub(super) minor: u64,
    pub(super) real_size: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) segments: Vec<Segment>,
    /// Of version 0.0: an offset whose size has not come yet.
    offset: Option<u64>,
}

impl Extended {
    /// Adds the records of another header; what it says counts more.
    pub(super) fn add(&mut self, mut records: &[u8]) -> Result<(), BadRecord> {
        while !records.is_empty() {
            let (key, value, rest) = split(records).ok_or(BadRecord::Length)?;
            self.set(key, value)?;
            records = rest;
        }
        match self.sparse.offset {
            None => Ok(()),
            Some(_) => Err(BadRecord::Value("GNU.sparse.offset")),
        }
    }

    /// Takes one record in; an empty value takes an earlier one back.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), BadRecord> {
        let bytes = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = bytes(),
            b"linkpath" => self.link = bytes(),
            b"size" => self.size = optional(value, "size", decimal)?,
            b"mtime" => self.modified = optional(value, "mtime", timestamp)?,
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(key, value)?;
                }
            }
        }
        Ok(())
    }
}

impl SparseRecords {
    pub(super) fn is_used(&self) -> bool {
        *self != Self::default()
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), BadRecord> {
        let number = |name| decimal(value).ok_or(BadRecord::Value(name));
        match key {
            b"major" => self.major = number("GNU.sparse.major")?,
            b"minor" => self.minor = number("GNU.sparse.minor")?,
            b"name" => self.name = Some(value.to_vec()),
            b"realsize" | b"size" => self.real_size = Some(number("GNU.sparse.realsize")?),
            b"offset" => self.offset = Some(number("GNU.sparse.offset")?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or(BadRecord::Value("GNU.sparse.numbytes"))?;
                self.push(offset, number("GNU.sparse.numbytes")?)?;
            }
            b"map" => self.map(value)?,
            _ => {}
        }
        Ok(())
    }

    fn map(&mut self, value: &[u8]) -> Result<(), BadRecord> {
        let mut numbers = value.split(|&byte| byte == b',').map(decimal);
        self.segments.clear();
        while let Some(offset) = numbers.next() {
            match (offset, numbers.next().flatten()) {
                (Some(offset), Some(length)) => self.push(offset, length)?,
                _ => return Err(BadRecord::Value("GNU.sparse.map")),
            }
        }
        Ok(())
    }

    fn push(&mut self, offset: u64, length: u64) -> Result<(), BadRecord> {
        if self.segments.len() == super::sparse::SEGMENTS {
            return Err(BadRecord::TooManySegments);
        }
        self.segments.push(Segment { offset, length });
        Ok(())
    }
}

/// Key and value of the first record, and what follows it. Values may hold anything, newlines too: only the length ends them.
fn split(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = records.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(&records[..blank])?).ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let pair = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|&byte| byte == b'=')?;
    Some((&pair[..equals], &pair[equals + 1..], rest))
}

fn optional<T>(value: &[u8], name: &'static str, read: fn(&[u8]) -> Option<T>) -> Result<Option<T>, BadRecord> {
    if value.is_empty() { Ok(None) } else { read(value).map(Some).ok_or(BadRecord::Value(name)) }
}

/// Digits and nothing else.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    let digit = |value: u64, digit: &u8| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, digit) }
}

/// `-?DIGITS(.DIGITS)?`; beyond nanoseconds it is cut, towards the past as everywhere.
fn timestamp(value: &[u8]) -> Option<Timestamp> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().map(|digit| u32::from(digit - b'0')).chain(std::iter::repeat(0));
    let nanoseconds = digits.take(9).fold(0, |value, digit| value * 10 + digit);
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds },
        (true, _) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// Appends one record; the length counts itself.
pub(super) fn write_record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let digits = |number: usize| number.ilog10() as usize + 1;
    let length = rest + digits(rest + digits(rest));
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(records: &[u8]) -> Result<Extended, BadRecord> {
        let mut extended = Extended::default();
        extended.add(records).map(|()| extended)
    }

    #[test]
    fn values_hold_newlines_and_any_bytes() {
        let mut records = Vec::new();
        write_record(&mut records, "path", b"a\nb=\xff c");
        write_record(&mut records, "comment", &[b'x'; 200]);
        write_record(&mut records, "linkpath", b"t");
        let extended = read(&records).unwrap();
        assert_eq!(extended.path.as_deref(), Some(b"a\nb=\xff c".as_slice()));
        assert_eq!(extended.link.as_deref(), Some(b"t".as_slice()));
    }

    #[test]
    fn a_record_s_length_counts_its_own_digits() {
        for length in 0..1200 {
            let mut record = Vec::new();
            write_record(&mut record, "path", &vec![b'x'; length]);
            let named = record.split(|&byte| byte == b' ').next().and_then(decimal).unwrap();
            assert_eq!(named as usize, record.len());
        }
    }

    #[test]
    fn times_are_read_to_the_nanosecond() {
        let time = |value: &[u8]| timestamp(value).map(|time| (time.seconds, time.nanoseconds));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"0.1234567899"), Some((0, 123_456_789)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        for bad in [b"".as_slice(), b".5", b"1.x", b"1,5", b"--1", b"99999999999999999999"] {
            assert_eq!(time(bad), None);
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bad in [b"x".as_slice(), b"5 a=", b"6 path\n", b"999 path=x\n", b"10 size=-1\n", b"0 a=b\n", b"3 \n\n"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}

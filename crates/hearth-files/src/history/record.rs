//! One entry of a checkpoint, and its form on disk.
//!
//! A list of entries is a header and the entries in the order of a walk. Each has a part of fixed length, then its path without
//! what it begins with in common with the path before, then a symbolic link's target.

use std::io::{self, Read, Write};

use hearth_protocol::files::FileKind;
use rustix::fs::{Statx, Timespec};

/// The length of an entry's fixed part.
pub(super) const FIXED: usize = 112;
/// The longest path, and target, that is believed.
const LONGEST: usize = 128 * 1024;

/// A moment as files have it: seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Moment {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

impl Moment {
    /// The tick that the kernel stamps changes with now, or one before.
    pub(super) fn tick() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        Self { seconds: now.tv_sec, nanoseconds: now.tv_nsec as u32 }
    }

    pub(super) fn timespec(self) -> Timespec {
        Timespec { tv_sec: self.seconds, tv_nsec: self.nanoseconds as _ }
    }
}

/// What `stat` says of a file that changes whenever its content does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp {
    pub(super) size: u64,
    pub(super) modified: Moment,
    pub(super) changed: Moment,
    pub(super) inode: u64,
}

impl Stamp {
    pub(super) fn of(stat: &Statx) -> Self {
        let moment = |time: &rustix::fs::StatxTimestamp| Moment { seconds: time.tv_sec, nanoseconds: time.tv_nsec };
        let (modified, changed) = (moment(&stat.stx_mtime), moment(&stat.stx_ctime));
        Self { size: stat.stx_size, modified, changed, inode: stat.stx_ino }
    }

    /// Whether every change after `tick`, in which reading began, would show: those in one tick all have the same time.
    pub(super) fn is_settled(&self, tick: Moment) -> bool {
        self.modified < tick && self.changed < tick
    }
}

/// Where an entry's content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// It has none, or none that can be kept.
    None,
    /// Among others in a pack.
    Packed(Packed),
    /// In a file of its own.
    Large(u64),
    /// What a symbolic link says.
    Target(Vec<u8>),
}

/// A place in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) pack: u32,
    pub(super) offset: u64,
    /// Its length there.
    pub(super) stored: u64,
    pub(super) compressed: bool,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: FileKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The length of its content.
    pub(super) size: u64,
    /// The time that it is given again.
    pub(super) modified: Moment,
    /// Names the file that several entries are; 0 for one that has a single name.
    pub(super) link: u32,
    pub(super) content: Content,
    /// What `stat` said when its content was this; `None` where that says nothing.
    pub(super) stamp: Option<Stamp>,
}

const STAMPED: u8 = 1;
const COMPRESSED: u8 = 2;

/// The kinds, by the number that stands for each.
const KINDS: [FileKind; 6] =
    [FileKind::File, FileKind::Directory, FileKind::Symlink, FileKind::Fifo, FileKind::Socket, FileKind::Device];

impl Entry {
    fn encode(&self, before: &[u8], bytes: &mut Vec<u8>) {
        let same = self.path.iter().zip(before).take_while(|(one, other)| one == other).count();
        let kind = KINDS.iter().position(|kind| *kind == self.kind).expect("every kind has a number");
        let (place, offset, stored, compressed, target) = match &self.content {
            Content::None => (0, 0, 0, false, b"".as_slice()),
            Content::Packed(Packed { pack, offset, stored, compressed }) => {
                (u64::from(*pack) + 2, *offset, *stored, *compressed, b"".as_slice())
            }
            Content::Large(number) => (1, *number, 0, false, b"".as_slice()),
            Content::Target(target) => (0, 0, 0, false, target.as_slice()),
        };
        let flags = if self.stamp.is_some() { STAMPED } else { 0 } | if compressed { COMPRESSED } else { 0 };
        let stamp = self.stamp.unwrap_or_default();
        let start = bytes.len();
        bytes.extend_from_slice(&[kind as u8, flags]);
        bytes.extend_from_slice(&(self.mode as u16).to_le_bytes());
        for number in [
            same as u32,
            (self.path.len() - same) as u32,
            target.len() as u32,
            self.uid,
            self.gid,
            self.modified.nanoseconds,
            stamp.modified.nanoseconds,
            stamp.changed.nanoseconds,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [
            self.size,
            self.modified.seconds.cast_unsigned(),
            place,
            offset,
            stored,
            stamp.size,
            stamp.modified.seconds.cast_unsigned(),
            stamp.changed.seconds.cast_unsigned(),
            stamp.inode,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.link.to_le_bytes());
        debug_assert_eq!(bytes.len() - start, FIXED);
        bytes.extend_from_slice(&self.path[same..]);
        bytes.extend_from_slice(target);
    }

    fn decode(fixed: &[u8; FIXED], before: &[u8], mut path: Vec<u8>, rest: &mut impl Read) -> io::Result<(Self, u64)> {
        let short = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(fixed[at..at + 8].try_into().expect("eight bytes"));
        let kind = *KINDS.get(usize::from(fixed[0])).ok_or_else(damaged)?;
        let (same, own, target) = (short(4) as usize, short(8) as usize, short(12) as usize);
        if same > before.len() || own > LONGEST || target > LONGEST {
            return Err(damaged());
        }
        path.clear();
        path.extend_from_slice(&before[..same]);
        path.resize(same + own, 0);
        rest.read_exact(&mut path[same..])?;
        let content = match (kind, long(52)) {
            (FileKind::Symlink, _) => {
                let mut text = vec![0; target];
                rest.read_exact(&mut text)?;
                Content::Target(text)
            }
            (_, 0) => Content::None,
            (_, 1) => Content::Large(long(60)),
            (_, pack) => Content::Packed(Packed {
                pack: u32::try_from(pack - 2).map_err(|_| damaged())?,
                offset: long(60),
                stored: long(68),
                compressed: fixed[1] & COMPRESSED != 0,
            }),
        };
        let moment =
            |seconds, nanoseconds| Moment { seconds: long(seconds).cast_signed(), nanoseconds: short(nanoseconds) };
        let stamp = Stamp { size: long(76), modified: moment(84, 28), changed: moment(92, 32), inode: long(100) };
        let entry = Self {
            path,
            kind,
            mode: u32::from(u16::from_le_bytes([fixed[2], fixed[3]])),
            uid: short(16),
            gid: short(20),
            size: long(36),
            modified: moment(44, 24),
            link: short(108),
            content,
            stamp: (fixed[1] & STAMPED != 0).then_some(stamp),
        };
        Ok((entry, (FIXED + own + target) as u64))
    }
}

pub(super) fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is damaged")
}

/// Tells the fixed part of an entry what `stat` says now.
pub(super) fn restamp(fixed: &mut [u8; FIXED], stamp: Option<Stamp>) {
    fixed[1] = if stamp.is_some() { fixed[1] | STAMPED } else { fixed[1] & !STAMPED };
    let stamp = stamp.unwrap_or_default();
    fixed[28..32].copy_from_slice(&stamp.modified.nanoseconds.to_le_bytes());
    fixed[32..36].copy_from_slice(&stamp.changed.nanoseconds.to_le_bytes());
    for (at, number) in [
        (76, stamp.size),
        (84, stamp.modified.seconds.cast_unsigned()),
        (92, stamp.changed.seconds.cast_unsigned()),
        (100, stamp.inode),
    ] {
        fixed[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
}

/// Entries on their way to the disk.
pub(super) struct Writer<W> {
    to: W,
    before: Vec<u8>,
    bytes: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, before: Vec::new(), bytes: Vec::new() }
    }

    pub(super) fn add(&mut self, entry: &Entry) -> io::Result<()> {
        self.bytes.clear();
        entry.encode(&self.before, &mut self.bytes);
        self.before.clear();
        self.before.extend_from_slice(&entry.path);
        self.to.write_all(&self.bytes)
    }

    pub(super) fn into_inner(self) -> W {
        self.to
    }
}

/// Entries as they are read, of which there must be as many as was said.
pub(super) struct Reader<R> {
    from: R,
    before: Vec<u8>,
    left: u64,
    /// Where the entry that was read last begins, and where the next does.
    place: u64,
    next: u64,
}

impl<R: Read> Reader<R> {
    /// Reads so many entries, the first of which stands at `place`.
    pub(super) fn new(from: R, count: u64, place: u64) -> Self {
        Self { from, before: Vec::new(), left: count, place, next: place }
    }

    /// Where the entry that was read last begins.
    pub(super) fn place(&self) -> u64 {
        self.place
    }

    /// The next; `None` behind the last.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        self.next_in(Vec::new())
    }

    /// As [`Self::next`]. Its path is put into `room`.
    pub(super) fn next_in(&mut self, room: Vec<u8>) -> io::Result<Option<Entry>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut fixed = [0; FIXED];
        self.from.read_exact(&mut fixed)?;
        let (entry, length) = Entry::decode(&fixed, &self.before, room, &mut self.from)?;
        (self.place, self.next) = (self.next, self.next + length);
        self.before.clear();
        self.before.extend_from_slice(&entry.path);
        Ok(Some(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_as_they_were() {
        let stamp = Stamp {
            size: 7,
            modified: Moment { seconds: -1, nanoseconds: 999_999_999 },
            changed: Moment { seconds: 1 << 40, nanoseconds: 1 },
            inode: u64::MAX,
        };
        let packed = Packed { pack: 9, offset: 1 << 40, stored: 3, compressed: true };
        let contents = [
            (FileKind::File, Content::Packed(packed)),
            (FileKind::File, Content::Packed(Packed { compressed: false, ..packed })),
            (FileKind::File, Content::Large(1 << 33)),
            (FileKind::Symlink, Content::Target(b"../\xff".to_vec())),
            (FileKind::Directory, Content::None),
        ];
        let entries: Vec<Entry> = contents
            .into_iter()
            .enumerate()
            .map(|(number, (kind, content))| Entry {
                path: format!("directory/{}", "x".repeat(number * 40)).into_bytes(),
                kind,
                mode: 0o7751,
                uid: 1,
                gid: u32::MAX,
                size: 1 << 50,
                modified: stamp.modified,
                link: number as u32,
                content,
                stamp: (number != 2).then_some(stamp),
            })
            .collect();
        let mut writer = Writer::new(Vec::new());
        entries.iter().for_each(|entry| writer.add(entry).unwrap());
        let bytes = writer.into_inner();
        let mut reader = Reader::new(bytes.as_slice(), entries.len() as u64, 5);
        let back: Vec<Entry> = std::iter::from_fn(|| reader.next().unwrap()).collect();
        assert_eq!(back, entries);
        // The third has no stamp; it is given one, and the last loses its own.
        let mut bytes_again = bytes.clone();
        let mut reader = Reader::new(bytes.as_slice(), entries.len() as u64, 0);
        let places: Vec<_> = std::iter::from_fn(|| reader.next().unwrap().map(|_| reader.place() as usize)).collect();
        for (number, stamp) in [(2, Some(stamp)), (4, None)] {
            let fixed = &mut bytes_again[places[number]..places[number] + FIXED];
            restamp(fixed.try_into().unwrap(), stamp);
        }
        let mut reader = Reader::new(bytes_again.as_slice(), entries.len() as u64, 0);
        let again: Vec<_> = std::iter::from_fn(|| reader.next().unwrap()).map(|entry| entry.stamp).collect();
        assert_eq!(again, [Some(stamp), Some(stamp), Some(stamp), Some(stamp), None]);
        let mut reader = Reader::new(&bytes[..bytes.len() - 1], entries.len() as u64, 0);
        assert!(std::iter::from_fn(|| Some(reader.next())).any(|read| read.is_err()));
    }
}

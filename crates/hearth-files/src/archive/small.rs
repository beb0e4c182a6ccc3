//! An archive that is small enough to be read whole, for what must not touch a disk on its way.

use std::io::Read;

use super::ArchiveError;
use super::error::Rule;
use super::path::clean;
use super::reader::{Kind, Reader};

/// A member of a small archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallMember {
    /// Its path in its one form: names with a slash between two, none of them a dot or two. Empty for the top directory.
    pub path: Vec<u8>,
    /// What it is.
    pub content: SmallContent,
}

/// What a member of a small archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SmallContent {
    /// A file with these bytes.
    File(Vec<u8>),
    /// A directory.
    Directory,
    /// A symbolic or hard link.
    Link,
    /// A FIFO.
    Fifo,
}

/// Reads a whole archive: tar, plain or compressed, of at most `limit_bytes` without compression, which bounds what it takes in memory.
///
/// # Errors
/// [`ArchiveError`]: damage, a cut, more bytes than allowed, a path that leads outside, a sparse file.
pub fn read_small(input: impl Read, limit_bytes: u64) -> Result<Vec<SmallMember>, ArchiveError> {
    let mut reader = Reader::new(input, Some(limit_bytes))?;
    let mut members = Vec::new();
    while let Some(member) = reader.next()? {
        let mut path = Vec::new();
        clean(&member.path, &mut path).map_err(|rule| ArchiveError::member(&member.path, rule))?;
        let content = match member.kind {
            Kind::Directory => SmallContent::Directory,
            Kind::Symlink | Kind::HardLink => SmallContent::Link,
            Kind::Fifo => SmallContent::Fifo,
            Kind::File if path.is_empty() => return Err(ArchiveError::member(&member.path, Rule::Destination)),
            Kind::File if member.segments.is_some() => {
                let rule = Rule::Unsupported { kind: "a sparse file".to_owned() };
                return Err(ArchiveError::member(&member.path, rule));
            }
            Kind::File => {
                // Grown as the bytes come: the length is only a claim.
                let mut bytes = Vec::new();
                while (bytes.len() as u64) < member.length {
                    bytes.extend_from_slice(reader.data(member.length - bytes.len() as u64)?);
                }
                SmallContent::File(bytes)
            }
        };
        members.push(SmallMember { path, content });
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::super::header::Header;
    use super::*;

    /// An archive of members with a path, a kind and some bytes.
    fn archive(members: &[(&str, u8, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (path, kind, data) in members {
            let mut block = [0; 512];
            block[..path.len()].copy_from_slice(path.as_bytes());
            block[100..107].copy_from_slice(b"0000644");
            block[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
            block[136..147].copy_from_slice(b"00000000000");
            block[156] = *kind;
            block[157] = b'x';
            block[257..265].copy_from_slice(b"ustar\x0000");
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            assert!(Header(&block).sum_is_right());
            bytes.extend_from_slice(&block);
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    #[test]
    fn members_come_whole_and_in_their_order() {
        let archive =
            archive(&[("./", b'5', b""), ("a//b", b'0', b"one"), ("l", b'2', b""), ("h", b'1', b""), ("f", b'6', b"")]);
        let members = read_small(archive.as_slice(), 1 << 20).unwrap();
        let expected: Vec<(&[u8], SmallContent)> = vec![
            (b"", SmallContent::Directory),
            (b"a/b", SmallContent::File(b"one".to_vec())),
            (b"l", SmallContent::Link),
            (b"h", SmallContent::Link),
            (b"f", SmallContent::Fifo),
        ];
        let found: Vec<_> = members.iter().map(|member| (member.path.as_slice(), member.content.clone())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_leads_outside_is_cut_off_or_is_too_large_is_refused() {
        for path in ["../a", "/a", "a/../../b"] {
            let archive = archive(&[(path, b'0', b"x")]);
            assert!(matches!(read_small(archive.as_slice(), 1 << 20), Err(ArchiveError::Member { .. })), "{path}");
        }
        let large = archive(&[("a", b'0', &[7; 5000])]);
        assert!(matches!(read_small(large.as_slice(), 4096), Err(ArchiveError::TooLarge { .. })));
        assert!(matches!(read_small(&large[..3000], 1 << 20), Err(ArchiveError::CutOff { .. })));
        assert!(read_small(&b""[..], 1 << 20).is_err());
    }
}

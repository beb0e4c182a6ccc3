//! The initramfs: a `newc` cpio archive, as the kernel unpacks it before it starts `/init`.
//!
//! Format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst. Each member is a header of 110 ASCII
//! bytes, its name with a NUL, and its content, both padded to four bytes. The archive is not compressed, because under
//! emulation the kernel unpacks slower than the host copies, and depends on nothing but what was put in.

use std::collections::BTreeSet;

/// Says why something cannot be put into an initramfs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InitramfsError {
    /// The path is empty, absolute, or has empty, `.` or `..` parts or a NUL.
    #[error("{path:?} is not a path within an initramfs: expected one like dev/console")]
    Path {
        /// The path.
        path: String,
    },
    /// Something has this path already.
    #[error("{path:?} is in the initramfs already")]
    Repeated {
        /// The path.
        path: String,
    },
    /// The content is longer than the format can say.
    #[error("{path:?} has {bytes} bytes, more than the format's 4 GiB")]
    TooLong {
        /// The path.
        path: String,
        /// Its length in bytes.
        bytes: usize,
    },
}

/// Collects an initramfs. Owner and group of everything are root, times are 0; missing parent directories are made
/// with mode 0755. The same calls give the same bytes.
#[derive(Debug, Default)]
pub struct Initramfs {
    archive: Vec<u8>,
    paths: BTreeSet<String>,
}

const KIND: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl Initramfs {
    /// Starts an empty one.
    pub fn new() -> Self {
        Initramfs::default()
    }

    /// Adds a directory with permission bits such as `0o755`.
    ///
    /// # Errors
    /// A path that is not one, or is there already.
    pub fn directory(mut self, path: &str, permissions: u32) -> Result<Self, InitramfsError> {
        self.member(path, DIRECTORY | permissions & 0o7777, (0, 0), &[])?;
        Ok(self)
    }

    /// Adds a file with permission bits such as `0o755`.
    ///
    /// # Errors
    /// A path that is not one or is there already, or a content over 4 GiB.
    pub fn file(mut self, path: &str, permissions: u32, content: &[u8]) -> Result<Self, InitramfsError> {
        self.member(path, REGULAR | permissions & 0o7777, (0, 0), content)?;
        Ok(self)
    }

    /// Adds a symbolic link to `target`.
    ///
    /// # Errors
    /// A path that is not one, or is there already.
    pub fn symlink(mut self, path: &str, target: &str) -> Result<Self, InitramfsError> {
        self.member(path, SYMLINK | 0o777, (0, 0), target.as_bytes())?;
        Ok(self)
    }

    /// Adds a character device, such as `dev/console` (5, 1).
    ///
    /// # Errors
    /// A path that is not one, or is there already.
    pub fn character_device(
        mut self,
        path: &str,
        permissions: u32,
        (major, minor): (u32, u32),
    ) -> Result<Self, InitramfsError> {
        self.member(path, CHARACTER_DEVICE | permissions & 0o7777, (major, minor), &[])?;
        Ok(self)
    }

    /// Ends the archive and returns it.
    pub fn finish(mut self) -> Vec<u8> {
        let end = Header { inode: 0, mode: 0, links: 1, size: 0, device: (0, 0) };
        self.append(&end, "TRAILER!!!", &[]);
        self.archive
    }

    fn member(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<(), InitramfsError> {
        check_path(path)?;
        let size = u32::try_from(content.len())
            .map_err(|_| InitramfsError::TooLong { path: path.to_owned(), bytes: content.len() })?;
        if self.paths.contains(path) {
            return Err(InitramfsError::Repeated { path: path.to_owned() });
        }
        if let Some((parent, _)) = path.rsplit_once('/')
            && !self.paths.contains(parent)
        {
            self.member(parent, DIRECTORY | 0o755, (0, 0), &[])?;
        }
        self.paths.insert(path.to_owned());
        let links = if mode & KIND == DIRECTORY { 2 } else { 1 };
        let inode = u32::try_from(self.paths.len()).unwrap_or(u32::MAX);
        self.append(&Header { inode, mode, links, size, device }, path, content);
        Ok(())
    }

    fn append(&mut self, header: &Header, name: &str, content: &[u8]) {
        header.write(name.len() + 1, &mut self.archive);
        self.archive.extend_from_slice(name.as_bytes());
        self.archive.push(0);
        self.pad();
        self.archive.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.archive.resize(self.archive.len().next_multiple_of(4), 0);
    }
}

struct Header {
    inode: u32,
    mode: u32,
    links: u32,
    size: u32,
    device: (u32, u32),
}

impl Header {
    fn write(&self, name_length: usize, archive: &mut Vec<u8>) {
        let (owner, group, time, checksum) = (0, 0, 0, 0);
        let (major, minor) = self.device;
        let name_length = name_length as u32;
        archive.extend_from_slice(b"070701");
        let fields = [
            self.inode,
            self.mode,
            owner,
            group,
            self.links,
            time,
            self.size,
            0,
            0,
            major,
            minor,
            name_length,
            checksum,
        ];
        for field in fields {
            archive.extend_from_slice(format!("{field:08x}").as_bytes());
        }
    }
}

/// The kernel refuses names of `PATH_MAX` (4096) and more.
fn check_path(path: &str) -> Result<(), InitramfsError> {
    let good = path.len() < 4096
        && !path.contains('\0')
        && path != "TRAILER!!!"
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if good { Ok(()) } else { Err(InitramfsError::Path { path: path.chars().take(80).collect() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let archive = Initramfs::new().file("init", 0o755, b"#!x\n\n").unwrap().finish();
        let golden = concat!(
            "070701",
            "00000001",
            "000081ed",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000005",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000005",
            "00000000",
            "init\0\0",
            "#!x\n\n\0\0\0",
            "070701",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "0000000b",
            "00000000",
            "TRAILER!!!\0\0\0\0",
        );
        assert_eq!(String::from_utf8(archive).unwrap(), golden);
    }

    #[test]
    fn missing_parents_come_first_and_once() {
        let archive = Initramfs::new()
            .file("a/b/one", 0o644, b"")
            .unwrap()
            .file("a/b/two", 0o644, b"")
            .unwrap()
            .character_device("dev/console", 0o600, (5, 1))
            .unwrap()
            .finish();
        assert_eq!(names(&archive), ["a", "a/b", "a/b/one", "a/b/two", "dev", "dev/console", "TRAILER!!!"]);
    }

    #[test]
    fn what_would_leave_the_root_or_come_twice_is_refused() {
        for path in ["", "/init", "a//b", "../x", "a/../b", "./a", "a\0b", "a/"] {
            assert!(matches!(Initramfs::new().file(path, 0, b""), Err(InitramfsError::Path { .. })), "{path:?}");
        }
        let twice = Initramfs::new().directory("a", 0o755).unwrap().file("a", 0o644, b"");
        assert_eq!(twice.unwrap_err(), InitramfsError::Repeated { path: "a".to_owned() });
    }

    #[test]
    fn the_same_calls_give_the_same_bytes() {
        let build = || Initramfs::new().file("a/b", 0o600, b"x").unwrap().symlink("c", "a/b").unwrap().finish();
        assert_eq!(build(), build());
    }

    /// Walks an archive by its headers alone.
    fn names(archive: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < archive.len() {
            let field = |index: usize| {
                let text = std::str::from_utf8(&archive[at + 6 + index * 8..at + 14 + index * 8]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (size, name_length) = (field(6), field(11));
            let name = &archive[at + 110..at + 110 + name_length - 1];
            found.push(String::from_utf8(name.to_vec()).unwrap());
            at = (at + 110 + name_length).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
        found
    }
}

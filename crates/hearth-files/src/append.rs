//! Adding to the end of a file: all of it, or nothing.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;

use hearth_protocol::ErrorCode;
use hearth_protocol::files::{Create, FileEntry};
use rustix::fs::OFlags;

use crate::content::{look, must_be_file, open_again};
use crate::entry::{entry, tidy};
use crate::error::FileError;
use crate::fresh::Fresh;
use crate::root::{Name, Root};

/// What is gathered in memory before it goes to the disk, in bytes.
const GATHERED: usize = 1024 * 1024;

/// Bytes for the end of a file that is there. They are kept aside until they are committed, so that being cut off adds none of them;
/// the file itself stays the same one, with all its names, and whoever has it open sees the addition.
#[derive(Debug)]
pub struct Addition {
    file: File,
    directory: OwnedFd,
    memory: Vec<u8>,
    aside: Option<Fresh>,
    path: Vec<u8>,
    /// The path as an entry has it.
    shown: Vec<u8>,
}

impl Addition {
    /// Begins to add to the file at `path`, or the one that a symbolic link there leads to; `None` when there is none yet.
    ///
    /// # Errors
    /// [`FileError`]: outside, something else than a regular file is there, or what is there is not as `create` says.
    pub fn begin(root: &Root, path: &[u8], create: Create) -> Result<Option<Self>, FileError> {
        let (directory, name) = match root.follow("append to", path, false) {
            Err(error) if error.code() == ErrorCode::NotFound && create != Create::Existing => return Ok(None),
            other => other?,
        };
        if look("append to", path, (&directory, &name), create)?.is_none() {
            return Ok(None);
        }
        let file = open(&directory, &name, path)?;
        let shown = tidy(root.relative("append to", path)?);
        Ok(Some(Self { file, directory, memory: Vec::new(), aside: None, path: path.to_vec(), shown }))
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`FileError`]: the disk is full, or fails. The file is untouched.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.memory.extend_from_slice(bytes);
        if self.memory.len() >= GATHERED { self.put_aside().map_err(|error| self.failed(error)) } else { Ok(()) }
    }

    fn put_aside(&mut self) -> io::Result<()> {
        let aside = match &mut self.aside {
            Some(aside) => aside,
            None => self.aside.insert(Fresh::new(self.directory.try_clone()?)?),
        };
        aside.file.write_all(&self.memory)?;
        self.memory.clear();
        Ok(())
    }

    fn failed(&self, error: io::Error) -> FileError {
        FileError::new("append to", &self.path, error)
    }

    /// Puts everything at the end of the file, and tells what it is now.
    ///
    /// # Errors
    /// [`FileError`]. What had been added is taken away again, unless somebody else has added to it meanwhile.
    pub fn commit(mut self) -> Result<FileEntry, FileError> {
        let before = self.file.metadata().map_err(|error| self.failed(error))?.len();
        let mut added = 0;
        self.add(&mut added).map_err(|error| {
            let now = self.file.metadata().map_or(u64::MAX, |metadata| metadata.len());
            let taken_back = now == before || (now == before + added && self.file.set_len(before).is_ok());
            let failed = self.failed(error);
            if taken_back { failed } else { failed.half_done() }
        })?;
        let stat = rustix::fs::fstat(&self.file).map_err(|error| self.failed(error.into()).half_done())?;
        Ok(entry(self.shown, &stat, None))
    }

    fn add(&mut self, added: &mut u64) -> io::Result<()> {
        if self.aside.is_some() {
            self.put_aside()?;
        }
        let Some(aside) = &mut self.aside else { return write_counted(&mut self.file, &self.memory, added) };
        aside.file.rewind()?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match aside.file.read(&mut buffer)? {
                0 => return Ok(()),
                count => write_counted(&mut self.file, &buffer[..count], added)?,
            }
        }
    }
}

/// Writes all, and counts what was written even if not all could be.
fn write_counted(file: &mut File, mut bytes: &[u8], written: &mut u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => (bytes, *written) = (&bytes[count..], *written + count as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn open(directory: &OwnedFd, name: &Name, path: &[u8]) -> Result<File, FileError> {
    let fail = |error| FileError::new("append to", path, error);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(directory, name, flags, rustix::fs::Mode::empty()).map_err(fail)?;
    must_be_file("append to", path, &rustix::fs::fstat(&found).map_err(fail)?)?;
    open_again(&found, OFlags::WRONLY | OFlags::APPEND).map_err(fail)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_added_comes_behind_all_at_once_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path(), "/workspace", None).unwrap();
        let (log, other) = (directory.path().join("log"), directory.path().join("other name"));
        fs::write(&log, "one\n").unwrap();
        fs::hard_link(&log, &other).unwrap();
        assert!(Addition::begin(&root, b"none", Create::Any).unwrap().is_none());
        assert!(Addition::begin(&root, b"no/such", Create::Any).unwrap().is_none());
        let mut addition = Addition::begin(&root, b"log", Create::Any).unwrap().unwrap();
        addition.write_all(b"tw").unwrap();
        addition.write_all(b"o\n").unwrap();
        assert_eq!(fs::read(&log).unwrap(), b"one\n");
        addition.commit().unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"one\ntwo\n");

        let large = vec![7; 3 * GATHERED + 5];
        for commit in [false, true] {
            let mut addition = Addition::begin(&root, b"log", Create::Any).unwrap().unwrap();
            large.chunks(100_000).for_each(|chunk| addition.write_all(chunk).unwrap());
            if commit {
                addition.commit().unwrap();
            }
        }
        assert_eq!(fs::read(&log).unwrap(), [b"one\ntwo\n".as_slice(), &large].concat());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert!(Addition::begin(&root, b"../x", Create::Any).is_err());
    }
}

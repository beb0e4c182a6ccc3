//! What a file holds, before or after: in memory when it can be text, else where it is.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use hearth_protocol::hex;
use sha1::{Digest, Sha1};

/// The longest content that is taken for text, in bytes.
const TEXT: u64 = 8 * 1024 * 1024;
/// The most lines of a text: what compares them takes some dozen bytes for each.
const LINES: usize = 500_000;

/// A content.
pub(super) enum Body {
    Memory(Vec<u8>),
    /// With its length. Nobody writes to it any more.
    File(File, u64),
}

impl Body {
    /// What may be held in memory of a file of this length.
    pub(super) fn fits(size: u64) -> bool {
        size <= TEXT
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, length) => *length,
        }
    }

    /// The lines of a text; `None` for what is none, or too much of one.
    pub(super) fn text(&self) -> Option<&[u8]> {
        let Self::Memory(bytes) = self else { return None };
        let is_text = memchr::memchr(0, bytes).is_none() && memchr::memchr_iter(b'\n', bytes).nth(LINES).is_none();
        is_text.then_some(bytes.as_slice())
    }

    /// Hands all of it to a writer.
    pub(super) fn copy_to(&self, to: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Memory(bytes) => to.write_all(bytes),
            Self::File(file, length) => {
                let mut file = file;
                file.rewind()?;
                let copied = io::copy(&mut file.take(*length), to)?;
                if copied == *length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
            }
        }
    }

    /// The name that git has for it.
    pub(super) fn git_name(&self) -> io::Result<String> {
        let mut hasher = GitName::new(self.len());
        self.copy_to(&mut hasher)?;
        Ok(hasher.finish())
    }
}

/// Computes the name that git has for a content.
pub(super) struct GitName(Sha1);

impl GitName {
    pub(super) fn new(length: u64) -> Self {
        Self(Sha1::new().chain_update(format!("blob {length}\0")))
    }

    pub(super) fn finish(self) -> String {
        hex::encode(&self.0.finalize())
    }
}

impl Write for GitName {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! Lines: the framing of the control lane, of every chunk header, and (with other limits) of both dialects.

use bytes::{Bytes, BytesMut};
use serde::Serialize;

use crate::{FrameError, limits};

/// Cuts a byte stream into lines of a bounded length. Reads each byte once, however the stream is cut.
#[derive(Debug)]
pub struct LineDecoder {
    limit: usize,
    searched: usize,
}

impl Default for LineDecoder {
    fn default() -> Self {
        Self::with_limit(limits::HEADER)
    }
}

impl LineDecoder {
    /// Makes a decoder for lines of at most `limit` bytes, the newline included.
    pub fn with_limit(limit: usize) -> Self {
        Self { limit, searched: 0 }
    }

    /// Takes the next whole line, without its newline, off the front of `buffer`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError::LineTooLong`] once the limit is passed without a newline. The stream cannot be read on.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let fresh = buffer.get(self.searched..).unwrap_or_default();
        match memchr::memchr(b'\n', fresh) {
            Some(offset) if self.searched + offset < self.limit => {
                let mut line = buffer.split_to(self.searched + offset + 1);
                line.truncate(line.len() - 1);
                self.searched = 0;
                Ok(Some(line.freeze()))
            }
            None if buffer.len() < self.limit => {
                self.searched = buffer.len();
                Ok(None)
            }
            _ => Err(FrameError::LineTooLong { limit: self.limit }),
        }
    }
}

/// Appends `message` to `out` as one JSON line.
///
/// # Errors
/// [`FrameError::LineTooLong`] when it does not fit [`limits::HEADER`]; `out` is then as it was.
pub fn encode_line(message: &impl Serialize, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    serde_json::to_writer(&mut *out, message).expect("wire messages are plain data and a Vec takes every write");
    out.push(b'\n');
    if out.len() - start > limits::HEADER {
        out.truncate(start);
        return Err(FrameError::LineTooLong { limit: limits::HEADER });
    }
    Ok(())
}

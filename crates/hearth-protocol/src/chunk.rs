//! Chunks: the framing of the bulk lane.

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{FrameError, LineDecoder, ReplyBody, RequestId, limits};

/// Names one of a request's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StreamName {
    /// Host to guest: a process's input, what is typed at its terminal, or the bytes of a file or archive that is sent.
    Stdin,
    /// Guest to host: a process's output, or what its terminal shows.
    Stdout,
    /// Guest to host: a process's error output.
    Stderr,
    /// Guest to host: what a request returns that no program wrote: a file's bytes, an archive, or entries and events, one JSON value
    /// a line.
    Data,
}

/// The line before a chunk's payload. A host sends input when it has read the request's `started` or its first credit, not before: the two
/// lanes overtake each other, and a chunk of a request that is not known is passed over as late.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkHeader {
    /// The request that owns the stream.
    pub id: RequestId,
    /// Which of its streams.
    pub stream: StreamName,
    /// The position of the payload's first byte in the whole stream. A jump says that the bytes between were dropped.
    pub at: u64,
    /// Whether the stream ends behind this payload.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end: bool,
    /// Host to guest: stops following behind this payload, as [`RequestBody::Detach`] does, which may overtake what came before on this lane.
    ///
    /// [`RequestBody::Detach`]: crate::RequestBody::Detach
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
    /// Guest to host: the request's last reply, a [`ReplyBody::Finished`], which says nothing before this payload is there and so need not come by
    /// the other lane. What makes the line longer than [`limits::HEADER`] comes there all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Box<ReplyBody>>,
    /// The number of raw bytes that follow the line, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<u64>,
}

/// Cuts the bulk lane into chunks. Never holds more than one header and one payload.
#[derive(Debug, Default)]
pub struct ChunkDecoder {
    lines: LineDecoder,
    pending: Option<(ChunkHeader, usize)>,
}

impl ChunkDecoder {
    /// Takes the next whole chunk off the front of `buffer`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// Any [`FrameError`]: the lane cannot be read on.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<(ChunkHeader, Bytes)>, FrameError> {
        if self.pending.is_none() {
            let Some(line) = self.lines.decode(buffer)? else { return Ok(None) };
            self.pending = Some(parse_header(&line)?);
        }
        match self.pending.take() {
            Some((header, length)) if buffer.len() >= length => Ok(Some((header, buffer.split_to(length).freeze()))),
            short => {
                self.pending = short;
                Ok(None)
            }
        }
    }

    /// How many bytes more than those in `buffer` the chunk that has begun is known to have.
    pub fn missing(&self, buffer: &BytesMut) -> usize {
        self.pending.as_ref().map_or(0, |(_, length)| length.saturating_sub(buffer.len()))
    }
}

fn parse_header(line: &[u8]) -> Result<(ChunkHeader, usize), FrameError> {
    let header: ChunkHeader =
        serde_json::from_slice(line).map_err(|error| FrameError::BadChunkHeader { reason: error.to_string() })?;
    let announced = header.payload.unwrap_or(0);
    match usize::try_from(announced) {
        Ok(length) if length <= limits::PAYLOAD => Ok((header, length)),
        _ => Err(FrameError::PayloadTooLong { announced, limit: limits::PAYLOAD }),
    }
}

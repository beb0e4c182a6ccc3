//! Files of the guest.

use bytes::Bytes;
use hearth_protocol::files::{FileEntry, FileRequest, FileResult, Place};
use hearth_protocol::{Finished, RequestBody};

use crate::channel::{Channel, wrong_result};
use crate::error::ChannelError;
use crate::operation::Operation;

impl Channel {
    /// Describes what is at a path; a symbolic link itself.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn stat(&self, place: impl Into<Place>) -> Result<FileEntry, ChannelError> {
        entry("stat", self.finish(RequestBody::File(FileRequest::Stat(place.into()))).await?)
    }

    /// Reads a file as a stream of `data`.
    ///
    /// # Errors
    /// As [`Self::operate`].
    pub async fn read(&self, place: impl Into<Place>) -> Result<Operation, ChannelError> {
        self.operate(RequestBody::File(FileRequest::Read { place: place.into(), offset: 0, length: None })).await
    }

    /// Reads a whole file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::request`]; [`hearth_protocol::ErrorCode::TooLarge`] for a larger one.
    pub async fn read_whole(&self, place: impl Into<Place>, limit: usize) -> Result<Bytes, ChannelError> {
        self.read(place).await?.collect(limit).await.map(|(_, bytes)| bytes)
    }

    /// Writes a file, whole or not at all; `mode` is for a new one, 0644 by default.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn write(
        &self,
        place: impl Into<Place>,
        mode: Option<u32>,
        content: Bytes,
    ) -> Result<FileEntry, ChannelError> {
        let write = self.operate(RequestBody::File(FileRequest::Write { place: place.into(), mode })).await?;
        write.send_all(content).await?;
        entry("write", write.finish().await?)
    }
}

fn entry(asked: &'static str, finished: Finished) -> Result<FileEntry, ChannelError> {
    match finished {
        Finished::File(FileResult::Entry(entry)) => Ok(entry),
        _ => Err(wrong_result(asked)),
    }
}

//! Processes that are there, without following them: pieces of their output, input whoever has started them.

use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::process::{
    CloseStdin, OutputRead, ProcessRequest, ProcessResult, ReadOutput, WriteInput, Written,
};
use hearth_protocol::{Finished, ProcessRef, RawString, RequestBody, limits};

use crate::channel::{Channel, wrong_result};
use crate::error::ChannelError;

/// What is written at most in the request itself, in bytes; however JSON escapes it, that fits a line. More takes a stream.
const INLINE: usize = 8 * 1024;

impl Channel {
    /// Reads a piece of an output stream, and tells where it lies.
    ///
    /// # Errors
    /// As [`Self::request`]. The wait that the read asks for comes on top of the default bound.
    pub async fn read_output(&self, read: ReadOutput) -> Result<(OutputRead, Bytes), ChannelError> {
        let wait = Duration::from_millis(read.wait_ms);
        let body = RequestBody::Process(ProcessRequest::Read(read));
        match self.exchange(body, wait, None, limits::READ as usize).await? {
            (Finished::Process(ProcessResult::Read(read)), bytes) => Ok((read, bytes)),
            _ => Err(wrong_result("read output")),
        }
    }

    /// Writes to a process's input, or types at its terminal, and tells how much was taken: all, unless the process does not read for
    /// as long as `wait`.
    ///
    /// # Errors
    /// As [`Self::request`]. `wait` comes on top of the default bound.
    pub async fn write_input(
        &self,
        process: impl Into<ProcessRef>,
        bytes: Bytes,
        wait: Duration,
    ) -> Result<Written, ChannelError> {
        let (text, upload) = inline(bytes);
        let write = WriteInput { wait_ms: wait.as_millis() as u64, ..WriteInput::new(process, text) };
        match self.exchange(RequestBody::Process(ProcessRequest::Write(write)), wait, upload, 0).await? {
            (Finished::Process(ProcessResult::Written(written)), _) => Ok(written),
            _ => Err(wrong_result("write input")),
        }
    }

    /// Ends a process's input behind what was written; at a terminal that is Ctrl-D, twice in a line that has begun.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn close_stdin(&self, process: impl Into<ProcessRef>) -> Result<(), ChannelError> {
        let close = CloseStdin { process: process.into() };
        match self.finish(RequestBody::Process(ProcessRequest::CloseStdin(close))).await? {
            Finished::Process(ProcessResult::Done {}) => Ok(()),
            _ => Err(wrong_result("close stdin")),
        }
    }
}

/// What goes into the request, or else what goes behind it.
pub(crate) fn inline(bytes: Bytes) -> (Option<RawString>, Option<Bytes>) {
    match bytes.len() <= INLINE && !bytes.contains(&0) {
        true => (Some(RawString::from(bytes.to_vec())), None),
        false => (None, Some(bytes)),
    }
}

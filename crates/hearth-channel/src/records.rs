//! An operation's `data` as records: one JSON value a line.

use std::marker::PhantomData;

use bytes::BytesMut;
use hearth_protocol::{ErrorCode, Fault, Finished, LineDecoder, RECORD, StreamName, decode_record};
use serde::de::DeserializeOwned;

use crate::channel::wrong_result;
use crate::error::ChannelError;
use crate::operation::{Operation, Sent};

/// The most that is kept of the records of one operation, in bytes as they came.
const COLLECTED: usize = 64 * 1024 * 1024;

/// An operation that sends records. Taking them is what allows the agent to send more; dropping this cancels it.
#[derive(Debug)]
pub struct Records<T> {
    operation: Operation,
    asked: &'static str,
    lines: LineDecoder,
    buffer: BytesMut,
    received: usize,
    result: Option<Finished>,
    kind: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Records<T> {
    pub(crate) fn new(operation: Operation, asked: &'static str) -> Self {
        let lines = LineDecoder::with_limit(RECORD);
        Self { operation, asked, lines, buffer: BytesMut::new(), received: 0, result: None, kind: PhantomData }
    }

    /// The next record; `None` at the end, when [`Self::finish`] has the result at once. Cancel-safe.
    ///
    /// # Errors
    /// [`ChannelError::Fault`] when the operation failed, [`ChannelError::UnexpectedReply`] for a line that is no record of this kind.
    pub async fn next(&mut self) -> Result<Option<T>, ChannelError> {
        loop {
            if let Some(line) = self.lines.decode(&mut self.buffer).map_err(|_| self.no_record())? {
                return decode_record(&line).map(Some).map_err(|_| self.no_record());
            }
            if self.result.is_some() {
                return if self.buffer.is_empty() { Ok(None) } else { Err(self.no_record()) };
            }
            match self.operation.next().await? {
                Some(Sent::Piece(StreamName::Data, bytes)) => {
                    self.received += bytes.len();
                    self.buffer.extend_from_slice(&bytes);
                }
                Some(Sent::Piece(..) | Sent::End(_)) => {}
                Some(Sent::Finished(result)) => self.result = Some(*result),
                None => return Err(wrong_result(self.asked)),
            }
        }
    }

    /// Waits for the end, drops the records before it, and returns the operation's result.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn finish(mut self) -> Result<Finished, ChannelError> {
        while self.next().await?.is_some() {}
        self.result.ok_or_else(|| wrong_result(self.asked))
    }

    /// Takes all records, which must be at most [`COLLECTED`] bytes together, and the result.
    pub(crate) async fn collect(mut self) -> Result<(Vec<T>, Finished), ChannelError> {
        let mut records = Vec::new();
        while let Some(record) = self.next().await? {
            if self.received > COLLECTED {
                let message = format!("more than {COLLECTED} bytes came: ask for less, or take them as they come");
                return Err(ChannelError::Fault { source: Fault::failed(ErrorCode::TooLarge, message) });
            }
            records.push(record);
        }
        self.finish().await.map(|result| (records, result))
    }

    fn no_record(&self) -> ChannelError {
        ChannelError::UnexpectedReply { asked: self.asked, answered: "a line that is none of its records" }
    }
}

//! What a client is told, and how it gets there.

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hearth_protocol::{ErrorCode, Fault};
use serde::{Serialize, Serializer};
use tokio::sync::mpsc;

use super::request::{Language, OpId, Refusal};
use crate::secrets::Secrets;

/// What one line may have, in bytes, its newline included: today's clients drop the link on a longer one.
pub(super) const LINE: usize = 512 * 1024;
/// The most bytes of a stream or a file that are put into one line. Every one of them may take six when it is written as JSON.
pub(super) const PIECE: usize = 64 * 1024;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A message to the client.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Answer<'a> {
    Pong {
        version: &'static str,
    },
    WarmReplAck {
        language: &'static str,
        status: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a str>,
    },
    Stdout {
        chunk: &'a str,
    },
    Stderr {
        chunk: &'a str,
    },
    Complete {
        exit_code: i32,
        execution_time_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        spawn_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        process_ms: Option<u64>,
    },
    FileWriteAck {
        path: &'a str,
        bytes_written: u64,
    },
    FileChunk {
        data: Base64<'a>,
    },
    FileReadComplete {
        path: &'a str,
        size: u64,
    },
    FileList {
        path: &'a str,
        entries: &'a [ListEntry],
    },
    Error {
        message: &'a str,
        error_type: &'static str,
        version: &'static str,
    },
}

/// Bytes that are written as base64.
#[derive(Debug)]
pub(super) struct Base64<'a>(pub(super) &'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

/// What is in a directory.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct ListEntry {
    pub(super) name: String,
    pub(super) is_dir: bool,
    pub(super) size: u64,
}

impl Answer<'_> {
    pub(super) fn pong() -> Self {
        Answer::Pong { version: VERSION }
    }

    pub(super) fn warm(language: Language, failure: Option<&str>) -> Answer<'_> {
        let status = if failure.is_none() { "ok" } else { "error" };
        Answer::WarmReplAck { language: language.name(), status, message: failure }
    }

    pub(super) fn error(refusal: &Refusal) -> Answer<'_> {
        Answer::Error { message: &refusal.message, error_type: refusal.error_type.name(), version: VERSION }
    }

    /// Writes the line; `None` when it is too long.
    pub(super) fn line(&self, op_id: Option<&OpId>) -> Option<Bytes> {
        #[derive(Serialize)]
        struct Line<'a> {
            #[serde(flatten)]
            answer: &'a Answer<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            op_id: Option<&'a OpId>,
        }
        let mut line = serde_json::to_vec(&Line { answer: self, op_id }).expect("an answer is plain data");
        line.push(b'\n');
        (line.len() <= LINE).then(|| line.into())
    }
}

/// The client can be told nothing any more.
#[derive(Debug)]
pub(super) struct Gone;

/// The way of one operation's answers to its client. Bounded: whoever has something to say waits until the client has taken what was
/// said before.
#[derive(Clone)]
pub(super) struct Answers {
    op_id: Option<OpId>,
    queue: mpsc::Sender<Bytes>,
    secrets: Rc<Secrets>,
}

impl Answers {
    pub(super) fn new(op_id: Option<OpId>, queue: mpsc::Sender<Bytes>, secrets: Rc<Secrets>) -> Self {
        Self { op_id, queue, secrets }
    }

    /// Sends a message that is bounded by what it is made of.
    pub(super) async fn send(&self, answer: &Answer<'_>) -> Result<(), Gone> {
        let line = answer.line(self.op_id.as_ref()).expect("no answer of this kind is so long");
        self.queue.send(line).await.map_err(|_| Gone)
    }

    /// Sends a message, unless it is too long for a line.
    pub(super) async fn try_send(&self, answer: &Answer<'_>) -> Result<Result<(), TooLong>, Gone> {
        match answer.line(self.op_id.as_ref()) {
            Some(line) => self.queue.send(line).await.map(Ok).map_err(|_| Gone),
            None => Ok(Err(TooLong)),
        }
    }

    /// Sends the message that ends an operation which failed. What it repeats may be a secret.
    pub(super) async fn refuse(&self, refusal: &Refusal) -> Result<(), Gone> {
        let fault = Fault::failed(ErrorCode::Io, refusal.message.clone());
        let Fault { message, .. } = self.secrets.redact_fault(fault);
        self.send(&Answer::error(&Refusal { message, ..*refusal })).await
    }
}

/// A message does not fit into a line.
#[derive(Debug)]
pub(super) struct TooLong;

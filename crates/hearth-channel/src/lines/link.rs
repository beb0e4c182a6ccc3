//! One connection of a [`super::LineChannel`]: its writer task, its lines, and the `op_id`s it has given out.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_protocol::LineDecoder;
use serde_json::Value;
use tokio::io::sink;
use tokio::task::JoinHandle;
use tokio::time;

use super::{LINE_LIMIT, LineError, REQUEST_LIMIT};
use crate::connection::{ReadHalf, WriteHalf};
use crate::error::ConnectError;
use crate::handshake::{Incoming, draw_epoch};
use crate::text::tame;
use crate::writer::{Message, Queue, SendError, Writer, writer};

/// The `op_id`s of the caller's choice that are remembered.
const CHOSEN: usize = 1024;
/// The most JSON values in a message. A guest keeps its lines under 512 KiB, so it cannot need more, while a line of 16 MiB
/// full of empty arrays would take hundreds of megabytes.
const VALUES: usize = 512 * 1024;

pub(super) struct Link {
    queue: Queue,
    writer: Mutex<Option<JoinHandle<()>>>,
    pub(super) lines: Arc<tokio::sync::Mutex<Lines>>,
    ids: Mutex<Ids>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

/// The `op_id`s of a connection's requests.
struct Ids {
    prefix: String,
    next: u64,
    chosen: VecDeque<Value>,
}

impl Ids {
    /// Gives a request an `op_id`, or remembers the one it has.
    fn stamp(&mut self, request: &mut serde_json::Map<String, Value>) -> Value {
        match request.get("op_id") {
            Some(Value::Null) | None => {
                self.next += 1;
                let id = Value::String(format!("{}-{}", self.prefix, self.next));
                request.insert("op_id".into(), id.clone());
                id
            }
            Some(chosen) => {
                let chosen = chosen.clone();
                self.chosen.truncate(CHOSEN - 1);
                self.chosen.push_front(chosen.clone());
                chosen
            }
        }
    }

    fn owns(&self, id: &Value) -> bool {
        let given = |id: &str| id.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with('-'));
        id.as_str().is_some_and(given) || self.chosen.contains(id)
    }
}

impl Link {
    /// Starts the writer. `unused` are the halves of a pair of ports that carry nothing: the first is drained, and its end stops
    /// the writer; the second is kept open.
    pub(super) fn new(
        read: ReadHalf,
        write: WriteHalf,
        unused: Option<(ReadHalf, WriteHalf)>,
        patience: Duration,
    ) -> Result<Self, ConnectError> {
        let ids = Ids { prefix: draw_epoch()?.to_string(), next: 0, chosen: VecDeque::new() };
        let (queue, writer) = writer(write, patience);
        let writer = tokio::spawn(run(writer, unused));
        Ok(Self {
            queue,
            writer: Mutex::new(Some(writer)),
            lines: Arc::new(tokio::sync::Mutex::new(Lines::new(read))),
            ids: Mutex::new(ids),
        })
    }

    /// Queues a request, and tells its `op_id`.
    pub(super) async fn send(&self, request: &Value) -> Result<Value, LineError> {
        let mut request = request.as_object().ok_or(LineError::NotAnObject)?.clone();
        let id = self.ids().stamp(&mut request);
        let mut line = serde_json::to_vec(&request).expect("a JSON value is plain data and a Vec takes every write");
        line.push(b'\n');
        if line.len() > REQUEST_LIMIT {
            return Err(LineError::RequestTooLong { length: line.len() });
        }
        self.queue.send(Message::new(line)).await.map_err(|error| match error {
            SendError::Full { after } => LineError::QueueFull { after },
            SendError::Stopped => LineError::WriterStopped,
        })?;
        Ok(id)
    }

    /// Whether a message with this `op_id` answers a request of this connection.
    pub(super) fn owns(&self, id: &Value) -> bool {
        self.ids().owns(id)
    }

    fn ids(&self) -> MutexGuard<'_, Ids> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what is queued, at most as long as said, and stops the writer.
    pub(super) async fn close(&self, timeout: Duration) {
        self.queue.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut writer) = writer {
            let _ = time::timeout(timeout, &mut writer).await;
            writer.abort();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            writer.abort();
        }
    }
}

async fn run(mut writer: Writer, unused: Option<(ReadHalf, WriteHalf)>) {
    let Some((mut read, _kept_open)) = unused else {
        let _ = writer.run().await;
        return;
    };
    let mut discard = sink();
    tokio::select! {
        _ = writer.run() => {}
        _ = tokio::io::copy(&mut read, &mut discard) => {}
    }
}

/// The lines that come in.
pub(super) struct Lines {
    incoming: Incoming,
    decoder: LineDecoder,
    /// Whether an answer of this connection has come: from then on no line is of an earlier session.
    synced: bool,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lines")
    }
}

impl Lines {
    fn new(read: ReadHalf) -> Self {
        Self { incoming: Incoming::new(read), decoder: LineDecoder::with_limit(LINE_LIMIT), synced: false }
    }

    /// Reads until a message whose `op_id` is wanted. Cancel-safe.
    pub(super) async fn message(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value, LineError> {
        loop {
            let line = self.line().await?;
            match parse(&line) {
                Ok(message) if message.get("op_id").is_some_and(&wanted) => {
                    self.synced = true;
                    return Ok(message);
                }
                Err(reason) if self.synced => return Err(LineError::NotAMessage { reason }),
                // Of an earlier session, or an answer that nobody waits for any more.
                Ok(_) | Err(_) => {}
            }
        }
    }

    async fn line(&mut self) -> Result<bytes::Bytes, LineError> {
        loop {
            let line = self.decoder.decode(&mut self.incoming.buffer);
            if let Some(line) = line.map_err(|source| LineError::LineTooLong { source })? {
                return Ok(line);
            }
            if !self.incoming.fill().await.map_err(|source| LineError::Read { source })? {
                return Err(LineError::HungUp);
            }
        }
    }
}

fn parse(line: &[u8]) -> Result<Value, String> {
    let values = line.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
    if values > VALUES {
        return Err(format!("it has {values} values"));
    }
    match serde_json::from_slice(line) {
        Ok(message @ Value::Object(_)) => Ok(message),
        Ok(_) => Err("it is not a JSON object".into()),
        Err(error) => Err(tame(&error.to_string())),
    }
}

//! Requests about processes that are there: pieces of their output, input by whoever has it.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::process::{OutputRead, ProcessRequest, ProcessResult, Written};
use hearth_protocol::{ErrorCode, Fault, Finished, RawString, StreamName};
use tokio::time::{Instant, timeout};

use super::child::Process;
use super::input::{Closed, CutOff, Input, Intake};
use super::output::Output;
use crate::agent::Agent;
use crate::session::operation::{Outlet, Streams};

/// Does what is asked.
pub(crate) async fn run(agent: Rc<Agent>, request: ProcessRequest, streams: Streams) -> Result<Finished, Fault> {
    let processes = &agent.processes;
    let result = match request {
        ProcessRequest::Read(read) => {
            let process = processes.get(&read.process)?;
            let output = process.output(read.stream)?;
            ProcessResult::Read(read_output(output, (read.from, read.limit), read.wait_ms, &streams.output).await?)
        }
        ProcessRequest::Write(write) => {
            let process = processes.get(&write.process)?;
            let source = Source::new(write.text, false, streams.input);
            ProcessResult::Written(write_input(&process, source, write.wait_ms).await?)
        }
        ProcessRequest::CloseStdin(close) => {
            processes.get(&close.process)?.open_input()?.close();
            ProcessResult::Done {}
        }
    };
    Ok(Finished::Process(result))
}

/// Sends a piece of an output stream as `data`: up to `limit` bytes from `from` on, waiting for the first.
///
/// # Errors
/// [`ErrorCode::InvalidField`] for a position that the stream has not come to.
pub(crate) async fn read_output(
    output: &Output,
    (from, limit): (u64, u64),
    wait_ms: u64,
    outlet: &Outlet,
) -> Result<OutputRead, Fault> {
    if from > output.total() {
        let message = format!("from is {from}, past the {} bytes written so far", output.total());
        return Err(Fault::never_started(ErrorCode::InvalidField, message));
    }
    // What is there when the time has passed is read all the same.
    let _ = timeout(Duration::from_millis(wait_ms), output.wait_beyond(from)).await;
    let (at, piece) = output.piece(from, limit as usize);
    let length = piece.len() as u64;
    let ended = output.end().is_some_and(|end| at + length >= end);
    let read = OutputRead { at, length, total: output.total(), ended };
    outlet.send(StreamName::Data, piece.into()).await;
    Ok(read)
}

/// Where what is written comes from.
pub(crate) enum Source {
    /// The request itself.
    Text(Bytes),
    /// The request's `stdin` stream, and whether a newline follows.
    Upload(Intake, bool),
}

impl Source {
    /// Takes the text, or, where there is none, the upload, with a newline behind it where one is asked for.
    pub(crate) fn new(text: Option<RawString>, newline: bool, upload: Intake) -> Self {
        match text {
            Some(text) if newline => Self::Text([text.as_bytes(), b"\n"].concat().into()),
            Some(text) => Self::Text(Bytes::copy_from_slice(text.as_bytes())),
            None => Self::Upload(upload, newline),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        match self {
            Self::Text(text) => Ok(Some(std::mem::take(text)).filter(|text| !text.is_empty())),
            Self::Upload(upload, newline) => match upload.next().await {
                Ok(Some(bytes)) => Ok(Some(bytes)),
                Ok(None) => Ok(std::mem::take(newline).then(|| Bytes::from_static(b"\n"))),
                Err(CutOff) => Err(Fault::failed(ErrorCode::Cancelled, "the bytes to write were cut off")),
            },
        }
    }
}

/// Writes to a process, waiting `wait_ms` in all while it does not read. What it does not take by then is not written.
///
/// # Errors
/// [`ErrorCode::NotRunning`] when nothing could be written at all.
pub(crate) async fn write_input(process: &Process, mut source: Source, wait_ms: u64) -> Result<Written, Fault> {
    let input = process.open_input()?;
    let mut patience = Duration::from_millis(wait_ms);
    let mut accepted = 0;
    while let Some(mut piece) = source.next().await? {
        while !piece.is_empty() {
            let taken = match input.offer(&piece) {
                Ok(taken) => taken,
                Err(Closed) if accepted == 0 => {
                    let message = format!("the input of process {} was closed", process.id.0);
                    return Err(Fault::never_started(ErrorCode::NotRunning, message));
                }
                Err(Closed) => return Ok(Written { accepted }),
            };
            accepted += taken as u64;
            drop(piece.split_to(taken));
            if !piece.is_empty() && !wait_for_room(input, &mut patience).await {
                return Ok(Written { accepted });
            }
        }
    }
    Ok(Written { accepted })
}

/// Waits, out of a given patience; false when there is none left.
async fn wait_for_room(input: &Input, patience: &mut Duration) -> bool {
    let begun = Instant::now();
    let room = timeout(*patience, input.room()).await.is_ok();
    *patience = patience.saturating_sub(begun.elapsed());
    room
}

//! The two reader tasks' loops. They only ever wait for bytes.

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::{ChunkDecoder, Epoch, FrameError, HELLO_PREFIX, Lane, LineDecoder, Reply};
use tokio::time::{self, Instant};

use crate::error::{ConnectError, Ended, Violation};
use crate::handshake::{Incoming, await_hello};
use crate::session::Session;
use crate::text::tame;

/// Reads replies until the lane ends or breaks.
pub(crate) async fn read_control(session: Arc<Session>, mut incoming: Incoming) {
    let mut lines = LineDecoder::default();
    loop {
        loop {
            match lines.decode(&mut incoming.buffer) {
                Ok(None) => break,
                Ok(Some(line)) => {
                    if let Err(violation) = control_line(&session, &line) {
                        return session.end_by(Lane::Control, violation);
                    }
                }
                Err(source) => return session.end_by(Lane::Control, Violation::Framing { source }),
            }
        }
        if let Err(ended) = more(&mut incoming, Lane::Control).await {
            return session.end(ended);
        }
    }
}

fn control_line(session: &Session, line: &Bytes) -> Result<(), Violation> {
    if line.starts_with(HELLO_PREFIX) {
        return Err(Violation::SecondHello);
    }
    let reply = serde_json::from_slice::<Reply>(line);
    session.reply(reply.map_err(|error| Violation::NotAReply { reason: tame(&error.to_string()) })?)
}

/// Waits for the agent's hello if one is to come, of an epoch until a deadline, then reads chunks until the lane ends or breaks.
pub(crate) async fn read_bulk(session: Arc<Session>, mut incoming: Incoming, hello: Option<(Epoch, Instant)>) {
    if let Some((epoch, deadline)) = hello {
        let begun = Instant::now();
        let greeted = time::timeout_at(deadline, await_hello(&mut incoming, epoch, Lane::Bulk)).await;
        let greeted = greeted.unwrap_or_else(|_| Err(ConnectError::NoAnswer { after: deadline - begun }));
        if let Err(source) = greeted {
            return session.end(Ended::Bulk { source });
        }
    }
    let mut chunks = ChunkDecoder::default();
    loop {
        loop {
            match chunks.decode(&mut incoming.buffer) {
                Ok(None) => break,
                Ok(Some((header, payload))) => {
                    if let Err(violation) = session.chunk(header, &payload) {
                        return session.end_by(Lane::Bulk, violation);
                    }
                }
                Err(source) => return session.end_by(Lane::Bulk, Violation::Framing { source: tamed(source) }),
            }
        }
        if let Err(ended) = more(&mut incoming, Lane::Bulk).await {
            return session.end(ended);
        }
    }
}

async fn more(incoming: &mut Incoming, lane: Lane) -> Result<(), Ended> {
    match incoming.fill().await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Ended::HungUp { lane }),
        Err(source) => Err(Ended::Read { lane, source }),
    }
}

/// The parser repeats names it does not know; a second hello shows as one.
fn tamed(error: FrameError) -> FrameError {
    match error {
        FrameError::BadChunkHeader { reason } => FrameError::BadChunkHeader { reason: tame(&reason) },
        other => other,
    }
}

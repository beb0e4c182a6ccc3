//! The agent as a process while a gigabyte goes each way: its memory, and whether anybody else has to wait.

use std::time::Instant;

use anyhow::{Context, Result};
use hearth_engine::channel::{Operation, Sent};
use hearth_engine::protocol::RequestBody;
use hearth_engine::protocol::files::{FileRequest, Write};

use super::figure::{Figure, Goal, Row, Samples};
use super::native::Native;
use super::{Effort, Group, Measure, milliseconds};

const MIB: f64 = 1024.0 * 1024.0;
/// What is streamed each way, in bytes.
const STREAM: usize = 1 << 30;
const PIECE: usize = 1 << 20;

const IDLE: Figure = Figure { name: "native.memory.idle", unit: "MiB", baseline: None, goal: Some(Goal::AtMost(8.0)) };
const STREAMING: Figure = Figure { name: "native.memory.streaming", goal: Some(Goal::AtMost(40.0)), ..IDLE };
const PING: Figure = Figure { name: "native.ping.loaded", unit: "ms", baseline: None, goal: Some(Goal::AtMost(5.0)) };

pub(super) const GROUP: Group =
    Group { figures: &[IDLE, STREAMING, PING], measure: Measure::Native(|effort| Box::pin(measure(effort))) };

async fn measure(effort: Effort) -> Result<Vec<Row>> {
    let (mut idle, mut streaming, mut pings) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..effort.samples(3, 1) {
        let native = Native::start().await?;
        idle.push_alone(native.resident()?.0 as f64 / MIB);
        let write = native.channel.operate(write("stream")).await?;
        tokio::select! {
            sent = send(&write) => sent?,
            never = ping(&native, &mut pings) => never?,
        }
        drop(write);
        let read = native.channel.read("stream").await?;
        tokio::select! {
            taken = take(&read) => taken?,
            never = ping(&native, &mut pings) => never?,
        }
        streaming.push_alone(native.resident()?.1 as f64 / MIB);
    }
    Ok(vec![IDLE.row(&idle), STREAMING.row(&streaming), PING.row(&pings)])
}

fn write(path: &str) -> RequestBody {
    RequestBody::File(FileRequest::Write(Write::new(path)))
}

async fn send(write: &Operation) -> Result<()> {
    let mut upload = write.upload().context("an upload is handed out once")?;
    let piece = bytes::Bytes::from(vec![7; PIECE]);
    for _ in 0..STREAM / PIECE {
        upload.write(piece.clone()).await?;
    }
    upload.finish();
    while write.next().await?.is_some() {}
    Ok(())
}

async fn take(read: &Operation) -> Result<()> {
    let mut taken = 0;
    while let Some(sent) = read.next().await? {
        if let Sent::Piece(_, bytes) = sent {
            taken += bytes.len();
        }
    }
    anyhow::ensure!(taken == STREAM, "{taken} bytes came");
    Ok(())
}

/// Pings until it is dropped.
async fn ping(native: &Native, samples: &mut Samples) -> Result<()> {
    loop {
        let begun = Instant::now();
        native.channel.ping().await?;
        samples.push_alone(milliseconds(begun.elapsed()));
    }
}

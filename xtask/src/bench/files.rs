//! Files in a machine over the channel, against the same bytes over a raw port of the same machine.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hearth_engine::channel::Sent;
use hearth_engine::protocol::RequestBody;
use hearth_engine::protocol::files::{FileRequest, Write};

use super::figure::{Figure, Goal, Row, Samples};
use super::host::Host;
use super::live::{Clock, Live, Sinking};
use super::output::{MEGABYTE, rate};
use super::{Group, Measure};

const PIECE: u64 = 256 * 1024;

const READ: Figure = Figure {
    name: "files.read",
    unit: "MB/s",
    baseline: Some("the same file piped through cat to a raw port of the same machine"),
    goal: Some(Goal::RatioAtLeast(0.8)),
};
const WRITE: Figure = Figure {
    name: "files.write",
    baseline: Some("the same bytes from a raw port of the same machine to a file by dd, 64 KiB at a time"),
    ..READ
};

pub(super) const GROUP: Group =
    Group { figures: &[READ, WRITE], measure: Measure::Guest(|host| Box::pin(measure(host))) };

async fn measure(host: &Host) -> Result<Vec<Row>> {
    let mut sinking = Sinking::boot(host).await?;
    let bytes = host.samples(64, 16) as u64 * MEGABYTE;
    // All paths once for nothing: the guest's code is translated the first time it runs.
    write(&sinking.live, bytes).await?;
    read(&sinking.live, bytes).await?;
    sinking.take_file(FILE, bytes).await?;
    sinking.give_file(COPY, bytes).await?;
    let (mut reads, mut writes) = (Samples::default(), Samples::default());
    for _ in 0..host.samples(15, 3) {
        let (own, raw) = (read(&sinking.live, bytes).await?, sinking.take_file(FILE, bytes).await?);
        reads.push(rate(bytes, own), rate(bytes, raw));
        let (own, raw) = (write(&sinking.live, bytes).await?, sinking.give_file(COPY, bytes).await?);
        writes.push(rate(bytes, own), rate(bytes, raw));
    }
    sinking.live.stop().await;
    Ok(vec![READ.row(&reads), WRITE.row(&writes)])
}

const FILE: &str = "/workspace/bench";
const COPY: &str = "/workspace/copy";

/// Reads the file and tells how long it took from the first byte to the last.
async fn read(live: &Live, bytes: u64) -> Result<Duration> {
    let reading = live.channel.read(FILE).await?;
    let (mut received, mut clock) = (0, Clock::default());
    while let Some(sent) = reading.next().await? {
        if let Sent::Piece(_, piece) = sent {
            received += piece.len() as u64;
            clock.tick();
        }
    }
    ensure!(received == bytes, "{received} of {bytes} bytes came");
    Ok(clock.elapsed())
}

/// Writes the file and tells how long it took from the first byte sent to the answer.
async fn write(live: &Live, bytes: u64) -> Result<Duration> {
    let writing = live.channel.operate(RequestBody::File(FileRequest::Write(Write::new(FILE)))).await?;
    let mut upload = writing.upload().context("an upload is handed out once")?;
    let piece = Bytes::from(vec![7; PIECE as usize]);
    let begun = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let length = left.min(PIECE);
        upload.write(piece.slice(..length as usize)).await?;
        left -= length;
    }
    upload.finish();
    while writing.next().await?.is_some() {}
    Ok(begun.elapsed())
}

//! Files read and written as streams by the agent as a process, against `cat` through a Unix socket.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hearth_engine::channel::{Channel, Sent};
use hearth_engine::protocol::files;

use super::figure::{Figure, Goal, Row, Samples};
use super::native::{Native, beside, settle};
use super::output::rate;
use super::{Effort, Group, Measure};

const READ: Figure = Figure {
    name: "native.files.read",
    unit: "MB/s",
    baseline: Some("cat of the same file into a Unix socket that this process reads"),
    goal: Some(Goal::AtLeast { p50: 1000.0, or_ratio: 0.8 }),
};
const WRITE: Figure = Figure {
    name: "native.files.write",
    baseline: Some("cat of the same bytes from a Unix socket into a file"),
    ..READ
};

pub(super) const GROUP: Group =
    Group { figures: &[READ, WRITE], measure: Measure::Native(|effort| Box::pin(measure(effort))) };

const MIB: usize = 1 << 20;
/// What is sent, and taken, at a time.
const PIECE: usize = 256 * 1024;

async fn measure(effort: Effort) -> Result<Vec<Row>> {
    let native = Native::start().await?;
    let (file, size) = (native.workspace().join("file"), effort.samples(128, 32) * MIB);
    beside(&file, move |file| Ok(fs::write(file, vec![7; size])?)).await?;
    let (mut reads, mut writes) = (Samples::default(), Samples::default());
    for _ in 0..effort.samples(15, 3) {
        beside(&file, settle).await?;
        let own = read(&native.channel, size).await?;
        let theirs = beside(&file, move |file| cat_out(file, size)).await?;
        reads.push(rate(size as u64, own), rate(size as u64, theirs));
        let own = write(&native.channel, size).await?;
        beside(&native.workspace().join("written"), start_afresh).await?;
        let theirs = beside(&native.workspace().join("written"), move |file| cat_in(file, size)).await?;
        beside(&native.workspace().join("written"), start_afresh).await?;
        writes.push(rate(size as u64, own), rate(size as u64, theirs));
    }
    Ok(vec![READ.row(&reads), WRITE.row(&writes)])
}

async fn read(channel: &Channel, size: usize) -> Result<Duration> {
    let begun = Instant::now();
    let reading = channel.read("file").await?;
    let mut received = 0;
    while let Some(sent) = reading.next().await? {
        if let Sent::Piece(_, piece) = sent {
            received += piece.len();
        }
    }
    ensure!(received == size, "{received} of {size} bytes came");
    Ok(begun.elapsed())
}

fn cat_out(file: &Path, size: usize) -> Result<Duration> {
    let begun = Instant::now();
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut cat = Command::new("cat").arg(file).stdin(Stdio::null()).stdout(OwnedFd::from(theirs)).spawn()?;
    let (mut received, mut buffer) = (0, vec![0; PIECE]);
    loop {
        match ours.read(&mut buffer)? {
            0 => break,
            count => received += count,
        }
    }
    ensure!(cat.wait()?.success() && received == size, "cat failed: {received} of {size} bytes came");
    Ok(begun.elapsed())
}

async fn write(channel: &Channel, size: usize) -> Result<Duration> {
    let piece = Bytes::from(vec![7; PIECE]);
    let begun = Instant::now();
    let writing = channel.write_with(files::Write::new("written")).await?;
    let mut upload = writing.upload().context("an upload is handed out once")?;
    for _ in 0..size / PIECE {
        upload.write(piece.clone()).await?;
    }
    upload.finish();
    writing.finish().await?;
    Ok(begun.elapsed())
}

fn cat_in(file: &Path, size: usize) -> Result<Duration> {
    let piece = vec![7; PIECE];
    let begun = Instant::now();
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut cat = Command::new("cat").stdin(OwnedFd::from(theirs)).stdout(File::create(file)?).spawn()?;
    (0..size / PIECE).try_for_each(|_| ours.write_all(&piece))?;
    ours.shutdown(Shutdown::Write)?;
    ensure!(cat.wait()?.success(), "cat failed");
    Ok(begun.elapsed())
}

/// Removes what was written, so that the next does not pay for it.
fn start_afresh(file: &Path) -> Result<()> {
    let length = fs::metadata(file)?.len();
    ensure!(length > 0, "nothing was written");
    fs::remove_file(file)?;
    settle(file.parent().context("it is in a directory")?)
}

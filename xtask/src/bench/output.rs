//! A process's output over the channel, against the same bytes written straight to a port.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::figure::{Figure, Goal, Row, Samples};
use super::host::Host;
use super::live::{Clock, Live, Sinking, argv, finish};
use super::{Group, Measure};

pub(super) const MEGABYTE: u64 = 1_000_000;

const THROUGHPUT: Figure = Figure {
    name: "output.throughput",
    unit: "MB/s",
    baseline: Some("the same program piped through cat to a raw port of the same machine"),
    goal: Some(Goal::RatioAtLeast(0.8)),
};

pub(super) const GROUP: Group =
    Group { figures: &[THROUGHPUT], measure: Measure::Guest(|host| Box::pin(measure(host))) };

async fn measure(host: &Host) -> Result<Vec<Row>> {
    let mut sinking = Sinking::boot(host).await?;
    let bytes = host.samples(64, 16) as u64 * MEGABYTE;
    // Both paths once for nothing: the guest's code is translated the first time it runs.
    output(&sinking.live, bytes / 8).await?;
    sinking.take(bytes / 8).await?;
    let mut samples = Samples::default();
    for _ in 0..host.samples(25, 3) {
        let (own, raw) = (output(&sinking.live, bytes).await?, sinking.take(bytes).await?);
        samples.push(rate(bytes, own), rate(bytes, raw));
    }
    sinking.live.stop().await;
    Ok(vec![THROUGHPUT.row(&samples)])
}

/// Has a process write `bytes` zeros and tells how long they took from the first to the last.
async fn output(live: &Live, bytes: u64) -> Result<Duration> {
    let process = live.channel.start(argv(&["head", "-c", &bytes.to_string(), "/dev/zero"])).await?;
    let (mut received, mut clock) = (0, Clock::default());
    finish(&process, |piece| {
        received += piece.len() as u64;
        clock.tick();
    })
    .await?;
    ensure!(received == bytes, "{received} of {bytes} bytes came");
    Ok(clock.elapsed())
}

/// Megabytes a second.
pub(super) fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / MEGABYTE as f64 / time.as_secs_f64()
}

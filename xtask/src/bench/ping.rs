//! The control lane's round trip, idle and beside a stream, against a raw port's in the same moment.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_engine::channel::Process;
use hearth_engine::protocol::{Signal, SignalScope};

use super::figure::{Figure, Row, Samples};
use super::host::Host;
use super::live::{Echoing, Live, argv};
use super::{Group, Measure, WARM_UP, milliseconds};

const IDLE: Figure = Figure {
    name: "ping",
    unit: "ms",
    baseline: Some("a round trip of 64 bytes over a raw port, answered by cat"),
    goal: None,
};
const LOADED: Figure = Figure {
    name: "ping.loaded",
    baseline: Some("the same raw round trip, also while the bulk lane is full of output"),
    ..IDLE
};

pub(super) const GROUP: Group =
    Group { figures: &[IDLE, LOADED], measure: Measure::Guest(|host| Box::pin(measure(host))) };

async fn measure(host: &Host) -> Result<Vec<Row>> {
    let mut echoing = Echoing::boot(host).await?;
    let idle = round_trips(&mut echoing, host.samples(500, 100)).await?;
    let stream = echoing.live.channel.start(argv(&["cat", "/dev/zero"])).await?;
    let loaded = tokio::select! {
        samples = round_trips(&mut echoing, host.samples(300, 60)) => samples?,
        ended = drain(&stream) => ended.and_then(|()| None.context("the stream ended by itself"))?,
    };
    stream.signal(Signal::Kill, SignalScope::Process).await?;
    drain(&stream).await?;
    echoing.live.stop().await;
    Ok(vec![IDLE.row(&idle), LOADED.row(&loaded)])
}

async fn round_trips(echoing: &mut Echoing, count: usize) -> Result<Samples> {
    let mut samples = Samples::default();
    for round in 0..WARM_UP + count {
        let ping = ping(&echoing.live).await?;
        let echo = echoing.round_trip().await?;
        if round >= WARM_UP {
            samples.push(milliseconds(ping), milliseconds(echo));
        }
    }
    Ok(samples)
}

async fn ping(live: &Live) -> Result<Duration> {
    let begun = Instant::now();
    live.channel.ping().await?;
    Ok(begun.elapsed())
}

/// Takes all there is until the process has ended.
async fn drain(process: &Process) -> Result<()> {
    while process.next_event().await?.is_some() {}
    Ok(())
}

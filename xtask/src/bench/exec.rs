//! A command over the channel, against what the guest needs for it and one crossing of the port.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::figure::{Figure, Goal, Row, Samples};
use super::host::Host;
use super::live::{Echoing, Live, argv, finish};
use super::{Group, Measure, WARM_UP, milliseconds};

const TRUE: Figure = Figure {
    name: "exec.true",
    unit: "ms",
    baseline: Some("spawn and wait as the agent saw it, plus a round trip of 64 bytes over a raw port"),
    goal: Some(Goal::RatioAtMost(1.5)),
};

pub(super) const GROUP: Group = Group { figures: &[TRUE], measure: Measure::Guest(|host| Box::pin(measure(host))) };

async fn measure(host: &Host) -> Result<Vec<Row>> {
    let mut echoing = Echoing::boot(host).await?;
    let mut samples = Samples::default();
    for round in 0..WARM_UP + host.samples(300, 100) {
        let (whole, in_guest) = exec_true(&echoing.live).await?;
        // The agent tidies up behind a process: the crossing is measured when it is done.
        echoing.live.channel.ping().await?;
        echoing.round_trip().await?;
        let crossing = echoing.round_trip().await?;
        if round >= WARM_UP {
            samples.push(milliseconds(whole), milliseconds(in_guest + crossing));
        }
    }
    echoing.live.stop().await;
    Ok(vec![TRUE.row(&samples)])
}

/// Returns how long `true` took in all, and in the guest.
async fn exec_true(live: &Live) -> Result<(Duration, Duration)> {
    let begun = Instant::now();
    let process = live.channel.start(argv(&["true"])).await?;
    let status = finish(&process, |_| {}).await?;
    Ok((begun.elapsed(), Duration::from_micros(status.duration_us)))
}

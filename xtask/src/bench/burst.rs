//! Forty sandboxes, eight at a time, each for one `true`: the rate, and how long one takes.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::figure::{Figure, Goal, Row, Samples};
use super::floor::Floor;
use super::host::Host;
use super::restore::run_true;
use super::{Group, Measure, milliseconds};

const SANDBOXES: usize = 40;

const RATE: Figure = Figure {
    name: "burst.rate",
    unit: "1/s",
    baseline: Some(
        "bare QEMUs restored the same way, each for its static `true`, eight at a time: until all have ended",
    ),
    goal: Some(Goal::RatioAtLeast(0.8)),
};
const TRUE: Figure = Figure {
    name: "burst.true",
    unit: "ms",
    baseline: Some("one of those bare QEMUs"),
    goal: Some(Goal::TailAtMost(2.0)),
};

pub(super) const GROUP: Group =
    Group { figures: &[RATE, TRUE], measure: Measure::Guest(|host| Box::pin(measure(host))) };

async fn measure(host: &Host) -> Result<Vec<Row>> {
    let floor = Floor::boot(host).await?;
    let (mut rate, mut each) = (Samples::default(), Samples::default());
    for round in 0..1 + host.samples(5, 1) {
        // A daemon of an earlier figure's may keep some ready.
        let before = host.sandboxes_on_disk()?;
        let (own, own_times) = burst(async || sandbox(host).await).await?;
        ensure!(host.sandboxes_on_disk()? <= before, "a sandbox is left behind");
        let (bare, bare_times) = burst(async || bare(&floor).await).await?;
        if round == 0 {
            continue;
        }
        rate.push(SANDBOXES as f64 / own.as_secs_f64(), SANDBOXES as f64 / bare.as_secs_f64());
        own_times.iter().zip(&bare_times).for_each(|(own, bare)| each.push(milliseconds(*own), milliseconds(*bare)));
    }
    Ok(vec![RATE.row(&rate), TRUE.row(&each)])
}

/// From the call to the end of `true`. What comes after it counts for the rate.
async fn sandbox(host: &Host) -> Result<Duration> {
    let begun = Instant::now();
    let sandbox = host.create(host.spec()).await?;
    run_true(&sandbox).await?;
    let elapsed = begun.elapsed();
    sandbox.remove().await;
    Ok(elapsed)
}

async fn bare(floor: &Floor) -> Result<Duration> {
    let begun = Instant::now();
    let mut bare = floor.restore()?;
    bare.run_true().await?;
    let elapsed = begun.elapsed();
    bare.stop().await?;
    Ok(elapsed)
}

/// Returns how long all took together, and each. The first that fails ends it.
async fn burst(one: impl AsyncFn() -> Result<Duration>) -> Result<(Duration, Vec<Duration>)> {
    let (left, times) = (Cell::new(SANDBOXES), RefCell::new(Vec::new()));
    let worker = async || -> Result<()> {
        while left.get() > 0 {
            left.set(left.get() - 1);
            let time = one().await?;
            times.borrow_mut().push(time);
        }
        Ok(())
    };
    let begun = Instant::now();
    tokio::try_join!(worker(), worker(), worker(), worker(), worker(), worker(), worker(), worker())?;
    Ok((begun.elapsed(), times.into_inner()))
}

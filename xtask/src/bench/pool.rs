//! A machine from the warm pool and a command in it, against the same command in one that has long been at work.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_engine::PoolLimits;
use hearth_engine::channel::Channel;
use hearth_engine::fleet::{Fleet, FleetLimits, NewSandbox, QueueLimits, Removal};

use super::figure::{Figure, Goal, Row, Samples};
use super::host::Host;
use super::live::{argv, finish};
use super::{Group, Measure, WARM_UP, milliseconds};

const TRUE: Figure = Figure {
    name: "pool.true",
    unit: "ms",
    baseline: Some(
        "`true` in a machine that has run many; ours is from the request for a sandbox to the end of its first `true`",
    ),
    goal: Some(Goal::RatioAtMost(1.3)),
};
const CLAIM: Figure = Figure {
    name: "pool.claim",
    unit: "ms",
    baseline: Some("a ping of that machine; ours is until the sandbox is its own"),
    goal: None,
};

pub(super) const GROUP: Group =
    Group { figures: &[TRUE, CLAIM], measure: Measure::Guest(|host| Box::pin(measure(host))) };

async fn measure(host: &Host) -> Result<Vec<Row>> {
    let limits = PoolLimits { ready: 1, ..PoolLimits::of_host() };
    let fleet = Fleet::with_pool(host.open_engine()?, FleetLimits::of_host(), QueueLimits::NONE, limits);
    let live = fleet.create(NewSandbox::default()).await?;
    let live = live.channel().await?;
    for _ in 0..WARM_UP {
        run_true(&live).await?;
    }
    let (mut whole, mut claim) = (Samples::default(), Samples::default());
    for _ in 0..host.samples(40, 5) {
        wait_until_ready(&fleet).await?;
        let (claimed, ran) = claim_and_run(&fleet).await?;
        // As long after its last command as the other was made ready.
        let begun = Instant::now();
        run_true(&live).await?;
        let baseline = begun.elapsed();
        let begun = Instant::now();
        live.ping().await?;
        claim.push(milliseconds(claimed), milliseconds(begun.elapsed()));
        whole.push(milliseconds(ran), milliseconds(baseline));
    }
    let counts = fleet.pool().context("the pool is there")?.counts;
    // The first of all found nothing.
    ensure!((counts.missed, counts.standby) == (1, 0), "not all were ready when they were asked for: {counts:?}");
    fleet.end().await;
    Ok(vec![TRUE.row(&whole), CLAIM.row(&claim)])
}

async fn wait_until_ready(fleet: &Fleet) -> Result<()> {
    let mut pool = fleet.follow_pool().context("the pool is there")?;
    pool.wait_for(|pool| pool.kinds.first().is_some_and(|shelf| (shelf.ready, shelf.making) == (1, 0))).await?;
    Ok(())
}

/// How long it took until there was a sandbox, and until its `true` had ended.
async fn claim_and_run(fleet: &Fleet) -> Result<(Duration, Duration)> {
    let begun = Instant::now();
    let member = fleet.create(NewSandbox::default()).await?;
    let claimed = begun.elapsed();
    let channel = member.channel().await?;
    run_true(&channel).await?;
    let ran = begun.elapsed();
    member.remove(Removal::Asked).await;
    Ok((claimed, ran))
}

async fn run_true(channel: &Channel) -> Result<()> {
    let process = channel.start(argv(&["true"])).await?;
    finish(&process, |_| {}).await?;
    Ok(())
}

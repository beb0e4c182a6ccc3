//! A cold boot, against the same kernel that has nothing to do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hearth_engine::vmm::Machine;

use super::figure::{Figure, Goal, Row, Samples};
use super::host::{Host, write_file};
use super::live::Live;
use super::{Group, Measure, bare, milliseconds};

/// A bound on a boot that never ends.
const PATIENCE: Duration = Duration::from_secs(300);

const COLD: Figure = Figure {
    name: "boot.cold",
    unit: "ms",
    baseline: Some("the same machine, its init only restarts it: until QEMU has ended"),
    goal: Some(Goal::RatioAtMost(1.3)),
};

pub(super) const GROUP: Group = Group { figures: &[COLD], measure: Measure::Guest(|host| Box::pin(measure(host))) };

async fn measure(host: &Host) -> Result<Vec<Row>> {
    let mut samples = Samples::default();
    for _ in 0..host.samples(11, 3) {
        let (live, ready) = Live::boot(host).await?;
        live.stop().await;
        samples.push(milliseconds(ready), milliseconds(bare_boot(host).await?));
    }
    Ok(vec![COLD.row(&samples)])
}

async fn bare_boot(host: &Host) -> Result<Duration> {
    let draft = host.draft()?;
    let mut spec = draft.machine.clone();
    spec.initramfs = write_file(&spec, "bare.cpio", &bare::initramfs()?)?;
    let begun = Instant::now();
    let machine = Machine::start(spec).await?;
    let exit = tokio::time::timeout(PATIENCE, machine.exited()).await.context("the bare guest never ended")?;
    let elapsed = begun.elapsed();
    match exit.status {
        Some(status) if status.success() => Ok(elapsed),
        _ => bail!("the bare guest's QEMU failed: {}", String::from_utf8_lossy(&exit.stderr)),
    }
}

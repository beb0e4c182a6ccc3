//! The first code of a sandbox's Python kernel, whose interpreter was in the template.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hearth_engine::Sandbox;
use hearth_engine::channel::KernelSent;
use hearth_engine::protocol::kernel::{KernelEvent, KernelExec, KernelLanguage};

use super::figure::{Figure, Goal, Row, Samples};
use super::host::Host;
use super::live::{argv, finish};
use super::{Group, Measure, milliseconds};

/// Rounds that are not counted: the first finds the host's caches cold.
const UNCOUNTED: usize = 2;

const FIRST: Figure = Figure {
    name: "kernel.first",
    unit: "ms",
    baseline: Some("`python3 -c 'print(1+1)'` in an equally restored guest; ours is `1+1` in its first Python kernel"),
    goal: Some(Goal::RatioAtMost(0.25)),
};

pub(super) const GROUP: Group = Group { figures: &[FIRST], measure: Measure::Guest(|host| Box::pin(measure(host))) };

async fn measure(host: &Host) -> Result<Vec<Row>> {
    let mut samples = Samples::default();
    for round in 0..UNCOUNTED + host.samples(40, 8) {
        let (own, fresh) = (in_restored(host, first_code).await?, in_restored(host, started_afresh).await?);
        if round >= UNCOUNTED {
            samples.push(milliseconds(own), milliseconds(fresh));
        }
    }
    Ok(vec![FIRST.row(&samples)])
}

async fn in_restored(host: &Host, work: impl AsyncFn(&Sandbox) -> Result<Duration>) -> Result<Duration> {
    let sandbox = host.create(host.spec()).await?;
    let took = work(&sandbox).await;
    sandbox.remove().await;
    took
}

async fn first_code(sandbox: &Sandbox) -> Result<Duration> {
    let begun = Instant::now();
    let operation = sandbox.channel().exec_in_kernel(KernelExec::new(KernelLanguage::Python), "1+1").await?;
    let mut value = None;
    loop {
        match operation.next().await?.context("the code's end was not told")? {
            KernelSent::Event(KernelEvent::Result(result)) => value = result.data.get("text/plain").cloned(),
            KernelSent::Ran(ran) if ran.code == 0 => break,
            other => bail!("{other:?}"),
        }
    }
    let took = begun.elapsed();
    ensure!(value == Some("2".into()), "1+1 came to {value:?}");
    let kernels = sandbox.channel().kernels().await?;
    ensure!(kernels.iter().all(|kernel| kernel.warmed), "its interpreter was not the template's: {kernels:?}");
    Ok(took)
}

async fn started_afresh(sandbox: &Sandbox) -> Result<Duration> {
    let begun = Instant::now();
    let mut said = Vec::new();
    let process = sandbox.channel().start(argv(&["python3", "-c", "print(1+1)"])).await?;
    finish(&process, |piece| said.extend_from_slice(piece)).await?;
    ensure!(said == b"2\n", "print(1+1) said {:?}", String::from_utf8_lossy(&said));
    Ok(begun.elapsed())
}

//! Forks, pauses and snapshots of a running sandbox, while its guest writes to its disk all the time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_engine::protocol::{Command, Delivery, Start};
use hearth_engine::{DiskMib, ForkSpec, Forked, Sandbox, SandboxSpec, chain};

use super::figure::{Figure, Goal, Row, Samples};
use super::host::Host;
use super::live::finish;
use super::restore::run_true;
use super::{Group, Measure, milliseconds};

/// What a sandbox is to have changed of its template's memory, in bytes.
const LITTLE: u64 = 5 << 20;
const MUCH: u64 = 100 << 20;
/// The copies of a fork of many.
const MANY: usize = 10;

const STOPPED_LITTLE: Figure =
    Figure { name: "fork.stopped.little", unit: "ms", baseline: None, goal: Some(Goal::AtMost(30.0)) };
const STOPPED_MUCH: Figure =
    Figure { name: "fork.stopped.much", unit: "ms", baseline: None, goal: Some(Goal::AtMost(100.0)) };
const COPY: Figure = Figure {
    name: "fork.copy",
    unit: "ms",
    baseline: Some("a sandbox restored from its template until it takes requests"),
    goal: Some(Goal::RatioAtMost(1.5)),
};
const TEN: Figure = Figure { name: "fork.ten", unit: "ms", baseline: None, goal: Some(Goal::AtMost(3000.0)) };
const PAUSE: Figure = Figure { name: "pause.much", unit: "ms", baseline: None, goal: Some(Goal::AtMost(300.0)) };
const RESUME: Figure = Figure {
    name: "resume.much",
    unit: "ms",
    baseline: Some("a sandbox restored from its template until it takes requests"),
    goal: Some(Goal::RatioAtMost(2.0)),
};
const SIZE: Figure = Figure {
    name: "pause.size",
    unit: "MiB",
    baseline: Some("what the guest had changed of its memory just before"),
    goal: Some(Goal::RatioAtMost(1.2)),
};

pub(super) const GROUP: Group = Group {
    figures: &[STOPPED_LITTLE, STOPPED_MUCH, COPY, TEN, PAUSE, RESUME, SIZE],
    measure: Measure::Guest(|host| Box::pin(measure(host))),
};

async fn measure(host: &Host) -> Result<Vec<Row>> {
    let spec = SandboxSpec { disk: Some(DiskMib::new(512)?), ..host.spec().clone() };
    let rounds = host.samples(30, 4);
    let (mut little, mut copy) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        let source = written_to(host, &spec, LITTLE).await?;
        // Beside the source alone, as the copy: each that writes takes a processor.
        let restored = restored(host, &spec).await?;
        let forked = fork(host, &source, 1).await?;
        little.push_alone(milliseconds(forked.stopped));
        copy.push(milliseconds(ready(&forked.copies[0])), milliseconds(restored));
        remove(forked.copies).await;
        source.remove().await;
    }
    let (mut much, mut ten) = (Samples::default(), Samples::default());
    let source = written_to(host, &spec, MUCH).await?;
    for _ in 0..rounds {
        let forked = fork(host, &source, 1).await?;
        ensure!(forked.changed_bytes >= MUCH, "only {} bytes were changed", forked.changed_bytes);
        much.push_alone(milliseconds(forked.stopped));
        remove(forked.copies).await;
    }
    source.remove().await;
    for _ in 0..host.samples(30, 2) {
        let source = written_to(host, &spec, LITTLE).await?;
        let begun = Instant::now();
        let forked = fork(host, &source, MANY).await?;
        ten.push_alone(milliseconds(begun.elapsed()));
        remove(forked.copies).await;
        source.remove().await;
    }
    let [pause, resume, size] = pauses(host, &spec, rounds).await?;
    Ok(vec![
        STOPPED_LITTLE.row(&little),
        STOPPED_MUCH.row(&much),
        COPY.row(&copy),
        TEN.row(&ten),
        PAUSE.row(&pause),
        RESUME.row(&resume),
        SIZE.row(&size),
    ])
}

/// One sandbox goes through all pauses: each finds what it had changed before.
async fn pauses(host: &Host, spec: &SandboxSpec, rounds: usize) -> Result<[Samples; 3]> {
    let (mut pause, mut resume, mut size) = (Samples::default(), Samples::default(), Samples::default());
    let mut sandbox = written_to(host, spec, MUCH).await?;
    for _ in 0..rounds {
        let changed = sandbox.machine().changed_bytes()?;
        let paused = host.engine().pause(sandbox).await.map_err(|refused| anyhow::anyhow!(chain(&refused.error)))?;
        pause.push_alone(milliseconds(paused.took()));
        size.push((paused.saved_bytes() >> 20) as f64, (changed >> 20) as f64);
        let begun = Instant::now();
        sandbox = host.engine().resume(paused).await.map_err(|refused| anyhow::anyhow!(chain(&refused.error)))?;
        resume.push(milliseconds(begun.elapsed()), milliseconds(restored(host, spec).await?));
    }
    sandbox.remove().await;
    Ok([pause, resume, size])
}

/// A sandbox whose guest has changed `bytes` of its memory at least, and writes to its disk until it ends.
async fn written_to(host: &Host, spec: &SandboxSpec, bytes: u64) -> Result<Sandbox> {
    let sandbox = host.create(spec).await?;
    run_true(&sandbox).await?;
    let left = bytes.saturating_sub(sandbox.machine().changed_bytes()?);
    // What is on a tmpfs is the guest's memory, and random bytes leave no page of zeros.
    let fill = format!("head -c {left} /dev/urandom > /dev/shm/fill");
    let process = sandbox.channel().start(Start { attach: Some(Delivery::Lossless), ..shell(&fill) }).await?;
    finish(&process, |_| {}).await?;
    let writer = "while :; do dd if=/dev/urandom of=/workspace/written bs=64k count=16 conv=fsync 2>/dev/null; done";
    sandbox.channel().start(shell(writer)).await?;
    // Nobody follows it. By then the guest has been told.
    sandbox.channel().ping().await?;
    Ok(sandbox)
}

fn shell(text: &str) -> Start {
    Start::new(Command::Shell(text.into()))
}

async fn fork(host: &Host, source: &Sandbox, copies: usize) -> Result<Forked> {
    let forked = host.engine().fork(source, ForkSpec { copies, secrets: false }).await;
    forked.map_err(|error| anyhow::anyhow!(chain(&error))).context("fork")
}

/// When a sandbox took requests, counted from when it began to be made.
fn ready(sandbox: &Sandbox) -> Duration {
    sandbox.phases().last().map_or(Duration::ZERO, |(_, time)| *time)
}

async fn restored(host: &Host, spec: &SandboxSpec) -> Result<Duration> {
    let begun = Instant::now();
    let sandbox = host.create(spec).await?;
    let elapsed = begun.elapsed();
    sandbox.remove().await;
    Ok(elapsed)
}

async fn remove(sandboxes: Vec<Sandbox>) {
    for sandbox in sandboxes {
        sandbox.remove().await;
    }
}

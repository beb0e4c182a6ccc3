//! From a template to the end of the first command: in a process that holds the template, and as a process of its own.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_engine::{Phase, Sandbox, SandboxSpec, StartFrom};
use tokio::process::Command;

use super::figure::{Figure, Goal, Row, Samples};
use super::floor::Floor;
use super::host::Host;
use super::live::{argv, finish};
use super::{Group, Measure, milliseconds, report};

/// Rounds that are not counted: the first finds the host's caches cold.
const UNCOUNTED: usize = 2;
/// A cold boot takes as long as ten rounds, and its median needs no more.
const ROUNDS_A_BOOT: usize = 6;

const TRUE: Figure = Figure {
    name: "restore.true",
    unit: "ms",
    baseline: Some(
        "bare QEMU, no jail, restores a guest of one static program, which answers a byte and spawns the image's `true`",
    ),
    goal: Some(Goal::RatioAtMost(1.25)),
};
const STANDBY: Figure = Figure {
    name: "restore.standby",
    unit: "ms",
    baseline: Some("that bare QEMU, its start included; ours goes on in a QEMU that the pool has started before"),
    goal: None,
};
const BOOT: Figure = Figure {
    name: "restore.boot",
    unit: "ms",
    baseline: Some("the same sandbox booted, until its first `true` has ended; ours is restore.true"),
    goal: Some(Goal::RatioAtMost(0.1)),
};
const PROCESS: Figure = Figure {
    name: "run.process",
    unit: "ms",
    baseline: Some("restore.true; ours is the whole process `hearth run -- true`"),
    goal: Some(Goal::AboveBaselineAtMost(30.0)),
};

pub(super) const GROUP: Group =
    Group { figures: &[TRUE, STANDBY, BOOT, PROCESS], measure: Measure::Guest(|host| Box::pin(measure(host))) };

async fn measure(host: &Host) -> Result<Vec<Row>> {
    let floor = Floor::boot(host).await?;
    let hearth = hearth_program()?;
    let (mut restored, mut standby) = (Samples::default(), Samples::default());
    let (mut booted, mut process) = (Samples::default(), Samples::default());
    let mut phases = Vec::new();
    for round in 0..UNCOUNTED + host.samples(40, 8) {
        let (own, reached) = restored_true(host).await?;
        let bare = bare_true(&floor).await?;
        let ahead = standby_true(host).await?;
        let whole = run_process(&hearth).await?;
        if round < UNCOUNTED {
            continue;
        }
        restored.push(milliseconds(own), milliseconds(bare));
        standby.push(milliseconds(ahead), milliseconds(bare));
        process.push(milliseconds(whole), milliseconds(own));
        booted.push_alone(milliseconds(own));
        phases.push(reached);
        if round % ROUNDS_A_BOOT == 0 {
            booted.push_baseline(milliseconds(booted_true(host).await?));
        }
    }
    say_phases(&phases);
    Ok(vec![TRUE.row(&restored), STANDBY.row(&standby), BOOT.row(&booted), PROCESS.row(&process)])
}

async fn restored_true(host: &Host) -> Result<(Duration, Vec<(Phase, Duration)>)> {
    let begun = Instant::now();
    let sandbox = host.create(host.spec()).await?;
    run_true(&sandbox).await?;
    let elapsed = begun.elapsed();
    let phases = sandbox.phases().to_vec();
    sandbox.remove().await;
    Ok((elapsed, phases))
}

async fn standby_true(host: &Host) -> Result<Duration> {
    let standby = host.stand_by().await?;
    let begun = Instant::now();
    let sandbox = host.create_on(standby).await?;
    run_true(&sandbox).await?;
    let elapsed = begun.elapsed();
    sandbox.remove().await;
    Ok(elapsed)
}

async fn booted_true(host: &Host) -> Result<Duration> {
    let begun = Instant::now();
    let sandbox = host.create(&SandboxSpec { start: StartFrom::Boot, ..host.spec().clone() }).await?;
    run_true(&sandbox).await?;
    let elapsed = begun.elapsed();
    sandbox.remove().await;
    Ok(elapsed)
}

async fn bare_true(floor: &Floor) -> Result<Duration> {
    let begun = Instant::now();
    let mut bare = floor.restore()?;
    bare.run_true().await?;
    let elapsed = begun.elapsed();
    bare.stop().await?;
    Ok(elapsed)
}

/// Runs `true` in a sandbox to its end.
pub(super) async fn run_true(sandbox: &Sandbox) -> Result<()> {
    let process = sandbox.channel().start(argv(&["true"])).await?;
    finish(&process, |_| {}).await?;
    Ok(())
}

async fn run_process(hearth: &PathBuf) -> Result<Duration> {
    let begun = Instant::now();
    let mut command = Command::new(hearth);
    let status = command.args(["run", "--", "true"]).stdin(Stdio::null()).kill_on_drop(true).status().await;
    let status = status.with_context(|| format!("run {}", hearth.display()))?;
    ensure!(status.success(), "hearth run -- true: {status}");
    Ok(begun.elapsed())
}

/// The product, which `make bench` builds beside this program.
pub(super) fn hearth_program() -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("hearth");
    ensure!(beside.exists(), "{} is not there; build it, or use `make bench`", beside.display());
    Ok(beside)
}

/// Where the time of a restore goes, by the medians.
fn say_phases(rounds: &[Vec<(Phase, Duration)>]) {
    let Some(first) = rounds.first() else { return };
    let median = |index: usize| {
        let mut times: Vec<f64> = rounds.iter().filter_map(|round| Some(milliseconds(round.get(index)?.1))).collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let phases: Vec<String> =
        first.iter().enumerate().map(|(index, (phase, _))| format!("{} {:.1}", phase.name(), median(index))).collect();
    report::say(&format!("restored: {} ms after the call", phases.join(", ")));
}

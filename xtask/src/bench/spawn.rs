//! A command of the agent's as a process, against the same command started and waited for without an agent.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::figure::{Figure, Goal, Row, Samples};
use super::live::{argv, finish};
use super::native::Native;
use super::{Effort, Group, Measure, WARM_UP, milliseconds};

const PROGRAM: &str = "/bin/true";

const TRUE: Figure = Figure {
    name: "native.exec.true",
    unit: "ms",
    baseline: Some("spawn and wait of the same program by this process: no pipes, no control group, no channel"),
    goal: Some(Goal::RatioAtMost(1.3)),
};

pub(super) const GROUP: Group =
    Group { figures: &[TRUE], measure: Measure::Native(|effort| Box::pin(measure(effort))) };

async fn measure(effort: Effort) -> Result<Vec<Row>> {
    let native = Native::start().await?;
    let mut samples = Samples::default();
    for round in 0..WARM_UP + effort.samples(1000, 200) {
        let own = exec(&native).await?;
        // The agent tidies up behind a process: the baseline is measured when it is done.
        native.channel.ping().await?;
        let bare = spawn_and_wait()?;
        if round >= WARM_UP {
            samples.push(milliseconds(own), milliseconds(bare));
        }
    }
    Ok(vec![TRUE.row(&samples)])
}

async fn exec(native: &Native) -> Result<Duration> {
    let begun = Instant::now();
    let process = native.channel.start(argv(&[PROGRAM])).await?;
    finish(&process, |_| {}).await?;
    Ok(begun.elapsed())
}

fn spawn_and_wait() -> Result<Duration> {
    let begun = Instant::now();
    let mut child = Command::new(PROGRAM).stdin(Stdio::null()).spawn().with_context(|| format!("start {PROGRAM}"))?;
    ensure!(child.wait()?.success(), "{PROGRAM} fails");
    Ok(begun.elapsed())
}

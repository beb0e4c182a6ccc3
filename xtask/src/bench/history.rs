//! The workspace's history in the agent as a process, against git on the same tree with a warm index.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_engine::channel::DiffPiece;
use hearth_engine::protocol::history::CheckpointName;

use super::figure::{Figure, Goal, Row, Samples};
use super::native::{Native, beside, settle};
use super::{Effort, Group, Measure, milliseconds};

const DIFF: Figure = Figure {
    name: "native.history.diff",
    unit: "ms",
    baseline: Some("git status after the same 5 changes among 10,000 files"),
    goal: Some(Goal::RatioAtMost(0.5)),
};
const RESET: Figure =
    Figure { name: "native.history.reset", baseline: Some("git checkout . after the same 5 changes"), ..DIFF };
const RESTORE: Figure = Figure {
    name: "native.history.restore",
    unit: "ms",
    baseline: Some("git checkout . of the same 10,000 files, all changed"),
    goal: Some(Goal::AtMost(1000.0)),
};

pub(super) const GROUP: Group =
    Group { figures: &[DIFF, RESET, RESTORE], measure: Measure::Native(|effort| Box::pin(measure(effort))) };

/// Directories, and the files in each.
const SHAPE: (usize, usize) = (200, 50);
const CHANGES: usize = 5;

async fn measure(effort: Effort) -> Result<Vec<Row>> {
    let native = Native::start().await?;
    let (own, gits) = (native.workspace(), native.beside().join("git"));
    beside(&own, make_tree).await?;
    beside(&gits, |place| make_tree(place).and_then(|()| commit(place))).await?;
    native.channel.checkpoint(CheckpointName::default()).await?;
    let (mut diffs, mut resets, mut restores) = (Samples::default(), Samples::default(), Samples::default());
    for round in 0..effort.samples(21, 5) {
        beside(&own, move |place| change(place, round, CHANGES)).await?;
        beside(&gits, move |place| change(place, round, CHANGES)).await?;
        let (diffed, status) = (diff(&native, CHANGES).await?, beside(&gits, |place| git(place, &["status"])).await?);
        diffs.push(milliseconds(diffed), milliseconds(status));
        let (done, checked) = (reset(&native, CHANGES).await?, beside(&gits, checkout).await?);
        resets.push(milliseconds(done), milliseconds(checked));
    }
    let all = SHAPE.0 * SHAPE.1;
    for round in 0..effort.samples(5, 1) {
        beside(&own, move |place| change(place, round, all)).await?;
        beside(&gits, move |place| change(place, round, all)).await?;
        beside(&own, settle).await?;
        let (done, checked) = (reset(&native, all).await?, beside(&gits, checkout).await?);
        restores.push(milliseconds(done), milliseconds(checked));
    }
    Ok(vec![DIFF.row(&diffs), RESET.row(&resets), RESTORE.row(&restores)])
}

fn file(number: usize) -> String {
    let (directory, file) = (number / SHAPE.1, number % SHAPE.1);
    format!("package-{:02}/library-{directory:03}/file-{file:03}.js", directory % 20)
}

fn make_tree(root: &Path) -> Result<()> {
    for number in 0..SHAPE.0 * SHAPE.1 {
        let path = root.join(file(number));
        fs::create_dir_all(path.parent().context("it is in a directory")?)?;
        let length = number * 7919 % 8192;
        let content: Vec<u8> = (0..length).map(|at| (at * 31 + number) as u8).collect();
        fs::write(path, content)?;
    }
    Ok(())
}

/// Changes some files, spread over the tree, in place.
fn change(root: &Path, round: usize, count: usize) -> Result<()> {
    let step = SHAPE.0 * SHAPE.1 / count;
    (0..count).try_for_each(|number| {
        let path = root.join(file(number * step));
        fs::write(path, format!("changed in round {round}\n")).context("change a file")
    })
}

fn commit(place: &Path) -> Result<()> {
    git(place, &["init", "--quiet"])?;
    git(place, &["add", "--all"])?;
    git(place, &["-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "--quiet", "-m", "all"])?;
    // What was written in the same moment as the index is looked at once more by the first status.
    git(place, &["status"]).map(drop)
}

fn git(place: &Path, arguments: &[&str]) -> Result<Duration> {
    let begun = Instant::now();
    let status = Command::new("git").args(arguments).current_dir(place).stdout(Stdio::null()).status();
    ensure!(status.context("start git")?.success(), "git {arguments:?} failed");
    Ok(begun.elapsed())
}

fn checkout(place: &Path) -> Result<Duration> {
    git(place, &["checkout", "--quiet", "."])
}

async fn diff(native: &Native, changed: usize) -> Result<Duration> {
    let begun = Instant::now();
    let diffing = native.channel.diff(CheckpointName::default()).await?;
    loop {
        if let DiffPiece::End(sums) = diffing.next().await?.context("a diff has an end")? {
            ensure!(sums.modified == changed as u64, "{sums:?}");
            return Ok(begun.elapsed());
        }
    }
}

async fn reset(native: &Native, changed: usize) -> Result<Duration> {
    let begun = Instant::now();
    let done = native.channel.reset(CheckpointName::default()).await?;
    let took = begun.elapsed();
    ensure!(done.restored == changed as u64, "{done:?}");
    Ok(took)
}

//! The workspace's history in the agent as a process, against git on the same tree with a warm index.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_engine::channel::DiffPiece;
use hearth_engine::protocol::history::CheckpointName;

use super::figure::{Figure, Goal, Row, Samples};
use super::native::{Native, beside};
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
    baseline: Some(
        "git checkout . of the same 10,000 files, all changed; both in memory, as a sandbox has its workspace",
    ),
    goal: Some(Goal::AtMost(1000.0)),
};

pub(super) const GROUP: Group =
    Group { figures: &[DIFF, RESET, RESTORE], measure: Measure::Native(|effort| Box::pin(measure(effort))) };

/// Directories, and the files in each.
const SHAPE: (usize, usize) = (200, 50);
const CHANGES: usize = 5;
/// A file system in memory. On ext4 what counts is something else: for a minute it looks at each inode that was freed whenever it makes a file.
const IN_MEMORY: &str = "/dev/shm";

async fn measure(effort: Effort) -> Result<Vec<Row>> {
    let mut rows = measure_few(effort).await?;
    rows.push(measure_all(effort).await?);
    Ok(rows)
}

/// An agent with a tree and a checkpoint of it, and where git has the same.
async fn trees(native: Native) -> Result<(Native, PathBuf, PathBuf)> {
    let (own, gits) = (native.workspace(), native.beside().join("git"));
    beside(&own, make_tree).await?;
    beside(&gits, |place| make_tree(place).and_then(|()| commit(place))).await?;
    native.channel.checkpoint(CheckpointName::default()).await?;
    Ok((native, own, gits))
}

async fn measure_few(effort: Effort) -> Result<Vec<Row>> {
    let (native, own, gits) = trees(Native::start().await?).await?;
    let (mut diffs, mut resets) = (Samples::default(), Samples::default());
    for round in 0..effort.samples(21, 5) {
        beside(&own, move |place| change(place, round, CHANGES)).await?;
        beside(&gits, move |place| change(place, round, CHANGES)).await?;
        let (diffed, status) = (diff(&native, CHANGES).await?, beside(&gits, |place| git(place, &["status"])).await?);
        diffs.push(milliseconds(diffed), milliseconds(status));
        let (done, checked) = (reset(&native, CHANGES).await?, beside(&gits, checkout).await?);
        resets.push(milliseconds(done), milliseconds(checked));
    }
    Ok(vec![DIFF.row(&diffs), RESET.row(&resets)])
}

async fn measure_all(effort: Effort) -> Result<Row> {
    let (native, own, gits) = trees(Native::start_in(Path::new(IN_MEMORY)).await?).await?;
    let (all, mut restores) = (SHAPE.0 * SHAPE.1, Samples::default());
    for round in 0..effort.samples(15, 3) {
        beside(&own, move |place| change(place, round, all)).await?;
        beside(&gits, move |place| change(place, round, all)).await?;
        let (done, checked) = (reset(&native, all).await?, beside(&gits, checkout).await?);
        restores.push(milliseconds(done), milliseconds(checked));
    }
    Ok(RESTORE.row(&restores))
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

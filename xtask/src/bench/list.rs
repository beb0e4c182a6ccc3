//! Lists of the agent as a process, against the system calls that they cannot do without, and against `find -ls`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_engine::channel::Channel;
use hearth_engine::protocol::files::List;

use super::figure::{Figure, Goal, Row, Samples};
use super::native::{Native, beside};
use super::{Effort, Group, Measure, WARM_UP, milliseconds};

const DIRECTORY: Figure = Figure {
    name: "native.list.directory",
    unit: "ms",
    baseline: Some(
        "a round trip of 64 bytes over a bare socket, plus readdir and lstat of the same directory by this process",
    ),
    goal: Some(Goal::RatioAtMost(2.0)),
};
const FEW: Figure = Figure { name: "native.list.few", ..DIRECTORY };
const TREE: Figure = Figure {
    name: "native.list.tree",
    unit: "entries/s",
    baseline: Some("find -ls of the same tree through a pipe"),
    goal: Some(Goal::RatioAtLeast(0.8)),
};

pub(super) const GROUP: Group =
    Group { figures: &[DIRECTORY, FEW, TREE], measure: Measure::Native(|effort| Box::pin(measure(effort))) };

/// Directories of the tree, and the files in each: with the directories themselves 50,000 entries.
const SHAPE: (usize, usize) = (500, 99);
const ENTRIES: usize = SHAPE.0 * (SHAPE.1 + 1);
/// The files of a directory that has few.
const FILES: usize = 10;
/// The bytes of one bare round trip.
const ECHO_BYTES: usize = 64;

async fn measure(effort: Effort) -> Result<Vec<Row>> {
    let native = Native::start().await?;
    let tree = native.workspace().join("tree");
    beside(&tree, make_tree).await?;
    make_directory(&native.workspace().join("few"), FILES)?;
    let mut echo = Echo::start()?;
    let (mut directories, mut few, mut trees) = (Samples::default(), Samples::default(), Samples::default());
    for (path, entries, samples) in [("tree/directory-007", SHAPE.1, &mut directories), ("few", FILES, &mut few)] {
        for round in 0..WARM_UP + effort.samples(1000, 200) {
            let own = list(&native.channel, List::new(path), entries).await?;
            let bare = echo.round_trip()? + read_and_look(&native.workspace().join(path))?;
            if round >= WARM_UP {
                samples.push(milliseconds(own), milliseconds(bare));
            }
        }
    }
    for _ in 0..effort.samples(15, 3) {
        let own = list(&native.channel, List { recursive: true, ..List::new("tree") }, ENTRIES).await?;
        let theirs = beside(&tree, find).await?;
        trees.push(rate(own), rate(theirs));
    }
    Ok(vec![DIRECTORY.row(&directories), FEW.row(&few), TREE.row(&trees)])
}

fn make_tree(tree: &Path) -> Result<()> {
    (0..SHAPE.0).try_for_each(|number| make_directory(&tree.join(format!("directory-{number:03}")), SHAPE.1))
}

fn make_directory(path: &Path, files: usize) -> Result<()> {
    fs::create_dir_all(path)?;
    Ok((0..files).try_for_each(|file| fs::write(path.join(format!("file-{file:02}.txt")), "content"))?)
}

/// Lists as a client does, up to the entries as values.
async fn list(channel: &Channel, list: List, expected: usize) -> Result<Duration> {
    let begun = Instant::now();
    let listing = channel.list_files(list).await?;
    let took = begun.elapsed();
    ensure!(listing.entries.len() == expected, "{} of {expected} entries came", listing.entries.len());
    Ok(took)
}

fn read_and_look(directory: &Path) -> Result<Duration> {
    let begun = Instant::now();
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        bytes += fs::symlink_metadata(entry?.path())?.len();
    }
    let took = begun.elapsed();
    ensure!(bytes > 0, "the files are empty");
    Ok(took)
}

fn find(tree: &Path) -> Result<Duration> {
    let begun = Instant::now();
    let mut find = Command::new("find").arg(tree).args(["-mindepth", "1", "-ls"]).stdout(Stdio::piped()).spawn()?;
    let mut lines = Vec::new();
    find.stdout.take().context("it has a standard output")?.read_to_end(&mut lines)?;
    ensure!(find.wait()?.success(), "find -ls failed");
    let took = begun.elapsed();
    let count = lines.iter().filter(|&&byte| byte == b'\n').count();
    ensure!(count == ENTRIES, "find -ls lists {count} entries");
    Ok(took)
}

fn rate(time: Duration) -> f64 {
    ENTRIES as f64 / time.as_secs_f64()
}

/// A thread that sends back what it is sent, until this is dropped.
struct Echo(UnixStream);

impl Echo {
    fn start() -> Result<Self> {
        let (ours, mut theirs) = UnixStream::pair()?;
        thread::spawn(move || {
            let mut bytes = [0; ECHO_BYTES];
            while theirs.read_exact(&mut bytes).and_then(|()| theirs.write_all(&bytes)).is_ok() {}
        });
        Ok(Self(ours))
    }

    fn round_trip(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.0.write_all(&[b'x'; ECHO_BYTES])?;
        self.0.read_exact(&mut [0; ECHO_BYTES]).context("read the echo")?;
        Ok(begun.elapsed())
    }
}

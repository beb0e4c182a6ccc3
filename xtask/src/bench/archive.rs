//! Archives in and out of the agent as a process, against GNU tar on the same tree of the same file system.
//!
//! Every tree is unpacked to a place of its own, and none is removed in between: ext4 does not give out an inode again for a while,
//! and looks for another, which takes longer than all the rest.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_engine::channel::ArchivePiece;
use hearth_engine::protocol::archive::{Compression, Export, Import};
use hearth_engine::protocol::files::FileRoot;

use super::figure::{Figure, Goal, Row, Samples};
use super::native::{Native, beside, settle};
use super::{Effort, Group, Measure};

const IN: Figure = Figure {
    name: "native.archive.in",
    unit: "MB/s",
    baseline: Some("tar -x of the same archive through a pipe"),
    goal: Some(Goal::RatioAtLeast(0.8)),
};
const OUT: Figure =
    Figure { name: "native.archive.out", baseline: Some("tar -c of the same tree through a pipe"), ..IN };

pub(super) const GROUP: Group =
    Group { figures: &[IN, OUT], measure: Measure::Native(|effort| Box::pin(measure(effort))) };

/// Directories, and the small files in each.
const SHAPE: (usize, usize) = (200, 50);
const LARGE_FILES: usize = 3;
const LARGE: usize = 16 << 20;

async fn measure(effort: Effort) -> Result<Vec<Row>> {
    let native = Native::start().await?;
    let tree = native.workspace().join("tree");
    let (archive, _) = beside(&tree, |tree| make_tree(tree).and_then(|()| pack(tree))).await?;
    let archive = Arc::new(archive);
    let (mut taken_in, mut given_out) = (Samples::default(), Samples::default());
    for round in 0..effort.samples(11, 3) {
        beside(&tree, settle).await?;
        let copy = Arc::clone(&archive);
        let place = native.beside().join(format!("tar-{round}"));
        let theirs = beside(&place, move |place| unpack(place, &copy)).await?;
        beside(&tree, settle).await?;
        let own = import(&native, &format!("import-{round}"), &archive).await?;
        taken_in.push(rate(&archive, own), rate(&archive, theirs));
        let (_, theirs) = beside(&tree, pack).await?;
        let own = export(&native, "tree").await?;
        given_out.push(rate(&archive, own), rate(&archive, theirs));
    }
    Ok(vec![IN.row(&taken_in), OUT.row(&given_out)])
}

/// Ten thousand files of up to 8 KiB, as a project and its packages have them, and a few large ones.
fn make_tree(root: &Path) -> Result<()> {
    let (directories, files) = SHAPE;
    for directory in 0..directories {
        let path = root.join(format!("package-{:02}/library-{directory:03}", directory % 20));
        fs::create_dir_all(&path)?;
        for file in 0..files {
            let length = (directory * 7919 + file * 104_729) % 8192;
            let content: Vec<u8> = (0..length).map(|at| (at * 31 + file) as u8).collect();
            fs::write(path.join(format!("file-{file:03}.js")), content)?;
        }
    }
    (0..LARGE_FILES).try_for_each(|number| fs::write(root.join(format!("large-{number}")), vec![7; LARGE]))?;
    Ok(())
}

fn pack(tree: &Path) -> Result<(Vec<u8>, Duration)> {
    let begun = Instant::now();
    let mut tar = Command::new("tar").arg("-cC").arg(tree).arg(".").stdout(Stdio::piped()).spawn()?;
    let mut archive = Vec::new();
    tar.stdout.take().context("it has a standard output")?.read_to_end(&mut archive)?;
    ensure!(tar.wait()?.success(), "tar -c failed");
    Ok((archive, begun.elapsed()))
}

fn unpack(place: &Path, archive: &[u8]) -> Result<Duration> {
    fs::create_dir(place)?;
    let begun = Instant::now();
    let mut tar = Command::new("tar").arg("-xC").arg(place).stdin(Stdio::piped()).spawn()?;
    tar.stdin.take().context("it has a standard input")?.write_all(archive)?;
    ensure!(tar.wait()?.success(), "tar -x failed");
    Ok(begun.elapsed())
}

async fn import(native: &Native, name: &str, archive: &[u8]) -> Result<Duration> {
    fs::create_dir(native.workspace().join(name))?;
    let to = Import { root: FileRoot::Workspace, path: name.into(), limit_bytes: None };
    let begun = Instant::now();
    let imported = native.channel.import(to, archive).await?;
    let took = begun.elapsed();
    let (directories, files) = SHAPE;
    ensure!(imported.members as usize > directories * files + LARGE_FILES, "{} members came", imported.members);
    Ok(took)
}

async fn export(native: &Native, name: &str) -> Result<Duration> {
    let begun = Instant::now();
    let request = Export { root: FileRoot::Workspace, path: name.into(), compression: Compression::None };
    let exporting = native.channel.export(request).await?;
    // Kept, as the baseline's is.
    let mut archive = Vec::new();
    loop {
        match exporting.next().await?.context("the archive has an end")? {
            ArchivePiece::Bytes(bytes) => archive.extend_from_slice(&bytes),
            ArchivePiece::End(exported) => {
                ensure!(exported.skipped + exported.changed == 0, "the tree changed");
                return Ok(begun.elapsed());
            }
        }
    }
}

fn rate(archive: &[u8], time: Duration) -> f64 {
    archive.len() as f64 / 1e6 / time.as_secs_f64()
}

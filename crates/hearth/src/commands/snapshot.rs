//! `hearth snapshot`: a sandbox is saved by the daemon that holds it; what lies on disk needs none.

use std::path::Path;
use std::time::Duration;

use hearth_client::api::SaveSandbox;
use hearth_client::api::home::SnapshotInfo;

use super::sandbox::existing;
use crate::arguments::SnapshotCommand;
use crate::failure::Failure;
use crate::kept::Kept;
use crate::{output, times};

/// Runs a snapshot command.
pub(crate) async fn run(command: SnapshotCommand) -> Result<i32, Failure> {
    match command {
        SnapshotCommand::Create { sandbox, name, json } => create(&sandbox, name, json).await?,
        SnapshotCommand::Ls { json } => list(&Kept::open()?.snapshots().await?, json)?,
        SnapshotCommand::Inspect { name, .. } => output::print_json(&Kept::open()?.snapshot(&name).await?)?,
        SnapshotCommand::Rm { names, .. } => {
            let kept = Kept::open()?;
            // All that are not there are found before the first is removed.
            for name in &names {
                kept.snapshot(name).await?;
            }
            for name in &names {
                kept.remove_snapshot(name).await?;
            }
        }
        SnapshotCommand::Export { name, file, .. } => {
            refuse_stream(&file)?;
            return Kept::open()?.export_snapshot(&name, &file).await;
        }
        SnapshotCommand::Import { file, name, .. } => {
            refuse_stream(&file)?;
            Kept::open()?.import_snapshot(&file, &name).await?;
        }
    }
    Ok(0)
}

/// Refuses what means a stream elsewhere, and would be a file of that name here.
fn refuse_stream(file: &Path) -> Result<(), Failure> {
    if file == Path::new("-") {
        let failure = Failure::invalid("a snapshot goes to a file and comes from one: - is none".to_owned());
        return Err(failure.with_hint("name a file; one that is called so is ./-"));
    }
    Ok(())
}

async fn create(sandbox: &str, name: String, json: bool) -> Result<(), Failure> {
    let saved = existing(sandbox).await?.snapshot(sandbox, &SaveSandbox { name }).await?;
    if json {
        return output::print_json(&saved);
    }
    let stopped = Duration::from_micros(saved.stopped_us).as_millis();
    output::print(&format!("{}: {}; the sandbox stood still for {stopped} ms", saved.name, output::bytes(saved.bytes)))
}

fn list(snapshots: &[SnapshotInfo], json: bool) -> Result<(), Failure> {
    if json {
        return output::print_json(&snapshots);
    }
    let rows: Vec<Vec<String>> = snapshots.iter().map(row).collect();
    output::print_table(&["SNAPSHOT", "CPUS", "MEMORY", "DISK", "SIZE", "TAKEN"], &rows)
}

fn row(snapshot: &SnapshotInfo) -> Vec<String> {
    vec![
        output::plain(&snapshot.name),
        snapshot.cpus.to_string(),
        output::mebibytes(snapshot.memory_mib),
        snapshot.disk_mib.map_or_else(|| "-".to_owned(), output::mebibytes),
        output::bytes(snapshot.bytes),
        times::distance(snapshot.created_unix_ms),
    ]
}

//! `hearth snapshot`: a sandbox is saved by the daemon that holds it; what lies on disk needs none.

use std::time::Duration;

use hearth_client::api::SaveSandbox;
use hearth_engine::fleet::SandboxName;
use hearth_engine::{Engine, SnapshotRecord};

use super::sandbox::existing;
use crate::arguments::SnapshotCommand;
use crate::failure::Failure;
use crate::{home, output, times};

/// Runs a snapshot command.
pub(crate) async fn run(command: SnapshotCommand) -> Result<i32, Failure> {
    match command {
        SnapshotCommand::Create { sandbox, name, json } => create(&sandbox, name, json).await?,
        SnapshotCommand::Ls { json } => list(&home::open()?, json)?,
        SnapshotCommand::Inspect { name } => output::print_json(&home::open()?.inspect_snapshot(&checked(&name)?)?)?,
        SnapshotCommand::Rm { names } => {
            let engine = home::open()?;
            let names = names.iter().map(|name| checked(name)).collect::<Result<Vec<_>, _>>()?;
            // All that are not there are found before the first is removed.
            names.iter().try_for_each(|name| engine.inspect_snapshot(name).map(drop))?;
            names.iter().try_for_each(|name| engine.remove_snapshot(name))?;
        }
        SnapshotCommand::Export { name, file } => home::open()?.export_snapshot(&checked(&name)?, &file).await?,
        SnapshotCommand::Import { file, name } => {
            home::open()?.import_snapshot(&file, &checked(&name)?).await?;
        }
    }
    Ok(0)
}

async fn create(sandbox: &str, name: String, json: bool) -> Result<(), Failure> {
    let saved = existing(sandbox).await?.snapshot(sandbox, &SaveSandbox { name }).await?;
    if json {
        return output::print_json(&saved);
    }
    let stopped = Duration::from_micros(saved.stopped_us).as_millis();
    output::print(&format!("{}: {}; the sandbox stood still for {stopped} ms", saved.name, output::bytes(saved.bytes)))
}

fn list(engine: &Engine, json: bool) -> Result<(), Failure> {
    let snapshots = engine.snapshots();
    if json {
        return output::print_json(&snapshots);
    }
    let rows: Vec<Vec<String>> = snapshots.iter().map(row).collect();
    output::print_table(&["SNAPSHOT", "CPUS", "MEMORY", "DISK", "SIZE", "TAKEN"], &rows)
}

fn row(record: &SnapshotRecord) -> Vec<String> {
    let mebibytes = |mib: u32| output::bytes(u64::from(mib) << 20);
    vec![
        output::plain(&record.name),
        record.cpus.to_string(),
        mebibytes(record.memory_mib),
        record.disk_mib.map_or_else(|| "-".to_owned(), mebibytes),
        output::bytes(record.bytes()),
        times::distance(record.created * 1000),
    ]
}

fn checked(name: &str) -> Result<SandboxName, Failure> {
    SandboxName::new(name).map_err(|error| Failure::invalid(error.to_string()))
}

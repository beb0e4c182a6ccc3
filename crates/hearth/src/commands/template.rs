//! `hearth template`: list, build, rm.

use std::time::UNIX_EPOCH;

use hearth_engine::vmm::{self, CpuCount, MemoryMib};
use hearth_engine::{AcceleratorChoice, DiskMib, Engine, EngineError, SandboxSpec, TemplateInfo, TemplateRecord};
use serde_json::{Value, json};

use crate::arguments::{Accel, TemplateBuildOptions, TemplateCommand};
use crate::failure::Failure;
use crate::{home, output, times};

/// Runs a template command.
pub(crate) async fn run(command: TemplateCommand) -> Result<i32, Failure> {
    let engine = home::open()?;
    match command {
        TemplateCommand::List { json } => list(&engine, json),
        TemplateCommand::Build(options) => build(&engine, &options).await,
        TemplateCommand::Rm { templates, unused, json } => remove(&engine, &templates, unused, json),
    }
}

fn list(engine: &Engine, json: bool) -> Result<i32, Failure> {
    let templates = engine.templates();
    if json {
        output::print_json(&templates.iter().map(describe).collect::<Vec<_>>())?;
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = templates.iter().map(row).collect();
    output::print_table(&["TEMPLATE", "IMAGE", "CPUS", "MEMORY", "DISK", "ACCEL", "SIZE", "USED", "NEEDED BY"], &rows)?;
    Ok(0)
}

fn row(info: &TemplateInfo) -> Vec<String> {
    let short = info.id.as_str().get(..12).unwrap_or_default().to_owned();
    let needed = match (info.is_in_use, info.snapshots.as_slice()) {
        (true, []) => "a process".to_owned(),
        (_, names) if !names.is_empty() => output::plain(&names.join(", ")),
        _ => "-".to_owned(),
    };
    let of_record: [String; 5] = match &info.record {
        Some(record) => [
            image(record),
            record.cpus.to_string(),
            output::bytes(u64::from(record.memory_mib) << 20),
            record.disk_mib.map_or_else(|| "-".to_owned(), |mib| output::bytes(u64::from(mib) << 20)),
            output::plain(&record.accelerator),
        ],
        None => ["damaged", "-", "-", "-", "-"].map(str::to_owned),
    };
    let ends = [output::bytes(info.bytes), times::distance(unix_ms(info)), needed];
    [vec![short], of_record.to_vec(), ends.to_vec()].concat()
}

fn image(record: &TemplateRecord) -> String {
    let digits = record.image.rsplit(':').next().unwrap_or_default();
    output::plain(digits.get(..12).unwrap_or(digits))
}

fn unix_ms(info: &TemplateInfo) -> u64 {
    let since = info.used.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn describe(info: &TemplateInfo) -> Value {
    json!({
        "id": info.id,
        "bytes": info.bytes,
        "used_unix_ms": unix_ms(info),
        "in_use": info.is_in_use,
        "snapshots": info.snapshots,
        "record": info.record,
    })
}

async fn build(engine: &Engine, options: &TemplateBuildOptions) -> Result<i32, Failure> {
    let spec = SandboxSpec {
        image: options.image.clone(),
        cpus: CpuCount::new(options.cpus).map_err(EngineError::from)?,
        memory: MemoryMib::new(options.memory.0).map_err(EngineError::from)?,
        disk: options.disk.map(|disk| DiskMib::new(disk.0)).transpose()?,
        accelerator: match options.accel {
            Accel::Auto => AcceleratorChoice::Auto,
            Accel::Kvm => AcceleratorChoice::Only(vmm::Accelerator::Kvm),
            Accel::Tcg => AcceleratorChoice::Only(vmm::Accelerator::Tcg),
        },
        ..SandboxSpec::default()
    };
    let record = engine.build_template(&spec).await?;
    match options.json {
        true => output::print_json(&record)?,
        false => output::print(record.id.as_str())?,
    }
    Ok(0)
}

fn remove(engine: &Engine, templates: &[String], unused: bool, json: bool) -> Result<i32, Failure> {
    let mut removed = Vec::new();
    if unused {
        for info in engine.templates().iter().filter(|info| !info.is_in_use && info.snapshots.is_empty()) {
            removed.push(engine.remove_template(info.id.as_str())?);
        }
    }
    for reference in templates {
        removed.push(engine.remove_template(reference)?);
    }
    match json {
        true => output::print_json(&json!({ "removed": removed }))?,
        false => removed.iter().try_for_each(|id| output::print(id.as_str()))?,
    }
    Ok(0)
}

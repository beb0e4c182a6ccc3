//! `hearth template`: list, build, rm.

use hearth_client::api::home::{BuildTemplate, TemplateInfo};
use serde_json::json;

use super::sandbox::accelerator;
use crate::arguments::{TemplateBuildOptions, TemplateCommand};
use crate::failure::Failure;
use crate::kept::Kept;
use crate::{output, times};

/// Runs a template command.
pub(crate) async fn run(command: TemplateCommand) -> Result<i32, Failure> {
    let kept = Kept::open()?;
    match command {
        TemplateCommand::List { json } => list(&kept.templates().await?, json)?,
        TemplateCommand::Build(options) => build(&kept, options).await?,
        TemplateCommand::Rm { templates, unused, json } => remove(&kept, templates, unused, json).await?,
    }
    Ok(0)
}

fn list(templates: &[TemplateInfo], json: bool) -> Result<(), Failure> {
    if json {
        return output::print_json(&templates);
    }
    let rows: Vec<Vec<String>> = templates.iter().map(row).collect();
    output::print_table(&["TEMPLATE", "IMAGE", "CPUS", "MEMORY", "DISK", "ACCEL", "SIZE", "USED", "NEEDED BY"], &rows)
}

fn row(info: &TemplateInfo) -> Vec<String> {
    let needed = match (info.in_use, info.snapshots.as_slice()) {
        (true, []) => "a process".to_owned(),
        (_, names) if !names.is_empty() => output::plain(&names.join(", ")),
        _ => "-".to_owned(),
    };
    let of_machine: [String; 5] = match &info.machine {
        Some(machine) => [
            short(machine.image.rsplit(':').next().unwrap_or_default()),
            machine.cpus.to_string(),
            output::mebibytes(machine.memory_mib),
            machine.disk_mib.map_or_else(|| "-".to_owned(), output::mebibytes),
            output::plain(&machine.accelerator),
        ],
        None => ["damaged", "-", "-", "-", "-"].map(str::to_owned),
    };
    let ends = [output::bytes(info.bytes), times::distance(info.used_unix_ms), needed];
    [vec![short(&info.id)], of_machine.to_vec(), ends.to_vec()].concat()
}

fn short(digits: &str) -> String {
    output::plain(digits.get(..12).unwrap_or(digits))
}

async fn build(kept: &Kept, options: TemplateBuildOptions) -> Result<(), Failure> {
    let request = BuildTemplate {
        image: Some(options.image),
        cpus: Some(options.cpus),
        memory_mib: Some(options.memory.0),
        disk_mib: options.disk.map(|disk| disk.0),
        accelerator: accelerator(options.accel),
    };
    let built = kept.build_template(request).await?;
    if options.json { output::print_json(&built) } else { output::print(&output::plain(&built.id)) }
}

async fn remove(kept: &Kept, mut templates: Vec<String>, unused: bool, json: bool) -> Result<(), Failure> {
    if unused {
        templates.extend(kept.templates().await?.into_iter().filter(TemplateInfo::is_unused).map(|info| info.id));
    }
    let mut removed = Vec::new();
    for reference in &templates {
        removed.push(kept.remove_template(reference).await?);
    }
    match json {
        true => output::print_json(&json!({ "removed": removed })),
        false => removed.iter().try_for_each(|id| output::print(&output::plain(id))),
    }
}

//! `hearth doctor`: what this machine has, what it lacks, and how to mend that.

use hearth_engine::{Check, Need};

use crate::arguments::DoctorOptions;
use crate::failure::Failure;
use crate::{commands, home, output};

/// Checks, prints, and returns 1 if a run cannot work.
pub(crate) async fn run(options: &DoctorOptions) -> Result<i32, Failure> {
    let mut report = home::open()?.doctor().await;
    report.checks.push(pool().await);
    if options.json {
        output::print_json(&report)?;
    } else {
        report.checks.iter().try_for_each(tell)?;
        output::print(if report.can_run { "A run can work here." } else { "A run cannot work here." })?;
    }
    Ok(if report.can_run { 0 } else { 1 })
}

async fn pool() -> Check {
    let looked = commands::pool::look().await.map_err(|failure| failure.message().to_owned());
    let (ok, found) = (looked.is_ok(), looked.unwrap_or_else(|failure| failure));
    Check { name: "pool", need: Need::Advice, ok, found, needed: "a daemon that answers, or none", fix: None }
}

fn tell(check: &Check) -> Result<(), Failure> {
    let mark = match (check.ok, check.need) {
        (true, _) => "ok  ",
        (false, Need::Run) => "FAIL",
        (false, Need::Build) => "miss",
        (false, Need::Advice) => "note",
    };
    output::print(&format!("{mark}  {:<12} {}", check.name, check.found))?;
    if !check.ok {
        output::print(&format!("      {:<12} needed: {}", "", check.needed))?;
        if let Some(fix) = &check.fix {
            output::print(&format!("      {:<12} fix: {fix}", ""))?;
        }
    }
    Ok(())
}

//! The bench: what Hearth costs, each figure beside the least that the same thing could cost on this machine.
//!
//! A machine is noisy and another one is faster, so no figure stands alone: its samples are taken in turn with those of its baseline, and
//! what counts is the ratio. To add a figure, give its group's file a [`Figure`] and samples, or write a file with a
//! [`Group`] and list it in [`GROUPS`].

mod api;
mod archive;
mod bare;
mod boot;
mod burst;
mod content;
mod daemon;
mod exec;
mod figure;
mod files;
mod floor;
mod fork;
mod history;
mod host;
mod kernel;
mod list;
mod live;
mod mcp;
mod memory;
mod native;
mod output;
mod ping;
mod plot;
mod pool;
mod record;
mod report;
mod restore;
mod restored_memory;
mod spawn;
mod streaming;

use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use figure::{Figure, Row};
use host::Host;

/// Every group there is, in the order of the report.
const GROUPS: &[Group] = &[
    boot::GROUP,
    restore::GROUP,
    kernel::GROUP,
    pool::GROUP,
    burst::GROUP,
    restored_memory::GROUP,
    exec::GROUP,
    api::GROUP,
    mcp::GROUP,
    ping::GROUP,
    output::GROUP,
    files::GROUP,
    fork::GROUP,
    memory::GROUP,
    streaming::GROUP,
    spawn::GROUP,
    list::GROUP,
    content::GROUP,
    archive::GROUP,
    history::GROUP,
];
/// A bound on one group, so that a guest that hangs ends the bench and not the day.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
/// Rounds whose samples are dropped: under emulation code is translated when it first runs.
const WARM_UP: usize = 20;

/// Figures that are measured together.
struct Group {
    figures: &'static [Figure],
    /// Yields a row for each figure.
    measure: Measure,
}

/// On what a group measures.
#[derive(Clone, Copy)]
enum Measure {
    /// On machines: there must be an image.
    Guest(for<'a> fn(&'a Host) -> Measuring<'a>),
    /// On the agent as a process of this host, and nothing else.
    Native(fn(Effort) -> Measuring<'static>),
}

/// How thoroughly to measure.
#[derive(Debug, Clone, Copy)]
struct Effort {
    is_quick: bool,
}

impl Effort {
    /// How many samples to take, or what else depends on it.
    fn samples(self, thorough: usize, quick: usize) -> usize {
        if self.is_quick { quick } else { thorough }
    }
}

type Measuring<'a> = Pin<Box<dyn Future<Output = Result<Vec<Row>>> + 'a>>;

/// What to measure, and how thoroughly.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Measure these figures only, by name or by the part before the dot
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// Take few samples: to see that it works, not to quote
    #[arg(long)]
    quick: bool,
    /// Add the run to docs/bench, and put its figures into README.md
    #[arg(long, conflicts_with = "quick")]
    record: bool,
}

/// Measures, prints the table and writes the list.
pub(crate) fn run(options: &Options) -> Result<()> {
    check_names(&options.only)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let (about, rows) = runtime.block_on(measure(options))?;
    report::print(&about, &rows)?;
    report::write(&rows)?;
    if options.record { record::add(&about, &rows) } else { Ok(()) }
}

/// Returns a description of what was measured on, and the rows.
async fn measure(options: &Options) -> Result<(String, Vec<Row>)> {
    let effort = Effort { is_quick: options.quick };
    let groups: Vec<_> = GROUPS.iter().filter(|group| options.wants_some(group)).collect();
    let needs_guest = groups.iter().any(|group| matches!(group.measure, Measure::Guest(_)));
    let host = if needs_guest { Some(Host::open(effort).await?) } else { None };
    let mut rows = Vec::new();
    for group in groups {
        let measured = measure_group(group, host.as_ref(), effort).await?;
        rows.extend(measured.into_iter().filter(|row| options.wants(row.name)));
    }
    Ok((host.as_ref().map_or_else(host::line, Host::describe), rows))
}

async fn measure_group(group: &Group, host: Option<&Host>, effort: Effort) -> Result<Vec<Row>> {
    let names: Vec<_> = group.figures.iter().map(|figure| figure.name).collect();
    let names = names.join(", ");
    report::say(&format!("measuring {names}"));
    let measuring = match group.measure {
        Measure::Guest(measure) => measure(host.context("a host was opened for it")?),
        Measure::Native(measure) => measure(effort),
    };
    let measured = tokio::time::timeout(PATIENCE, measuring).await;
    let measured = measured.with_context(|| format!("{names}: no end after {} s", PATIENCE.as_secs()))?;
    measured.with_context(|| names)
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| covers(wanted, name))
    }

    fn wants_some(&self, group: &Group) -> bool {
        group.figures.iter().any(|figure| self.wants(figure.name))
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn covers(wanted: &str, name: &str) -> bool {
    name.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn check_names(only: &[String]) -> Result<()> {
    let names: Vec<_> = GROUPS.iter().flat_map(|group| group.figures).map(|figure| figure.name).collect();
    match only.iter().find(|wanted| !names.iter().any(|name| covers(wanted, name))) {
        Some(unknown) => bail!("there is no figure {unknown:?}; there are {}", names.join(", ")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_chosen_by_name_or_by_group() {
        assert!(covers("boot", "boot.cold") && covers("boot.cold", "boot.cold"));
        assert!(!covers("boo", "boot.cold") && !covers("boot.cold.x", "boot.cold"));
        assert!(covers("ping", "ping") && covers("ping", "ping.loaded"));
    }

    #[test]
    fn an_unknown_figure_is_refused_with_those_there_are() {
        let error = check_names(&["exec".into(), "exec.flase".into()]).unwrap_err().to_string();
        assert!(error.contains("exec.flase") && error.contains("exec.true"), "{error}");
    }

    #[test]
    fn no_two_figures_have_one_name() {
        let mut names: Vec<_> = GROUPS.iter().flat_map(|group| group.figures).map(|figure| figure.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

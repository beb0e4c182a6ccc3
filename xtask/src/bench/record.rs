//! The record of earlier runs, `docs/bench/history.jsonl`, and what is drawn from it: the table in README.md and the plot beside the record.
//!
//! A run is recorded on request only, so that what stands there was measured for it. Figures that a run did not measure keep the row that they
//! have in the table.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::figure::Row;
use super::plot;

/// Between these lines of README.md stands the table.
const BEGIN: &str = "<!-- written by make bench BENCH=--record -->\n";
const END: &str = "<!-- end of the table -->\n";

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Year, month and day, by the world's clock.
    pub(crate) date: String,
    /// The beginning of the commit's name, with `+` when files had changed since.
    pub(crate) commit: String,
    /// What was measured on.
    pub(crate) about: String,
    /// By name.
    pub(crate) figures: BTreeMap<String, Recorded>,
}

/// A figure in one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    pub(crate) unit: String,
    pub(crate) n: usize,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) baseline_p50: Option<f64>,
    pub(crate) ratio: Option<f64>,
    pub(crate) goal: Option<String>,
    /// How much of what the goal allows is taken: up to 1 it is met.
    pub(crate) of_goal: Option<f64>,
}

/// Adds a run, and draws anew what shows it.
pub(crate) fn add(about: &str, rows: &[Row]) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let place = root.join("docs/bench");
    fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
    let figures = rows.iter().map(|row| (row.name.to_owned(), recorded(row))).collect();
    let run =
        Run { date: said("date", &["-u", "+%F"], &root)?, commit: commit(&root)?, about: about.to_owned(), figures };
    let history = place.join("history.jsonl");
    let mut file = File::options().create(true).append(true).open(&history).context("open the record")?;
    writeln!(file, "{}", serde_json::to_string(&run)?).context("write the record")?;
    let runs = read(&history)?;
    plot::draw(&runs, &place.join("history.svg"))?;
    rewrite(&root.join("README.md"), &table(&runs))
}

fn read(history: &PathBuf) -> Result<Vec<Run>> {
    let text = fs::read_to_string(history).context("read the record")?;
    let run = |(number, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}, line {}", history.display(), number + 1))
    };
    text.lines().enumerate().map(run).collect()
}

fn recorded(row: &Row) -> Recorded {
    let Row { n, p50, p95, baseline_p50, ratio, of_goal, .. } = *row;
    Recorded { unit: row.unit.to_owned(), n, p50, p95, baseline_p50, ratio, goal: row.goal.clone(), of_goal }
}

fn commit(root: &Path) -> Result<String> {
    let commit = said("git", &["rev-parse", "--short=9", "HEAD"], root)?;
    let changed = said("git", &["status", "--porcelain", "--untracked-files=no"], root)?;
    Ok(if changed.is_empty() { commit } else { commit + "+" })
}

fn said(program: &str, arguments: &[&str], place: &Path) -> Result<String> {
    let output = Command::new(program).args(arguments).current_dir(place).output();
    let output = output.with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        bail!("{program} {arguments:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Each figure as it was last measured.
fn table(runs: &[Run]) -> String {
    let mut last: BTreeMap<&str, (&Run, &Recorded)> = BTreeMap::new();
    for run in runs {
        last.extend(run.figures.iter().map(|(name, recorded)| (name.as_str(), (run, recorded))));
    }
    let mut text = String::new();
    // A run on the host alone says nothing of guests.
    let fullest = runs.iter().max_by_key(|run| run.about.lines().count());
    if let (Some(fullest), Some(last)) = (fullest, runs.last()) {
        let about: Vec<_> = fullest.about.lines().collect();
        text.push_str(&format!("{}; {}, `make bench`\n\n", about.join("; "), last.date));
    }
    text.push_str("| figure | unit | n | p50 | p95 | baseline p50 | ratio | goal | | commit |\n");
    text.push_str("|---|---|--:|--:|--:|--:|--:|---|---|---|\n");
    for (name, (run, row)) in last {
        let goal = row.goal.as_deref().unwrap_or_default().replace("<=", "≤").replace(">=", "≥");
        let verdict = row.of_goal.map_or("", |of_goal| if of_goal <= 1.0 { "met" } else { "**missed**" });
        let cells = [
            format!("`{name}`"),
            row.unit.clone(),
            row.n.to_string(),
            number(row.p50),
            number(row.p95),
            row.baseline_p50.map(number).unwrap_or_default(),
            row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            goal,
            verdict.to_owned(),
            run.commit.clone(),
        ];
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text
}

/// Three digits are all that a shared machine is good for.
fn number(value: f64) -> String {
    match value {
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn rewrite(readme: &Path, table: &str) -> Result<()> {
    let text = fs::read_to_string(readme).context("read README.md")?;
    fs::write(readme, replaced(&text, table)?).context("write README.md")
}

fn replaced(text: &str, table: &str) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).context("README.md has no place for the table")?;
    let (_, after) = rest.split_once(END).context("README.md has no end of the table")?;
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(date: &str, figures: &[(&str, f64, Option<f64>)]) -> Run {
        let figures = figures.iter().map(|&(name, p50, of_goal)| {
            let goal = of_goal.map(|_| "ratio <= 2".to_owned());
            let recorded =
                Recorded { unit: "ms".into(), n: 3, p50, p95: p50, baseline_p50: None, ratio: None, goal, of_goal };
            (name.to_owned(), recorded)
        });
        Run { date: date.into(), commit: format!("c{date}"), about: "here\nthere".into(), figures: figures.collect() }
    }

    #[test]
    fn the_table_has_each_figure_as_it_was_measured_last() {
        let runs = [run("1", &[("a", 123.4, Some(1.2)), ("b", 4.0, None)]), run("2", &[("a", 12.34, Some(0.9))])];
        let table = table(&runs);
        assert!(table.starts_with("here; there; 2, `make bench`\n"), "{table}");
        assert!(table.contains("| `a` | ms | 3 | 12.3 | 12.3 |  |  | ratio ≤ 2 | met | c2 |"), "{table}");
        assert!(table.contains("| `b` | ms | 3 | 4.00 | 4.00 |  |  |  |  | c1 |"), "{table}");
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let text = format!("before\n{BEGIN}old\n{END}after\n");
        assert_eq!(replaced(&text, "new\n").unwrap(), format!("before\n{BEGIN}new\n{END}after\n"));
        assert!(replaced("no marks", "new").is_err());
    }

    #[test]
    fn the_record_and_the_readme_are_what_this_reads() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        replaced(&fs::read_to_string(root.join("README.md")).unwrap(), "").unwrap();
        assert!(!read(&root.join("docs/bench/history.jsonl")).unwrap().is_empty());
    }
}

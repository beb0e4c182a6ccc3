//! The table on standard output, the list in `target/bench.json`, and progress on standard error.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::figure::Row;

const HEAD: [&str; 9] = ["figure", "unit", "n", "p50", "p95", "baseline p50", "ratio", "goal", ""];

/// Says what goes on.
pub(crate) fn say(text: &str) {
    // Progress that cannot be shown is no reason to stop.
    let _ = writeln!(io::stderr(), "bench: {text}");
}

/// Prints the table, and below it what the baselines are.
pub(crate) fn print(about: &str, rows: &[Row]) -> Result<()> {
    io::stdout().write_all(render(about, rows).as_bytes()).context("print the table")
}

/// Writes the list where later readers expect it, whatever the target directory of this build is.
pub(crate) fn write(rows: &[Row]) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench.json");
    let directory = path.parent().context("the file is in a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let mut text = serde_json::to_string_pretty(rows)?;
    text.push('\n');
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

fn render(about: &str, rows: &[Row]) -> String {
    let mut cells = vec![HEAD.map(str::to_owned)];
    cells.extend(rows.iter().map(cells_of));
    let width = |column: usize| cells.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = format!("{about}\n\n");
    for line in &cells {
        text.push_str(line_of(line, &widths).trim_end());
        text.push('\n');
    }
    text.push('\n');
    for row in rows {
        text.push_str(&format!("{}: against {}\n", row.name, row.baseline.unwrap_or("nothing")));
    }
    text
}

fn cells_of(row: &Row) -> [String; HEAD.len()] {
    let number = |value: f64| if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    let verdict = |met| if met { "met" } else { "MISSED" };
    [
        row.name.to_owned(),
        row.unit.to_owned(),
        row.n.to_string(),
        number(row.p50),
        number(row.p95),
        row.baseline_p50.map(number).unwrap_or_default(),
        row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
        row.goal.clone().unwrap_or_default(),
        row.met.map(verdict).unwrap_or_default().to_owned(),
    ]
}

/// Words to the left, numbers to the right.
fn line_of(cells: &[String; HEAD.len()], widths: &[usize]) -> String {
    let numeric = |column| (2..=6).contains(&column);
    let padded = cells.iter().zip(widths).enumerate().map(|(column, (cell, &width))| match numeric(column) {
        true => format!("{cell:>width$}"),
        false => format!("{cell:<width$}"),
    });
    padded.collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_say_what_was_missed() {
        let row = |name, p50, met| Row {
            name,
            unit: "ms",
            n: 5,
            p50,
            p95: 1.0,
            baseline: Some("less"),
            baseline_p50: Some(2.0),
            ratio: Some(0.5),
            goal: Some("ratio <= 1.3".into()),
            met: Some(met),
            of_goal: None,
        };
        let text = render("here", &[row("boot.cold", 1234.5, true), row("a", 1.0, false)]);
        let lines: Vec<_> = text.lines().collect();
        let goal = lines[2].find("goal").unwrap();
        assert!(lines[3][goal..].ends_with("met") && lines[4][goal..].ends_with("MISSED"), "{text}");
        assert!(text.contains("boot.cold: against less"), "{text}");
    }
}

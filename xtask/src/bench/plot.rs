//! The plot of earlier runs: a panel a figure, and in it how much of what the goal allows each run took.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::record::Run;

const COLUMNS: usize = 4;
/// Of one panel, in pixels.
const PANEL: (u32, u32) = (260, 140);
/// What the highest panel shows: more is as bad.
const HIGHEST: f64 = 3.0;

/// Draws all figures that have a goal.
pub(crate) fn draw(runs: &[Run], to: &Path) -> Result<()> {
    let names: BTreeSet<&str> = runs
        .iter()
        .flat_map(|run| {
            run.figures.iter().filter(|(_, figure)| figure.of_goal.is_some()).map(|(name, _)| name.as_str())
        })
        .collect();
    let rows = names.len().div_ceil(COLUMNS).max(1);
    let size = (PANEL.0 * COLUMNS as u32, PANEL.1 * rows as u32 + 30);
    let area = SVGBackend::new(to, size).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    let title = ("sans-serif", 14);
    let area =
        area.titled("what each run took of what its goal allows (below the line: met)", title).map_err(failed)?;
    for (panel, name) in area.split_evenly((rows, COLUMNS)).iter().zip(names) {
        let points: Vec<(f64, f64)> = (0_u32..)
            .zip(runs)
            .filter_map(|(number, run)| Some((f64::from(number), run.figures.get(name)?.of_goal?.min(HIGHEST))))
            .collect();
        let last = points.last().map_or(0.0, |(_, of_goal)| *of_goal);
        let highest = points.iter().map(|(_, of_goal)| *of_goal).fold(1.3, f64::max) * 1.05;
        let end = (runs.len().saturating_sub(1) as f64).max(1.0);
        let mut chart = ChartBuilder::on(panel)
            .margin(8)
            .caption(format!("{name}: {last:.2}"), ("sans-serif", 12))
            .build_cartesian_2d(-0.2..end + 0.2, 0.0..highest)
            .map_err(failed)?;
        let color = if last <= 1.0 { &BLUE } else { &RED };
        chart.draw_series(LineSeries::new([(-0.2, 1.0), (end + 0.2, 1.0)], &BLACK)).map_err(failed)?;
        chart.draw_series(LineSeries::new(points.clone(), color)).map_err(failed)?;
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 2, color.filled()))).map_err(failed)?;
    }
    area.present().map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("draw the plot: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_is_drawn_for_each_figure_with_a_goal() {
        let figure = |of_goal: Option<f64>| {
            let base =
                r#"{"unit":"ms","n":1,"p50":1.0,"p95":1.0,"baseline_p50":null,"ratio":null,"goal":null,"of_goal":"#;
            let of_goal = of_goal.map_or("null".into(), |of_goal| of_goal.to_string());
            serde_json::from_str(&format!("{base}{of_goal}}}")).unwrap()
        };
        let figures = [("good", Some(0.5)), ("bad", Some(9.0)), ("goalless", None)];
        let figures = figures.into_iter().map(|(name, of_goal)| (name.to_owned(), figure(of_goal))).collect();
        let run = Run { date: "d".into(), commit: "c".into(), about: "a".into(), figures };
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("plot.svg");
        draw(&[run.clone(), run], &to).unwrap();
        let svg = std::fs::read_to_string(to).unwrap();
        assert!(svg.contains("good: 0.50") && svg.contains("bad: 3.00") && !svg.contains("goalless"), "{svg}");
    }
}

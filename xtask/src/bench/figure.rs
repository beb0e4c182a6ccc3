//! A figure, its samples, and the row that they make in the report. Pure.

use serde::Serialize;

/// What is measured, and against what. A plain value.
#[derive(Debug)]
pub(crate) struct Figure {
    /// Group and figure, such as `boot.cold`.
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// What the baseline's samples are of.
    pub(crate) baseline: Option<&'static str>,
    /// `None`: for information.
    pub(crate) goal: Option<Goal>,
}

/// What a figure is to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// The ratio of the medians.
    RatioAtMost(f64),
    /// The ratio of the medians.
    RatioAtLeast(f64),
    /// The figure's own median, in its unit.
    AtMost(f64),
    /// The figure's own median, in its unit, or the ratio of the medians: for what cannot be faster than a fast baseline, nor need be.
    AtLeast { p50: f64, or_ratio: f64 },
    /// How far the figure's median may be above its baseline's, in its unit.
    AboveBaselineAtMost(f64),
    /// The figure's 95th percentile over its own median.
    TailAtMost(f64),
}

/// The figures that goals are about.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    p50: f64,
    p95: f64,
    baseline: Option<f64>,
}

impl Goal {
    /// How much of what is allowed is taken: up to 1 the goal is met. Infinite without the baseline that it is about.
    fn taken(self, outcome: Outcome) -> f64 {
        let Outcome { p50, p95, baseline } = outcome;
        let against = |taken: &dyn Fn(f64) -> f64| baseline.map_or(f64::INFINITY, taken);
        match self {
            Self::RatioAtMost(limit) => against(&|baseline| p50 / baseline / limit),
            Self::RatioAtLeast(limit) => against(&|baseline| limit * baseline / p50),
            Self::AtMost(limit) => p50 / limit,
            Self::AtLeast { p50: limit, or_ratio } => (limit / p50).min(against(&|baseline| or_ratio * baseline / p50)),
            Self::AboveBaselineAtMost(limit) => against(&|baseline| p50 / (baseline + limit)),
            Self::TailAtMost(limit) => p95 / p50 / limit,
        }
    }

    fn describe(self, unit: &str) -> String {
        match self {
            Self::RatioAtMost(limit) => format!("ratio <= {limit}"),
            Self::RatioAtLeast(limit) => format!("ratio >= {limit}"),
            Self::AtMost(limit) => format!("p50 <= {limit} {unit}"),
            Self::AtLeast { p50, or_ratio } => format!("p50 >= {p50} {unit} or ratio >= {or_ratio}"),
            Self::AboveBaselineAtMost(limit) => format!("baseline + {limit} {unit}"),
            Self::TailAtMost(limit) => format!("p95 <= {limit} p50"),
        }
    }
}

/// Samples of a figure and of its baseline, taken in turn.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    own: Vec<f64>,
    baseline: Vec<f64>,
}

impl Samples {
    /// Adds one of each.
    pub(crate) fn push(&mut self, own: f64, baseline: f64) {
        self.own.push(own);
        self.baseline.push(baseline);
    }

    /// Adds one of a figure that has no baseline, or whose baseline is sampled more rarely.
    pub(crate) fn push_alone(&mut self, own: f64) {
        self.own.push(own);
    }

    /// Adds one of a baseline that is sampled more rarely than its figure.
    pub(crate) fn push_baseline(&mut self, baseline: f64) {
        self.baseline.push(baseline);
    }
}

/// A figure as reported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// The number of samples.
    pub(crate) n: usize,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) baseline: Option<&'static str>,
    pub(crate) baseline_p50: Option<f64>,
    /// `p50 / baseline_p50`.
    pub(crate) ratio: Option<f64>,
    pub(crate) goal: Option<String>,
    pub(crate) met: Option<bool>,
    /// How much of what the goal allows is taken.
    #[serde(skip)]
    pub(crate) of_goal: Option<f64>,
}

impl Figure {
    /// Makes the row of at least one sample.
    pub(crate) fn row(&self, samples: &Samples) -> Row {
        let (p50, p95) = (quantile(&samples.own, 0.5), quantile(&samples.own, 0.95));
        let baseline_p50 = (!samples.baseline.is_empty()).then(|| quantile(&samples.baseline, 0.5));
        let ratio = baseline_p50.map(|baseline| p50 / baseline);
        let of_goal = self.goal.map(|goal| goal.taken(Outcome { p50, p95, baseline: baseline_p50 }));
        Row {
            name: self.name,
            unit: self.unit,
            n: samples.own.len(),
            p50: rounded(p50),
            p95: rounded(p95),
            baseline: self.baseline,
            baseline_p50: baseline_p50.map(rounded),
            ratio: ratio.map(rounded),
            goal: self.goal.map(|goal| goal.describe(self.unit)),
            met: of_goal.map(|taken| taken <= 1.0),
            of_goal: of_goal.map(rounded),
        }
    }
}

/// The least sample that at least this share of all samples does not exceed.
fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURE: Figure =
        Figure { name: "a.b", unit: "ms", baseline: Some("less"), goal: Some(Goal::RatioAtMost(1.5)) };

    fn is_met(goal: Goal, outcome: Outcome) -> bool {
        goal.taken(outcome) <= 1.0
    }

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((quantile(&samples, 0.5), quantile(&samples, 0.95)), (50.0, 95.0));
        assert_eq!((quantile(&[7.0], 0.5), quantile(&[7.0], 0.95)), (7.0, 7.0));
    }

    #[test]
    fn ratio_is_of_the_medians_and_decides() {
        let mut samples = Samples::default();
        [(1.0, 1.0), (3.0, 2.0), (90.0, 70.0)].iter().for_each(|&(own, baseline)| samples.push(own, baseline));
        let row = FIGURE.row(&samples);
        assert_eq!((row.ratio, row.met, row.n), (Some(1.5), Some(true), 3));
        samples.push(4.0, 1.0);
        samples.push(4.0, 1.0);
        assert_eq!(FIGURE.row(&samples).met, Some(false));
    }

    #[test]
    fn a_speed_is_enough_by_itself_or_beside_its_baseline() {
        let goal = Goal::AtLeast { p50: 1000.0, or_ratio: 0.8 };
        let of = |p50, baseline| Outcome { p50, p95: p50, baseline };
        assert!(is_met(goal, of(1000.0, Some(10_000.0))) && is_met(goal, of(8.0, Some(10.0))));
        assert!(!is_met(goal, of(7.9, Some(10.0))) && !is_met(goal, of(999.0, None)));
        assert_eq!(goal.describe("MB/s"), "p50 >= 1000 MB/s or ratio >= 0.8");
    }

    #[test]
    fn a_goal_may_be_a_distance_or_a_tail() {
        let outcome = Outcome { p50: 100.0, p95: 200.0, baseline: Some(70.0) };
        assert!(is_met(Goal::AboveBaselineAtMost(30.0), outcome) && !is_met(Goal::AboveBaselineAtMost(29.0), outcome));
        assert!(is_met(Goal::TailAtMost(2.0), outcome) && !is_met(Goal::TailAtMost(1.9), outcome));
        assert!(!is_met(Goal::AboveBaselineAtMost(30.0), Outcome { baseline: None, ..outcome }));
    }

    #[test]
    fn a_row_has_the_fields_that_its_readers_were_promised() {
        let mut samples = Samples::default();
        samples.push_alone(1.0);
        let figure = Figure { baseline: None, goal: None, ..FIGURE };
        let json = serde_json::to_value(figure.row(&samples)).unwrap();
        let mut fields: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        fields.sort();
        let promised = ["baseline", "baseline_p50", "goal", "met", "n", "name", "p50", "p95", "ratio", "unit"];
        assert_eq!(fields, promised);
        assert!(json["met"].is_null() && json["ratio"].is_null());
    }
}

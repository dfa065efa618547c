//! The budgets of the specification, one line each: kept, or missed by how much.

use serde::Serialize;

use super::figures::{AloneFigure, EngineFigure, MicroFigure, StartFigure, TraceFigure};
use crate::workbench::sample::Sample;

/// A budget and what was measured.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// What is limited.
    pub budget: &'static str,
    /// The limit.
    pub limit: f64,
    /// What was measured.
    pub measured: f64,
    /// Lowest and highest round, where there are rounds.
    pub spread: Option<[f64; 2]>,
    /// Unit of both.
    pub unit: &'static str,
    /// Whether the limit holds.
    pub pass: bool,
    /// Where the measured figure comes from.
    pub of: String,
}

impl Verdict {
    fn new(budget: &'static str, limit: f64, unit: &'static str, measured: Sample, of: impl Into<String>) -> Self {
        let spread = (measured.max > measured.min).then_some([measured.min, measured.max]);
        let pass = measured.median <= limit;
        Self { budget, limit, measured: measured.median, spread, unit, pass, of: of.into() }
    }
}

/// Of each kind of start: how much longer it may take with the engine.
const STARTS: [(&str, &str, f64); 3] = [
    ("exec without retpolines", "exec without retpolines, more", 0.1),
    ("fork without calls", "fork without calls, more", 0.02),
    ("start of a large program", "start of a large program, more", 6.0),
];

/// All of them.
pub fn all(
    micro: &[MicroFigure],
    traces: &[TraceFigure],
    left_alone: &[AloneFigure],
    starts: &[StartFigure],
    engine: &EngineFigure,
) -> Vec<Verdict> {
    let single = |value| Sample { median: value, min: value, max: value };
    let mut verdicts = vec![
        Verdict::new("one target / direct call", 1.05, "×", ratio(micro, "promoted, 1 target", "direct"), "bare loop"),
        Verdict::new(
            "one target / direct call, with work between",
            1.05,
            "×",
            ratio(micro, "promoted, with work", "direct, with work"),
            "loop with 16 cycles of work",
        ),
        Verdict::new(
            "8 targets in order / direct call",
            1.5,
            "×",
            ratio(micro, "promoted, 8 in order", "direct"),
            "bare loop",
        ),
    ];
    let left = left_alone.iter().max_by(|a, b| a.ratio.median.total_cmp(&b.ratio.median));
    if let Some(left) = left {
        let of = format!("{}: {}, {}", left.name, left.state, left.reason);
        verdicts.push(Verdict::new("left alone / retpoline", 1.02, "×", left.ratio, of));
    }
    if let Some(trace) = worst(traces) {
        verdicts.push(Verdict::new("any trace, learned / retpoline", 1.05, "×", trace.ratio, trace.name));
    }
    let changes = traces.iter().filter_map(|trace| Some((trace.repromoted_us?, trace.name)));
    if let Some((us, name)) = changes.max_by(|a, b| a.0.median.total_cmp(&b.0.median)) {
        verdicts.push(Verdict::new("promoted again after a change", 10_000.0, "µs", us, name));
    }
    let share = single(engine.learning_share * 100.0);
    let of = format!("of {:.0} s, the start's allowance included", engine.lived_s);
    verdicts.push(Verdict::new("learning", 0.5, "%", share, of));
    verdicts.extend(starts.iter().filter_map(|start| {
        let (_, budget, limit) = STARTS.iter().find(|(name, ..)| *name == start.name)?;
        Some(Verdict::new(budget, *limit, "ms", start.more_ms, start.of.as_str()))
    }));
    verdicts.push(Verdict::new("start-up", 10.0, "ms", single(engine.startup_ms), "the bundled program"));
    verdicts
}

fn worst(traces: &[TraceFigure]) -> Option<&TraceFigure> {
    traces.iter().max_by(|a, b| a.ratio.median.total_cmp(&b.ratio.median))
}

fn ratio(micro: &[MicroFigure], of: &str, to: &str) -> Sample {
    let runs = |name| micro.iter().find(|line| line.name == name).map_or(&[][..], |line| &line.runs);
    Sample::of_ratios(runs(of), runs(to))
}

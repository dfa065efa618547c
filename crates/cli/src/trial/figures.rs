//! What was found out, as a structure, and the verdict: what `try --json` prints. Schema 1; fields are only
//! added.

use std::os::unix::ffi::OsStrExt;

use serde::Serialize;

use super::TryArgs;
use super::look::Look;
use super::outputs::Compared;
use super::rounds::{Measured, Seconds};
use super::twin::{Twin, Way};
use crate::shown::Shown;
use crate::workbench::machine::{self, Machine};
use crate::workbench::sample::{Interval, median};

/// What is smaller, as a share, is called no difference however sure it is.
const SMALLEST: f64 = 0.005;

/// Fewer than five rounds are not this sure of anything.
const SURE: f64 = 0.9;

/// The verdict in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It saves processor time.
    Saves,
    /// No difference was seen.
    NoDifference,
    /// It costs processor time.
    Costs,
    /// There is nothing to promote.
    Nothing,
    /// The program does something else with it.
    Differs,
}

impl Outcome {
    /// For scripts.
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::Saves => 0,
            Self::NoDifference => 3,
            Self::Costs => 4,
            Self::Nothing => 5,
            Self::Differs => 6,
        }
    }

    /// Of what is saved, as a share.
    pub fn of(saved: &Interval) -> Self {
        match () {
            () if saved.median.abs() < SMALLEST || saved.confidence < SURE => Self::NoDifference,
            () if saved.low > 0.0 => Self::Saves,
            () if saved.high < 0.0 => Self::Costs,
            () => Self::NoDifference,
        }
    }
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Version of this structure.
    pub schema: u32,
    /// The command.
    pub command: Vec<Shown>,
    /// The verdict in a word.
    pub outcome: Outcome,
    /// The verdict in sentences.
    pub verdict: Vec<String>,
    /// Rounds that were measured.
    pub rounds: usize,
    /// As it is.
    pub without: Option<Taken>,
    /// With relpoline.
    pub with: Option<Taken>,
    /// With `jmp *%reg` in its thunks; null when that was not measured.
    pub unprotected: Option<Taken>,
    /// Share of the processor time that relpoline saves: pairs of the same round.
    pub saved: Option<Interval>,
    /// Share of the time by the clock that it saves.
    pub saved_wall: Option<Interval>,
    /// What retpolines add to the processor time of the unprotected program, as a share of that.
    pub retpolines_cost: Option<Interval>,
    /// How much of that relpoline wins back; null unless it is clear that they cost something.
    pub won_back: Option<f64>,
    /// Whether it still writes and returns the same.
    pub output: Output,
    /// What there is to promote.
    pub promotion: Promotion,
    /// The twin whose thunks only jump.
    pub twin: TwinFigure,
    /// Where it was measured.
    pub machine: Machine,
}

/// What runs of one kind took, in seconds.
#[derive(Debug, Serialize)]
pub struct Taken {
    /// Processor time.
    pub processor_s: Interval,
    /// Its part in the program: the median.
    pub user_s: f64,
    /// Its part in the kernel: the median.
    pub system_s: f64,
    /// By the clock.
    pub wall_s: Interval,
    /// Processor time of each round.
    pub runs_s: Vec<f64>,
}

impl Taken {
    fn of(seconds: &Seconds) -> Option<Self> {
        (!seconds.processor.is_empty()).then(|| Self {
            processor_s: Interval::of(&seconds.processor),
            user_s: median(&seconds.user),
            system_s: median(&seconds.system),
            wall_s: Interval::of(&seconds.wall),
            runs_s: seconds.processor.clone(),
        })
    }
}

/// How the program's doing compares.
#[derive(Debug, Serialize)]
pub struct Output {
    /// What it writes to stdout.
    pub stdout: Compared,
    /// What it writes to stderr.
    pub stderr: Compared,
    /// How it ends.
    pub status: Compared,
    /// What differs, in words.
    pub differences: Vec<String>,
    /// Runs without relpoline that were made only to compare with.
    pub confirming_runs: usize,
}

/// What the first run showed.
#[derive(Debug, Serialize)]
pub struct Promotion {
    /// Sites in all of its files.
    pub sites: u64,
    /// Promoted in the first run, in the process that has the most.
    pub promoted: u64,
    /// Files with retpolines.
    pub files: Vec<String>,
    /// Processes with an engine.
    pub processes: usize,
    /// Why relpoline cannot be loaded into it.
    pub refusal: Option<String>,
}

/// The twin.
#[derive(Debug, Default, Serialize)]
pub struct TwinFigure {
    /// Thunks that only jump in it.
    pub thunks: usize,
    /// `mounted`: all of its files are twins. `found`: the executable, and libraries that are found by
    /// `LD_LIBRARY_PATH`.
    pub way: Option<&'static str>,
    /// Why there is none.
    pub missing: Option<String>,
}

impl Figures {
    /// Of a program in which there is nothing to promote.
    pub fn of_nothing(arguments: &TryArgs, look: &Look) -> Self {
        let program = look.program.display();
        let verdict = match &look.refusal {
            Some(why) => vec![format!("{program} runs without promotion: {why}.")],
            None => crate::nothing::sentences(&look.program),
        };
        Self { verdict, ..Self::blank(arguments, look, Outcome::Nothing) }
    }

    fn blank(arguments: &TryArgs, look: &Look, outcome: Outcome) -> Self {
        Self {
            schema: 1,
            command: arguments.command.iter().map(|word| Shown::of_bytes(word.as_bytes())).collect(),
            outcome,
            verdict: Vec::new(),
            rounds: 0,
            without: None,
            with: None,
            unprotected: None,
            saved: None,
            saved_wall: None,
            retpolines_cost: None,
            won_back: None,
            output: Output {
                stdout: Compared::Same,
                stderr: Compared::Same,
                status: Compared::Same,
                differences: Vec::new(),
                confirming_runs: 0,
            },
            promotion: Promotion {
                sites: look.sites,
                promoted: look.promoted,
                files: look.files.iter().map(|file| file.display().to_string()).collect(),
                processes: look.processes,
                refusal: look.refusal.clone(),
            },
            twin: TwinFigure::default(),
            machine: machine::without_compiler(),
        }
    }

    /// Of what was measured.
    pub fn new(arguments: &TryArgs, look: &Look, measured: &Measured, twin: Result<&Twin, &String>) -> Self {
        let Measured { without, with, unprotected, outputs, .. } = measured;
        let saved = ratios(&with.processor, &without.processor).map(|ratio| 1.0 - ratio);
        let is_twin_good = measured.twin_failed.is_none() && !unprotected.processor.is_empty();
        let cost = is_twin_good.then(|| ratios(&without.processor, &unprotected.processor).map(|ratio| ratio - 1.0));
        let lost: Vec<f64> = pairs(&without.processor, &unprotected.processor).map(|(a, b)| a - b).collect();
        let won: Vec<f64> = pairs(&without.processor, &with.processor).map(|(a, b)| a - b).collect();
        let is_dear = cost.is_some_and(|cost| cost.low > SMALLEST);
        let outcome = if outputs.differ() { Outcome::Differs } else { Outcome::of(&saved) };
        let [stdout, stderr] = outputs.streams();
        let mut figures = Self {
            rounds: without.processor.len(),
            without: Taken::of(without),
            with: Taken::of(with),
            unprotected: Taken::of(unprotected).filter(|_| is_twin_good),
            saved: Some(saved),
            saved_wall: Some(ratios(&with.wall, &without.wall).map(|ratio| 1.0 - ratio)),
            retpolines_cost: cost,
            won_back: is_dear.then(|| median(&won) / median(&lost)),
            output: Output {
                stdout,
                stderr,
                status: outputs.end(),
                differences: outputs.differences(),
                confirming_runs: measured.confirming,
            },
            twin: twin_figure(measured, twin),
            ..Self::blank(arguments, look, outcome)
        };
        figures.verdict = verdict(&figures, measured);
        figures
    }
}

fn twin_figure(measured: &Measured, twin: Result<&Twin, &String>) -> TwinFigure {
    match twin {
        Ok(twin) => TwinFigure {
            thunks: twin.thunks,
            way: Some(if twin.way == Way::Mounted { "mounted" } else { "found" }),
            missing: measured.twin_failed.clone(),
        },
        Err(why) => TwinFigure { missing: Some(why.clone()), ..TwinFigure::default() },
    }
}

fn pairs<'a>(a: &'a [f64], b: &'a [f64]) -> impl Iterator<Item = (f64, f64)> {
    a.iter().copied().zip(b.iter().copied())
}

fn ratios(runs: &[f64], base: &[f64]) -> Interval {
    let ratios: Vec<f64> = pairs(runs, base).filter(|(_, base)| *base > 0.0).map(|(run, base)| run / base).collect();
    Interval::of(&ratios)
}

fn verdict(figures: &Figures, measured: &Measured) -> Vec<String> {
    let mut said = Vec::new();
    if figures.outcome == Outcome::Differs {
        said.push(format!("It differs with relpoline only: {}.", figures.output.differences.join("; ")));
        said.push("If it is not a time or the like that it says, it is a fault of ours: please report it.".to_owned());
    }
    let saved = figures.saved.unwrap_or_default();
    let cost = figures.retpolines_cost.filter(|cost| cost.low > 0.0 && cost.median >= SMALLEST);
    let of_cost =
        cost.map(|cost| format!("; retpolines cost about {} on top of it without them", percent(cost.median)));
    said.push(format!("{}{}.", sentence(&saved), of_cost.unwrap_or_default()));
    if let Some(won) = figures.won_back.filter(|won| *won > 0.0) {
        said.push(format!("Of what they cost, about {} is won back.", percent(won.min(1.0))));
    }
    if let Some(end) = measured.outputs.unsuccessful() {
        said.push(format!("Mind that {end}."));
    }
    if measured.is_survived {
        said.push("Runs left processes behind, whose time is not counted.".to_owned());
    }
    said
}

/// What is saved, in words.
pub fn sentence(saved: &Interval) -> String {
    let spread = precise(saved.reach());
    if saved.confidence < SURE {
        let saved = percent(saved.median);
        return format!("Fewer than five rounds say little; in these, relpoline saved {saved} of the processor time");
    }
    match Outcome::of(saved) {
        Outcome::Saves => format!("Relpoline saves {} ± {spread} of the processor time", percent(saved.median)),
        Outcome::Costs => format!("Relpoline costs {} ± {spread} more processor time", percent(-saved.median)),
        _ => format!(
            "Relpoline makes no difference that {} could show (it saves between {} and {})",
            "these rounds",
            percent(saved.low),
            percent(saved.high)
        ),
    }
}

/// A share as a percentage, no more precise than it deserves.
pub fn percent(share: f64) -> String {
    format!("{} %", precise(share))
}

fn precise(share: f64) -> String {
    let percent = share * 100.0;
    let text = if percent.abs() < 10.0 { format!("{percent:.1}") } else { format!("{percent:.0}") };
    if text == "-0.0" { "0.0".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(median: f64, low: f64, high: f64) -> Interval {
        Interval { median, low, high, confidence: 0.95 }
    }

    #[test]
    fn a_verdict_needs_an_interval_on_one_side() {
        assert_eq!(Outcome::of(&saved(0.14, 0.12, 0.16)), Outcome::Saves);
        assert_eq!(Outcome::of(&saved(0.14, -0.01, 0.2)), Outcome::NoDifference);
        assert_eq!(Outcome::of(&saved(-0.1, -0.2, -0.05)), Outcome::Costs);
        assert_eq!(Outcome::of(&saved(-0.002, -0.003, -0.001)), Outcome::NoDifference);
        assert_eq!(Outcome::of(&Interval { confidence: 0.875, ..saved(0.14, 0.12, 0.16) }), Outcome::NoDifference);
        assert_eq!(Outcome::of(&Interval::default()), Outcome::NoDifference);
    }

    #[test]
    fn in_words() {
        assert_eq!(sentence(&saved(0.14, 0.12, 0.155)), "Relpoline saves 14 % ± 2.0 of the processor time");
        assert_eq!(sentence(&saved(-0.034, -0.04, -0.03)), "Relpoline costs 3.4 % ± 0.6 more processor time");
        assert!(sentence(&saved(0.0, -0.01, 0.02)).ends_with("(it saves between -1.0 % and 2.0 %)"));
    }
}

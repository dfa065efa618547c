//! What `bench --json` prints: schema 1, to which fields are only added.

use serde::Serialize;

use super::measure::{Alone, MICRO, Measured, Rounds};
use super::starts::Start;
use super::traces::{TRACES, Trace};
use super::verdict::{self, Verdict};
use crate::report::schema::Site;
use crate::workbench::machine::Machine;
use crate::workbench::sample::{Sample, median};

/// Beyond this typical spread of rounds, a machine is called noisy.
const NOISY: f64 = 0.10;

/// The outcome.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Version of this structure.
    pub schema: u32,
    /// Where it was measured.
    pub machine: Machine,
    /// Rate of the time-stamp counter, in which cycles are counted [MHz].
    pub clock_mhz: f64,
    /// Whether it was the short form.
    pub quick: bool,
    /// Spread of rounds, (max − min) / median: the median over everything measured.
    pub spread: f64,
    /// Whether that is so large that the verdicts say little.
    pub noisy: bool,
    /// Cycles per call, loop included.
    pub micro: Vec<MicroFigure>,
    /// The policy's traces.
    pub traces: Vec<TraceFigure>,
    /// Traces that should be left to their retpolines, each in a process of its own.
    pub left_alone: Vec<AloneFigure>,
    /// Starts of programs and children.
    pub starts: Vec<StartFigure>,
    /// The engine in the program that played all of it.
    pub engine: EngineFigure,
    /// The budgets.
    pub verdicts: Vec<Verdict>,
}

/// A kind of call.
#[derive(Debug, Serialize)]
pub struct MicroFigure {
    /// Its name.
    pub name: &'static str,
    /// The variant that made it.
    pub variant: &'static str,
    /// Cycles per call.
    pub cycles: Sample,
    #[serde(skip)]
    pub(super) runs: Vec<f64>,
}

/// A trace.
#[derive(Debug, Serialize)]
pub struct TraceFigure {
    /// Its name.
    pub name: &'static str,
    /// Cycles per call with retpolines.
    pub retpoline: Sample,
    /// Under relpoline, learned.
    pub relpoline: Sample,
    /// With thunks that only jump.
    pub unprotected: Sample,
    /// relpoline / retpoline, of the same round.
    pub ratio: Sample,
    /// The first 10 ms under relpoline / retpoline.
    pub cold_ratio: f64,
    /// The best tree known beforehand.
    pub best_fixed: &'static str,
    /// Its cycles per call.
    pub best_fixed_cycles: f64,
    /// relpoline / best tree.
    pub ratio_to_best: f64,
    /// Changes of phase that were watched.
    pub changes: usize,
    /// Microseconds from a change until calls were fast again; null without phases.
    pub repromoted_us: Option<Sample>,
    /// What became of its site by the end; sites that rest are tried again from time to time.
    pub state: String,
    /// Why.
    pub reason: String,
    /// Targets in its tree.
    pub targets: u32,
    /// Times it was learned anew.
    pub relearned: u32,
}

/// A site that has a process to itself.
#[derive(Debug, Serialize)]
pub struct AloneFigure {
    /// Name of the trace.
    pub name: &'static str,
    /// relpoline / retpoline, of the same round.
    pub ratio: Sample,
    /// What became of the site.
    pub state: String,
    /// Why.
    pub reason: String,
}

/// A kind of start.
#[derive(Debug, Serialize)]
pub struct StartFigure {
    /// Its name.
    pub name: &'static str,
    /// What is started.
    pub of: String,
    /// Milliseconds that one takes without the engine.
    pub plain_ms: Sample,
    /// By how many it takes longer with it, round by round.
    pub more_ms: Sample,
}

/// The engine's own account.
#[derive(Debug, Serialize)]
pub struct EngineFigure {
    /// Times a site was sent somewhere else.
    pub patches: u64,
    /// The most of them in one second.
    pub patches_per_s_max: u32,
    /// Judgements.
    pub judgements: u64,
    /// One-byte links.
    pub links: u64,
    /// Cycles for judging, building and linking.
    pub learn_cycles: u64,
    /// Their share of the time that the program lived.
    pub learning_share: f64,
    /// Seconds it lived.
    pub lived_s: f64,
    /// Milliseconds at start.
    pub startup_ms: f64,
}

impl Figures {
    /// Puts it together.
    pub fn new(measured: &Measured, machine: Machine, quick: bool) -> Self {
        let micro = micro(measured);
        let traces: Vec<_> = TRACES
            .iter()
            .zip(&measured.traces)
            .enumerate()
            .map(|(number, (trace, rounds))| trace_figure(trace, rounds, Trace::site_in(&measured.report, number)))
            .collect();
        let spread = typical_spread(&micro, &traces);
        let engine = engine(measured);
        let left_alone: Vec<_> = measured.alone.iter().map(alone_figure).collect();
        let starts: Vec<_> = measured.starts.iter().map(start_figure).collect();
        let verdicts = verdict::all(&micro, &traces, &left_alone, &starts, &engine);
        let clock_mhz = measured.cycles_per_us;
        Self {
            schema: 1,
            machine,
            clock_mhz,
            quick,
            spread,
            noisy: spread > NOISY,
            micro,
            traces,
            left_alone,
            starts,
            engine,
            verdicts,
        }
    }
}

fn micro(measured: &Measured) -> Vec<MicroFigure> {
    let figure = |(line, runs): (&super::measure::Micro, &Vec<f64>)| MicroFigure {
        name: line.name,
        variant: line.variant.name(),
        cycles: Sample::of(runs),
        runs: runs.clone(),
    };
    MICRO.iter().zip(&measured.micro).map(figure).collect()
}

fn alone_figure(alone: &Alone) -> AloneFigure {
    AloneFigure {
        name: alone.trace,
        ratio: Sample::of_ratios(&alone.relpoline, &alone.retpoline),
        state: alone.site.state.to_string(),
        reason: alone.site.reason.to_string(),
    }
}

fn start_figure(start: &Start) -> StartFigure {
    StartFigure { name: start.name, of: start.of.clone(), plain_ms: Sample::of(&start.plain), more_ms: start.more() }
}

fn trace_figure(trace: &Trace, rounds: &Rounds, site: Site) -> TraceFigure {
    let (retpoline, relpoline) = (Sample::of(&rounds.retpoline), Sample::of(&rounds.relpoline));
    let (best_fixed, best_fixed_cycles) = rounds
        .fixed
        .iter()
        .map(|(tree, runs)| (*tree, median(runs)))
        .chain([("retpoline", retpoline.median)])
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap_or_default();
    let over = |cycles: f64| if cycles > 0.0 { 1.0 / cycles } else { 0.0 };
    TraceFigure {
        name: trace.name,
        retpoline,
        relpoline,
        unprotected: Sample::of(&rounds.unprotected),
        ratio: Sample::of_ratios(&rounds.relpoline, &rounds.retpoline),
        cold_ratio: rounds.cold * over(retpoline.median),
        best_fixed,
        best_fixed_cycles,
        ratio_to_best: relpoline.median * over(best_fixed_cycles),
        changes: rounds.changes_us.len(),
        repromoted_us: (!rounds.changes_us.is_empty()).then(|| Sample::of(&rounds.changes_us)),
        state: site.state.to_string(),
        reason: site.reason.to_string(),
        targets: site.target_count,
        relearned: site.relearned,
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn engine(measured: &Measured) -> EngineFigure {
    let engine = &measured.report.engine;
    let lived = measured.lived_us * measured.cycles_per_us;
    EngineFigure {
        patches: engine.patches,
        patches_per_s_max: engine.patches_per_s_max,
        judgements: engine.judgements,
        links: engine.links,
        learn_cycles: engine.learn_cycles,
        learning_share: engine.learn_cycles as f64 / lived,
        lived_s: measured.lived_us / 1e6,
        startup_ms: engine.startup_cycles as f64 / measured.cycles_per_us / 1e3,
    }
}

fn typical_spread(micro: &[MicroFigure], traces: &[TraceFigure]) -> f64 {
    // The retpoline build does the same in every round: what differs is the machine.
    let samples = micro.iter().map(|figure| figure.cycles).chain(traces.iter().map(|figure| figure.retpoline));
    median(&samples.map(|sample| sample.spread()).collect::<Vec<_>>())
}

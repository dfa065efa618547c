//! Playing: the variants take turns slice by slice, a few milliseconds each, so that what disturbs the
//! machine disturbs all of them, and rounds can be compared one by one.

use std::path::{Path, PathBuf};

use anyhow::Context;
use indicatif::ProgressBar;

use super::player::{Played, Player};
use super::starts::Start;
use super::traces::{TRACES, Trace};
use crate::report::schema::{Report, Site};
use crate::workbench::progress::progress;
use crate::workbench::variant::{Programs, Variant};

/// Trees known beforehand that a trace is tried on; "retpoline" is the tree of no target.
const FIXED: [&str; 5] = ["fixed1", "fixed2", "fixed4", "fixed8", "fixed16"];

/// Milliseconds that count as cold: from the first call on.
pub const COLD_MS: u32 = 10;

/// How long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of each measurement.
    pub rounds: usize,
    /// Rounds of traces whose phases last a second.
    pub long_rounds: usize,
    /// Length of a slice.
    pub slice_ms: u32,
    /// Time for learning before anything counts.
    pub learn_ms: u32,
}

impl Effort {
    /// Some 20 seconds, or under two minutes.
    pub const fn new(quick: bool) -> Self {
        if quick {
            Self { rounds: 5, long_rounds: 2, slice_ms: 8, learn_ms: 60 }
        } else {
            Self { rounds: 11, long_rounds: 5, slice_ms: 30, learn_ms: 200 }
        }
    }

    const fn rounds(&self, trace: &Trace) -> usize {
        if trace.phase_ms >= 1000 { self.long_rounds } else { self.rounds }
    }

    /// A slice with two whole phases in it, so that one begins and ends, where phases matter.
    fn slice(&self, trace: &Trace, variant: Variant) -> u32 {
        match (trace.phase_ms, variant) {
            (0, _) => self.slice_ms,
            (phase, Variant::Relpoline) => (phase * 11 / 5).max(6 * 10),
            // Without anything that learns, phases are all alike.
            _ => 2 * self.slice_ms,
        }
    }

    /// All phases once, where there are some.
    fn learning(&self, trace: &Trace) -> u32 {
        (trace.sets * trace.phase_ms).min(20 * self.learn_ms).max(self.learn_ms)
    }
}

/// A line of the micro part: what is played by whom.
#[derive(Clone, Copy, Debug)]
pub struct Micro {
    /// Name in tables and JSON.
    pub name: &'static str,
    /// By this variant.
    pub variant: Variant,
    /// Through this runner; empty for the trace's own site.
    runner: &'static str,
    /// This trace.
    trace: &'static str,
}

const fn micro(name: &'static str, variant: Variant, runner: &'static str, trace: &'static str) -> Micro {
    Micro { name, variant, runner, trace }
}

/// The micro part. `direct` runs in the same program as what it is compared with.
pub const MICRO: &[Micro] = &[
    micro("empty loop", Variant::Relpoline, "empty", "mono"),
    micro("direct", Variant::Relpoline, "direct", "mono"),
    micro("indirect, 1 target", Variant::Plain, "", "mono"),
    micro("indirect, alternating", Variant::Plain, "", "period 2"),
    micro("lfence, 1 target", Variant::Plain, "lfence", "mono"),
    micro("lfence, alternating", Variant::Plain, "lfence", "period 2"),
    micro("retpoline, 1 target", Variant::Retpoline, "", "mono"),
    micro("retpoline, alternating", Variant::Retpoline, "", "period 2"),
    micro("promoted, 1 target", Variant::Relpoline, "", "mono"),
    micro("promoted, 2 in order", Variant::Relpoline, "", "period 2"),
    micro("promoted, 4 in order", Variant::Relpoline, "", "period 4"),
    micro("promoted, 8 in order", Variant::Relpoline, "", "period 8"),
    micro("promoted, 16 in order", Variant::Relpoline, "", "period 16"),
    micro("promoted, 32 in order", Variant::Relpoline, "", "period 32"),
    micro("promoted, 64 in order", Variant::Relpoline, "", "period 64"),
    micro("promoted, 96 in order", Variant::Relpoline, "", "period 96"),
    micro("64 at random", Variant::Relpoline, "", "random 64"),
    micro("96 at random", Variant::Relpoline, "", "random 96"),
    micro("direct, with work", Variant::Relpoline, "direct_work", "mono"),
    micro("retpoline, with work", Variant::Retpoline, "site_work", "mono"),
    micro("promoted, with work", Variant::Relpoline, "site_work", "mono"),
];

/// Cycles per call of a trace, round by round.
#[derive(Debug, Default)]
pub struct Rounds {
    /// The first [`COLD_MS`] under relpoline.
    pub cold: f64,
    /// With retpolines.
    pub retpoline: Vec<f64>,
    /// Under relpoline.
    pub relpoline: Vec<f64>,
    /// With thunks that only jump.
    pub unprotected: Vec<f64>,
    /// Trees known beforehand.
    pub fixed: Vec<(&'static str, Vec<f64>)>,
    /// After each change of phase, microseconds until calls were fast again.
    pub changes_us: Vec<f64>,
}

/// A site that has a process to itself: elsewhere, other sites' slow paths keep sending one that was left
/// alone back to learning, so that its steady state would be measured now and its trials then.
#[derive(Debug, Default)]
pub struct Alone {
    /// Name of the trace.
    pub trace: &'static str,
    /// Cycles per call with retpolines.
    pub retpoline: Vec<f64>,
    /// Under relpoline.
    pub relpoline: Vec<f64>,
    /// What became of the site.
    pub site: Site,
}

/// Everything.
#[derive(Debug, Default)]
pub struct Measured {
    /// By [`MICRO`].
    pub micro: Vec<Vec<f64>>,
    /// By [`TRACES`].
    pub traces: Vec<Rounds>,
    /// Traces that should be left to their retpolines.
    pub alone: Vec<Alone>,
    /// Starts of programs and children.
    pub starts: Vec<Start>,
    /// Rate of the time-stamp counter.
    pub cycles_per_us: f64,
    /// Microseconds that the program under relpoline lived.
    pub lived_us: f64,
    /// The engine's report on it.
    pub report: Report,
}

/// The variants, alive, by [`Variant::ALL`].
struct Players([Player; 4]);

impl Players {
    fn start(programs: &Programs, sequences: &[PathBuf], report: &Path) -> anyhow::Result<Self> {
        let options = ["--report".as_ref(), report.as_os_str()];
        let [a, b, c, d] = Variant::ALL;
        let start = |variant| Player::start(variant, programs, &options, sequences);
        Ok(Self([start(a)?, start(b)?, start(c)?, start(d)?]))
    }

    fn play(&mut self, variant: Variant, runner: &str, trace: usize, ms: u32, warm: u32) -> anyhow::Result<Played> {
        self.0[variant as usize].play(runner, trace, ms, warm)
    }
}

/// Plays everything.
pub fn measure(programs: &Programs, scratch: &Path, effort: Effort) -> anyhow::Result<Measured> {
    let sequences = super::traces::write(scratch)?;
    let file = scratch.join("report.json");
    let mut players = Players::start(programs, &sequences, &file)?;
    let mut measured = Measured { cycles_per_us: players.0[0].cycles_per_us, ..Measured::default() };
    let bar = progress((2 * TRACES.len() + effort.rounds) as u64);
    learn(&mut players, &mut measured, effort, &bar)?;
    measured.micro = micros(&mut players, effort, &bar)?;
    for (number, rounds) in measured.traces.iter_mut().enumerate() {
        bar.set_message(TRACES[number].name);
        trace_rounds(&mut players, number, rounds, effort)?;
        bar.inc(1);
    }
    for trace in ["random 64", "random 96"] {
        measured.alone.push(alone(&mut players, programs, &sequences, &scratch.join("alone.json"), trace, effort)?);
    }
    bar.finish_and_clear();
    let [_, _, relpoline, _] = players.0;
    measured.lived_us = relpoline.end()?;
    measured.report = read(&file)?;
    Ok(measured)
}

fn read(report: &Path) -> anyhow::Result<Report> {
    let text = std::fs::read_to_string(report).context("the report was not written")?;
    serde_json::from_str(&text).context("the report cannot be read")
}

/// Lets every site learn its trace, cold, and measures the beginning of that.
fn learn(players: &mut Players, measured: &mut Measured, effort: Effort, bar: &ProgressBar) -> anyhow::Result<()> {
    for (number, trace) in TRACES.iter().enumerate() {
        bar.set_message("learning");
        let site = Trace::site(number);
        let cold = players.play(Variant::Relpoline, &site, number, COLD_MS, 0)?.cycles;
        players.play(Variant::Relpoline, &site, number, effort.learning(trace), 0)?;
        measured.traces.push(Rounds { cold, ..Rounds::default() });
        bar.inc(1);
    }
    players.play(Variant::Relpoline, "site_work", 0, effort.learn_ms, 0)?;
    Ok(())
}

fn micros(players: &mut Players, effort: Effort, bar: &ProgressBar) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut cycles = vec![Vec::new(); MICRO.len()];
    for _ in 0..effort.rounds {
        bar.set_message("calls");
        for (line, runs) in MICRO.iter().zip(&mut cycles) {
            let trace = Trace::number(line.trace);
            let site = Trace::site(trace);
            let runner = if line.runner.is_empty() { &site } else { line.runner };
            runs.push(players.play(line.variant, runner, trace, effort.slice_ms / 2, 1)?.cycles);
        }
        bar.inc(1);
    }
    Ok(cycles)
}

fn trace_rounds(players: &mut Players, number: usize, rounds: &mut Rounds, effort: Effort) -> anyhow::Result<()> {
    let trace = &TRACES[number];
    let site = Trace::site(number);
    for round in 0..effort.rounds(trace) {
        let mut order = [Variant::Retpoline, Variant::Relpoline, Variant::Unprotected];
        order.rotate_left(round % 3);
        for variant in order {
            let played = players.play(variant, &site, number, effort.slice(trace, variant), 1)?;
            match variant {
                Variant::Retpoline => rounds.retpoline.push(played.cycles),
                Variant::Relpoline => {
                    rounds.relpoline.push(played.cycles);
                    rounds.changes_us.extend(played.changes_us);
                }
                _ => rounds.unprotected.push(played.cycles),
            }
        }
    }
    rounds.fixed = FIXED.iter().map(|tree| (*tree, Vec::new())).collect();
    for _ in 0..effort.rounds.min(5) {
        for (tree, runs) in &mut rounds.fixed {
            runs.push(players.play(Variant::Retpoline, tree, number, effort.slice_ms / 3, 1)?.cycles);
        }
    }
    Ok(())
}

fn alone(
    players: &mut Players,
    programs: &Programs,
    sequences: &[PathBuf],
    report: &Path,
    trace: &'static str,
    effort: Effort,
) -> anyhow::Result<Alone> {
    let options = ["--report".as_ref(), report.as_os_str()];
    let mut player = Player::start(Variant::Relpoline, programs, &options, sequences)?;
    let number = Trace::number(trace);
    let site = Trace::site(number);
    let mut alone = Alone { trace, ..Alone::default() };
    player.play(&site, number, effort.learn_ms, 0)?;
    for _ in 0..effort.rounds {
        alone.relpoline.push(player.play(&site, number, effort.slice_ms, 1)?.cycles);
        alone.retpoline.push(players.play(Variant::Retpoline, &site, number, effort.slice_ms, 1)?.cycles);
    }
    player.end()?;
    alone.site = Trace::site_in(&read(report)?, number);
    Ok(alone)
}

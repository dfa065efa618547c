//! User CPU time of the variants, in interleaved rounds.
//!
//! A machine drifts: clock rates, neighbours, temperature. So the variants take turns, the order rotates from
//! round to round, and the first round is thrown away.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::workbench::process::{self, Run, Written};
use crate::workbench::progress::progress;
use crate::workbench::variant::{Programs, Variant};

/// Seconds of every measured run, and what the runs printed.
#[derive(Debug, Default)]
pub struct Rounds {
    /// By [`Variant::ALL`].
    pub seconds: [Vec<f64>; 4],
    outputs: [Written; 4],
}

impl Rounds {
    /// A variant that printed something else than the plain one.
    pub fn different(&self) -> Option<Variant> {
        let [plain, others @ ..] = &self.outputs;
        let index = others.iter().position(|output| output != plain)?;
        Variant::ALL.get(index + 1).copied()
    }
}

/// Rounds, when nobody says how many.
const ROUNDS: u32 = 5;
/// And as few as that, when they would take too long.
const FEWEST: usize = 2;
/// No round is begun that would end later than this after the demo's beginning: the last run and the building
/// stay below a minute.
const LONGEST: Duration = Duration::from_secs(45);

/// Runs all variants `count` times, after one round that does not count. Without a count, as often as a busy
/// machine allows for a demo that began then.
pub fn rounds(programs: &Programs, count: Option<u32>, begun: Instant) -> anyhow::Result<Rounds> {
    let is_asked = count.is_some();
    let count = count.unwrap_or(ROUNDS);
    let mut rounds = Rounds::default();
    let runs = Variant::ALL.len();
    let bar = progress(u64::from(count + 1) * runs as u64);
    for round in 0..=count as usize {
        // The warm-up took about as long as a round takes.
        let would_end = begun.elapsed() + bar.elapsed() / u32::try_from(round.max(1)).unwrap_or(u32::MAX);
        if !is_asked && round > FEWEST && would_end > LONGEST {
            break;
        }
        for turn in 0..runs {
            let index = (round + turn) % runs;
            let Some(&variant) = Variant::ALL.get(index) else {
                continue;
            };
            bar.set_message(variant.name());
            let ran = once(variant, programs).with_context(|| format!("the {variant} variant failed"))?;
            if round > 0 {
                rounds.seconds[index].push(ran.user);
            }
            // One run that differs is remembered over any number that do not.
            if round == 0 || rounds.outputs[0] != ran.stdout {
                rounds.outputs[index] = ran.stdout;
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(rounds)
}

fn once(variant: Variant, programs: &Programs) -> anyhow::Result<Run> {
    let mut command = variant.command(programs, &[])?;
    command.stdin(Stdio::null());
    let ran = process::run(command)?;
    ensure!(ran.status.success(), "it ended with {}: {}", ran.status, ran.stderr.text().trim_end());
    Ok(ran)
}

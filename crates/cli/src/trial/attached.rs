//! A server that runs: promotion is switched off and on in turn, and the processor time it takes is read
//! meanwhile.
//!
//! A server does what it is asked to, so its time says something only if it is asked for the same: by a
//! constant load, or by a counter of what was done, by which the time is divided. After each switch a fifth
//! of the phase passes before anything counts: sites learn anew. The order is off, on, on, off and so on, so
//! that what drifts does so for both.

use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;

use super::TryArgs;
use super::figures::{Outcome, percent, sentence};
use crate::attach::{self, Switch, SwitchArgs};
use crate::live::process::text;
use crate::workbench::interrupt;
use crate::workbench::machine::{self, Machine};
use crate::workbench::progress::progress;
use crate::workbench::sample::Interval;

/// Rounds, unless asked for others.
const ROUNDS: u32 = 10;
/// All phases together, unless asked for another time.
const SECONDS: u32 = 60;
/// A phase is no shorter.
const SHORTEST: Duration = Duration::from_millis(100);
/// The part of a phase that does not count.
const SETTLING: u32 = 5;

/// Everything: what `try --attach --json` prints. Schema 1; fields are only added.
#[derive(Debug, Serialize)]
struct Figures {
    schema: u32,
    pids: Vec<i32>,
    outcome: Outcome,
    verdict: Vec<String>,
    rounds: usize,
    /// Seconds of each phase that count.
    phase_s: f64,
    off: Phase,
    on: Phase,
    /// Share of the processor time (with a counter: for each that was counted) that relpoline saves.
    saved: Interval,
    machine: Machine,
}

/// How it was with promotion on, or off.
#[derive(Debug, Default, Serialize)]
struct Phase {
    /// Processor seconds in a second.
    processor_per_s: Interval,
    /// How much was done in a second; null without a counter.
    counted_per_s: Option<Interval>,
    /// Processor seconds for each that was counted; null without a counter.
    processor_per_count: Option<Interval>,
}

/// Measured phases.
#[derive(Debug, Default)]
struct Phases {
    processor: Vec<f64>,
    counted: Vec<f64>,
}

impl Phases {
    /// What is compared.
    fn of_interest(&self) -> Vec<f64> {
        if self.counted.is_empty() {
            return self.processor.clone();
        }
        self.processor.iter().zip(&self.counted).map(|(processor, counted)| processor / counted).collect()
    }

    fn figures(&self) -> Phase {
        let counts = !self.counted.is_empty();
        Phase {
            processor_per_s: Interval::of(&self.processor),
            counted_per_s: counts.then(|| Interval::of(&self.counted)),
            processor_per_count: counts.then(|| Interval::of(&self.of_interest())),
        }
    }
}

/// Promotion is on again when this is dropped.
struct Switched<'a>(&'a [i32]);

impl Drop for Switched<'_> {
    fn drop(&mut self) {
        for &pid in self.0 {
            // It may have ended; there is nobody to tell.
            let _ = switch(pid, Switch::Enable);
        }
    }
}

/// Measures and prints.
pub fn run(arguments: &TryArgs) -> anyhow::Result<ExitCode> {
    let figures = measure(arguments)?;
    let shown = if arguments.json { serde_json::to_string_pretty(&figures)? + "\n" } else { render(&figures) };
    std::io::stdout().write_all(shown.as_bytes()).context("the figures cannot be written")?;
    Ok(ExitCode::from(figures.outcome.exit_status()))
}

fn measure(arguments: &TryArgs) -> anyhow::Result<Figures> {
    let rounds = arguments.rounds.unwrap_or(ROUNDS);
    let seconds = arguments.seconds.unwrap_or(SECONDS);
    let phase = Duration::from_secs(seconds.into()) / (2 * rounds);
    ensure!(phase >= SHORTEST, "{seconds} s are too short for {rounds} rounds; ask for fewer or longer");
    let pids = &arguments.attach;
    let switched = Switched(pids);
    let bar = progress((2 * rounds).into());
    let (mut off, mut on) = (Phases::default(), Phases::default());
    for round in 0..rounds {
        let mut order = [Switch::Disable, Switch::Enable];
        order.rotate_left((round % 2) as usize);
        for wanted in order {
            let is_on = wanted == Switch::Enable;
            bar.set_message(if is_on { "promotion on" } else { "promotion off" });
            for &pid in pids {
                switch(pid, wanted)?;
            }
            one_phase(arguments, phase, if is_on { &mut on } else { &mut off })?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    drop(switched);
    let ratios: Vec<f64> = on.of_interest().iter().zip(off.of_interest()).map(|(on, off)| on / off).collect();
    ensure!(ratios.iter().all(|ratio| ratio.is_finite()), "the processes did nothing in some phases: put load on them");
    let saved = Interval::of(&ratios).map(|ratio| 1.0 - ratio);
    Ok(Figures {
        schema: 1,
        pids: pids.clone(),
        outcome: Outcome::of(&saved),
        verdict: verdict(&saved, off.counted.is_empty()),
        rounds: ratios.len(),
        phase_s: (phase - phase / SETTLING).as_secs_f64(),
        off: off.figures(),
        on: on.figures(),
        saved,
        machine: machine::without_compiler(),
    })
}

fn verdict(saved: &Interval, is_bare: bool) -> Vec<String> {
    let mut said = vec![format!("{}.", sentence(saved))];
    if is_bare {
        said.push("That holds if the load was constant; --counter divides by what was done.".to_owned());
    }
    said
}

fn switch(pid: i32, switch: Switch) -> anyhow::Result<()> {
    attach::switch(&SwitchArgs { pid, site: Vec::new(), quiet: true }, switch).map(drop)
}

/// Lets it settle, then reads what a phase takes.
fn one_phase(arguments: &TryArgs, phase: Duration, into: &mut Phases) -> anyhow::Result<()> {
    let settling = phase / SETTLING;
    sleep(settling)?;
    let counter = arguments.counter.as_ref();
    let read = || -> anyhow::Result<(Instant, f64, Option<f64>)> {
        let counted = counter.map(|counter| count(counter)).transpose()?;
        let processor = arguments.attach.iter().map(|&pid| processor(pid)).sum::<anyhow::Result<f64>>()?;
        Ok((Instant::now(), processor, counted))
    };
    let (begun, processor, counted) = read()?;
    sleep(phase - settling)?;
    let (ended, processor_then, counted_then) = read()?;
    let seconds = (ended - begun).as_secs_f64();
    into.processor.push((processor_then - processor) / seconds);
    if let (Some(before), Some(after)) = (counted, counted_then) {
        ensure!(after > before, "the counter did not grow, from {before} to {after}: put load on the processes");
        into.counted.push((after - before) / seconds);
    }
    Ok(())
}

/// Sleeps, unless somebody wants us to stop.
fn sleep(long: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + long;
    loop {
        interrupt::check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// What the counter's command prints.
fn count(command: &std::ffi::OsStr) -> anyhow::Result<f64> {
    let output = Command::new("sh").arg("-c").arg(command).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the counter ended with {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split_whitespace().next().and_then(|word| word.parse().ok());
    number.filter(|number: &f64| number.is_finite()).context("the counter prints no number")
}

/// Processor seconds of a process so far, with those of its children that have ended.
#[expect(clippy::cast_precision_loss, reason = "a process' seconds")]
fn processor(pid: i32) -> anyhow::Result<f64> {
    // SAFETY: zeros are a valid timespec; the calls fill what they are given.
    let own = unsafe {
        let (mut clock, mut time) = (0, std::mem::zeroed::<libc::timespec>());
        if libc::clock_getcpuclockid(pid, &raw mut clock) != 0 || libc::clock_gettime(clock, &raw mut time) != 0 {
            bail!("process {pid} has ended");
        }
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let stat = text(&format!("/proc/{pid}/stat")).context("process has ended")?;
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(13));
    let ticks: u64 = fields.into_iter().flatten().take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // SAFETY: asks for a number.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1);
    Ok(own + ticks as f64 / per_second as f64)
}

fn render(figures: &Figures) -> String {
    let mut out = format!("{:<22}{:>16}{:>10}{:>20}{:>12}\n", "", "processor s/s", "", "counted /s", "µs each");
    for (name, phase) in [("promotion off", &figures.off), ("promotion on", &figures.on)] {
        let processor = &phase.processor_per_s;
        let spread = percent(if processor.median > 0.0 { processor.reach() / processor.median } else { 0.0 });
        let number = |interval: &Option<Interval>, factor: f64| {
            interval.map_or_else(|| "–".to_owned(), |interval| format!("{:.2}", interval.median * factor))
        };
        out += &format!(
            "{name:<22}{:>16.4}{:>10}{:>20}{:>12}\n",
            processor.median,
            format!("± {spread}"),
            number(&phase.counted_per_s, 1.0),
            number(&phase.processor_per_count, 1e6)
        );
    }
    let confidence = figures.saved.confidence * 100.0;
    out +=
        &format!("\nmedians of {} rounds; ± covers the median with {confidence:.0} % probability\n\n", figures.rounds);
    out + &figures.verdict.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_this_process_grows() {
        let me = std::process::id().cast_signed();
        let before = processor(me).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(20) {
            std::hint::black_box(before);
        }
        assert!(processor(me).unwrap() > before);
        assert!(processor(i32::MAX).is_err());
    }

    #[test]
    fn a_counter_prints_a_number() {
        assert!((count("echo 41.5 requests".as_ref()).unwrap() - 41.5).abs() < 1e-9);
        assert!(count("echo none".as_ref()).is_err() && count("echo 3; exit 1".as_ref()).is_err());
        assert!(count("echo nan".as_ref()).is_err());
    }
}

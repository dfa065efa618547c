//! A variant of the bundled program, alive, and told over a pipe what to play: see `bench/bench.c`.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};

use super::traces::TRACES;
use crate::workbench::variant::{Programs, Variant};

/// A running program.
#[derive(Debug)]
pub struct Player {
    variant: Variant,
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    started: Instant,
    /// Rate of the time-stamp counter.
    pub cycles_per_us: f64,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Played {
    /// Cycles per call.
    pub cycles: f64,
    /// After each change of phase, microseconds until calls were fast again.
    pub changes_us: Vec<f64>,
}

impl Player {
    /// Starts the variant.
    pub fn start(
        variant: Variant,
        programs: &Programs,
        options: &[&OsStr],
        sequences: &[PathBuf],
    ) -> anyhow::Result<Self> {
        let mut command = variant.command(programs, options)?;
        command.args(sequences).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("the {variant} variant cannot be started"))?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take().context("no pipe")?);
        let answers = BufReader::new(answers);
        let mut player = Self { variant, child, orders, answers, started: Instant::now(), cycles_per_us: 0.0 };
        player.cycles_per_us = player.answer()?.trim().parse().context("no rate of the clock")?;
        Ok(player)
    }

    /// Plays a trace through a runner for `ms`, after `warm_ms` that do not count.
    pub fn play(&mut self, runner: &str, trace: usize, ms: u32, warm_ms: u32) -> anyhow::Result<Played> {
        let it = TRACES.get(trace).context("no such trace")?;
        let (us, warm, phase) = (ms * 1000, warm_ms * 1000, it.phase_ms * 1000);
        let order = format!("{runner} {trace} {us} {warm} {phase} {} {}\n", it.sets, it.threads);
        self.orders.as_mut().context("no pipe")?.write_all(order.as_bytes())?;
        let answer = self.answer()?;
        let mut words = answer.split_whitespace().skip(1).map(str::parse);
        let cycles = words.next().context("an empty answer")??;
        Ok(Played { cycles, changes_us: words.collect::<Result<_, _>>()? })
    }

    fn answer(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "the {} variant of the bundled program ended early", self.variant);
        Ok(line)
    }

    /// Ends it; returns the microseconds it lived.
    pub fn end(mut self) -> anyhow::Result<f64> {
        let lived = self.started.elapsed();
        self.orders = None;
        let status = self.child.wait()?;
        ensure!(status.success(), "the {} variant ended with {status}", self.variant);
        Ok(lived.as_secs_f64() * 1e6)
    }
}

impl Drop for Player {
    /// The pipe's end ends it, also when something else failed.
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}

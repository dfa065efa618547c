//! The program's runs, in turn: what disturbs the machine disturbs all of them, and the order rotates from
//! round to round.

use std::ffi::OsStr;
use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use indicatif::ProgressBar;

use super::TryArgs;
use super::outputs::Outputs;
use super::twin::Twin;
use crate::run::environment::Environment;
use crate::run::resolve::{Resolved, resolve};
use crate::workbench::process::{self, Run};
use crate::workbench::progress::progress;
use crate::workbench::{interrupt, variant};

/// Fewer rounds make no interval of 95 %.
const FEWEST: usize = 6;
/// More are not made unasked.
const MOST: usize = 25;
/// Unless asked, no round is begun later.
const LONG: Duration = Duration::from_secs(20);

/// How a run is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// As it is.
    Without,
    /// By `relpoline run`.
    With,
    /// The twin whose thunks only jump.
    Unprotected,
}

/// Seconds of the runs of one kind, round by round.
#[derive(Debug, Default)]
pub struct Seconds {
    /// In the program.
    pub user: Vec<f64>,
    /// In the kernel.
    pub system: Vec<f64>,
    /// Both.
    pub processor: Vec<f64>,
    /// By the clock.
    pub wall: Vec<f64>,
}

impl Seconds {
    fn add(&mut self, run: &Run) {
        self.user.push(run.user);
        self.system.push(run.system);
        self.processor.push(run.processor());
        self.wall.push(run.wall);
    }
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// Without the engine.
    pub without: Seconds,
    /// With it.
    pub with: Seconds,
    /// The twin; empty without one.
    pub unprotected: Seconds,
    /// Why the twin's figures cannot be used, though there is one.
    pub twin_failed: Option<String>,
    /// What the runs did.
    pub outputs: Outputs,
    /// Runs without the engine that were made only to see whether its output varies.
    pub confirming: usize,
    /// Some runs left processes behind, whose time is not in the figures.
    pub is_survived: bool,
}

/// Makes the rounds.
pub fn measure(arguments: &TryArgs, twin: Option<&Twin>) -> anyhow::Result<Measured> {
    let asked = arguments.rounds.map(|rounds| rounds as usize);
    let bar = progress(asked.unwrap_or(MOST) as u64);
    let mut measured = Measured::default();
    let begun = Instant::now();
    let mut round = 0;
    while asked.map_or(round < FEWEST || round < MOST && begun.elapsed() < LONG, |asked| round < asked) {
        one_round(arguments, round, twin, &mut measured, &bar)?;
        bar.inc(1);
        round += 1;
    }
    if measured.outputs.differ() {
        bar.set_message("without relpoline, for its output");
        // As often again: what it writes may vary rarely.
        for _ in 0..round {
            let run = once(arguments, Kind::Without, &[], None)?;
            measured.outputs.add(run, false);
            measured.confirming += 1;
        }
    }
    bar.finish_and_clear();
    Ok(measured)
}

fn one_round(
    arguments: &TryArgs,
    round: usize,
    twin: Option<&Twin>,
    measured: &mut Measured,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let mut order = [(Kind::Without, "without relpoline"), (Kind::With, "with relpoline"), (Kind::Unprotected, "twin")];
    order.rotate_left(round % 3);
    let mut twin_run = None;
    for (kind, name) in order {
        if kind == Kind::Unprotected && (twin.is_none() || measured.twin_failed.is_some()) {
            continue;
        }
        bar.set_message(name);
        match once(arguments, kind, &[], twin) {
            Ok(run) if kind == Kind::Unprotected => twin_run = Some(run),
            Ok(run) => measured.add(run, kind),
            Err(error) if kind == Kind::Unprotected && interrupt::check().is_ok() => {
                measured.twin_failed = Some(format!("{error:#}"));
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(run) = twin_run {
        measured.add(run, Kind::Unprotected);
    }
    Ok(())
}

impl Measured {
    fn add(&mut self, run: Run, kind: Kind) {
        self.is_survived |= run.is_survived;
        match kind {
            Kind::Without => self.without.add(&run),
            Kind::With => self.with.add(&run),
            Kind::Unprotected => return self.add_twin(&run),
        }
        self.outputs.add(run, kind == Kind::With);
    }
}

impl Measured {
    /// A program that looks at its own file may refuse to run as its twin.
    fn add_twin(&mut self, run: &Run) {
        if self.outputs.has_ended_like(run) {
            self.unprotected.add(run);
        } else {
            self.twin_failed = Some(format!("the copy ended with {}", run.status));
        }
    }
}

/// Prepares, and runs it once; under relpoline with these options.
pub fn once(arguments: &TryArgs, kind: Kind, options: &[&OsStr], twin: Option<&Twin>) -> anyhow::Result<Run> {
    if let Some(prepare) = &arguments.prepare {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(prepare).stdin(Stdio::null()).stdout(Stdio::null());
        let status = shell.status().context("there is no shell for --prepare")?;
        ensure!(status.success(), "what --prepare names ended with {status}");
    }
    interrupt::check()?;
    let run = process::run(command(arguments, kind, options, twin)?).context("the program cannot be run")?;
    interrupt::check()?;
    Ok(run)
}

/// The command for a run; under relpoline with these options.
fn command(arguments: &TryArgs, kind: Kind, options: &[&OsStr], twin: Option<&Twin>) -> anyhow::Result<Command> {
    let (name, rest) = arguments.command.split_first().context("no program was named")?;
    let mut command = match kind {
        Kind::Without => Command::new(name),
        Kind::With => variant::relpoline(name.as_ref(), options)?,
        Kind::Unprotected => {
            let Resolved::Found(path) = resolve(name, &Environment::of_this_process()) else {
                anyhow::bail!("it is not there any more");
            };
            let start = twin.and_then(|twin| twin.command(&path, &arguments.command));
            start.context("it is a script, and this user may not mount anything")?
        }
    };
    if kind != Kind::Unprotected {
        command.args(rest);
    }
    command.stdin(match &arguments.input {
        Some(file) => File::open(file).with_context(|| format!("{} cannot be read", file.display()))?.into(),
        None => Stdio::null(),
    });
    Ok(command)
}

//! `cargo xtask suites`: the programs' own test suites without the engine and under it, equal results
//! demanded.
//!
//! A suite is whatever the program's authors run. Its log is read into verdicts, one per test. A test that
//! fails in both runs is listed as such; one whose verdicts differ is run again in both, since suites hold
//! tests that depend on timing, and only one that differs again counts. Suites marked nervous run a third
//! time with windows of 16 calls, so that the engine judges, patches and relearns as often as it can.
//! With `--profiled`, in both runs every process looks at its stack a thousand times per second of its time
//! (`workloads/profiler.c`): an engine that cannot be seen through crashes there.

mod cpython;
mod lua;
mod nginx;
mod perl;
mod postgresql;
mod redis;
mod sqlite;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::build::Builder;
use crate::engine::Engine;
use crate::machine::{self, Machine};
use crate::measure;
use crate::options;
use crate::place::Place;
use crate::programs::Program;
use crate::variant::Variant;
use crate::workload::Setting;

/// What each test said: "ok", "failed", "skipped", or an answer to compare.
pub type Verdicts = BTreeMap<String, String>;

/// A program's own tests.
pub trait Suite {
    /// The program, built with retpolines.
    fn program(&self) -> Box<dyn Program>;
    /// Debian packages that the suite needs besides the program's.
    fn needs(&self) -> &'static [&'static str] {
        &[]
    }
    /// Makes what the tests need, once, without the engine.
    fn prepare(&self, _bench: &Bench) -> Result<()> {
        Ok(())
    }
    /// Whether it is run a third time, with the engine at its most nervous.
    fn nervous(&self) -> bool {
        false
    }
    /// Runs the tests.
    fn run(&self, bench: &Bench) -> Result<Verdicts>;
}

/// Where and how a suite is run.
pub struct Bench<'a> {
    /// The program's tree and the engine, if there is one.
    pub setting: Setting<'a>,
    /// A file for the log of this run.
    pub log: PathBuf,
}

impl Bench<'_> {
    /// Runs a command into the log, however it ends, and returns the log.
    pub fn logged(&self, command: &mut Command, limit: Duration) -> Result<String> {
        measure::logged(command, &self.log, limit)?;
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// A directory of the suite's own, emptied.
    pub fn scratch(&self) -> Result<PathBuf> {
        let dir = self.setting.run.join("suite");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

/// Options of `cargo xtask suites`.
#[derive(Args)]
pub struct Suites {
    /// Suites by the name of their program; none means all
    names: Vec<String>,
    /// A part of each suite: a smoke test
    #[arg(long)]
    quick: bool,
    /// Interrupt every process a thousand times a second, with the engine and without, and look at its stack
    #[arg(long)]
    profiled: bool,
    #[command(flatten)]
    kept: options::Programs,
    #[command(flatten)]
    tested: options::Tested,
}

/// How a suite is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// With the engine as it is.
    Shipped,
    /// With one that judges, patches and relearns as often as it can.
    Nervous,
    /// With one as it is, in processes that are interrupted all the time.
    Profiled,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Shipped => "as shipped",
            Mode::Nervous => "nervous",
            Mode::Profiled => "as shipped, under a profiler",
        }
    }
}

/// What came of one suite.
#[derive(Clone, Serialize, Deserialize)]
struct Outcome {
    suite: String,
    package: String,
    mode: String,
    /// A part of the suite only.
    quick: bool,
    tests: usize,
    passed: usize,
    failed_in_both: Vec<String>,
    differ: Vec<String>,
    differed_once: Vec<String>,
    sites_promoted_most: u64,
    patches_most: u64,
    processes: usize,
    seconds_without: u64,
    seconds_under: u64,
}

/// All outcomes of a day on a machine. A run of some suites replaces theirs and leaves the others.
#[derive(Serialize, Deserialize)]
struct Results {
    schema: u32,
    date: String,
    machine: Machine,
    outcomes: Vec<Outcome>,
}

impl Results {
    /// What was written earlier today, or nothing.
    fn open(dir: &Path) -> Result<Results> {
        let (date, machine) = (machine::today(), Machine::here());
        let fresh = Results { schema: 1, date, machine, outcomes: Vec::new() };
        let path = dir.join(fresh.file_name());
        if !path.exists() {
            return Ok(fresh);
        }
        let old: Results = serde_json::from_str(&fs::read_to_string(&path)?)
            .with_context(|| format!("{} holds no outcomes of suites; move it away", path.display()))?;
        Ok(Results { outcomes: old.outcomes, ..fresh })
    }

    fn file_name(&self) -> String {
        format!("{}-{}-suites.json", self.date, self.machine.host)
    }

    /// Puts an outcome in, in place of an older one of the same suite and mode.
    fn add(&mut self, outcome: Outcome) {
        let same = |old: &&mut Outcome| (&old.suite, &old.mode) == (&outcome.suite, &outcome.mode);
        match self.outcomes.iter_mut().find(same) {
            Some(old) => *old = outcome,
            None => self.outcomes.push(outcome),
        }
    }

    /// Writes JSON and table.
    fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join(self.file_name()), serde_json::to_string_pretty(self)? + "\n")?;
        Ok(fs::write(dir.join("suites.md"), table(&self.outcomes))?)
    }
}

fn all() -> Vec<Box<dyn Suite>> {
    vec![
        Box::new(nginx::Nginx),
        Box::new(lua::Lua),
        Box::new(redis::Redis),
        Box::new(sqlite::Sqlite),
        Box::new(cpython::CPython),
        Box::new(postgresql::PostgreSqlSuite),
        Box::new(perl::Perl),
    ]
}

/// Runs the suites and compares; differing results are an error.
pub fn run(options: &Suites) -> Result<()> {
    let place = options.kept.place()?;
    let binary = options.tested.built_engine(&place)?;
    let out = options.tested.out(&place);
    let mut results = Results::open(&out)?;
    let mut differing = 0;
    for suite in chosen(&options.names)? {
        let modes: &[Mode] = match options.profiled {
            true => &[Mode::Profiled],
            false if suite.nervous() => &[Mode::Shipped, Mode::Nervous],
            false => &[Mode::Shipped],
        };
        for &mode in modes {
            let outcome = compare(&place, suite.as_ref(), &binary, options.quick, mode)?;
            eprintln!("{}", line(&outcome));
            differing += outcome.differ.len();
            results.add(outcome);
            results.write(&out)?;
        }
    }
    println!("{}", table(&results.outcomes));
    ensure!(differing == 0, "{differing} tests say something else under the engine, see above");
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<Box<dyn Suite>>> {
    let mut suites = all();
    let known: Vec<_> = suites.iter().map(|suite| suite.program().name()).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no suite named {name}; there are: {}", known.join(", "));
    }
    suites.retain(|suite| names.is_empty() || names.iter().any(|name| name == suite.program().name()));
    Ok(suites)
}

/// The library that interrupts its process and looks at the stack.
fn profiler(place: &Place, run: &Path) -> Result<PathBuf> {
    let library = run.join("profiler.so");
    let source = place.workload("profiler.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    ensure!(compiler.status().context("no C compiler")?.success(), "the profiler does not compile");
    Ok(library)
}

/// One suite, without the engine and under it.
fn compare(place: &Place, suite: &dyn Suite, binary: &Path, quick: bool, mode: Mode) -> Result<Outcome> {
    let program = suite.program();
    crate::source::install_missing(suite.needs())?;
    Builder::new(place)?.all_variants(program.as_ref(), &[Variant::Retpoline])?;
    let reports = place.run(program.name())?.join("suite-reports");
    let options: &[&str] = if mode == Mode::Nervous { &["--nervous"] } else { &[] };
    let preload = match mode {
        Mode::Profiled => Some(profiler(place, &place.run(program.name())?)?),
        _ => None,
    };
    let engine = Engine::new(binary, reports)?.with_options(options);
    let run = |engine: Option<&Engine>, name: &str| -> Result<(Verdicts, Duration)> {
        let mut setting = Setting::direct(place, program.name(), Variant::Retpoline)?;
        (setting.engine, setting.quick, setting.preload) = (engine, quick, preload.as_deref());
        let log = setting.run.join(format!("suite-{name}.log"));
        let bench = Bench { setting, log };
        eprintln!("xtask: suite of {} {name}", program.name());
        let started = Instant::now();
        let verdicts = suite.run(&bench).with_context(|| format!("suite of {} {name}", program.name()))?;
        ensure!(!verdicts.is_empty(), "no verdicts in {}", bench.log.display());
        Ok((verdicts, started.elapsed()))
    };
    let mut setting = Setting::direct(place, program.name(), Variant::Retpoline)?;
    setting.quick = quick;
    suite.prepare(&Bench { log: setting.run.join("suite-prepare.log"), setting })?;

    engine.forget();
    let (without, seconds_without) = run(None, "without")?;
    let (under, seconds_under) = run(Some(&engine), if mode == Mode::Nervous { "nervous" } else { "under" })?;
    let promotions = engine.promotions();
    let once = differing(&without, &under);
    let mut differ = Vec::new();
    if !once.is_empty() {
        eprintln!("xtask: {} of {} differ, again: {}", once.len(), program.name(), joined(&once));
        let (without, _) = run(None, "without-again")?;
        let (under, _) = run(Some(&engine), "under-again")?;
        differ = differing(&without, &under).intersection(&once).cloned().collect();
    }
    let bad = |verdict: &String| verdict == "failed";
    let failed = without.iter().filter(|(name, verdict)| bad(verdict) && under.get(*name).is_some_and(bad));
    Ok(Outcome {
        suite: program.name().to_owned(),
        package: format!("{} {}", program.source().name(), program.source().version(place).unwrap_or_default()),
        mode: mode.name().to_owned(),
        quick,
        tests: without.len(),
        passed: under.values().filter(|verdict| *verdict != "failed" && *verdict != "skipped").count(),
        failed_in_both: failed.map(|(name, _)| name.clone()).collect(),
        differed_once: once.iter().filter(|name| !differ.contains(*name)).cloned().collect(),
        differ,
        sites_promoted_most: promotions.iter().filter_map(|found| found.sites_promoted).max().unwrap_or(0),
        patches_most: promotions.iter().filter_map(|found| found.patches).max().unwrap_or(0),
        processes: promotions.len(),
        seconds_without: seconds_without.as_secs(),
        seconds_under: seconds_under.as_secs(),
    })
}

/// The tests whose verdicts are not the same, or that only one run has.
fn differing(one: &Verdicts, other: &Verdicts) -> BTreeSet<String> {
    let names = one.keys().chain(other.keys());
    names.filter(|name| one.get(*name) != other.get(*name)).cloned().collect()
}

fn joined(names: &BTreeSet<String>) -> String {
    names.iter().take(20).cloned().collect::<Vec<_>>().join(", ")
}

fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| suite | engine | tests | passed | failed in both | differ | differed once | sites promoted | processes |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    outcomes.iter().for_each(|outcome| text += &(line(outcome) + "\n"));
    text
}

fn line(outcome: &Outcome) -> String {
    let names = |names: &[String]| match names {
        [] => "0".to_owned(),
        few if few.len() <= 4 => format!("{}: {}", few.len(), few.join(", ")),
        many => many.len().to_string(),
    };
    format!(
        "| {}{} | {} | {} | {} | {} | {} | {} | {} | {} |",
        outcome.package,
        if outcome.quick { ", a part" } else { "" },
        outcome.mode,
        outcome.tests,
        outcome.passed,
        names(&outcome.failed_in_both),
        names(&outcome.differ),
        names(&outcome.differed_once),
        outcome.sites_promoted_most,
        outcome.processes,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_outcome_replaces_that_of_the_same_suite_and_mode() {
        let outcome = |suite: &str, mode: &str, tests| Outcome {
            suite: suite.to_owned(),
            package: suite.to_owned(),
            mode: mode.to_owned(),
            quick: false,
            tests,
            passed: tests,
            failed_in_both: Vec::new(),
            differ: Vec::new(),
            differed_once: Vec::new(),
            sites_promoted_most: 0,
            patches_most: 0,
            processes: 1,
            seconds_without: 1,
            seconds_under: 1,
        };
        let dir = tempfile::tempdir().unwrap();
        let mut results = Results::open(dir.path()).unwrap();
        results.add(outcome("lua", "as shipped", 1));
        results.add(outcome("redis", "as shipped", 2));
        results.write(dir.path()).unwrap();
        let mut results = Results::open(dir.path()).unwrap();
        results.add(outcome("redis", "nervous", 3));
        results.add(outcome("redis", "as shipped", 4));
        let tests: Vec<usize> = results.outcomes.iter().map(|outcome| outcome.tests).collect();
        assert_eq!(tests, [1, 4, 3]);
    }

    #[test]
    fn a_missing_test_differs_and_an_equal_failure_does_not() {
        let verdicts = |pairs: &[(&str, &str)]| -> Verdicts {
            pairs.iter().map(|(name, verdict)| (name.to_string(), verdict.to_string())).collect()
        };
        let one = verdicts(&[("a", "ok"), ("b", "failed"), ("c", "ok")]);
        let other = verdicts(&[("a", "ok"), ("b", "failed"), ("d", "ok")]);
        assert_eq!(joined(&differing(&one, &other)), "c, d");
        assert!(differing(&one, &one).is_empty());
    }
}

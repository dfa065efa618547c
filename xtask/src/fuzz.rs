//! `cargo xtask fuzz`: the targets in `fuzz/`, each from its seeds, for a time.
//!
//! Coverage comes from flags that a stable compiler takes, so that this needs no nightly and no cargo-fuzz;
//! what it does without is the address sanitizer, for which there is `cargo +nightly fuzz` (see
//! `fuzz/Cargo.toml`). Several targets run at once, one on each processor. New inputs are kept in
//! `fuzz/corpus/TARGET`, what fails in `fuzz/artifacts/TARGET`, what libFuzzer says in
//! `target/fuzz/TARGET.log`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::measure::{self, Ended, last_lines};
use crate::repository;

/// What cargo-fuzz passes as well, less what a stable compiler refuses.
const FLAGS: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Naming it, even where it is the machine's own, keeps those flags away from build scripts, which cannot be
/// linked with them.
const MACHINE: &str = "x86_64-unknown-linux-gnu";

/// Which targets to run, and for how long.
#[derive(Args)]
pub struct Fuzz {
    /// Targets by name; none means all
    targets: Vec<String>,
    /// How long each of them runs, by the clock
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// How many run at once [default: one on each processor]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Optimise: takes longer to build, and tries several times as many inputs
    #[arg(long)]
    release: bool,
}

/// Builds and runs the targets; an error when one of them found anything.
pub fn run(options: &Fuzz) -> Result<()> {
    let bench = Bench::new(options)?;
    let targets = bench.chosen(&options.targets)?;
    bench.build(&targets)?;
    let jobs = options.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)).max(1);
    let rounds = targets.len().div_ceil(jobs) as u64;
    eprintln!("fuzz: {} targets, {jobs} at once: {} s", targets.len(), rounds * options.seconds);
    let waiting = Mutex::new(targets.into_iter());
    let failed = Mutex::new(Vec::new());
    let work = || {
        // A statement of its own: the lock is not held while the target runs.
        while let Some(target) = { waiting.lock().ok().and_then(|mut waiting| waiting.next()) } {
            match bench.fuzz(&target) {
                Ok(line) => println!("{line}"),
                Err(error) => {
                    println!("{target:<12} {error:#}");
                    failed.lock().expect("no worker panics while it adds a name").push(target);
                }
            }
        }
    };
    thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner()?;
    ensure!(failed.is_empty(), "{} failed, see above", failed.join(", "));
    Ok(())
}

/// Where things lie, and for how long each target runs.
struct Bench {
    fuzz: PathBuf,
    out: PathBuf,
    seconds: u64,
    release: bool,
}

impl Bench {
    fn new(options: &Fuzz) -> Result<Bench> {
        let root = repository().canonicalize()?;
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        let bench = Bench {
            fuzz: root.join("fuzz"),
            out: target.join("fuzz"),
            seconds: options.seconds,
            release: options.release,
        };
        fs::create_dir_all(&bench.out)?;
        Ok(bench)
    }

    /// The names that were asked for, or all.
    fn chosen(&self, names: &[String]) -> Result<Vec<String>> {
        let sources = fs::read_dir(self.fuzz.join("fuzz_targets"))?;
        let mut all: Vec<String> =
            sources.filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned())).collect();
        all.sort();
        if let Some(name) = names.iter().find(|name| !all.contains(name)) {
            bail!("no fuzz target named {name}; there are: {}", all.join(", "));
        }
        Ok(if names.is_empty() { all } else { names.to_vec() })
    }

    fn build(&self, targets: &[String]) -> Result<()> {
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.current_dir(&self.fuzz).args(["build", "--features", "tool", "--target", MACHINE, "--target-dir"]);
        build.arg(&self.out).args(targets.iter().flat_map(|target| ["--bin", target]));
        if self.release {
            build.arg("--release");
        }
        build.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
        // Overflow is a finding in optimised code too.
        build.env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true");
        let status = build.status().context("cargo cannot be started")?;
        ensure!(status.success(), "building the fuzz targets: {status}");
        Ok(())
    }

    /// Runs one target: a line on what it did, or what went wrong.
    fn fuzz(&self, target: &str) -> Result<String> {
        let profile = if self.release { "release" } else { "debug" };
        let (corpus, artifacts) = (self.fuzz.join("corpus").join(target), self.fuzz.join("artifacts").join(target));
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&artifacts)?;
        let mut command = Command::new(self.out.join(MACHINE).join(profile).join(target));
        command.arg(corpus).arg(self.fuzz.join("seeds").join(target)).arg(format!("-max_total_time={}", self.seconds));
        command.args(["-print_final_stats=1", "-rss_limit_mb=4096"]);
        command.arg(format!("-artifact_prefix={}/", artifacts.display()));
        let log = self.out.join(format!("{target}.log"));
        // An input that takes long ends the target after 1200 seconds by itself: libFuzzer's -timeout.
        let limit = Duration::from_secs(self.seconds + 1500);
        let ended = measure::logged(&mut command, &log, limit)?;
        let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        if !ended.status.success() {
            bail!(
                "{}; log in {}, input in {}\n{}",
                ended.status,
                log.display(),
                artifacts.display(),
                last_lines(&said, 15)
            );
        }
        summary(target, &said, &ended).with_context(|| format!("no figures in {}", log.display()))
    }
}

/// What a target that found nothing did, by what libFuzzer said last.
fn summary(target: &str, said: &str, ended: &Ended) -> Option<String> {
    let figure = |name: &str| said.lines().rev().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let inputs = figure("stat::number_of_executed_units:")?;
    let new = figure("stat::new_units_added:")?;
    Some(format!(
        "{target:<12} {inputs:>10} inputs, {new} new; {:.0} s of a processor's time; found nothing",
        ended.processor
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_from_the_end_of_the_log() {
        let said = "#9 DONE cov: 1\nstat::number_of_executed_units: 15\nstat::new_units_added:          3\n";
        let ended = Ended { status: Default::default(), user: 1.0, processor: 2.4 };
        let line = summary("trees", said, &ended).expect("there are figures");
        assert_eq!(line, "trees                15 inputs, 3 new; 2 s of a processor's time; found nothing");
        assert!(summary("trees", "killed", &ended).is_none());
    }
}

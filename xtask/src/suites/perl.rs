//! Perl's core tests: what `make test` runs of the language itself, one verdict per test file.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Bench, Suite, Verdicts};
use crate::measure;
use crate::programs::{self, Program};

pub struct Perl;

impl Suite for Perl {
    fn program(&self) -> Box<dyn Program> {
        Box::new(programs::perl::Perl)
    }

    fn prepare(&self, bench: &Bench) -> Result<()> {
        // Many tests want modules in C, which the benchmark's build leaves out.
        let mut make = Command::new("make");
        make.args(["-j2", "test_prep"]).current_dir(&bench.setting.built);
        let status = measure::logged(&mut make, &bench.log, LIMIT)?.status;
        ensure!(status.success(), "make test_prep: {status}; see {}", bench.log.display());
        Ok(())
    }

    fn run(&self, bench: &Bench) -> Result<Verdicts> {
        let parts: &[&str] = if bench.setting.quick {
            &["base", "comp", "cmd"]
        } else {
            &["base", "comp", "cmd", "run", "io", "re", "opbasic", "op", "uni", "mro", "class"]
        };
        let tests = bench.setting.built.join("t");
        let files = parts.iter().flat_map(|part| scripts(&tests.join(part), part));
        let mut command = bench.setting.start("perl", None);
        command.arg("TEST").args(files).current_dir(&tests).env("PERL_SKIP_BIG_MEM_TESTS", "1");
        verdicts(&bench.logged(&mut command, LIMIT)?)
    }
}

const LIMIT: Duration = Duration::from_secs(3600);

/// The test files of a directory, as `part/name.t`; a part that this version does not have has none.
fn scripts(dir: &std::path::Path, part: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.ends_with(".t"));
    let mut scripts: Vec<_> = names.map(|name| format!("{part}/{name}")).collect();
    scripts.sort();
    scripts
}

/// Lines such as `op/sort .......... ok`.
fn verdicts(log: &str) -> Result<Verdicts> {
    let mut verdicts = Verdicts::new();
    for line in log.lines() {
        let Some((name, said)) = line.split_once(" ..") else { continue };
        let said = said.trim_start_matches('.').trim();
        let verdict = match said.split(' ').next() {
            Some("ok") => "ok",
            Some("skipped") => "skipped",
            Some("FAILED" | "failed" | "Failed") => "failed",
            _ => continue,
        };
        verdicts.insert(name.trim_start_matches("t/").to_owned(), verdict.to_owned());
    }
    let ended = |line: &str| line.starts_with("All tests successful") || line.starts_with("Failed ");
    log.lines().find(|line| ended(line)).context("the suite did not come to its end")?;
    Ok(verdicts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_verdicts_and_an_early_end_is_an_error() {
        let log = "t/base/cond ...... ok\nt/op/x ..... FAILED at test 3\nt/op/y ... skipped\nFailed 1 test out of 3, 66% okay.\n";
        let found = verdicts(log).expect("complete");
        assert_eq!((found["base/cond"].as_str(), found["op/x"].as_str()), ("ok", "failed"));
        assert_eq!(found["op/y"], "skipped");
        assert!(verdicts("t/base/cond ...... ok\n").is_err());
    }
}

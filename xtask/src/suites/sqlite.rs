//! SQLite's own Tcl tests, through `testfixture`, a Tcl interpreter with the library and its fault injection
//! built in.

use std::os::unix::fs::chown;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Bench, Suite, Verdicts};
use crate::build::Builder;
use crate::measure;
use crate::procfs;
use crate::programs::postgresql::{NOBODY, unprivileged};
use crate::programs::{self, Program};
use crate::variant::{Toolchain, Variant};

pub struct Sqlite;

impl Suite for Sqlite {
    fn program(&self) -> Box<dyn Program> {
        Box::new(programs::sqlite::Sqlite(Toolchain::Gcc))
    }

    fn needs(&self) -> &'static [&'static str] {
        &["tcl-dev"]
    }

    fn prepare(&self, bench: &Bench) -> Result<()> {
        if bench.setting.built.join("testfixture").exists() {
            return Ok(());
        }
        // The benchmark's tree is configured without Tcl; the same compiler configures it anew with it, for
        // this target.
        let compiler = Builder { place: bench.setting.place }
            .compiler(&programs::sqlite::Sqlite(Toolchain::Gcc), Variant::Retpoline);
        for step in [&["./configure", "--with-tcl=/usr/lib/tcl8.6"][..], &["make", "-j2", "testfixture"][..]] {
            let mut command = Command::new(step[0]);
            command.args(&step[1..]).env("CC", &compiler).current_dir(&bench.setting.built);
            let status = measure::logged(&mut command, &bench.log, LIMIT)?.status;
            ensure!(status.success(), "{}: {status}; see {}", step.join(" "), bench.log.display());
        }
        Ok(())
    }

    fn run(&self, bench: &Bench) -> Result<Verdicts> {
        let mut command = bench.setting.start("testfixture", None);
        let script = if bench.setting.quick { "test/select1.test" } else { "test/veryquick.test" };
        let scratch = bench.scratch()?;
        // The tests refuse root, who may do anything.
        if procfs::am_root() {
            chown(&scratch, Some(NOBODY), Some(NOBODY))?;
        }
        unprivileged(&mut command).arg(bench.setting.built.join(script)).current_dir(scratch);
        let log = bench.logged(&mut command, LIMIT)?;
        verdicts(&log)
    }
}

const LIMIT: Duration = Duration::from_secs(3600);

/// Lines such as `select1-1.2... Ok`; a failure is listed again at the end.
fn verdicts(log: &str) -> Result<Verdicts> {
    let mut verdicts = Verdicts::new();
    for line in log.lines() {
        if let Some((name, said)) = line.split_once("... ") {
            let verdict = if said.trim_end() == "Ok" { "ok" } else { "failed" };
            verdicts.insert(name.to_owned(), verdict.to_owned());
        } else if let Some(names) = line.strip_prefix("!Failures on these tests: ") {
            names.split_whitespace().for_each(|name| drop(verdicts.insert(name.to_owned(), "failed".to_owned())));
        }
    }
    // It dies quietly when a test takes it down; its last line then lacks.
    log.lines().find(|line| line.contains(" errors out of ")).context("the suite did not come to its end")?;
    Ok(verdicts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_become_verdicts_and_an_early_end_is_an_error() {
        let log =
            "a-1.0... Ok\na-1.1...\n! a-1.1 expected: [1]\n0 errors out of 2 tests\n!Failures on these tests: a-1.1\n";
        let found = verdicts(log).expect("complete");
        assert_eq!((found["a-1.0"].as_str(), found["a-1.1"].as_str()), ("ok", "failed"));
        assert!(verdicts("a-1.0... Ok\n").is_err());
    }
}

//! PostgreSQL's regression tests: `make check` starts a cluster of its own and runs some two hundred scripts.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{Bench, Suite, Verdicts};
use crate::measure;
use crate::procfs;
use crate::programs::Program;
use crate::programs::postgresql::{NOBODY, PostgreSql, unprivileged};

pub struct PostgreSqlSuite;

impl Suite for PostgreSqlSuite {
    fn program(&self) -> Box<dyn Program> {
        Box::new(PostgreSql)
    }

    fn needs(&self) -> &'static [&'static str] {
        &["make"]
    }

    fn nervous(&self) -> bool {
        true
    }

    fn prepare(&self, bench: &Bench) -> Result<()> {
        // The programs of the suite, and a tree that the server's user may write its results into.
        let regress = bench.setting.built.join("src/test/regress");
        measure::logged(Command::new("make").args(["-s", "-C"]).arg(&regress).arg("all"), &bench.log, LIMIT)?;
        own(&bench.setting.built)
    }

    fn run(&self, bench: &Bench) -> Result<Verdicts> {
        let mut command = bench.setting.start_driver("make");
        unprivileged(&mut command);
        let target = if bench.setting.quick { "check-tests" } else { "check" };
        command.arg("-C").arg(bench.setting.built.join("src/test/regress")).arg(target);
        command.args(["MAX_CONNECTIONS=4", "TESTS=boolean int4 int8 float8 numeric text strings regex"]);
        // Where root made the tree, its user must be able to write the results of the last run anew.
        let results = bench.setting.built.join("src/test/regress/results");
        let _ = fs::remove_dir_all(results);
        Ok(verdicts(&bench.logged(&mut command, LIMIT)?))
    }
}

const LIMIT: Duration = Duration::from_secs(3600);

fn own(tree: &Path) -> Result<()> {
    if procfs::am_root() {
        let owner = format!("{NOBODY}:{NOBODY}");
        measure::run(Command::new("chown").arg("-R").arg(owner).arg(tree), LIMIT)?;
    }
    Ok(())
}

/// Lines such as `     boolean       ... ok          82 ms` and `test tablespace ... FAILED    10 ms`.
fn verdicts(log: &str) -> Verdicts {
    let mut verdicts = Verdicts::new();
    for line in log.lines() {
        let Some((name, rest)) = line.split_once(" ... ") else { continue };
        let verdict = match rest.split_whitespace().next() {
            Some("ok") => "ok",
            Some("FAILED") => "failed",
            Some("failed") => "failed",
            _ => continue,
        };
        let name = name.trim().trim_start_matches("test ").trim();
        verdicts.insert(name.to_owned(), verdict.to_owned());
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_driver_become_verdicts() {
        let log = "test tablespace                   ... ok          150 ms\nparallel group (2 tests):  int4 boolean\n\
                   \x20    boolean                      ... FAILED      82 ms\n";
        let found = verdicts(log);
        assert_eq!((found["tablespace"].as_str(), found["boolean"].as_str()), ("ok", "failed"));
        assert_eq!(found.len(), 2);
    }
}

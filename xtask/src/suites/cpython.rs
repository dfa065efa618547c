//! CPython's `test` package with its own runner, one verdict per test module.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, Suite, Verdicts};
use crate::programs::{Program, cpython};

pub struct CPython;

/// What is left out: tests of the C interface's test modules (which are not built), of the build itself, of a
/// screen, of the network, and those that take minutes to test something in pure Python. `multiprocessing` is
/// tested by fork only.
const LEFT_OUT: [&str; 26] = [
    "test_asyncio",
    "test_multiprocessing_forkserver",
    "test_multiprocessing_spawn",
    "test_socket",
    "test_capi",
    "test_gdb",
    "test_idle",
    "test_tk",
    "test_ttk_guionly",
    "test_ttk_textonly",
    "test_tcl",
    "test_turtle",
    "test_distutils",
    "test_lib2to3",
    "test_tools",
    "test_peg_generator",
    "test_unparse",
    "test_venv",
    "test_ensurepip",
    "test_zipfile64",
    "test_smtpnet",
    "test_urllibnet",
    "test_urllib2net",
    "test_timeout",
    "test_concurrent_futures",
    "test_cppext",
];

/// The language, its core types, and what leans hardest on the machine: threads, signals, forks, coroutines.
const QUICK: [&str; 24] = [
    "test_grammar",
    "test_dict",
    "test_list",
    "test_set",
    "test_generators",
    "test_coroutines",
    "test_re",
    "test_json",
    "test_sort",
    "test_itertools",
    "test_class",
    "test_descr",
    "test_exceptions",
    "test_threading",
    "test_thread",
    "test_signal",
    "test_threadsignals",
    "test_fork1",
    "test_subprocess",
    "test_ctypes",
    "test_gc",
    "test_weakref",
    "test_pickle",
    "test_decimal",
];

impl Suite for CPython {
    fn program(&self) -> Box<dyn Program> {
        Box::new(cpython::CPython)
    }

    fn run(&self, bench: &Bench) -> Result<Verdicts> {
        let mut command = bench.setting.start("python", None);
        command.args(["-m", "test", "-j2", "--timeout", "900"]).current_dir(bench.scratch()?);
        if bench.setting.quick {
            command.args(QUICK);
        } else {
            command.arg("-x").args(LEFT_OUT);
        }
        command.env("PYTHONHASHSEED", "0");
        Ok(verdicts(&bench.logged(&mut command, Duration::from_secs(5400))?))
    }
}

/// Lines such as `0:00:09 load avg: 1.88 [7/422/1] test_bool passed`; the first word after the name is the
/// verdict.
fn verdicts(log: &str) -> Verdicts {
    let mut verdicts = Verdicts::new();
    for line in log.lines().filter(|line| line.contains(" load avg: ")) {
        let Some((name, verdict)) = line.split_once("] ").and_then(|(_, rest)| rest.split_once(' ')) else {
            continue;
        };
        let verdict = match verdict.split([' ', '(']).next() {
            Some("passed") => "ok",
            Some("skipped") => "skipped",
            Some("failed" | "crashed" | "timed") => "failed",
            _ => continue,
        };
        verdicts.insert(name.to_owned(), verdict.to_owned());
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_runner_become_verdicts() {
        let log = "0:00:00 load avg: 1.0 [1/4] test_bool\n0:00:01 load avg: 1.0 [1/4] test_bool passed\n\
                   0:00:02 load avg: 1.0 [2/4/1] test_x failed (1 error)\nTraceback\n\
                   0:00:03 load avg: 1.0 [3/4/1] test_y skipped (resource denied)\n";
        let found = verdicts(log);
        assert_eq!((found["test_bool"].as_str(), found["test_x"].as_str()), ("ok", "failed"));
        assert_eq!((found["test_y"].as_str(), found.len()), ("skipped", 3));
    }
}

//! The traces that are played: those of the policy's own tests ([`relpoline_core::policy::workload`]), live.
//!
//! Each is a sequence of target numbers, hottest first, written to a file that all variants read. What
//! follows a clock cannot be in a file: the program itself moves on to other targets when it is time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use relpoline_core::policy::workload::{Pattern, Workload};

use crate::report::schema::{Report, Site};

/// Calls in a sequence, which then repeats: a multiple of every period here and of the program's pieces, and
/// far more than a branch predictor could learn by heart.
const CALLS: usize = 120_000;

/// A trace.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    /// Its name in tables and JSON.
    pub name: &'static str,
    /// What the file is made from.
    pattern: Pattern,
    /// Milliseconds between changes of phase, or 0.
    pub phase_ms: u32,
    /// Pairs of targets that take turns.
    pub sets: u32,
    /// Threads that play it at once.
    pub threads: u32,
}

const fn steady(name: &'static str, pattern: Pattern) -> Trace {
    Trace { name, pattern, phase_ms: 0, sets: 1, threads: 1 }
}

const fn phases(name: &'static str, phase_ms: u32, sets: u32) -> Trace {
    Trace { name, pattern: Pattern::Biased(90), phase_ms, sets, threads: 1 }
}

/// All of them.
pub const TRACES: &[Trace] = &[
    steady("mono", Pattern::Mono),
    steady("90/10", Pattern::Biased(90)),
    steady("50/50 random", Pattern::Biased(50)),
    steady("period 2", Pattern::Periodic(2)),
    steady("period 4", Pattern::Periodic(4)),
    steady("period 8", Pattern::Periodic(8)),
    steady("period 16", Pattern::Periodic(16)),
    steady("period 32", Pattern::Periodic(32)),
    steady("period 64", Pattern::Periodic(64)),
    steady("period 96", Pattern::Periodic(96)),
    steady("random 4", Pattern::Random(4)),
    steady("random 16", Pattern::Random(16)),
    steady("random 64", Pattern::Random(64)),
    steady("random 96", Pattern::Random(96)),
    steady("geometric", Pattern::Geometric),
    steady("interpreter 40/300", Pattern::Interpreter { targets: 40, length: 300 }),
    phases("phases 10 ms", 10, 2),
    phases("phases 10 ms, 8 sets", 10, 8),
    phases("phases 100 ms", 100, 4),
    phases("phases 1 s", 1000, 4),
    // The second thread's targets are one further on.
    Trace { name: "opposite threads", pattern: Pattern::Mono, phase_ms: 0, sets: 1, threads: 2 },
    steady("flapping 100", Pattern::Flapping(100)),
    steady("flapping 1000", Pattern::Flapping(1000)),
    steady("flapping 3000", Pattern::Flapping(3000)),
    steady("flapping 30000", Pattern::Flapping(30_000)),
    steady("turns of 1000", Pattern::Turns { calls: 1000, loops: 3 }),
    steady("turns of 10000", Pattern::Turns { calls: 10_000, loops: 3 }),
];

impl Trace {
    /// The trace with this name.
    pub fn number(name: &str) -> usize {
        TRACES.iter().position(|trace| trace.name == name).unwrap_or_default()
    }

    /// The function of the program that plays it and nothing else.
    pub fn site(number: usize) -> String {
        format!("site{number:02}")
    }

    /// The report's line on that function's call.
    pub fn site_in(report: &Report, number: usize) -> Site {
        let function = Self::site(number);
        let is_it =
            |site: &&Site| site.symbol.as_ref().is_some_and(|symbol| symbol.split('+').next() == Some(&*function));
        report.sites.iter().find(is_it).cloned().unwrap_or_default()
    }

    /// One byte per call: the number of the target, the hottest 0.
    fn sequence(&self) -> Vec<u8> {
        let workload = Workload { name: self.name, pattern: self.pattern, work: 0, cycles_per_ms: 1 };
        let targets: Vec<u64> = workload.calls(1).take(CALLS).map(|call| call.target).collect();
        let mut counts = BTreeMap::new();
        for target in &targets {
            *counts.entry(*target).or_insert(0_u32) += 1;
        }
        let mut hottest: Vec<(u64, u32)> = counts.into_iter().collect();
        hottest.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let number: BTreeMap<u64, u8> = hottest.iter().map(|(target, _)| *target).zip(0..).collect();
        targets.iter().filter_map(|target| number.get(target).copied()).collect()
    }
}

/// Writes all sequences to `directory`.
pub fn write(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let write = |(number, trace): (usize, &Trace)| {
        let path = directory.join(format!("{number}.sequence"));
        std::fs::write(&path, trace.sequence())?;
        Ok(path)
    };
    TRACES.iter().enumerate().map(write).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_whole_and_hottest_first() {
        for trace in TRACES {
            let sequence = trace.sequence();
            assert_eq!(sequence.len(), CALLS, "{}", trace.name);
            let count = |n: u8| sequence.iter().filter(|&&target| target == n).count();
            assert!(count(0) >= count(1), "{}", trace.name);
            assert!(sequence.iter().all(|&target| target < 96), "{}", trace.name);
        }
    }
}

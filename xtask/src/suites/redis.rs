//! redis' own Tcl suite, the unit part: each file against servers that the suite starts, one verdict per
//! test.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, Suite, Verdicts};
use crate::programs::{self, Program};

pub struct Redis;

const UNITS: [&str; 32] = [
    "unit/type/string",
    "unit/type/incr",
    "unit/type/list",
    "unit/type/set",
    "unit/type/zset",
    "unit/type/hash",
    "unit/type/stream",
    "unit/type/stream-cgroups",
    "unit/scripting",
    "unit/functions",
    "unit/multi",
    "unit/expire",
    "unit/sort",
    "unit/scan",
    "unit/keyspace",
    "unit/dump",
    "unit/bitops",
    "unit/bitfield",
    "unit/geo",
    "unit/hyperloglog",
    "unit/pubsub",
    "unit/pubsubshard",
    "unit/protocol",
    "unit/auth",
    "unit/acl",
    "unit/introspection",
    "unit/introspection-2",
    "unit/slowlog",
    "unit/lazyfree",
    "unit/quit",
    "unit/tracking",
    "unit/other",
];

impl Suite for Redis {
    fn program(&self) -> Box<dyn Program> {
        Box::new(programs::redis::Redis)
    }

    fn needs(&self) -> &'static [&'static str] {
        &["tcl"]
    }

    fn nervous(&self) -> bool {
        true
    }

    fn run(&self, bench: &Bench) -> Result<Verdicts> {
        // The suite's `kill -9` checks and its clock-bound tests are the suite's business: both runs have
        // them.
        let mut command = bench.setting.start_driver("tclsh");
        command.arg("tests/test_helper.tcl").current_dir(&bench.setting.built);
        command.args(["--clients", "1", "--timeout", "300", "--no-latency", "--tags", "-slow"]);
        let units = if bench.setting.quick { &UNITS[..8] } else { &UNITS[..] };
        command.args(units.iter().flat_map(|unit| ["--single", unit]));
        Ok(verdicts(&bench.logged(&mut command, Duration::from_secs(1800))?))
    }
}

/// Lines such as `[ok]: SET and GET an item (0 ms)`. Some names come more than once; each counts.
fn verdicts(log: &str) -> Verdicts {
    let mut verdicts = Verdicts::new();
    for line in log.lines().map(plain) {
        let Some((tag, rest)) = line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) else {
            continue;
        };
        let verdict = match tag {
            "ok" => "ok",
            "err" | "exception" | "timeout" => "failed",
            "ignore" | "skip" => "skipped",
            _ => continue,
        };
        // What follows " in " is the place of a failure, in brackets a time.
        let name = rest.split(" (").next().unwrap_or(rest).split(" in tests/").next().unwrap_or(rest).trim();
        let count = (1..).find(|n| !verdicts.contains_key(&numbered(name, *n))).unwrap_or(1);
        verdicts.insert(numbered(name, count), verdict.to_owned());
    }
    verdicts
}

/// A line without its colours, which the suite has even in a file.
fn plain(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or(part, |(_, rest)| rest))
}

fn numbered(name: &str, count: u32) -> String {
    if count == 1 { name.to_owned() } else { format!("{name} #{count}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_become_verdicts_and_repeated_names_are_kept_apart() {
        let log = "[\x1b[0;32;49mok\x1b[0m]: SET (1 ms)\n[err]: GET in tests/unit/a.tcl\nexpected 1\n[ok]: SET (0 ms)\n[1/2 done]: unit/a (3 s)\n";
        let found = verdicts(log);
        assert_eq!((found["SET"].as_str(), found["SET #2"].as_str(), found["GET"].as_str()), ("ok", "ok", "failed"));
        assert_eq!(found.len(), 3);
    }
}

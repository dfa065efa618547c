//! The engine as the driver sees it: a command put before another one, and a report file read afterwards.
//!
//! Reading is forgiving: a field that is missing reads as nothing, since the report belongs to the engine and
//! the benchmark has to go on when it changes. A server that forks may write one report per process beside
//! the named file (`FILE.PID`); the one with most promoted sites is the worker's.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The `relpoline` binary and where its report goes.
pub struct Engine {
    /// The binary.
    pub binary: PathBuf,
    reports: PathBuf,
    options: Vec<String>,
    is_silent: bool,
}

/// What the results keep of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Promotion {
    /// Sites found.
    pub sites_total: Option<u64>,
    /// Sites that ran.
    pub sites_run: Option<u64>,
    /// Sites with a tree in the end.
    pub sites_promoted: Option<u64>,
    /// Patches made.
    pub patches: Option<u64>,
    /// Cycles spent on learning.
    pub learn_cycles: Option<u64>,
    /// The same as a share of the time, of one processor.
    #[serde(default)]
    pub learn_share: Option<f64>,
    /// Cycles spent on finding and re-pointing sites.
    #[serde(default)]
    pub startup_cycles: Option<u64>,
    /// Memory of the generated code.
    #[serde(default)]
    pub arena_bytes: Option<u64>,
    /// Share of the calls that took a direct jump, where they were counted.
    #[serde(default)]
    pub coverage: Option<f64>,
    /// The busiest sites that are not promoted.
    #[serde(default)]
    pub left: Vec<Left>,
}

/// A site that ran and is not promoted in the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Its function and the offset in it, or its address.
    pub symbol: String,
    /// Why it is not promoted.
    pub reason: String,
    /// Its calls, as far as they were counted.
    pub calls: u64,
}

/// How many of them are kept.
const LEFT: usize = 5;

impl Engine {
    /// Takes a binary and a directory for reports, which every user may write into: servers change theirs.
    pub fn new(binary: &Path, reports: PathBuf) -> Result<Engine> {
        fs::create_dir_all(&reports).with_context(|| format!("creating {}", reports.display()))?;
        fs::set_permissions(&reports, Permissions::from_mode(0o777))?;
        Ok(Engine { binary: binary.to_owned(), reports, options: Vec::new(), is_silent: false })
    }

    /// The same engine with further options of `relpoline run`.
    pub fn with_options(self, options: &[&str]) -> Engine {
        Engine { options: options.iter().map(|&option| option.to_owned()).collect(), ..self }
    }

    /// The same engine without a report: then nothing but it comes on top of the program. Who writes a report
    /// watches the program and reads its symbols, and a command's time includes that of its children.
    pub fn silent(self) -> Engine {
        Engine { is_silent: true, ..self }
    }

    /// The words before the program's own command line.
    pub fn prefix(&self) -> Vec<PathBuf> {
        let mut words: Vec<PathBuf> = vec![self.binary.clone(), "run".into(), "--quiet".into()];
        if !self.is_silent {
            words.extend(["--report".into(), self.reports.join("report.json")]);
        }
        words.extend(self.options.iter().map(PathBuf::from));
        words.push("--".into());
        words
    }

    /// Removes reports of an earlier run.
    pub fn forget(&self) {
        for path in self.report_files() {
            // One that stays is overwritten by the next run, or counted in vain: not worth failing for.
            let _ = fs::remove_file(path);
        }
    }

    /// The report of the last run, if it wrote one.
    pub fn promotion(&self) -> Option<Promotion> {
        self.promotions().into_iter().max_by_key(|found| found.sites_promoted)
    }

    /// The reports of all processes of the last run.
    pub fn promotions(&self) -> Vec<Promotion> {
        let texts = self.report_files().into_iter().filter_map(|path| fs::read_to_string(path).ok());
        texts.filter_map(|text| promotion(&text)).collect()
    }

    fn report_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.reports).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
    }
}

fn promotion(report: &str) -> Option<Promotion> {
    let report: Value = serde_json::from_str(report).ok()?;
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64);
    Some(Promotion {
        sites_total: number("/sites_total"),
        sites_run: number("/sites_run"),
        sites_promoted: number("/sites_promoted"),
        patches: number("/engine/patches"),
        learn_cycles: number("/engine/learn_cycles"),
        learn_share: report.pointer("/engine/learn_share").and_then(Value::as_f64),
        startup_cycles: number("/engine/startup_cycles"),
        arena_bytes: number("/engine/arena_bytes"),
        coverage: report.pointer("/coverage").and_then(Value::as_f64),
        left: left(&report),
    })
}

fn left(report: &Value) -> Vec<Left> {
    let sites = report.pointer("/sites").and_then(Value::as_array).into_iter().flatten();
    let mut left: Vec<_> = sites.filter_map(left_site).collect();
    left.sort_by_key(|site| std::cmp::Reverse(site.calls));
    left.truncate(LEFT);
    left
}

fn left_site(site: &Value) -> Option<Left> {
    let text = |name: &str| site.get(name).and_then(Value::as_str);
    if matches!(text("state")?, "promoted" | "linked") {
        return None;
    }
    let number = |name: &str| site.get(name).and_then(Value::as_u64).unwrap_or(0);
    let calls = number("calls_seen") + number("misses");
    let symbol = text("symbol").or(text("address"))?.to_owned();
    (calls > 0).then(|| Left { symbol, reason: text("reason").unwrap_or_default().to_owned(), calls })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_and_a_strange_one_reads_as_nothing() {
        let report = r#"{"schema":1,"engine":{"patches":12},"sites_total":9,"sites_run":4,"sites_promoted":3,"coverage":0.5,
            "sites":[{"symbol":"a","state":"linked","calls_seen":9},
                     {"symbol":"b","state":"retpolined","reason":"unpredictable","calls_seen":7,"misses":1}]}"#;
        let found = promotion(report).expect("it is JSON");
        assert_eq!(found.left, [Left { symbol: "b".into(), reason: "unpredictable".into(), calls: 8 }]);
        assert_eq!(found.coverage, Some(0.5));
        assert_eq!((found.sites_promoted, found.patches, found.learn_cycles), (Some(3), Some(12), None));
        assert_eq!(promotion("{}"), Some(Promotion::default()));
        assert_eq!(promotion("no JSON"), None);
    }

    #[test]
    fn the_report_with_most_promoted_sites_wins() {
        let dir = std::env::temp_dir().join(format!("xtask-engine-{}", std::process::id()));
        let engine = Engine::new(Path::new("/bin/true"), dir.clone()).expect("a directory");
        fs::write(dir.join("report.json"), r#"{"sites_promoted":2}"#).expect("written");
        fs::write(dir.join("report.json.77"), r#"{"sites_promoted":5}"#).expect("written");
        assert_eq!(engine.promotion().and_then(|found| found.sites_promoted), Some(5));
        engine.forget();
        assert_eq!(engine.promotion(), None);
        fs::remove_dir_all(dir).expect("removed");
    }
}

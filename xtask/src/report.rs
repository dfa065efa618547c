//! Results as data: one JSON file per day and machine, from which the table and the plot are made.
//!
//! Measuring everything takes long, so a run that covers some programs replaces their rows in
//! the file of the day and leaves the others; every row carries its own time, rounds and commands.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::engine::Promotion;
use crate::machine::{self, Machine};
use crate::memory::Memory;
use crate::plot;
use crate::stats::{self, Interval};
use crate::table;
use crate::variant::Variant;
use crate::workload::Better;

/// All results of a day on a machine.
#[derive(Serialize, Deserialize)]
pub struct Report {
    /// Version of this format.
    pub schema: u32,
    /// The day.
    pub date: String,
    /// The machine.
    pub machine: Machine,
    /// One row per metric of a workload.
    pub rows: Vec<Row>,
}

/// One metric of one workload in all variants.
#[derive(Clone, Serialize, Deserialize)]
pub struct Row {
    /// The program.
    pub program: String,
    /// Its source package and version.
    pub package: String,
    /// The workload.
    pub workload: String,
    /// The metric.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// Whether less or more is good.
    pub better: Better,
    /// When it was measured.
    pub taken: String,
    /// Load average at the end: far above 1 means that others used the machine too.
    pub load_average: f64,
    /// Measured rounds.
    pub rounds: usize,
    /// Whether it was a smoke test only.
    pub quick: bool,
    /// Digest of the answer, the same in all variants.
    pub answer: String,
    /// A command line per variant.
    pub commands: BTreeMap<Variant, String>,
    /// The numbers per variant.
    pub variants: BTreeMap<Variant, Numbers>,
    /// Share of the cost of retpolines that the engine won back.
    pub won_back: Option<Interval>,
    /// What the engine reported of its last run.
    pub promotion: Option<Promotion>,
    /// What it held in memory, and what the program held without it.
    #[serde(default)]
    pub memory: Option<Memory>,
}

/// What one variant measured.
#[derive(Clone, Serialize, Deserialize)]
pub struct Numbers {
    /// A value per round, in the order of rounds.
    pub samples: Vec<f64>,
    /// Their median.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// In terms of the retpoline build of the same round.
    pub ratio: Interval,
}

impl Numbers {
    /// Summarises samples against those of the retpoline build.
    pub fn new(samples: &[f64], retpoline: &[f64]) -> Option<Numbers> {
        let (low, high) = (samples.iter().copied().reduce(f64::min)?, samples.iter().copied().reduce(f64::max)?);
        let ratio = stats::interval(&stats::ratios(samples, retpoline))?;
        Some(Numbers { samples: samples.to_vec(), median: stats::median(samples)?, min: low, max: high, ratio })
    }
}

impl Report {
    /// Today's report of this machine: what was written earlier, or an empty one.
    pub fn open(dir: &Path) -> Result<Report> {
        let (date, machine) = (machine::today(), Machine::here());
        let fresh = Report { schema: 1, date, machine, rows: Vec::new() };
        let path = dir.join(fresh.file_name());
        if !path.exists() {
            return Ok(fresh);
        }
        let text = fs::read_to_string(&path)?;
        let old: Report =
            serde_json::from_str(&text).with_context(|| format!("{} is no report; move it away", path.display()))?;
        Ok(Report { rows: old.rows, ..fresh })
    }

    fn file_name(&self) -> String {
        format!("{}-{}.json", self.date, self.machine.host)
    }

    /// Puts a row in, in place of an older one of the same metric.
    pub fn add(&mut self, row: Row) {
        let key = |row: &Row| (row.program.clone(), row.workload.clone(), row.metric.clone());
        match self.rows.iter_mut().find(|old| key(old) == key(&row)) {
            Some(old) => *old = row,
            None => self.rows.push(row),
        }
    }

    /// Writes JSON, table and plot.
    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        fs::write(dir.join(self.file_name()), serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(dir.join("table.md"), table::markdown(self))?;
        Ok(fs::write(dir.join("plot.svg"), plot::svg(self))?)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A row with a retpoline build at 2.0, an unprotected one at 1.0 and an engine at 1.1.
    pub fn row(program: &str) -> Row {
        let base = [2.0; 7];
        let numbers = |value: f64| Numbers::new(&[value; 7], &base).expect("seven samples");
        let values = [(Variant::Retpoline, 2.0), (Variant::Jmpthunk, 1.0), (Variant::Relpoline, 1.1)];
        Row {
            program: program.to_owned(),
            package: "p 1".to_owned(),
            workload: "w".to_owned(),
            metric: "user CPU".to_owned(),
            unit: "s".to_owned(),
            better: Better::Less,
            taken: String::new(),
            load_average: 0.0,
            rounds: 7,
            quick: false,
            answer: String::new(),
            commands: BTreeMap::new(),
            variants: values.into_iter().map(|(variant, value)| (variant, numbers(value))).collect(),
            won_back: stats::won_back(&base, &[1.0; 7], &[1.1; 7]),
            promotion: None,
            memory: None,
        }
    }

    /// A report of such rows.
    pub fn report(programs: &[&str]) -> Report {
        let rows = programs.iter().map(|program| row(program)).collect();
        Report { schema: 1, date: "2025-01-31".to_owned(), machine: Machine::here(), rows }
    }

    #[test]
    fn a_newer_row_replaces_the_older_one() {
        let mut report = report(&["a", "b"]);
        report.add(Row { rounds: 9, ..row("a") });
        report.add(row("c"));
        let rounds: Vec<_> = report.rows.iter().map(|row| (row.program.as_str(), row.rounds)).collect();
        assert_eq!(rounds, [("a", 9), ("b", 7), ("c", 7)]);
    }

    #[test]
    fn a_report_survives_being_written_and_read() {
        let text = serde_json::to_string(&report(&["a"])).expect("serialisable");
        let back: Report = serde_json::from_str(&text).expect("readable");
        assert_eq!(back.rows[0].variants[&Variant::Relpoline].samples, [1.1; 7]);
        assert!(back.rows[0].won_back.is_some_and(|share| (share.median - 0.9).abs() < 1e-9));
    }
}

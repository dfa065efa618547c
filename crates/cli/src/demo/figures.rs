//! Medians, spread and the share won back: what `demo --json` prints.

use std::collections::BTreeMap;

use serde::Serialize;

use super::measure::Rounds;
use crate::report::Report;
use crate::workbench::machine::Machine;
use crate::workbench::sample::median;
use crate::workbench::variant::Variant;

/// The outcome of the demo.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Version of this structure.
    pub schema: u32,
    /// The variants by name.
    pub variants: BTreeMap<&'static str, Measured>,
    /// (retpoline − relpoline) / (retpoline − plain); null when retpolines cost nothing here.
    pub recovered: Option<f64>,
    /// The same against the build whose thunks are plain jumps: the same layout of code.
    pub recovered_of_layout: Option<f64>,
    /// Whether all variants printed the same.
    pub outputs_equal: bool,
    /// Where it was measured.
    pub machine: Machine,
    /// What was promoted, from one more run that counted hits.
    pub report: Report,
}

/// A variant.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Median of user CPU seconds.
    pub user_s: f64,
    /// Lowest.
    pub min_s: f64,
    /// Highest.
    pub max_s: f64,
    /// Median relative to the retpoline build.
    pub ratio: f64,
    /// Of every measured round, in order.
    pub runs_s: Vec<f64>,
}

impl Figures {
    pub(super) fn new(rounds: &Rounds, report: Report, machine: Machine) -> Self {
        let [plain, retpoline, relpoline, unprotected] = rounds.seconds.each_ref().map(|runs| median(runs));
        let variants = Variant::ALL.iter().zip(&rounds.seconds);
        Self {
            schema: 1,
            variants: variants.map(|(variant, runs)| (variant.name(), Measured::new(runs, retpoline))).collect(),
            recovered: share(retpoline - relpoline, retpoline - plain),
            recovered_of_layout: share(retpoline - relpoline, retpoline - unprotected),
            outputs_equal: rounds.different().is_none(),
            machine,
            report,
        }
    }
}

impl Measured {
    fn new(runs: &[f64], retpoline: f64) -> Self {
        let user_s = median(runs);
        Self {
            user_s,
            min_s: runs.iter().copied().fold(f64::INFINITY, f64::min),
            max_s: runs.iter().copied().fold(0.0, f64::max),
            ratio: if retpoline > 0.0 { user_s / retpoline } else { 1.0 },
            runs_s: runs.to_vec(),
        }
    }
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

//! The first run: with the engine, counting, and with reports on all of its processes. It is not measured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::TryArgs;
use super::rounds::{Kind, once};
use crate::report::Report;

/// What there is to promote.
#[derive(Debug, Default)]
pub struct Look {
    /// Executable of the first process; of a script its interpreter.
    pub program: PathBuf,
    /// Files with thunks, of all processes.
    pub files: Vec<PathBuf>,
    /// Their sites.
    pub sites: u64,
    /// How many of them were promoted in the end, in the process that had the most.
    pub promoted: u64,
    /// Why the engine could not be loaded into it.
    pub refusal: Option<String>,
    /// Processes that had the engine.
    pub processes: usize,
}

impl Look {
    /// Runs the program once.
    pub fn at(arguments: &TryArgs, scratch: &Path) -> anyhow::Result<Self> {
        let directory = scratch.join("look");
        std::fs::create_dir(&directory)?;
        let report = directory.join("report");
        let options = ["--count".as_ref(), "--report".as_ref(), report.as_os_str()];
        once(arguments, Kind::With, &options, None)?;
        let mut reports = Vec::new();
        // The first process's is the shortest name, so it comes first.
        let mut names: Vec<PathBuf> = std::fs::read_dir(&directory)?.flatten().map(|entry| entry.path()).collect();
        names.sort();
        for name in names {
            let text = std::fs::read(&name).context("a report cannot be read")?;
            reports.push(serde_json::from_slice(&text).context("a report cannot be understood")?);
        }
        Ok(Self::of(&reports))
    }

    fn of(reports: &[Report]) -> Self {
        let mut files: BTreeMap<&str, u32> = BTreeMap::new();
        for object in reports.iter().flat_map(|report| &report.objects).filter(|object| object.thunks > 0) {
            let sites = files.entry(&object.path).or_default();
            *sites = object.sites.max(*sites);
        }
        let first = reports.first();
        Self {
            program: first.map(|report| PathBuf::from(&*report.program)).unwrap_or_default(),
            sites: files.values().map(|&sites| u64::from(sites)).sum(),
            files: files.into_keys().map(PathBuf::from).collect(),
            promoted: reports.iter().map(|report| report.sites_promoted).max().unwrap_or_default(),
            refusal: first.and_then(|report| report.engine.why_disabled.as_ref().map(ToString::to_string)),
            processes: reports.iter().filter(|report| report.engine.why_disabled.is_none()).count(),
        }
    }
}

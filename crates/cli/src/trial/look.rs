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
        let mut names: Vec<PathBuf> = std::fs::read_dir(&directory)?.flatten().map(|entry| entry.path()).collect();
        // The first process's is the shortest name, so it comes first.
        names.sort();
        let (mut look, mut files) = (Self::default(), BTreeMap::new());
        for (n, name) in names.iter().enumerate() {
            // One at a time: there may be thousands, each of some hundred KiB.
            let text = std::fs::read(name).context("a report cannot be read")?;
            let report = serde_json::from_slice(&text).context("a report cannot be understood")?;
            look.add(&report, n == 0, &mut files);
        }
        look.sites = files.values().map(|&sites| u64::from(sites)).sum();
        look.files = files.into_keys().collect();
        Ok(look)
    }

    /// Takes in the report on a process; `files` are those with thunks, with their sites.
    fn add(&mut self, report: &Report, is_first: bool, files: &mut BTreeMap<PathBuf, u32>) {
        for object in report.objects.iter().filter(|object| object.thunks > 0) {
            let sites = files.entry(PathBuf::from(&*object.path)).or_default();
            *sites = object.sites.max(*sites);
        }
        let refusal = report.engine.why_disabled.as_ref();
        if is_first {
            self.program = PathBuf::from(&*report.program);
            self.refusal = refusal.map(ToString::to_string);
        }
        self.promoted = report.sites_promoted.max(self.promoted);
        self.processes += usize::from(refusal.is_none());
    }
}

//! What the engine did, for people and for programs.
//!
//! ```text
//! DIR/PID-….stats ──(relpoline-stats)──▶ Stats ──[digest]──▶ Report ──▶ JSON, or [text]
//!                              ELF files on disk ──[`crate::symbols`]──┘
//! ```
//! [`schema`] is the report as a structure; docs/report.md describes it. `place` writes the files.

pub mod command;
mod counted;
pub mod digest;
mod family;
mod flame;
mod html;
mod last;
pub mod now;
mod place;
pub mod schema;
pub mod text;
pub mod why;

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;
use relpoline_stats::live::{Name, run_id};
use relpoline_stats::{Refusal, Stats};

use crate::live::process::Process;
use crate::live::{find, shelf};
use crate::shown::{self, Shown};
use crate::symbols::Symbols;
use family::Gathered;
pub use last::LastFigures;
pub use place::Destination;
pub use schema::Report;

/// Turns the statistics of a run's processes into reports, one after the other: there may be thousands of
/// processes.
pub struct Collector<'a> {
    main: u32,
    /// The pid namespace in which that number means something, if we may know it.
    namespace: Option<u64>,
    main_report: Option<Report>,
    /// When that one's image was started.
    begun: u64,
    /// Processes whose reports were written: in other namespaces there may be others of these numbers.
    written: BTreeSet<u32>,
    to: Option<&'a Destination>,
    outcome: anyhow::Result<()>,
    symbols: Symbols,
    gathered: Gathered,
    /// Last figures of processes that came to no orderly end.
    last: LastFigures,
}

impl<'a> Collector<'a> {
    /// Of a run whose first process is `main`. Without a destination only that one's report is shown, as
    /// text.
    #[must_use]
    pub fn new(main: u32, to: Option<&'a Destination>, last: LastFigures) -> Self {
        let namespace = Process::of(std::process::id()).and_then(|me| me.pid_namespace());
        Self {
            main,
            namespace,
            main_report: None,
            begun: 0,
            written: BTreeSet::new(),
            to,
            outcome: Ok(()),
            symbols: Symbols::default(),
            gathered: Gathered::default(),
            last,
        }
    }

    /// Takes in the statistics of a process.
    pub fn add(&mut self, name: &Name, stats: &Stats<'_>) {
        let is_here = name.namespace == 0 || self.namespace.is_none_or(|here| here == name.namespace);
        if name.pid == self.main && is_here {
            // An older one is from before an exec, after which the process could not tell any more who it is.
            let begun = stats.header().start_tsc;
            if begun < self.begun {
                return;
            }
            self.begun = begun;
            self.main_report = Some(self.last.report(name, stats, &mut self.symbols));
        } else if let Some(to) = self.to {
            let is_first = self.written.insert(name.pid);
            let report = self.last.report(name, stats, &mut self.symbols);
            self.gathered.add(&report);
            let written = to.write(&report, Some((name, is_first)));
            self.outcome = std::mem::replace(&mut self.outcome, Ok(())).and(written);
        }
    }

    /// Writes the report of the first process, which ran `program`.
    ///
    /// # Errors
    /// When a report could not be written. The others were written nevertheless.
    pub fn finish(mut self, program: &Path) -> anyhow::Result<()> {
        let is_silent = self.main_report.is_none();
        let mut main_report = self.main_report.unwrap_or_else(|| Report::of_silent(program, self.main));
        if is_silent && crate::inspect::has_thunks(program, &[]) == Some(false) {
            self.gathered.add_idle(&main_report);
        } else {
            self.gathered.add(&main_report);
        }
        main_report.family = self.gathered.finish();
        match self.to {
            Some(to) => self.outcome.and(to.write(&main_report, None)),
            None => {
                // A closed stderr is no failure of the report.
                let _ = shown::write(&mut std::io::stderr(), &text::render(&main_report));
                self.outcome
            }
        }
    }
}

/// The statistics of all processes of the run whose directory this is, each read when it is asked for. A file
/// that cannot be understood is the caller's to skip: its process may have scribbled over it.
///
/// # Errors
/// When the directory cannot be read.
pub fn statistics(directory: &Path) -> anyhow::Result<impl Iterator<Item = (Name, Vec<u8>)> + use<>> {
    let shelf = shelf::of_run(directory).context("the statistics cannot be read")?;
    let in_directory: BTreeSet<Name> = shelf.names().collect();
    let read = move |name: Name| Some((name, find::read(&shelf.open(&name).ok()?)?));
    let run = run_id(directory.as_os_str().as_bytes().iter().copied());
    Ok(in_directory.into_iter().filter_map(read).chain(find::strays(run)))
}

impl Report {
    /// Of a program that was started without the engine.
    #[must_use]
    pub fn of_refused(program: &Path, refusal: Refusal) -> Self {
        Self::of_idle(program, std::process::id(), refusal.text())
    }

    /// Of a program in which the engine left no statistics.
    fn of_silent(program: &Path, pid: u32) -> Self {
        Self::of_idle(program, pid, "the engine left no statistics")
    }

    fn of_idle(program: &Path, pid: u32, why: &str) -> Self {
        let mut report = Self { pid, program: Shown::of_bytes(program.as_os_str().as_bytes()), ..Self::default() };
        report.engine.version = env!("CARGO_PKG_VERSION").into();
        report.engine.why_disabled = Some(why.into());
        report
    }
}

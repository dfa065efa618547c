//! What the engine did, for people and for programs.
//!
//! ```text
//! DIR/PID.stats ──(relpoline-stats)──▶ Stats ──[digest]──▶ Report ──▶ JSON, or [text]
//!                            ELF files on disk ──[`crate::symbols`]──┘
//! ```
//! [`schema`] is the report as a structure; docs/report.md describes it. `place` writes the files.

pub mod command;
pub mod digest;
mod flame;
mod html;
pub mod now;
mod place;
pub mod schema;
pub mod text;
pub mod why;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use relpoline_stats::live::{SUFFIX, run_id};
use relpoline_stats::{Refusal, Stats};

use crate::live::find;
use crate::symbols::Symbols;
pub use place::Destination;
pub use schema::Report;

/// Turns the statistics of a run's processes into reports, one after the other: there may be thousands of processes.
pub struct Collector<'a> {
    main: u32,
    main_report: Option<Report>,
    to: Option<&'a Destination>,
    outcome: anyhow::Result<()>,
    symbols: Symbols,
}

impl<'a> Collector<'a> {
    /// Of a run whose first process is `main`. Without a destination only that one's report is shown, as text.
    #[must_use]
    pub fn new(main: u32, to: Option<&'a Destination>) -> Self {
        Self { main, main_report: None, to, outcome: Ok(()), symbols: Symbols::default() }
    }

    /// Takes in the statistics of a process.
    pub fn add(&mut self, pid: u32, stats: &Stats<'_>) {
        if pid == self.main {
            self.main_report = Some(digest::report(stats, &mut self.symbols));
        } else if let Some(to) = self.to {
            let written = to.write(&digest::report(stats, &mut self.symbols), Some(pid));
            self.outcome = std::mem::replace(&mut self.outcome, Ok(())).and(written);
        }
    }

    /// Writes the report of the first process, which ran `program`.
    ///
    /// # Errors
    /// When a report could not be written. The others were written nevertheless.
    pub fn finish(self, program: &Path) -> anyhow::Result<()> {
        let main_report = self.main_report.unwrap_or_else(|| Report::of_silent(program, self.main));
        match self.to {
            Some(to) => self.outcome.and(to.write(&main_report, None)),
            None => {
                // A closed stderr is no failure of the report.
                let _ = std::io::stderr().write_all(text::render(&main_report).as_bytes());
                self.outcome
            }
        }
    }
}

/// The statistics of all processes of the run whose directory this is, each read when it is asked for. A file that cannot
/// be understood is the caller's to skip: its process may have scribbled over it.
///
/// # Errors
/// When the directory cannot be read.
pub fn statistics(directory: &Path) -> anyhow::Result<impl Iterator<Item = (u32, Vec<u8>)> + use<>> {
    let entries = fs::read_dir(directory).context("the statistics cannot be read")?;
    let named = entries.flatten().filter_map(|entry| {
        let path = entry.path();
        let pid: u32 = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?.parse().ok()?;
        Some((pid, path))
    });
    let in_directory: BTreeMap<u32, PathBuf> = named.collect();
    let read = |(pid, path): (u32, PathBuf)| Some((pid, find::read(&find::open_careful(&path)?)?));
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
        let mut report = Self { pid, program: program.display().to_string(), ..Self::default() };
        report.engine.version = env!("CARGO_PKG_VERSION").into();
        report.engine.why_disabled = Some(why.into());
        report
    }
}

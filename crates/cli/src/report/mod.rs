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

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;
use relpoline_stats::live::{SUFFIX, run_id};
use relpoline_stats::{Refusal, Stats};

use crate::live::find;
use crate::symbols::Symbols;
pub use place::Destination;
pub use schema::Report;

/// Turns the statistics of a run's processes into reports: that of process `main`, which ran `program`, and one for
/// each other process. Without a destination, the main one goes to stderr as text.
///
/// # Errors
/// When a report cannot be written. The others are written nevertheless.
pub fn collect(all: &[(u32, Vec<u8>)], main: u32, program: &Path, to: Option<&Destination>) -> anyhow::Result<()> {
    let mut symbols = Symbols::default();
    let mut outcome = Ok(());
    let mut main_report = None;
    for (pid, report) in read_all(all, &mut symbols) {
        if pid == main {
            main_report = Some(report);
        } else if let Some(to) = to {
            outcome = outcome.and(to.write(&report, Some(pid)));
        }
    }
    let main_report = main_report.unwrap_or_else(|| Report::of_silent(program, main));
    match to {
        Some(to) => outcome.and(to.write(&main_report, None)),
        None => {
            // A closed stderr is no failure of the report.
            let _ = std::io::stderr().write_all(text::render(&main_report).as_bytes());
            outcome
        }
    }
}

/// The reports of all processes that left statistics, by pid. A file that cannot be understood is skipped:
/// its process may be just starting, or have scribbled over it.
fn read_all(all: &[(u32, Vec<u8>)], symbols: &mut Symbols) -> Vec<(u32, Report)> {
    let report = |(pid, bytes): &(u32, Vec<u8>)| Some((*pid, digest::report(&Stats::parse(bytes).ok()?, symbols)));
    let mut reports: Vec<(u32, Report)> = all.iter().filter_map(report).collect();
    reports.sort_by_key(|(pid, _)| *pid);
    reports
}

/// The statistics of all processes of the run whose directory this is.
///
/// # Errors
/// When the directory cannot be read.
pub fn statistics(directory: &Path) -> anyhow::Result<Vec<(u32, Vec<u8>)>> {
    let entries = fs::read_dir(directory).context("the statistics cannot be read")?;
    let in_directory = entries.flatten().filter_map(|entry| {
        let path = entry.path();
        let pid = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?.parse().ok()?;
        Some((pid, find::read(&find::open_careful(&path)?)?))
    });
    let run = run_id(directory.as_os_str().as_bytes().iter().copied());
    Ok(in_directory.chain(find::strays(run)).collect())
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

//! `relpoline list`: the processes with an engine, one line each.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use relpoline_stats::Stats;
use serde::Serialize;

use crate::live::patience::Patience;
use crate::live::process::user_name;
use crate::live::{self, Engine, clock};
use crate::report::digest::{engine_of, string};
use crate::shown::{self, Shown, cut};

/// Version of the JSON's schema; within it fields are only added.
pub const SCHEMA: u32 = 1;

/// Examples shown with `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline list
  relpoline list --json | jq '.engines[] | select(.enabled | not)'

Columns: sites found, promoted, learning, and left to their retpolines; learning as a share of the \
time; since when the engine is there. Users see their own processes, root sees everybody's.";

/// `relpoline list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print the list as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What the list says of a process.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Line {
    /// The process, as we see it.
    pub pid: u32,
    /// The user it is.
    pub user: Shown,
    /// Path of its executable, as it sees it.
    pub program: Shown,
    /// Its command line.
    pub command: Shown,
    /// The engine's version.
    pub version: Shown,
    /// Whether promotion is on.
    pub enabled: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_disabled: Option<Shown>,
    /// Sites found.
    pub sites: u64,
    /// Sites promoted now.
    pub promoted: u32,
    /// Sites learning now.
    pub learning: u32,
    /// Sites judged and left to their retpoline now.
    pub retpolined: u32,
    /// Patches so far.
    pub patches: u64,
    /// Learning as a share of the time so far, of one processor.
    pub learn_share: f64,
    /// Seconds since the engine was started.
    pub seconds: f64,
}

impl Line {
    /// Of an engine.
    pub fn of(engine: &Engine) -> Self {
        let _patience = Patience::of(Duration::from_secs(60));
        let stats: Stats<'_> = engine.stats();
        let header = stats.header();
        let said = engine_of(header, clock::now());
        Self {
            pid: engine.process.pid,
            user: user_name(engine.process.user).into(),
            program: string(&header.program),
            command: engine.process.command(),
            version: said.version,
            enabled: said.enabled,
            why_disabled: said.why_disabled,
            sites: stats.objects().map(|object| u64::from(object.sites)).sum(),
            promoted: header.sites_promoted,
            learning: header.sites_learning,
            retpolined: header.sites_retpolined,
            patches: header.patches,
            learn_share: said.learn_share,
            seconds: clock::seconds(header.start_tsc, clock::now()),
        }
    }

    /// Its command line, or its program when that is not known.
    pub fn title(&self) -> &str {
        if self.command.is_empty() { &self.program } else { &self.command }
    }
}

/// The list as JSON.
#[derive(Serialize)]
struct Listing {
    schema: u32,
    engines: Vec<Line>,
}

/// Does what the command line asks.
///
/// # Errors
/// When the list cannot be written.
pub fn run(arguments: &ListArgs) -> anyhow::Result<ExitCode> {
    let found = live::all();
    for (process, why) in &found.unread {
        crate::complain(format_args!("process {} ({}) cannot be listed: {why}", process.pid, process.name));
    }
    let lines: Vec<Line> = found.engines.iter().map(Line::of).collect();
    let mut out = io::stdout().lock();
    if arguments.json {
        shown::write_json(&mut out, &Listing { schema: SCHEMA, engines: lines })?;
    } else {
        shown::write(&mut out, &table(&lines))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The list for people, in 80 columns.
fn table(lines: &[Line]) -> String {
    if lines.is_empty() {
        return "No process that you may look at has an engine. Start one with `relpoline run -- PROG`.\n".into();
    }
    let mut table = format!(
        "{:>7} {:<8} {:>6} {:>5} {:>5} {:>5} {:>6} {:>8}  {}\n",
        "PID", "USER", "SITES", "PROM", "LEARN", "LEFT", "COST%", "SINCE", "COMMAND"
    );
    for line in lines {
        let command = line.why_disabled.as_ref().map_or_else(|| line.title().to_owned(), |why| format!("[off: {why}]"));
        table += &format!(
            "{:>7} {:<8} {:>6} {:>5} {:>5} {:>5} {:>6.2} {:>8}  {}\n",
            line.pid,
            cut(&line.user, 8),
            line.sites,
            line.promoted,
            line.learning,
            line.retpolined,
            line.learn_share * 100.0,
            clock::words(line.seconds),
            cut(&command, 21)
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_a_terminal() {
        let line = Line {
            pid: 4_194_304,
            user: "a-long-user-name".into(),
            program: "/usr/sbin/nginx".into(),
            command: "nginx: worker process of a long name".into(),
            version: "0.1.0".into(),
            enabled: true,
            why_disabled: None,
            sites: 123_456,
            promoted: 12_345,
            learning: 256,
            retpolined: 10_000,
            patches: 1,
            learn_share: 0.1234,
            seconds: 1e9,
        };
        let off = Line { enabled: false, why_disabled: Some("it has no retpolines".into()), ..line.clone() };
        let text = table(&[line, off]);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("[off: it ha"), "{text}");
        assert!(table(&[]).contains("relpoline run"));
    }
}

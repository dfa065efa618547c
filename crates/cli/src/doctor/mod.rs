//! `relpoline doctor`: what this machine, kernel and user allow, each with OK or what to do.
//!
//! Wherever possible a thing is *tried*, on memory of this process' own, instead of concluded from a version
//! or a setting: sandboxes, security modules and hardened kernels refuse what versions promise. At the end a
//! real program is started with the engine.
//!
//! | module | what it does |
//! |---|---|
//! | `checks` | the list, in the order in which it is printed |
//! | `probes` | what is tried |

pub mod checks;
mod probes;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

/// Examples shown with `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline doctor
  relpoline doctor --json

Exit status: 0 when programs can be run with promotion, even if something optional is missing; else 1.";

/// Version of the JSON's schema; within it fields are only added.
const SCHEMA: u32 = 1;

/// `relpoline doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print the findings as JSON.
    #[arg(long)]
    pub json: bool,
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know.
    Info,
    /// Something works less well, or not.
    Limited,
    /// Nothing is promoted.
    Broken,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What can be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn new(what: &'static str, level: Level, found: impl Into<String>) -> Self {
        Self { what, level, found: found.into(), remedy: None }
    }

    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self::new(what, Level::Ok, found)
    }

    fn with(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// The findings as JSON.
#[derive(Serialize)]
struct Findings<'a> {
    schema: u32,
    findings: &'a [Finding],
}

/// Does what the command line asks.
///
/// # Errors
/// When the findings cannot be written.
pub fn run(arguments: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let findings = checks::all();
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&Findings { schema: SCHEMA, findings: &findings })?)?;
    } else {
        out.write_all(render(&findings).as_bytes())?;
    }
    let broken = findings.iter().any(|finding| finding.level == Level::Broken);
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn render(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        let mark = match finding.level {
            Level::Ok => "OK",
            Level::Info => "-",
            Level::Limited => "LIMIT",
            Level::Broken => "BROKEN",
        };
        // Writing to a string does not fail.
        let _ = writeln!(out, "{mark:<7} {:<16} {}", finding.what, finding.found);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(out, "{:24} → {remedy}", "");
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let verdict = match (count(Level::Broken), count(Level::Limited)) {
        (0, 0) => "Everything works here.".to_owned(),
        (0, limits) => format!("Promotion works here, with {limits} limit{}.", if limits == 1 { "" } else { "s" }),
        _ => "Programs run without promotion here.".to_owned(),
    };
    let _ = writeln!(out, "\n{verdict}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_that_of_the_worst() {
        let ok = Finding::ok("kernel", "6.1");
        let limited = Finding::new("perf", Level::Limited, "no").with("do this");
        let broken = Finding::new("memory", Level::Broken, "refused");
        assert!(render(std::slice::from_ref(&ok)).ends_with("Everything works here.\n"));
        let text = render(&[ok.clone(), limited.clone()]);
        assert!(text.contains("→ do this") && text.ends_with("with 1 limit.\n"), "{text}");
        assert!(render(&[ok, limited, broken]).contains("run without promotion"));
    }
}

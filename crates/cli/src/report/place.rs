//! Where reports go.
//!
//! They hold addresses of a living process, which help an attacker, so the files are the owner's alone (mode
//! 0600); how they are written is [`Written`]'s.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context;
use relpoline_stats::live::Name;

use super::Report;
use super::{flame, html, text};
use crate::arguments::ReportFormat;
use crate::files::Written;
use crate::files::written::PRIVATE;
use crate::shown;

/// What stands for stdout where a file is asked for.
const STDOUT: &str = "-";

/// The place of the main report, and how reports are written.
#[derive(Debug)]
pub struct Destination {
    /// None is stdout.
    place: Option<Written>,
    format: ReportFormat,
}

impl Destination {
    /// Checks, before the program is started, that the reports can be written.
    ///
    /// # Errors
    /// When they cannot.
    pub fn new(file: &Path, format: ReportFormat) -> anyhow::Result<Self> {
        let is_stdout = file.as_os_str() == STDOUT;
        let place = if is_stdout { None } else { Some(Written::new(file).with_context(|| refusal(file))?) };
        Ok(Self { place, format })
    }

    /// Writes a report: the main one, or that of another process, which is told by its number, and, when it
    /// is not the first of that number, by its namespace and start too. On stdout there is the main one only,
    /// which tells of the others.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, report: &Report, of: Option<(&Name, bool)>) -> anyhow::Result<()> {
        let Some(place) = &self.place else {
            if of.is_none() {
                let content = self.format.render(report)?;
                io::stdout().write_all(content.as_bytes()).context("the report cannot be written to stdout")?;
            }
            return Ok(());
        };
        let content = self.format.render(report)?;
        let written = match of {
            Some((Name { pid, namespace, started }, is_first)) => {
                let rest = if is_first { String::new() } else { format!("-{namespace}-{started}") };
                place.write_beside(&format!(".{pid}{rest}"), content.as_bytes(), PRIVATE)
            }
            None => place.write(content.as_bytes(), PRIVATE),
        };
        written.with_context(|| refusal(place.path()))
    }
}

impl ReportFormat {
    /// The report as it is written.
    ///
    /// # Errors
    /// None that a report of ours could cause.
    pub fn render(self, report: &Report) -> anyhow::Result<String> {
        Ok(match self {
            Self::Json => serde_json::to_string_pretty(report)? + "\n",
            Self::Text => shown::page(&text::render(report)).into_owned(),
            Self::Html => html::render(report)?,
            Self::Flamegraph => flame::render(report),
        })
    }
}

fn refusal(file: &Path) -> String {
    format!("the report cannot be written to {}", file.display())
}

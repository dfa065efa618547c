//! Where reports go.
//!
//! They hold addresses of a living process, which help an attacker, so the files are the owner's alone (mode
//! 0600). A file appears under its name only when it is whole. What exists and is not a plain file (a pipe,
//! /dev/stderr) is written to as it is.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use relpoline_stats::live::Name;
use rustix::fs::Access;

use super::Report;
use super::{flame, html, text};
use crate::arguments::ReportFormat;

/// The file of the main report, and how reports are written.
#[derive(Debug)]
pub struct Destination {
    file: PathBuf,
    format: ReportFormat,
}

impl Destination {
    /// Checks, before the program is started, that the reports can be written.
    ///
    /// # Errors
    /// When they cannot.
    pub fn new(file: &Path, format: ReportFormat) -> anyhow::Result<Self> {
        let file = std::path::absolute(file).with_context(|| refusal(file))?;
        let (checked, access) = if is_special(&file) {
            (file.as_path(), Access::WRITE_OK)
        } else {
            anyhow::ensure!(!file.is_dir(), "{}: it is a directory", refusal(&file));
            (file.parent().unwrap_or(&file), Access::WRITE_OK | Access::EXEC_OK)
        };
        rustix::fs::access(checked, access).with_context(|| refusal(&file))?;
        Ok(Self { file, format })
    }

    /// Writes a report: the main one, or that of another process, which is told by its number, and, when it is not the
    /// first of that number, by its namespace and start too.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, report: &Report, of: Option<(&Name, bool)>) -> anyhow::Result<()> {
        let mut file = self.file.clone();
        if let Some((Name { pid, namespace, started }, is_first)) = of {
            let rest = if is_first { String::new() } else { format!("-{namespace}-{started}") };
            file.as_mut_os_string().push(format!(".{pid}{rest}"));
        }
        write(&file, self.format.render(report)?.as_bytes()).with_context(|| refusal(&file))
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
            Self::Text => text::render(report),
            Self::Html => html::render(report)?,
            Self::Flamegraph => flame::render(report),
        })
    }
}

fn refusal(file: &Path) -> String {
    format!("the report cannot be written to {}", file.display())
}

/// Whether there is something other than a plain file or a directory.
fn is_special(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| !meta.is_file() && !meta.is_dir())
}

fn write(file: &Path, content: &[u8]) -> anyhow::Result<()> {
    if is_special(file) {
        OpenOptions::new().write(true).open(file)?.write_all(content)?;
        return Ok(());
    }
    // Temporary files are made with mode 0600, which renaming keeps.
    let mut fresh = tempfile::NamedTempFile::new_in(file.parent().context("it has no directory")?)?;
    fresh.write_all(content)?;
    fresh.persist(file)?;
    Ok(())
}

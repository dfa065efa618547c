//! `relpoline report`: the report on a living process, a report written earlier, or the statistics of a
//! process that was killed, in any format.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Args;
use relpoline_stats::Stats;
use relpoline_stats::record::MAGIC;

use super::{Destination, Report, digest, now};
use crate::arguments::ReportFormat;
use crate::files::open;
use crate::live;
use crate::live::find;
use crate::symbols::Symbols;

/// A report may be as large as this; more is something else.
const MOST_BYTES: u64 = 1 << 27;
/// And may have so many lists and objects: in memory each takes many times what its shortest form has in the
/// file. A report on as many sites as an engine knows has a third of that.
const MOST_PARTS: usize = 1 << 21;

/// Examples shown with `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline report 4711                          what is promoted, and why not
  relpoline report 4711 --format html -o r.html  for a browser
  relpoline report r.json --format flamegraph > r.svg

Reading the statistics of a process never stops it. Where sites are left as they were found, it is watched for half a \
second, which does not stop it either. Exit status: 0, or 1 when there is nothing to report on.";

/// `relpoline report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// A process, or a file: a report in JSON, or the statistics of a process that was killed.
    #[arg(value_name = "PID|FILE")]
    pub subject: PathBuf,
    /// How the report is written.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,
    /// Write it to FILE, which only you can read, instead of stdout (`-`).
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Does what the command line asks.
///
/// # Errors
/// When there is nothing to report on, or the report cannot be written.
pub fn run(arguments: &ReportArgs) -> anyhow::Result<ExitCode> {
    let report = of(&arguments.subject)?;
    match &arguments.output {
        Some(file) => Destination::new(file, arguments.format)?.write(&report, None)?,
        None => io::stdout().write_all(arguments.format.render(&report)?.as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The report on a process, by its number, or the one in a file.
///
/// # Errors
/// A sentence that says why there is none.
pub fn of(subject: &Path) -> anyhow::Result<Report> {
    match subject.to_str().and_then(|text| text.parse().ok()) {
        Some(pid) => {
            let engine = live::one(pid)?;
            Ok(now::report_watched(&engine, &mut engine.symbols()))
        }
        None => in_file(subject),
    }
}

fn in_file(path: &Path) -> anyhow::Result<Report> {
    let name = path.display();
    let mut file = open::named(path).with_context(|| format!("{name} cannot be read"))?;
    let mut head = [0; 8];
    let length = start(&mut file, &mut head).with_context(|| format!("{name} cannot be read"))?;
    if length == head.len() && u64::from_le_bytes(head) == MAGIC {
        let bytes = find::read(&file).with_context(|| format!("{name} is cut off"))?;
        let stats = Stats::parse(&bytes).with_context(|| format!("{name} cannot be understood"))?;
        return Ok(digest::report(&stats, &mut Symbols::default()));
    }
    let mut text = head[..length].to_vec();
    text.extend(open::all_of(file, MOST_BYTES).with_context(|| format!("{name} cannot be read"))?);
    let parts = memchr::memchr2_iter(b'[', b'{', &text).take(MOST_PARTS + 1).count();
    ensure!(parts <= MOST_PARTS, "{name} has more in it than any report");
    let report: Report = serde_json::from_slice(&text)
        .with_context(|| format!("{name} is neither a report in JSON nor a statistics file"))?;
    if report.schema != super::schema::SCHEMA {
        bail!("{name} has schema {}, this tool reads {}", report.schema, super::schema::SCHEMA);
    }
    Ok(report)
}

/// What a file or a pipe begins with.
fn start(file: &mut impl Read, head: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = head.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read(rest)? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

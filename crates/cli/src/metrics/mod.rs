//! `relpoline metrics`: the figures of all engines in Prometheus' text format.
//!
//! Once to stdout, or into a file again and again, for the textfile collector of Prometheus' node exporter.
//! Each look reads the statistics files anew; the processes notice nothing. There is no server here: root's
//! would tell everybody who can reach it whose programs run, and wait for whoever talks to it; a file has an
//! owner and a mode.

pub mod text;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use crate::files::Written;
use crate::files::written::PUBLIC;
use crate::live;
use crate::shown;

/// Examples shown with `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline metrics                          once, to stdout
  relpoline metrics --textfile /srv/node-exporter/relpoline.prom --every 15

Metrics hold process numbers, users and paths of programs, no addresses. They are those of all engines \
that you may look at: root sees everybody's. The file can be read by everybody who can enter its directory: \
an exporter runs as another user. Direct calls are counted in processes started with --count only; time \
saved and lost is an estimate (docs/observe.md).";

/// `relpoline metrics`.
#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// Write them to FILE, which is replaced as a whole.
    #[arg(long, value_name = "FILE")]
    pub textfile: Option<PathBuf>,
    /// Write the file again every so many seconds, until stopped.
    #[arg(long, value_name = "SECONDS", requires = "textfile", value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub every: Option<u64>,
}

/// Does what the command line asks.
///
/// # Errors
/// When the file cannot be written.
pub fn run(arguments: &MetricsArgs) -> anyhow::Result<ExitCode> {
    let Some(file) = &arguments.textfile else {
        shown::write(&mut io::stdout(), &now())?;
        return Ok(ExitCode::SUCCESS);
    };
    let cannot = || format!("the metrics cannot be written to {}", file.display());
    loop {
        // Looked at anew each time: the directory may have been made anew since.
        Written::new(file).and_then(|place| place.write(now().as_bytes(), PUBLIC)).with_context(cannot)?;
        let Some(seconds) = arguments.every else { return Ok(ExitCode::SUCCESS) };
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// The metrics as they are.
fn now() -> String {
    let engines = live::all().engines.into_iter();
    // In lists only their heads have been read. One that has ended meanwhile is left out.
    let looks: Vec<_> = engines.filter_map(|mut engine| engine.refresh().then(|| text::look(&engine))).collect();
    text::render(&looks)
}

//! `relpoline try`: does it help *this* program?
//!
//! ```text
//! look       one run with the engine and a report: what is there to promote, and in which files?
//! twin       those files with `jmp *%reg` in their thunks: what retpolines cost
//! rounds     the program without the engine, with it, and the twin, in turn
//! outputs    whether the engine changes what the program writes, or how it ends
//! figures    intervals and a verdict: what --json prints
//! text       for people
//! attached   the same for a server that runs: promotion on and off in turn
//! ```
//! A run with the engine is `relpoline run`, so what that costs to start is in the figures.

mod attached;
mod figures;
mod look;
mod outputs;
mod rounds;
mod text;
mod twin;

use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use crate::preload;
use crate::run::environment::Environment;
use crate::run::resolve::{Resolved, resolve};
use crate::workbench::{interrupt, scratch};
use figures::Figures;
use look::Look;
use twin::Twin;

/// Examples and exit status shown with `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline try -- python3 report.py
  relpoline try -n 20 --prepare 'rm -f out.db' -- ./import data.csv
  relpoline try --json -- ./tool > try.json
  relpoline try --attach 4711 --seconds 60 --counter 'cat /run/server/requests'

Each run has a shell's environment and directory as they are, and reads /dev/null unless --input is given. \
What it writes is compared, not shown. For figures that hold, let nothing else run.

Exit status:
  0  it saves processor time
  3  no difference that these rounds could show
  4  it costs processor time
  5  nothing to promote: no retpolines, or relpoline cannot be loaded into it
  6  the program wrote something else, or ended otherwise, with relpoline only
  1  it could not be tried";

/// `relpoline try`.
#[derive(Debug, Args)]
pub struct TryArgs {
    /// Rounds; by default six to 25, until 20 seconds have passed.
    #[arg(short = 'n', long, value_name = "ROUNDS", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Run CMD by a shell before each run; its time does not count.
    #[arg(long, value_name = "CMD", conflicts_with = "attach")]
    pub prepare: Option<OsString>,
    /// What each run reads from stdin.
    #[arg(long, value_name = "FILE", conflicts_with = "attach")]
    pub input: Option<PathBuf>,
    /// Do not measure what retpolines cost, for which copies of the program run without their protection.
    #[arg(long, conflicts_with = "attach")]
    pub no_twin: bool,
    /// Print the figures as JSON.
    #[arg(long)]
    pub json: bool,
    /// A process that has an engine: promotion is switched off and on in turn (repeatable, for workers).
    #[arg(long, value_name = "PID", value_delimiter = ',', value_parser = clap::value_parser!(i32).range(1..))]
    pub attach: Vec<i32>,
    /// With --attach: for this long altogether, 60 by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: Option<u32>,
    /// With --attach: a command that prints how much was done so far (a number).
    #[arg(long, value_name = "CMD")]
    pub counter: Option<OsString>,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, value_name = "PROG", required_unless_present = "attach", conflicts_with = "attach")]
    pub command: Vec<OsString>,
}

/// Does what the command line asks.
///
/// # Errors
/// When it could not be tried.
pub fn run(arguments: &TryArgs) -> anyhow::Result<ExitCode> {
    if std::env::var_os("LD_PRELOAD").is_some_and(|list| preloads_engine(&list)) {
        bail!("relpoline try was itself started by relpoline run; start it outside of that");
    }
    // The parser waives what an option requires where that conflicts with something else.
    if arguments.attach.is_empty() && (arguments.counter.is_some() || arguments.seconds.is_some()) {
        crate::complain(format_args!("--seconds and --counter go with --attach"));
        return Ok(ExitCode::from(2));
    }
    interrupt::watch();
    let outcome = if arguments.attach.is_empty() { program(arguments) } else { attached::run(arguments) };
    match interrupt::signal() {
        Some(signal) => Ok(ExitCode::from(128 + signal)),
        None => outcome,
    }
}

fn preloads_engine(list: &OsStr) -> bool {
    list.as_bytes().split(|byte| matches!(byte, b':' | b' ')).any(preload::is_engine)
}

fn program(arguments: &TryArgs) -> anyhow::Result<ExitCode> {
    let name = arguments.command.first().context("no program was named")?;
    let started = match resolve(name, &Environment::of_this_process()) {
        Resolved::Found(path) => path,
        Resolved::NotExecutable => bail!("{} is not an executable file", name.display()),
        Resolved::NotFound => bail!("{} was not found", name.display()),
    };
    let owner_only = Permissions::from_mode(0o700);
    let scratch =
        tempfile::Builder::new().prefix("relpoline-try-").permissions(owner_only).tempdir_in(scratch::base())?;
    let look = Look::at(arguments, scratch.path())?;
    let figures = if look.sites == 0 {
        Figures::of_nothing(arguments, &look)
    } else {
        let make = || Twin::make(&look, &started, scratch.path());
        let twin = if arguments.no_twin { Err("not wanted".to_owned()) } else { make() };
        let measured = rounds::measure(arguments, twin.as_ref().ok())?;
        Figures::new(arguments, &look, &measured, twin.as_ref())
    };
    let text = if arguments.json { serde_json::to_string_pretty(&figures)? + "\n" } else { text::render(&figures) };
    crate::shown::write(&mut std::io::stdout(), &text).context("the figures cannot be written")?;
    Ok(ExitCode::from(figures.outcome.exit_status()))
}

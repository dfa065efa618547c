//! `relpoline run`: start a program with the engine in it.
//!
//! ```text
//! resolve    PROG over PATH, as execvp does                     not found: 127, not executable: 126
//! fitness    can this program take the preload at all?          no: say so, and exec it unharmed
//! options    what the engine is told, as RELPOLINE_OPTS
//! exec       no report wanted: this process becomes the program
//! supervise  report wanted: the program is a child, we stay behind and end as it ends
//! ```
//! Without a report nothing is left of us: pid, parent, terminal, signals, descriptors are exactly those of
//! the program started directly. With one, the program has us as its parent; everything else is the same.

pub(crate) mod environment;
mod exec;
mod fitness;
pub mod kernel;
pub mod options;
pub(crate) mod resolve;
pub(crate) mod signals;
pub(crate) mod supervise;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use relpoline_stats::{Refusal, Stats};

use crate::arguments::RunArgs;
use crate::preload::{self, Engine};
use crate::profile::Kept;
use crate::report::{Collector, Destination, LastFigures, Report};
use environment::Environment;
use exec::Program;
use resolve::Resolved;
use supervise::Ending;

/// Does what the command line asks.
///
/// # Errors
/// What keeps *us* from doing it; what keeps the program from running is an exit code.
pub fn run(arguments: &RunArgs) -> anyhow::Result<ExitCode> {
    let name = arguments.command.first().context("no program was named")?;
    let environment = Environment::of_this_process();
    let path = match resolve::resolve(name, &environment) {
        Resolved::Found(path) => path,
        Resolved::NotExecutable => {
            return Ok(failure(name.as_ref(), "is not an executable file", crate::CANNOT_EXECUTE));
        }
        Resolved::NotFound => return Ok(failure(name.as_ref(), "was not found", crate::NOT_FOUND)),
    };
    let report = arguments.report.as_deref().map(|file| Destination::new(file, arguments.report_format));
    let report = report.transpose()?;
    match fitness::refusal(&path, &environment) {
        Some(refusal) => without_engine(arguments, &path, environment, refusal, report.as_ref()),
        None => with_engine(arguments, &path, environment, report.as_ref()),
    }
}

/// Becomes the program, with no trace of us in it.
fn without_engine(
    arguments: &RunArgs,
    path: &Path,
    mut environment: Environment,
    refusal: Refusal,
    report: Option<&Destination>,
) -> anyhow::Result<ExitCode> {
    // Whoever set RELPOLINE=off knows.
    if refusal != Refusal::Off {
        say(arguments, format_args!("{} runs without promotion: {refusal}", path.display()));
    }
    if let Some(report) = report {
        report.write(&Report::of_refused(path, refusal), None)?;
    }
    environment.remove_engine();
    Ok(become_program(arguments, path, &environment))
}

/// Becomes or starts the program with the engine in it.
fn with_engine(
    arguments: &RunArgs,
    path: &Path,
    mut environment: Environment,
    report: Option<&Destination>,
) -> anyhow::Result<ExitCode> {
    let engine = preload::locate()?;
    mention_stale(arguments, &engine);
    if !arguments.quiet {
        mention_nothing(path, &environment);
    }
    environment.add_engine(&engine.path);
    crate::live::place::make_clean_list();
    crate::live::place::sweep();
    if report.is_none() && !arguments.dry_run && arguments.profile.is_none() {
        environment
            .set(relpoline_stats::options::VARIABLE, options::encode(&arguments.engine, arguments.dry_run, None));
        return Ok(become_program(arguments, path, &environment));
    }
    let profile = arguments.profile.as_deref().map(Kept::open).transpose()?;
    // From here on nothing ends us before that is removed again.
    let before = signals::block();
    let scratch = crate::live::place::run_directory()?;
    let mut told = options::encode(&arguments.engine, arguments.dry_run, Some(scratch.path()));
    if let Some(profile) = &profile {
        told = options::add_profile(told, profile.path());
    }
    environment.set(relpoline_stats::options::VARIABLE, told);
    let mut last = LastFigures::default();
    if report.is_some() || arguments.dry_run {
        last = LastFigures::of(scratch.path(), arguments.engine.count);
    }
    let (pid, ending) =
        supervise::supervise(&Program::new(path, &arguments.command, &environment)?, &before, &mut last)?;
    last.end();
    let ending = match ending {
        Ending::NotStarted(error) => return Ok(cannot_execute(arguments, &error)),
        ending => ending,
    };
    // The program has ended and its exit code counts more than our report.
    if let Err(error) = finish(arguments, scratch.path(), pid, path, report, profile, last) {
        crate::complain(format_args!("{error:#}"));
    }
    drop(scratch);
    Ok(ending.imitate())
}

/// Writes what is to be kept of the run.
fn finish(
    arguments: &RunArgs,
    directory: &Path,
    pid: u32,
    path: &Path,
    report: Option<&Destination>,
    mut profile: Option<Kept>,
    last: LastFigures,
) -> anyhow::Result<()> {
    let mut reports = (report.is_some() || arguments.dry_run).then(|| Collector::new(pid, report, last));
    for (name, bytes) in crate::report::statistics(directory)? {
        let Ok(stats) = Stats::parse(&bytes) else { continue };
        if let Some(reports) = &mut reports {
            reports.add(&name, &stats);
        }
        if let Some(profile) = &mut profile {
            profile.add(&stats);
        }
    }
    let reported = reports.map_or(Ok(()), |reports| reports.finish(path)).context("the report is not complete");
    if let Some(profile) = profile {
        let said = profile.save()?;
        say(arguments, format_args!("{said}"));
    }
    reported
}

/// Replaces this process; returns only when that fails.
fn become_program(arguments: &RunArgs, path: &Path, environment: &Environment) -> ExitCode {
    match Program::new(path, &arguments.command, environment) {
        Ok(program) => cannot_execute(arguments, &program.exec()),
        Err(error) => cannot_execute(arguments, &error),
    }
}

/// Exec failed although the file is there.
fn cannot_execute(arguments: &RunArgs, error: &std::io::Error) -> ExitCode {
    let name = arguments.command.first().map(AsRef::as_ref).unwrap_or(Path::new(""));
    match error.kind() {
        // Of a script: its interpreter does not exist.
        std::io::ErrorKind::NotFound => failure(name, "or its interpreter was not found", crate::NOT_FOUND),
        _ => failure(name, &format!("cannot be executed: {error}"), crate::CANNOT_EXECUTE),
    }
}

fn failure(name: &Path, what: &str, code: u8) -> ExitCode {
    crate::complain(format_args!("{} {what}", name.display()));
    ExitCode::from(code)
}

fn mention_stale(arguments: &RunArgs, engine: &Engine) {
    if let Some(stale) = &engine.stale {
        say(arguments, format_args!("{} is from another build; the built-in engine is used", stale.display()));
    }
}

/// Says, to who looks on, when there is nothing to promote.
fn mention_nothing(path: &Path, environment: &Environment) {
    let preloads = environment.foreign_preloads();
    let preloads: Vec<&Path> = preloads.iter().map(|entry| Path::new(OsStr::from_bytes(entry))).collect();
    let folders: Vec<_> = environment.get("LD_LIBRARY_PATH").map(std::env::split_paths).into_iter().flatten().collect();
    crate::nothing::mention(&fitness::program_of(path), &preloads, &folders);
}

/// One line on stderr, unless it was asked not to.
fn say(arguments: &RunArgs, line: std::fmt::Arguments<'_>) {
    if !arguments.quiet {
        crate::complain(line);
    }
}

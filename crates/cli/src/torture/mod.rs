//! `relpoline torture`: promotion under everything that may go wrong with it, every call checked.
//!
//! ```text
//! build      the bundled program, compiled with retpolines in several ways, and libraries for it to load
//! board      a file that the program counts in; it outlives a crash
//! outside    what is done to the program from here: relearn, detach, attach
//! summary    for people; or JSON
//! ```
//! The name and the idea are those of the kernel's rcutorture: threads use what is to be trusted and check
//! every result, others disturb them in every way there is, and in the end there are two numbers: how often
//! it was right, and how often wrong. docs/torture.md says what is done. The program's sources are in
//! `crates/cli/torture`.

mod board;
mod build;
mod outside;
mod summary;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use rustix::process::{Pid, Signal};

use crate::files::Directory;
use crate::report::Report;
use crate::report::text::grouped;
use crate::workbench::compiler::Compiler;
use crate::workbench::progress::progress;
use crate::workbench::scratch::Scratch;
use crate::workbench::{machine, variant};
use board::Board;
use build::Built;
use outside::Outside;
use summary::Summary;

/// What `relpoline torture --help` ends with.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline torture                             a minute
  relpoline torture --seconds 3600 --json > torture.json

Exit status: 0 when every call was right, 1 when one was wrong, when the program crashed or hung, when
nothing was promoted, or without a C compiler.

Environment:
  CC                 the C compiler, instead of cc, gcc or clang
  RELPOLINE_ENGINE   path of the engine's file, instead of the built-in one";

/// Time after its end in which the program has to come to it. Children and programs it started may be on
/// their way.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time for the reports after that: each child that learned has one, some thousands an hour.
const PATIENCE_WITH_REPORTS: Duration = Duration::from_secs(900);
/// Time to come to its end after something was wrong: it may be beyond that.
const PATIENCE_WHEN_WRONG: Duration = Duration::from_secs(10);
/// Between looks at the board.
const INTERVAL: Duration = Duration::from_millis(50);

/// `relpoline torture`.
#[derive(Debug, Args)]
pub struct TortureArgs {
    /// For how long.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub seconds: u32,
    /// Threads that call; a dozen more disturb them. Default: two per processor.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: Option<u32>,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
    /// Sites always go through their gates, which change far more often than links.
    #[arg(long)]
    pub no_link: bool,
    /// Learn and change trees at every chance, not where it pays.
    #[arg(long)]
    pub nervous: bool,
    /// Keep the sources and programs in DIR.
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// C compiler (gcc or clang).
    #[arg(long, value_name = "CC")]
    pub cc: Option<OsString>,
}

/// How the program came to its end.
#[derive(Debug)]
enum Ending {
    /// By itself.
    Ended(ExitStatus),
    /// It had to be killed.
    Hung,
}

/// Builds, lets it run, prints.
///
/// # Errors
/// Without a compiler that makes retpolines, or when something cannot be started.
pub fn run(arguments: &TortureArgs) -> anyhow::Result<ExitCode> {
    let scratch = Scratch::new("torture")?;
    let directory = arguments.keep.as_deref().unwrap_or(scratch.path());
    // Programs are started from there.
    let _held = Directory::for_programs(directory)
        .with_context(|| format!("the directory {} does not serve", directory.display()))?;
    let compiler = Compiler::find(arguments.cc.as_deref(), scratch.path())?;
    let built = build::build(&compiler, directory, scratch.path())?;
    let threads = arguments.threads.unwrap_or_else(default_threads);

    let board = Board::create(&scratch.path().join("board"))?;
    let report = scratch.path().join("report.json");
    let begun = Instant::now();
    let child = start(arguments, threads, &built, &board, &report)?;
    let mut outside = Outside::default();
    let ending = watch(child, &board, Duration::from_secs(arguments.seconds.into()), &mut outside)?;
    let summary = Summary {
        threads,
        seconds: begun.elapsed().as_secs_f64(),
        board: board.read()?,
        engine: read_report(&report),
        outside,
        left_out: built.left_out,
        ending,
        machine: machine::describe(&compiler),
    };
    summary.print(arguments.json)?;
    Ok(if summary.faults().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn default_threads() -> u32 {
    std::thread::available_parallelism().map_or(2, |n| u32::try_from(n.get()).unwrap_or(256)).saturating_mul(2).min(256)
}

/// Starts the program under `relpoline run`.
fn start(arguments: &TortureArgs, threads: u32, built: &Built, board: &Board, report: &Path) -> anyhow::Result<Child> {
    let mut options: Vec<OsString> = vec!["--report".into(), report.into()];
    options.extend(arguments.no_link.then(|| "--no-link".into()));
    options.extend(arguments.nervous.then(|| "--nervous".into()));
    let options: Vec<_> = options.iter().map(OsString::as_os_str).collect();
    let mut command: Command = variant::relpoline(&built.program, &options)?;
    command.arg(&board.path).arg(arguments.seconds.to_string()).arg(threads.to_string());
    command.args(&built.exchanged).args(&built.plugins);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let parent = rustix::process::getpid();
    // SAFETY: two system calls, which a child may make between fork and exec.
    unsafe { command.pre_exec(move || end_with(parent)) };
    command.spawn().context("the torture program cannot be started")
}

/// Lets this process be asked to end when its parent is gone, however that came; `relpoline run` passes it on
/// to its program.
fn end_with(parent: Pid) -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    match rustix::process::getppid() {
        Some(still) if still == parent => Ok(()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    }
}

/// Disturbs the program from outside until it has ended.
fn watch(mut child: Child, board: &Board, time: Duration, outside: &mut Outside) -> anyhow::Result<Ending> {
    let begun = Instant::now();
    let bar = progress(time.as_secs());
    let mut latest = begun + time + PATIENCE;
    let mut is_over = false;
    loop {
        if let Some(status) = child.try_wait()? {
            bar.finish_and_clear();
            return Ok(Ending::Ended(status));
        }
        if Instant::now() > latest {
            bar.finish_and_clear();
            // Its reports are written all the same; it is those that take too long if it has ended.
            if is_over {
                child.kill()?
            } else {
                board.kill_program()?
            };
            child.wait()?;
            return Ok(Ending::Hung);
        }
        let (now, elapsed) = (board.read()?, begun.elapsed());
        if now.ended && !is_over {
            is_over = true;
            latest = Instant::now() + PATIENCE_WITH_REPORTS;
        } else if now.wrong() != 0 && !is_over {
            latest = latest.min(Instant::now() + PATIENCE_WHEN_WRONG);
        }
        bar.set_position(elapsed.as_secs());
        bar.set_message(format!("{} calls, {} wrong", grouped(now.calls()), now.wrong()));
        // Not in the last second: the program may be gone before we are.
        if now.pid != 0 && elapsed + Duration::from_secs(1) < time && now.wrong() == 0 {
            outside.disturb(now.pid);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// What the engine says it did; nothing when it could not say it.
fn read_report(path: &Path) -> Option<Report> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

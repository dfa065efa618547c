//! The command `relpoline`: starts programs with the engine in them and shows what it did.
//!
//! | module | what it does |
//! |---|---|
//! | [`arguments`] | the command line |
//! | [`run`] | `relpoline run`: start a program with the engine preloaded |
//! | [`attach`] | `relpoline attach` and its like: the engine in a process that runs already |
//! | [`list`], [`report`] | `relpoline list`, `relpoline report`: what engines that run now say of themselves |
//! | [`list`], [`top`] | `relpoline list`, `relpoline top`: the engines that run now, and their sites, as they are |
//! | [`live`] | where these engines are and how they are read |
//! | [`sampled`] | what retpolines cost where nobody counts, seen from outside |
//! | [`symbols`] | names for addresses |
//! | [`inspect`] | `relpoline inspect`: the retpolines of a file |
//! | [`bpf`] | `relpoline bpf`: eBPF programs with tail calls that are patched while they run |
//! | [`trial`] | `relpoline try`: what it brings for a program |
//! | [`nothing`] | what is said of programs without retpolines |
//! | [`demo`] | `relpoline demo`: what it brings on this machine |
//! | [`mod@bench`] | `relpoline bench`: what a call costs, and whether the budgets hold on this machine |
//! | [`torture`] | `relpoline torture`: promotion under everything that may go wrong with it |
//! | [`workbench`] | what demo, bench and torture share: bundled C programs, compiled in variants |
//! | [`metrics`] | `relpoline metrics`: the figures of all engines for Prometheus |
//! | [`profile`] | `relpoline profile`: what was learned, kept for the next start and for compilers |
//! | [`doctor`] | `relpoline doctor`: what this machine allows |
//! | [`explain`] | `relpoline explain`: one site, with its code |
//! | [`report`] | `relpoline report`: what an engine did, in all formats |
//! | [`preload`] | where the engine's file is |
//! | [`kernel`] | `relpoline kernel`: the module that promotes the kernel's own calls |
//! | [`thunks`] | `relpoline thunks`: thunks to link for `-mindirect-branch=thunk-extern` |
//! | [`cargo`] | `cargo relpoline build`: a Rust program with retpolines, and a look at what came of it |
//! | [`shell`] | completions and manual pages |
//! | [`files`] | files that others may have made, or may exchange while we look |
//! | `watched` | a process that stands by while root's commands look at what others have made |
//! | [`shown`] | text from outside, made fit to be shown |
//! | [`ending`] | what is put right when a signal ends a command |
//! | [`inherited`] | what this process was given, to be handed on unchanged |
//!
//! It is a library, so that tests and xtask can read reports with the same structures.

pub mod arguments;
pub mod attach;
pub mod bench;
pub mod bpf;
pub mod cargo;
pub mod demo;
pub mod doctor;
pub mod ending;
pub mod explain;
pub mod files;
pub mod inherited;
pub mod inspect;
pub mod kernel;
pub mod list;
pub mod live;
pub mod metrics;
pub mod nothing;
pub mod perf;
pub mod preload;
pub mod profile;
pub mod report;
pub mod run;
pub mod sampled;
pub mod shell;
pub mod shown;
pub mod symbols;
pub mod thunks;
pub mod top;
pub mod torture;
pub mod trial;
mod watched;
pub mod workbench;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use arguments::{Arguments, Verb};
use clap::Parser;

/// Our own failure in `relpoline run`, as env(1) and timeout(1) have it: distinct from what a program
/// returns.
const OWN_FAILURE: u8 = 125;
/// The program was found but cannot be executed.
const CANNOT_EXECUTE: u8 = 126;
/// The program was not found.
const NOT_FOUND: u8 = 127;

/// Parses the command line, does what it says, says what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let is_run = matches!(arguments.verb, Verb::Run(_));
    if !is_run {
        inherited::end_with_the_reader();
    }
    if let Some(ended) = watched::stand_by(&arguments.verb) {
        return ended;
    }
    let failure = if is_run { OWN_FAILURE } else { 1 };
    let outcome = match arguments.verb {
        Verb::Run(run) => run::run(&run),
        Verb::Try(trial) => trial::run(&trial),
        Verb::Attach(attach) => attach::attach(&attach),
        Verb::Detach(detach) => attach::detach(&detach),
        Verb::Enable(one) => attach::switch(&one, attach::Switch::Enable),
        Verb::Disable(one) => attach::switch(&one, attach::Switch::Disable),
        Verb::Relearn(one) => attach::switch(&one, attach::Switch::Relearn),
        Verb::List(list) => list::run(&list),
        Verb::Top(top) => top::run(&top),
        Verb::Explain(explain) => explain::run(&explain),
        Verb::Report(report) => report::command::run(&report),
        Verb::Metrics(metrics) => metrics::run(&metrics),
        Verb::Profile(profile) => profile::run(&profile),
        Verb::Perf(perf) => perf::run(&perf),
        Verb::Doctor(doctor) => doctor::run(&doctor),
        Verb::Inspect(inspect) => inspect::run(inspect),
        Verb::Demo(demo) => demo::run(&demo),
        Verb::Bench(bench) => bench::run(&bench),
        Verb::Torture(torture) => torture::run(&torture),
        Verb::Bpf(bpf) => bpf::run(bpf),
        Verb::Kernel(kernel) => kernel::run(&kernel),
        Verb::Thunks(thunks) => thunks::run(&thunks),
        Verb::Completions(completions) => shell::completions(&completions),
        Verb::Man(man) => shell::man(&man),
    };
    // What failed because a signal ends us is not worth a word.
    ending::settle();
    outcome.unwrap_or_else(|error| {
        complain(format_args!("{error:#}"));
        ExitCode::from(failure)
    })
}

/// Says something on stderr. When that is closed or full, nothing can be done, and nothing may end for it.
fn complain(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "relpoline: {}", shown::line(&line.to_string()));
}

/// A wrong command line: 2 as usual, 125 where the exit code otherwise belongs to the program.
fn refuse(error: &clap::Error) -> ExitCode {
    // Nothing can be done when even the message cannot be written.
    let _ = error.print();
    let is_run = std::env::args_os().nth(1).is_some_and(|verb| verb == "run");
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if is_run => ExitCode::from(OWN_FAILURE),
        _ => ExitCode::from(2),
    }
}

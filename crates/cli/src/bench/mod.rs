//! `relpoline bench`: what calls cost on this machine, and whether promotion keeps its budgets.
//!
//! ```text
//! build      the bundled program in variants
//! traces     the sequences of calls it is to play
//! player     a variant, alive, told over a pipe what to play
//! measure    the variants take turns, slice by slice
//! starts     programs and children are started, in turn with the engine and without
//! figures    medians, spread, ratios: what --json prints
//! verdict    the budgets
//! table      for people
//! crowds     with --crowds: programs with many sites that are equally warm, which take minutes
//! ```
//! Cycles are those of the time-stamp counter, per call, loop included; the empty loop stands beside them and
//! nothing is subtracted. Each trace has a call site of its own, in one process that lives until the end: so
//! what is measured after the first milliseconds is what was learned from the very first call on.

mod build;
mod crowds;
mod figures;
mod measure;
mod player;
mod starts;
mod table;
mod traces;
mod verdict;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

use crate::workbench::compiler::Compiler;
use crate::workbench::machine;
use crate::workbench::scratch::Scratch;
use figures::Figures;
use measure::Effort;

/// `relpoline bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    /// Fewer and shorter rounds: some 20 seconds.
    #[arg(long)]
    quick: bool,
    /// Measure programs with hundreds and thousands of sites that are equally warm instead: minutes.
    #[arg(long)]
    crowds: bool,
    /// C compiler (gcc or clang).
    #[arg(long, value_name = "CC")]
    cc: Option<OsString>,
}

/// Builds, measures, prints.
///
/// # Errors
/// Without a compiler that makes retpolines, or when something cannot be started.
pub fn run(arguments: &BenchArgs) -> anyhow::Result<ExitCode> {
    let scratch = Scratch::new("bench")?;
    let compiler = Compiler::find(arguments.cc.as_deref(), scratch.path())?;
    if arguments.crowds {
        let crowds = crowds::measure(&compiler, scratch.path(), arguments.quick)?;
        print!(
            "{}",
            if arguments.json { serde_json::to_string_pretty(&crowds)? + "\n" } else { crowds::render(&crowds) }
        );
        return Ok(ExitCode::SUCCESS);
    }
    let programs = build::build(&compiler, scratch.path())?;
    let effort = Effort::new(arguments.quick);
    let starts = starts::measure(&compiler, scratch.path(), effort)?;
    let mut measured = measure::measure(&programs, scratch.path(), effort)?;
    measured.starts = starts;
    let figures = Figures::new(&measured, machine::describe(&compiler), arguments.quick);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print!("{}", table::render(&figures));
    }
    Ok(ExitCode::SUCCESS)
}

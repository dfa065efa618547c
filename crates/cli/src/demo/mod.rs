//! `relpoline demo`: what retpolines cost on this machine, and how much of it promotion wins back.
//!
//! ```text
//! build      the bundled program in variants
//! measure    user CPU time of each, in interleaved rounds
//! figures    medians, spread, the share won back
//! table      for people; or JSON
//! ```
//! The variants: *plain*, *retpoline*, *relpoline* (the retpoline build under `relpoline run`, started cold
//! each time) and *unprotected*: the retpoline build whose thunks are plain jumps. Promotion cannot know a
//! better layout of the code than it was compiled to, so the fair bound is *unprotected*; *plain* is what the
//! user gave up.

mod build;
mod figures;
mod measure;
mod table;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;

use crate::arguments::DemoArgs;
use crate::files::Directory;
use crate::report::Report;
use crate::workbench::compiler::Compiler;
use crate::workbench::machine;
use crate::workbench::scratch::Scratch;
use crate::workbench::variant::{Programs, Variant};
use figures::Figures;
use measure::Rounds;

/// Builds, measures, prints.
///
/// # Errors
/// Without a compiler that makes retpolines, or when something cannot be started.
pub fn run(arguments: &DemoArgs) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let scratch = Scratch::new("demo")?;
    let directory = arguments.keep.as_deref().unwrap_or(scratch.path());
    // Programs are started from there.
    let _held = Directory::for_programs(directory)
        .with_context(|| format!("the directory {} does not serve", directory.display()))?;
    let compiler = Compiler::find(arguments.cc.as_deref(), scratch.path())?;
    let programs = build::build(&compiler, directory)?;
    let rounds = measure::rounds(&programs, arguments.rounds, begun)?;
    let report = observe(&programs, scratch.path())?;
    let figures = Figures::new(&rounds, report, machine::describe(&compiler));
    print(arguments, &figures)?;
    Ok(verdict(&rounds))
}

/// One more run, with hits counted: the figures stay free of what counting costs.
fn observe(programs: &Programs, scratch: &Path) -> anyhow::Result<Report> {
    let file = scratch.join("report.json");
    let mut command =
        Variant::Relpoline.command(programs, &["--count".as_ref(), "--report".as_ref(), file.as_ref()])?;
    let status = command.stdout(std::process::Stdio::null()).status()?;
    anyhow::ensure!(status.success(), "the program failed under relpoline ({status})");
    let text = std::fs::read_to_string(&file).context("the report was not written")?;
    serde_json::from_str(&text).context("the report cannot be read")
}

fn print(arguments: &DemoArgs, figures: &Figures) -> anyhow::Result<()> {
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(figures)?);
    } else {
        print!("{}", table::render(figures));
    }
    Ok(())
}

/// Failure when a variant did not give the output of the others.
fn verdict(rounds: &Rounds) -> ExitCode {
    match rounds.different() {
        None => ExitCode::SUCCESS,
        Some(variant) => {
            crate::complain(format_args!(
                "the {variant} variant gave another output than the plain one; this is a bug, please report it"
            ));
            ExitCode::FAILURE
        }
    }
}

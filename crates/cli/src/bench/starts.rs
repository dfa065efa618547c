//! Starts: of programs without retpolines, of forked children that make no calls, of a large program with
//! retpolines; with the engine and without it in turn.
//!
//! The bundled `starts.c` does them, and says how long one takes that nothing disturbs; what counts is by how
//! much that changes, round by round. The large program (`large.c`) is as large as PHP, and has as many
//! sites.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::measure::Effort;
use crate::workbench::compiler::Compiler;
use crate::workbench::sample::Sample;
use crate::workbench::variant::{compile, relpoline};

const SOURCE: &str = include_str!("../../bench/starts.c");

const LARGE: &str = include_str!("../../bench/large.c");

/// A kind of start.
#[derive(Debug)]
pub struct Start {
    /// Its name in tables and JSON.
    pub name: &'static str,
    /// What is started.
    pub of: String,
    /// Milliseconds that one takes without the engine, round by round.
    pub plain: Vec<f64>,
    /// The same rounds with the engine.
    pub relpoline: Vec<f64>,
}

impl Start {
    /// By how many milliseconds one takes longer with the engine.
    #[must_use]
    pub fn more(&self) -> Sample {
        let more: Vec<f64> = self.relpoline.iter().zip(&self.plain).map(|(with, without)| with - without).collect();
        Sample::of_any(&more)
    }
}

/// Measures all kinds.
pub fn measure(compiler: &Compiler, scratch: &Path, effort: Effort) -> anyhow::Result<Vec<Start>> {
    let build = |name: &str, source: &str, flags: &[&str]| -> anyhow::Result<PathBuf> {
        let file = format!("{name}.c");
        std::fs::write(scratch.join(&file), source)?;
        let mut command = compiler.command(flags);
        command.args([&file, "-o", name]);
        compile(command.current_dir(scratch), name)?;
        Ok(scratch.join(name))
    };
    let plain = build("starts", SOURCE, &[])?;
    let retpoline = build("starts-retpoline", SOURCE, compiler.dialect.retpoline)?;
    let large = build("large", LARGE, compiler.dialect.retpoline)?;
    let large = large.to_str().context("the scratch directory has a name that is not UTF-8")?;
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let small = words(&["exec", "100", "/bin/true"]);
    Ok(vec![
        start("exec without retpolines", "/bin/true", &plain, &small, effort)?,
        start("fork without calls", "the bundled program, promoted", &retpoline, &words(&["fork", "200"]), effort)?,
        start("start of a large program", "3 MB, 3,001 sites", &plain, &words(&["exec", "20", large]), effort)?,
    ])
}

fn start(name: &'static str, of: &str, starter: &Path, words: &[String], effort: Effort) -> anyhow::Result<Start> {
    let mut start = Start { name, of: of.to_owned(), plain: Vec::new(), relpoline: Vec::new() };
    // The first one does not count: with the engine, files are looked through that are known afterwards.
    for round in 0..=effort.rounds {
        let mut without = Command::new(starter);
        let (without, with) = (took(without.args(words))?, took(relpoline(starter, &[])?.args(words))?);
        if round > 0 {
            start.plain.push(without);
            start.relpoline.push(with);
        }
    }
    Ok(start)
}

fn took(command: &mut Command) -> anyhow::Result<f64> {
    let output = command.output().context("the bundled program cannot be started")?;
    ensure!(output.status.success(), "the bundled program that starts others ended with {}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().parse().context("it did not say how long that took")
}

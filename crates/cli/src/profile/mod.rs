//! `relpoline profile`, and `run --profile`: what was learned, kept.
//!
//! ```text
//! statistics ──▶ [model::Profile] ◀──▶ file ([file])
//!                     ├── merge: of several runs, machines, processes
//!                     ├── show
//!                     └── export: [pprof], [autofdo], [bolt]
//! ```
//! A profile names objects by build-id and places by offset, so it is good for every process that runs the
//! same files, on whatever machine.

mod autofdo;
mod bolt;
pub mod file;
pub mod model;
mod pprof;
pub mod show;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use relpoline_stats::Stats;

use crate::files::Written;
use crate::files::written::PUBLIC;
use crate::live;
use crate::report::{digest, now};
use crate::shown;
use crate::symbols::Symbols;
use model::Profile;

/// Examples shown with `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline run --count --profile p.relprof -- ./server
      learn, and start warm the next time
  relpoline profile show p.relprof
  relpoline profile merge -o all.relprof host1.relprof host2.relprof
  relpoline profile export --format pprof -o p.pb.gz p.relprof
  relpoline profile save -o p.relprof 4711

With --count in the run, sites are weighted by their calls; without it, by an estimate from how fast \
they were called when they were counted last.";

const EXPORT_AFTER_HELP: &str = "\
Examples:
  relpoline profile export --format pprof -o p.pb.gz p.relprof
      go tool pprof -top p.pb.gz
  relpoline profile export --format autofdo --object ./server -o p.afdo p.relprof
      clang -O2 -g1 -fdebug-info-for-profiling -fprofile-sample-use=p.afdo …
  relpoline profile export --format bolt --object ./server -o p.fdata p.relprof
      llvm-bolt ./server -data=p.fdata -o server.bolt";

/// `relpoline profile`.
#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What can be done with profiles.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show what a profile knows.
    #[command(
        after_help = "Examples:\n  relpoline profile show p.relprof\n  relpoline profile show --json p.relprof | jq .sites[0]"
    )]
    Show {
        /// The profile.
        file: PathBuf,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Merge profiles: calls add up, of two builds of one file the one that comes last stays.
    #[command(after_help = "Examples:\n  relpoline profile merge -o all.relprof host1.relprof host2.relprof")]
    Merge {
        /// Where the result goes.
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// The profiles.
        #[arg(required = true, value_name = "FILE")]
        inputs: Vec<PathBuf>,
    },
    /// Write a profile in the form of another tool.
    #[command(after_help = EXPORT_AFTER_HELP)]
    Export {
        /// The form.
        #[arg(long, value_enum)]
        format: Format,
        /// The executable or library to export for, with autofdo and bolt.
        #[arg(long, value_name = "FILE")]
        object: Option<PathBuf>,
        /// Where the result goes, instead of stdout.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// The profile.
        file: PathBuf,
    },
    /// Save a profile of a process that runs: of each site its eight hottest targets.
    #[command(after_help = "Examples:\n  relpoline profile save -o p.relprof 4711")]
    Save {
        /// Where it goes; merged with what is there.
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// The process.
        pid: u32,
    },
}

/// Forms of other tools.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// `profile.proto`, gzipped: go tool pprof, Pyroscope, Parca.
    Pprof,
    /// LLVM's sample profile as text: -fprofile-sample-use, llvm-profdata.
    Autofdo,
    /// BOLT's .fdata.
    Bolt,
}

/// Does what the command line asks.
///
/// # Errors
/// When a profile cannot be read or written.
pub fn run(arguments: &ProfileArgs) -> anyhow::Result<ExitCode> {
    match &arguments.verb {
        Verb::Show { file, json } => {
            let profile = file::read(file)?;
            let mut out = io::stdout();
            if *json {
                show::json(&mut out, &profile)?;
            } else {
                shown::write(&mut out, &show::text(&profile))?;
            }
        }
        Verb::Merge { output, inputs } => merge(output, inputs)?,
        Verb::Export { format, object, output, file } => {
            export(&file::read(file)?, *format, object.as_deref(), output.as_deref())?;
        }
        Verb::Save { output, pid } => save(output, *pid)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn merge(output: &Path, inputs: &[PathBuf]) -> anyhow::Result<()> {
    let mut all = Profile::default();
    for input in inputs {
        let dropped = all.merge(&file::read(input)?);
        if dropped > 0 {
            crate::complain(format_args!(
                "{} of other builds dropped for {}",
                shown::count(dropped as u64, "site"),
                input.display()
            ));
        }
    }
    file::write(&file::place(output)?, &all)
}

fn save(output: &Path, pid: u32) -> anyhow::Result<()> {
    let engine = live::one(pid)?;
    let mut symbols = engine.symbols();
    let report = now::report(&engine, &mut symbols);
    let fresh = Profile::of(&engine.stats(), &report, &mut symbols);
    let place = file::place(output)?;
    let mut kept = file::read_at(&place)?;
    kept.replace(&fresh);
    file::write(&place, &kept)
}

impl Format {
    /// A profile in this form, as far as it concerns `object`, and how many sites had to be left out.
    ///
    /// # Errors
    /// When the form is for one object and none is named, or it cannot be read or is of no build in the
    /// profile.
    pub fn render(self, profile: &Profile, object: Option<&Path>) -> anyhow::Result<(Vec<u8>, usize)> {
        let named = || object.context("this form is for one file: name it with --object");
        match self {
            Self::Pprof => Ok((pprof::render(profile)?, 0)),
            Self::Autofdo => autofdo::render(profile, named()?),
            Self::Bolt => bolt::render(profile, named()?),
        }
    }
}

fn export(profile: &Profile, format: Format, object: Option<&Path>, output: Option<&Path>) -> anyhow::Result<()> {
    let (bytes, left_out) = format.render(profile, object)?;
    if left_out > 0 {
        crate::complain(format_args!(
            "{} without the names or line numbers that this form needs left out",
            shown::count(left_out as u64, "site")
        ));
    }
    match output {
        Some(path) => {
            let place = Written::new(path);
            place
                .and_then(|place| place.write(&bytes, PUBLIC))
                .with_context(|| format!("{} cannot be written", path.display()))
        }
        None => Ok(io::stdout().write_all(&bytes)?),
    }
}

/// The profile of `run --profile`.
pub struct Kept {
    place: Written,
    before: Profile,
    fresh: Profile,
    /// Sites that started warm, and that were in the profile in vain.
    warm: u32,
    stale: u32,
    symbols: Symbols,
}

impl Kept {
    /// Reads it, if it is there, before the program is started.
    ///
    /// # Errors
    /// When there is something else, or it could not be written later.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let place = file::place(path)?;
        let before = file::read_at(&place)?;
        let (fresh, symbols) = (Profile::default(), Symbols::default());
        Ok(Self { place, before, fresh, warm: 0, stale: 0, symbols })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Takes in what a process of the run has learned.
    pub fn add(&mut self, stats: &Stats<'_>) {
        // A forked child has its parent's figures.
        if stats.header().forked_from == 0 {
            self.warm = self.warm.saturating_add(stats.header().sites_warm);
            self.stale = self.stale.saturating_add(stats.header().profile_stale);
        }
        let report = digest::report(stats, &mut self.symbols);
        self.fresh.merge(&Profile::of(stats, &report, &mut self.symbols));
    }

    /// Writes it. What there is to say about it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(mut self) -> anyhow::Result<String> {
        let dropped = self.before.replace(&self.fresh);
        file::write(&self.place, &self.before)?;
        Ok(format!(
            "profile {}: {} started warm, {} stale dropped, {} saved",
            self.place.path().display(),
            shown::count(self.warm, "site"),
            u64::from(self.stale) + dropped as u64,
            self.before.sites.len()
        ))
    }
}

/// A share of calls as a number of calls, at least one.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count"
)]
fn calls(all: u64, share: f64) -> u64 {
    ((all as f64 * share).round() as u64).max(1)
}

//! `relpoline inspect`: what relpoline can do for a file, without running it.
//!
//! ```text
//! FILE ──[elf]──▶ Elf ──[code]────────▶ thunks, sites, refusals ─┐
//!                  │  ──[unprotected]─▶ other indirect branches ─┼▶ [findings] ──▶ JSON, or [text]
//!                  └────[libraries]───▶ libraries it is linked to┘
//! ```
//!
//! The sites are found by the same code as in the engine ([`relpoline_core::scan`]), so what is counted
//! here is what a run would patch. Only the place where addresses in data come from differs: the engine
//! reads relocated memory, this reads the relocations.

mod code;
mod elf;
pub mod findings;
mod libraries;
mod text;
mod unprotected;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::files::{Parts, open};
use crate::shown::{self, Shown};
use crate::symbols::names::{Names, Room};
use anyhow::Context;
use elf::Elf;
use findings::{Entry, Failure, Findings, Inspection};
use relpoline_core::arch::thunk;

/// Bytes that are read of a file: no program has as much code and as many names.
const MOST_BYTES: u64 = 1 << 29;

/// `relpoline inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct InspectArgs {
    /// Print what was found as JSON (docs/inspect.md describes it).
    #[arg(long)]
    pub json: bool,
    /// Executables and shared libraries.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

const AFTER_HELP: &str = "\
Examples:
  relpoline inspect /usr/sbin/nginx
  relpoline inspect --json ./server | jq '.files[].refused'

Exit status: 0 when every file could be inspected, 1 otherwise.";

/// Inspects the files and prints what was found.
///
/// # Errors
/// When the result cannot be written. A file that cannot be inspected is reported on stderr, and the others
/// go on.
pub fn run(args: InspectArgs) -> anyhow::Result<ExitCode> {
    let files: Vec<Entry> = args.files.iter().map(|path| inspect(path)).collect();
    let failures = files.iter().filter_map(Entry::failure);
    let mut exit = ExitCode::SUCCESS;
    for failure in failures {
        crate::complain(format_args!("{}", failure.error));
        exit = ExitCode::FAILURE;
    }
    let mut out = io::stdout().lock();
    if args.json {
        shown::write_json(&mut out, &Inspection::new(files))?;
    } else {
        let found: Vec<String> = files.iter().filter_map(Entry::findings).map(text::render).collect();
        shown::write(&mut out, &found.join("\n"))?;
    }
    out.flush()?;
    Ok(exit)
}

fn inspect(path: &Path) -> Entry {
    let opened = open::plain(path).context("cannot be opened");
    let outcome = opened.and_then(|file| examine(path, file));
    outcome.map_or_else(
        |error| Entry::Failed(Failure { path: shown(path), error: format!("{}: {error:#}", shown(path)).into() }),
        |findings| Entry::Found(Box::new(findings)),
    )
}

/// What is found in a file, which `path` leads to.
///
/// # Errors
/// One sentence that says why relpoline can do nothing with it.
pub fn examine(path: &Path, file: File) -> anyhow::Result<Findings> {
    let parts = Parts::new(file, MOST_BYTES).context("cannot be read")?;
    let elf = Elf::parse(&parts)?;
    let names = Names::read(&elf.file, &mut Room::default());
    let code = code::examine(&elf, &names)?;
    let unprotected = unprotected::examine(&elf, &code, &names);
    let libraries = libraries::examine(path, &elf, &[]);
    Ok(Findings::new(shown(path), &elf, &names, &code, unprotected, libraries))
}

/// Whether a program or one of the libraries that it is linked to has thunks; nothing when that cannot be
/// told. `folders` are those of `LD_LIBRARY_PATH`.
#[must_use]
pub fn has_thunks(path: &Path, folders: &[PathBuf]) -> Option<bool> {
    let parts = Parts::new(open::plain(path).ok()?, MOST_BYTES).ok()?;
    let elf = Elf::parse(&parts).ok()?;
    if elf.texts().any(|text| thunk::find(text.bytes).next().is_some()) {
        return Some(true);
    }
    let libraries = libraries::examine(path, &elf, folders);
    if libraries.iter().any(|library| library.thunks.is_some_and(|thunks| thunks > 0)) {
        return Some(true);
    }
    // What was not found may have some.
    libraries.iter().all(|library| library.thunks.is_some()).then_some(false)
}

fn shown(path: &Path) -> Shown {
    Shown::of_bytes(path.as_os_str().as_bytes())
}

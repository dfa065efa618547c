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

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::symbols::names::Names;
use anyhow::{Context, bail};
use elf::Elf;
use findings::{Entry, Failure, Findings, Inspection};
use relpoline_core::arch::thunk;

/// Larger files are not read.
const MOST_BYTES: u64 = 1 << 32;

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
        let _ = writeln!(io::stderr(), "relpoline: {}", failure.error);
        exit = ExitCode::FAILURE;
    }
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &Inspection::new(files))?;
        writeln!(out)?;
    } else {
        let found: Vec<String> = files.iter().filter_map(Entry::findings).map(text::render).collect();
        out.write_all(found.join("\n").as_bytes())?;
    }
    out.flush()?;
    Ok(exit)
}

fn inspect(path: &Path) -> Entry {
    let outcome = read(path).and_then(|bytes| examine(path, &bytes));
    outcome.map_or_else(
        |error| Entry::Failed(Failure { path: shown(path), error: format!("{}: {error:#}", shown(path)) }),
        |findings| Entry::Found(Box::new(findings)),
    )
}

/// Not a fifo or something endless.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let meta = fs::metadata(path).context("cannot be opened")?;
    if meta.is_dir() {
        bail!("is a directory");
    }
    if !meta.is_file() {
        bail!("is not a regular file");
    }
    if meta.len() > MOST_BYTES {
        bail!("is larger than 4 GiB");
    }
    fs::read(path).context("cannot be read")
}

/// What is found in a file of this content.
///
/// # Errors
/// One sentence that says why relpoline can do nothing with it.
pub fn examine(path: &Path, bytes: &[u8]) -> anyhow::Result<Findings> {
    let elf = Elf::parse(bytes)?;
    let names = Names::read(&elf.file);
    let code = code::examine(&elf, &names);
    let unprotected = unprotected::examine(&elf, &code, &names);
    let libraries = libraries::examine(path, &elf, &[]);
    Ok(Findings::new(shown(path), &elf, &names, &code, unprotected, libraries))
}

/// Whether a program or one of the libraries that it is linked to has thunks; nothing when that cannot be told. `folders` are
/// those of `LD_LIBRARY_PATH`.
#[must_use]
pub fn has_thunks(path: &Path, folders: &[PathBuf]) -> Option<bool> {
    let bytes = read(path).ok()?;
    let elf = Elf::parse(&bytes).ok()?;
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

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

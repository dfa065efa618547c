//! `relpoline thunks`: the thunks that `-mindirect-branch=thunk-extern` (gcc), `-mretpoline-external-thunk`
//! (clang) and `-Ctarget-feature=+retpoline-external-thunk` (rustc) leave to the program, as an assembly
//! source.
//!
//! They have gcc's shape, which the engine knows, and lie in COMDAT sections under hidden names, as gcc's own
//! do: several objects may bring them along, and within a library they are called directly, not through the
//! PLT, which would be an indirect branch again.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::files::Written;
use crate::files::written::PUBLIC;

/// `relpoline thunks`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ThunksArgs {
    /// Write to FILE instead of stdout.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
Examples:
  relpoline thunks --out thunks.S
  gcc -O2 -fcf-protection=none -mindirect-branch=thunk-extern -mindirect-branch-register program.c thunks.S
  clang -O2 -mretpoline -mretpoline-external-thunk program.c thunks.S";

/// Every register that can hold a target.
const REGISTERS: [&str; 15] =
    ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// Writes the source.
///
/// # Errors
/// When it cannot be written.
pub fn run(arguments: &ThunksArgs) -> anyhow::Result<ExitCode> {
    let source = source();
    match &arguments.out {
        Some(file) => {
            let place = Written::new(file);
            let written = place.and_then(|place| place.write(source.as_bytes(), PUBLIC));
            written.with_context(|| format!("the thunks cannot be written to {}", file.display()))?;
        }
        None => io::stdout().write_all(source.as_bytes()).context("the thunks cannot be written")?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The source: one function for each register.
#[must_use]
pub fn source() -> String {
    let mut text = String::from("# Retpoline thunks for external references, by relpoline thunks.\n");
    for register in REGISTERS {
        let name = format!("__x86_indirect_thunk_{register}");
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n\t.section .text.{name}, \"axG\", @progbits, {name}, comdat\n\
             \t.globl {name}\n\t.hidden {name}\n\t.type {name}, @function\n{name}:\n\t.cfi_startproc\n\
             \tcall 2f\n1:\tpause\n\tlfence\n\tjmp 1b\n\
             2:\t.cfi_def_cfa_offset 16\n\tmov %{register}, (%rsp)\n\tret\n\
             \t.cfi_endproc\n\t.size {name}, . - {name}\n"
        );
    }
    text + "\n\t.section .note.GNU-stack, \"\", @progbits\n"
}

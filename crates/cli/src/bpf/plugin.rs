//! `relpoline bpf plugin`: what bpf_conformance's runner calls for each test.
//!
//! Instructions come as hex on stdin, the memory for r1 and r2 as hex in the argument; r0 goes to stdout as
//! hex.

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use relpoline_bpf::insn::parse;
use relpoline_bpf::{Engine, Invocation, Object, Options, Program, Runtime, Source};

use super::hex;

/// Examples for `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  echo 'b7 00 00 00 2a 00 00 00 95 00 00 00 00 00 00 00' | relpoline bpf plugin         prints 2a
  echo '71 10 00 00 00 00 00 00 95 00 00 00 00 00 00 00' | relpoline bpf plugin 07      prints 7

bpf_conformance's runner calls its plugin with the memory and no more: give it a script with the
line: exec relpoline bpf plugin \"$@\"";

/// Arguments.
#[derive(Debug, Args)]
pub struct PluginArgs {
    /// Memory as hex digits.
    memory: Option<String>,
    /// Stdin is an object file instead of instructions.
    #[arg(long)]
    elf: bool,
    /// Interpret instead of running compiled code.
    #[arg(long)]
    interpret: bool,
}

/// Runs one program.
///
/// # Errors
/// What the program or its run was refused for.
pub fn run(arguments: &PluginArgs) -> Result<ExitCode> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let bytes = hex(&text).context("stdin")?;
    let runtime = Runtime::new()?;
    let program = if arguments.elf {
        let object = Object::load(&runtime, &bytes, Options::default())?;
        super::choose(&object, None)?.clone()
    } else {
        let insns = parse(&bytes).context("instructions have 8 bytes each")?;
        let source = Source { name: "stdin", section: "", insns: &insns, maps: &[] };
        Program::load(&runtime, source, Options::default())?
    };
    let mut memory = hex(arguments.memory.as_deref().unwrap_or("")).context("the memory")?;
    let engine = if arguments.interpret { Engine::Interpreter } else { Engine::Compiled };
    println!("{:x}", program.invoke(Invocation::new(&mut memory).engine(engine))?);
    Ok(ExitCode::SUCCESS)
}

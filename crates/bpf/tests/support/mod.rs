//! An assembler for tests: the syntax of bpf_conformance's files, one instruction per line.
//!
//! ```text
//! mov %r0, 1        add32 %r1, %r2      ldxw %r1, [%r2+4]     stdw [%r10-8], 5
//! jeq %r1, 2, L1    call local f        lock fetch add [%r1+0], %r2
//! L1:               # a comment
//! ```
#![allow(dead_code, reason = "each test file uses its part")]

pub mod asm;

use relpoline_bpf::insn::Insn;
use relpoline_bpf::{MapHandle, Options, Program, Runtime, Source};

/// Loads what is assembled from `text`.
pub fn load(runtime: &Runtime, name: &str, text: &str, maps: &[MapHandle]) -> Program {
    load_with(runtime, name, text, maps, Options::default())
}

/// As [`load`], with options.
pub fn load_with(runtime: &Runtime, name: &str, text: &str, maps: &[MapHandle], options: Options) -> Program {
    let insns = asm::assemble(text).unwrap_or_else(|e| panic!("{name}: {e}"));
    load_insns(runtime, name, &insns, maps, options).unwrap_or_else(|e| panic!("{e}"))
}

/// Loads instructions.
pub fn load_insns(
    runtime: &Runtime,
    name: &str,
    insns: &[Insn],
    maps: &[MapHandle],
    options: Options,
) -> Result<Program, relpoline_bpf::LoadError> {
    Program::load(runtime, Source { name, section: "", insns, maps }, options)
}

//! The variants of a program: the same source and optimisation, another way to make an indirect call.
//!
//! `jmpthunk` is the fair yardstick. It calls thunks exactly as the retpoline build does, so code size,
//! register choice and missing jump tables are the same, but the thunk is a plain `jmp *%reg`. What it is faster by
//! is what the protection costs; what `plain` is faster by also holds what the compiler may do once
//! jump tables are allowed again.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How indirect calls are made, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// gcc's retpolines: what everything else is compared with
    Retpoline,
    /// No protection, jump tables allowed
    Plain,
    /// Calls through thunks that are a bare `jmp *%reg`
    Jmpthunk,
    /// The retpoline build under the engine
    Relpoline,
    /// The retpoline build with gcc's profile feedback, trained on another input
    Pgo,
}

/// What every variant is compiled with. CET is off since gcc rejects it together with thunks.
pub const BASE_FLAGS: &str = "-O2 -g0 -fcf-protection=none";
const RETPOLINE: &str = "-mindirect-branch=thunk -mindirect-branch-register";
const EXTERNAL: &str = "-mindirect-branch=thunk-extern -mindirect-branch-register";

impl Variant {
    /// The name used on the command line, in paths and in results.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Retpoline => "retpoline",
            Variant::Plain => "plain",
            Variant::Jmpthunk => "jmpthunk",
            Variant::Relpoline => "relpoline",
            Variant::Pgo => "pgo",
        }
    }

    /// The variant whose binaries this one runs.
    pub fn binaries(self) -> Variant {
        if self == Variant::Relpoline { Variant::Retpoline } else { self }
    }

    /// Compiler flags, given after the program's own so that they win. `thunks` is the header with bare thunks.
    pub fn flags(self, thunks: &str) -> String {
        match self {
            Variant::Plain => BASE_FLAGS.to_owned(),
            Variant::Jmpthunk => format!("{BASE_FLAGS} {EXTERNAL} -include {thunks}"),
            Variant::Retpoline | Variant::Relpoline | Variant::Pgo => {
                format!("{BASE_FLAGS} {RETPOLINE}")
            }
        }
    }
}

const REGISTERS: [&str; 15] =
    ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// A header, included into every translation unit of `jmpthunk`, that defines the bare thunks.
///
/// gcc emits its own thunks as hidden COMDAT functions into each object file that needs one, 17 bytes apart.
/// This does the same, so executables and shared libraries each get one private copy and no
/// link command has to change. The rest of the 17 bytes is int3.
pub fn bare_thunks() -> String {
    let mut header = String::from("/* Written by xtask: unprotected thunks. */\n#ifndef __ASSEMBLER__\n");
    for register in REGISTERS {
        let name = format!("__x86_indirect_thunk_{register}");
        let lines = [
            format!(".pushsection .text.{name},\\\"axG\\\",@progbits,{name},comdat"),
            format!(".globl {name}"),
            format!(".hidden {name}"),
            format!(".type {name},@function"),
            format!("{name}:"),
            format!("jmp *%{register}"),
            format!(".org {name}+17,0xcc"),
            ".popsection".to_owned(),
        ];
        // Writing to a String cannot fail.
        let _ = writeln!(header, "__asm__(\"{}\\n\");", lines.join("\\n\\t"));
    }
    header + "#endif\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relpoline_runs_the_retpoline_binaries() {
        assert_eq!(Variant::Relpoline.binaries(), Variant::Retpoline);
        assert_eq!(Variant::Jmpthunk.binaries(), Variant::Jmpthunk);
    }

    #[test]
    fn only_jmpthunk_includes_the_header() {
        assert!(Variant::Jmpthunk.flags("/t.h").ends_with("-include /t.h"));
        assert!(!Variant::Retpoline.flags("/t.h").contains("include"));
        assert_eq!(Variant::Plain.flags("/t.h"), BASE_FLAGS);
    }

    #[test]
    fn header_defines_a_thunk_for_every_register_but_the_stack_pointer() {
        let header = bare_thunks();
        assert_eq!(header.matches("jmp *%").count(), 15);
        assert!(!header.contains("rsp"));
        assert_eq!(header.matches(",comdat").count(), 15);
    }
}

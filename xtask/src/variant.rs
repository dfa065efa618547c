//! The variants of a program: the same source and optimisation, another way to make an indirect call.
//!
//! `jmpthunk` is the fair yardstick. It calls thunks exactly as the retpoline build does, so code size,
//! register choice and missing jump tables are the same, but the thunk is a plain `jmp *%reg`. What it is
//! faster by is what the protection costs; what `plain` is faster by also holds what the compiler may do once
//! jump tables are allowed again.
//!
//! The peers are what else can be done about the cost: promotion by the compiler (`pgo`) or by a post-link
//! optimiser (`bolt`), each trained beforehand on another input, and the other protection, `lfence` before
//! the jump.

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
    /// The retpoline build with the compiler's profile feedback, trained on another input
    Pgo,
    /// The plain build rewritten by LLVM BOLT, trained on another input: calls promoted, retpolines inserted
    Bolt,
    /// Calls through thunks that are `lfence; jmp *%reg`, the other protection
    Lfence,
}

/// Who compiles a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// gcc and g++.
    Gcc,
    /// clang and clang++: every protected call goes through r11.
    Clang,
}

impl Toolchain {
    /// The C and the C++ compiler.
    pub fn compilers(self) -> (&'static str, &'static str) {
        match self {
            Toolchain::Gcc => ("gcc", "g++"),
            Toolchain::Clang => ("clang", "clang++"),
        }
    }

    fn retpoline(self) -> &'static str {
        match self {
            Toolchain::Gcc => "-mindirect-branch=thunk -mindirect-branch-register",
            Toolchain::Clang => "-mretpoline",
        }
    }

    fn external(self) -> &'static str {
        match self {
            Toolchain::Gcc => "-mindirect-branch=thunk-extern -mindirect-branch-register",
            Toolchain::Clang => "-mretpoline-external-thunk",
        }
    }
}

/// What every variant is compiled with. CET is off since gcc rejects it together with thunks.
pub const BASE_FLAGS: &str = "-O2 -g0 -fcf-protection=none";
/// What BOLT needs of the link: relocations kept, and code at fixed addresses, since it cannot move the
/// relative label tables of computed gotos in a position-independent executable.
const BOLT_FLAGS: &str = "-fno-pie -no-pie -Wl,--emit-relocs";

impl Variant {
    /// Every one of them.
    pub const ALL: [Variant; 7] = [
        Variant::Retpoline,
        Variant::Plain,
        Variant::Jmpthunk,
        Variant::Relpoline,
        Variant::Pgo,
        Variant::Bolt,
        Variant::Lfence,
    ];

    /// The name used on the command line, in paths and in results.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Retpoline => "retpoline",
            Variant::Plain => "plain",
            Variant::Jmpthunk => "jmpthunk",
            Variant::Relpoline => "relpoline",
            Variant::Pgo => "pgo",
            Variant::Bolt => "bolt",
            Variant::Lfence => "lfence",
        }
    }

    /// The variant whose binaries this one runs.
    pub fn binaries(self) -> Variant {
        if self == Variant::Relpoline { Variant::Retpoline } else { self }
    }

    /// Compiler flags, given after the program's own so that they win. `thunks` is the header with the
    /// variant's thunks.
    pub fn flags(self, toolchain: Toolchain, thunks: &str) -> String {
        match self {
            Variant::Plain => BASE_FLAGS.to_owned(),
            Variant::Bolt => format!("{BASE_FLAGS} {BOLT_FLAGS}"),
            Variant::Jmpthunk | Variant::Lfence => {
                format!("{BASE_FLAGS} {} -include {thunks}", toolchain.external())
            }
            Variant::Retpoline | Variant::Relpoline | Variant::Pgo => {
                format!("{BASE_FLAGS} {}", toolchain.retpoline())
            }
        }
    }

    /// What the thunks do before they jump, for the variants that bring their own.
    pub fn thunk_body(self) -> Option<&'static str> {
        match self {
            Variant::Jmpthunk => Some(""),
            Variant::Lfence => Some("lfence\\n\\t"),
            _ => None,
        }
    }
}

const REGISTERS: [&str; 15] =
    ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// A header, included into every translation unit, that defines thunks which jump outright after `before`.
///
/// gcc emits its own thunks as hidden COMDAT functions into each object file that needs one, 17 bytes apart.
/// This does the same, so executables and shared libraries each get one private copy and no
/// link command has to change. The rest of the 17 bytes is int3.
pub fn thunks(before: &str) -> String {
    let mut header = String::from("/* Written by xtask: thunks that jump. */\n#ifndef __ASSEMBLER__\n");
    for register in REGISTERS {
        let name = format!("__x86_indirect_thunk_{register}");
        let lines = [
            format!(".pushsection .text.{name},\\\"axG\\\",@progbits,{name},comdat"),
            format!(".globl {name}"),
            format!(".hidden {name}"),
            format!(".type {name},@function"),
            format!("{name}:"),
            format!("{before}jmp *%{register}"),
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
    fn only_variants_with_thunks_of_their_own_include_a_header() {
        for toolchain in [Toolchain::Gcc, Toolchain::Clang] {
            assert!(Variant::Jmpthunk.flags(toolchain, "/t.h").ends_with("-include /t.h"));
            assert!(!Variant::Retpoline.flags(toolchain, "/t.h").contains("include"));
            assert_eq!(Variant::Plain.flags(toolchain, "/t.h"), BASE_FLAGS);
        }
    }

    #[test]
    fn header_defines_a_thunk_for_every_register_but_the_stack_pointer() {
        let header = thunks("");
        assert_eq!(header.matches("jmp *%").count(), 15);
        assert!(!header.contains("rsp"));
        assert_eq!(header.matches(",comdat").count(), 15);
    }
}

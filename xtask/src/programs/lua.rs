//! Lua 5.4: nearly all of its indirect branches are one dispatch jump with some eighty targets.
//!
//! It is also the program that clang builds: there each protected branch goes through r11, and gotos with it.

use anyhow::Result;

use super::{Program, Source};
use crate::build::Tree;
use crate::variant::{Toolchain, Variant};
use crate::workload::{Run, Word, Workload};

/// Lua as a compiler builds it.
pub struct Lua(pub Toolchain);

impl Program for Lua {
    fn name(&self) -> &'static str {
        match self.0 {
            Toolchain::Gcc => "lua",
            Toolchain::Clang => "lua-clang",
        }
    }

    fn needs(&self) -> &'static [&'static str] {
        match self.0 {
            Toolchain::Gcc => &[],
            Toolchain::Clang => &["clang"],
        }
    }

    fn toolchain(&self) -> Toolchain {
        self.0
    }

    fn executable(&self) -> &'static str {
        "src/lua"
    }

    fn has(&self, variant: Variant) -> bool {
        // Without retpolines clang's code is gcc's business no less: once through BOLT is enough.
        self.0 == Toolchain::Gcc || variant != Variant::Bolt
    }

    fn source(&self) -> Source {
        Source::Debian("lua5.4")
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        let compiler = format!("CC={}", tree.cc.display());
        // Debian's Makefile wants libtool for its libraries; the interpreter needs only its own objects.
        tree.make(&["-C", "src", &compiler, "CFLAGS=-DLUA_USE_LINUX -DLUA_COMPAT_5_3", "LIBS=-lm -ldl -Wl,-E", "lua"])
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        vec![script("b.lua")]
    }

    fn training(&self) -> Option<Box<dyn Workload>> {
        Some(script("train.lua"))
    }
}

fn script(file: &'static str) -> Box<dyn Workload> {
    let arguments = vec![Word::File(file)];
    Box::new(Run { name: file, executable: "src/lua", arguments, environment: &[], is_answer: |_| true })
}

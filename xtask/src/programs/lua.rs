//! Lua 5.4: nearly all of its indirect branches are one dispatch jump with some eighty targets.

use anyhow::Result;

use super::Program;
use crate::build::Tree;
use crate::workload::{Run, Word, Workload};

pub struct Lua;

impl Program for Lua {
    fn name(&self) -> &'static str {
        "lua"
    }

    fn source(&self) -> &'static str {
        "lua5.4"
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
        let arguments = vec![Word::File("b.lua")];
        vec![Box::new(Run { name: "b.lua", executable: "src/lua", arguments, environment: &[], is_answer: |_| true })]
    }
}

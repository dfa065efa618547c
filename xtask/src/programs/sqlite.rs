//! SQLite's own speed test: a bytecode interpreter and a B-tree behind method tables, all in memory. Built by
//! gcc, and by clang, whose thunks are of one register.

use anyhow::Result;

use super::{Program, Source};
use crate::build::Tree;
use crate::variant::{Toolchain, Variant};
use crate::workload::{Run, Word, Workload};

/// SQLite as a compiler builds it.
pub struct Sqlite(pub Toolchain);

impl Program for Sqlite {
    fn name(&self) -> &'static str {
        match self.0 {
            Toolchain::Gcc => "sqlite",
            Toolchain::Clang => "sqlite-clang",
        }
    }

    fn source(&self) -> Source {
        Source::Debian("sqlite3")
    }

    fn needs(&self) -> &'static [&'static str] {
        // The amalgamation, one C file of everything, is made by Tcl scripts.
        match self.0 {
            Toolchain::Gcc => &["tcl"],
            Toolchain::Clang => &["tcl", "clang"],
        }
    }

    fn toolchain(&self) -> Toolchain {
        self.0
    }

    fn has(&self, variant: Variant) -> bool {
        // What others do is measured on one of the two.
        self.0 == Toolchain::Gcc || !matches!(variant, Variant::Pgo | Variant::Bolt)
    }

    fn executable(&self) -> &'static str {
        "speedtest1"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        tree.step("./configure", &["--disable-tcl"])?;
        tree.make(&["sqlite3.c"])?;
        let compiler = tree.cc.to_string_lossy();
        let sources = ["-I.", "test/speedtest1.c", "sqlite3.c"];
        let options = ["-DSQLITE_THREADSAFE=0", "-DSQLITE_OMIT_LOAD_EXTENSION", "-o", "speedtest1", "-lm"];
        tree.step(&compiler, &[&sources[..], &options[..]].concat())
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        vec![speedtest("speedtest1", &["--size", "40"])]
    }

    fn training(&self) -> Option<Box<dyn Workload>> {
        Some(speedtest("speedtest1 cte", &["--size", "20", "--testset", "cte"]))
    }
}

fn speedtest(name: &'static str, options: &[&'static str]) -> Box<dyn Workload> {
    let fixed = ["--verify", ":memory:"];
    Box::new(Run {
        name,
        executable: "speedtest1",
        arguments: options.iter().chain(&fixed).copied().map(Word::Plain).collect(),
        environment: &[],
        // All other lines hold times.
        is_answer: |line| line.starts_with("Verification Hash"),
    })
}

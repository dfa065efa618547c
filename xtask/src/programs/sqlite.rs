//! SQLite's own speed test: a bytecode interpreter and a B-tree behind method tables, all in memory.

use anyhow::Result;

use super::{Program, Source};
use crate::build::Tree;
use crate::workload::{Run, Word, Workload};

pub struct Sqlite;

impl Program for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn source(&self) -> Source {
        Source::Debian("sqlite3")
    }

    fn needs(&self) -> &'static [&'static str] {
        // The amalgamation, one C file of everything, is made by Tcl scripts.
        &["tcl"]
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

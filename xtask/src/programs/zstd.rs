//! zstd: its hot loops make no indirect calls, so nothing is lost to retpolines and nothing may be lost to
//! the engine.

use std::fs;

use anyhow::Result;

use super::{Program, Source};
use crate::build::Tree;
use crate::workload::{Run, Setting, Word, Workload};

pub struct Zstd;

impl Program for Zstd {
    fn name(&self) -> &'static str {
        "zstd"
    }

    fn source(&self) -> Source {
        Source::Debian("libzstd")
    }

    fn executable(&self) -> &'static str {
        "programs/zstd"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        let compiler = format!("CC={}", tree.cc.display());
        tree.make(&["-C", "programs", &compiler, "HAVE_ZLIB=0", "HAVE_LZMA=0", "HAVE_LZ4=0", "zstd"])
    }

    fn prepare(&self, setting: &Setting) -> Result<()> {
        fs::write(setting.run.join("other.txt"), text(30_000, 7))?;
        Ok(fs::write(setting.run.join("text.txt"), text(900_000, 1))?)
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        vec![compress("zstd -6", "-6", "text.txt")]
    }

    fn training(&self) -> Option<Box<dyn Workload>> {
        Some(compress("zstd -9", "-9", "other.txt"))
    }
}

fn compress(name: &'static str, level: &'static str, file: &'static str) -> Box<dyn Workload> {
    let options = ["-q", level, "--single-thread", "-c"].map(Word::Plain);
    let arguments = options.into_iter().chain([Word::Data(file)]).collect();
    Box::new(Run { name, executable: "programs/zstd", arguments, environment: &[], is_answer: |_| true })
}

/// Log-like lines that compress neither too well nor too badly, the same for the same seed.
fn text(lines: u32, seed: u32) -> String {
    const WORDS: [&str; 8] =
        ["get", "put", "miss", "evicted", "flush", "compaction of level", "retry", "timeout after"];
    let (mut state, mut text) = (seed, String::new());
    for line in 0..lines {
        // A linear congruential generator: Numerical Recipes' constants.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let word = WORDS[(state >> 29) as usize];
        text += &format!("{:08} {word} {:x} {}\n", line * 3, state >> 11, (state >> 7) % 4093);
    }
    text
}

//! CPython 3.11: an interpreter whose every opcode, slot and method is an indirect branch.
//!
//! `b.py` and `b2.py` share no code. Profile feedback for the one is trained on the other.

use anyhow::Result;

use super::{Program, Source};
use crate::build::Tree;
use crate::workload::{Run, Word, Workload};

pub struct CPython;

impl Program for CPython {
    fn name(&self) -> &'static str {
        "cpython"
    }

    fn source(&self) -> Source {
        Source::Debian("python3.11")
    }

    fn needs(&self) -> &'static [&'static str] {
        &["zlib1g-dev"]
    }

    fn executable(&self) -> &'static str {
        "python"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        tree.step("./configure", &["--without-ensurepip", "--disable-test-modules"])?;
        tree.make(&[])
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        vec![script("b.py", "b.py"), script("b2.py", "b2.py")]
    }

    fn training(&self) -> Option<Box<dyn Workload>> {
        Some(script("train.py", "train.py"))
    }
}

fn script(name: &'static str, file: &'static str) -> Box<dyn Workload> {
    Box::new(Run {
        name,
        executable: "python",
        // Isolated and without site: what this machine has installed is not part of the workload.
        arguments: vec![Word::Plain("-IS"), Word::File(file)],
        environment: &[("PYTHONHASHSEED", "0")],
        is_answer: |_| true,
    })
}

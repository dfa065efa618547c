//! GNU awk: a switch over operations, which retpolines forbid to be a table, and calls by pointer around it.

use anyhow::Result;

use super::{Program, Source};
use crate::build::Tree;
use crate::workload::{Run, Word, Workload};

pub struct Gawk;

impl Program for Gawk {
    fn name(&self) -> &'static str {
        "gawk"
    }

    fn source(&self) -> Source {
        Source::Debian("gawk")
    }

    fn executable(&self) -> &'static str {
        "gawk"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        tree.step("./configure", &["--disable-nls", "--disable-mpfr", "--disable-extensions", "--without-readline"])?;
        tree.make(&["-C", "support"])?;
        tree.make(&["gawk"])
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        let arguments = vec![Word::Plain("-f"), Word::File("b.awk")];
        let executable = self.executable();
        vec![Box::new(Run {
            name: "b.awk",
            executable,
            arguments,
            environment: &[("LC_ALL", "C")],
            is_answer: |_| true,
        })]
    }
}

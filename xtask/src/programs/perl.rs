//! Perl 5: one indirect call per operation, from a loop of two lines.

use anyhow::Result;

use super::{Program, Source};
use crate::build::Tree;
use crate::workload::{Run, Word, Workload};

pub struct Perl;

impl Program for Perl {
    fn name(&self) -> &'static str {
        "perl"
    }

    fn source(&self) -> Source {
        Source::Debian("perl")
    }

    fn executable(&self) -> &'static str {
        "perl"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        let compiler = format!("-Dcc={}", tree.cc.display());
        tree.step("./Configure", &["-des", &compiler, "-Doptimize=-O2"])?;
        // Just the interpreter: the pure-Perl library comes with the source, and modules in C take longest.
        tree.make(&["perl"])
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        vec![script("b.pl")]
    }

    fn training(&self) -> Option<Box<dyn Workload>> {
        Some(script("train.pl"))
    }
}

fn script(file: &'static str) -> Box<dyn Workload> {
    // `-I` finds the build's own strict.pm and warnings.pm instead of an installation's.
    let arguments = vec![Word::Plain("-I"), Word::Built("lib"), Word::File(file)];
    let environment = &[("PERL_HASH_SEED", "0")];
    Box::new(Run { name: file, executable: "perl", arguments, environment, is_answer: |_| true })
}

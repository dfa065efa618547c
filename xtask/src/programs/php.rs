//! PHP 8: a dispatch jump at the end of each of some thousand handlers, and a program that starts and ends
//! quickly.
//!
//! gcc lays its handlers out as one function of 1.5 MB with computed gotos, whose state is in registers
//! across them.

use anyhow::Result;

use super::{Program, Source};
use crate::build::Tree;
use crate::workload::{Run, Word, Workload};

pub struct Php;

impl Program for Php {
    fn name(&self) -> &'static str {
        "php"
    }

    fn source(&self) -> Source {
        Source::Debian("php8.2")
    }

    fn executable(&self) -> &'static str {
        "sapi/cli/php"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        // The interpreter and its standard functions: no extension needs a library.
        tree.step("./configure", &["--disable-all", "--disable-cgi", "--disable-phpdbg", "--without-pear"])?;
        tree.make(&["sapi/cli/php"])
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        let arguments = vec![Word::Plain("-n"), Word::File("b.php")];
        let executable = self.executable();
        vec![Box::new(Run { name: "b.php", executable, arguments, environment: &[], is_answer: |_| true })]
    }
}

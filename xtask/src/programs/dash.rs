//! dash: a shell, whose builtins and nodes are called by pointer. A script without a child here; how much a
//! child costs is what `relpoline bench` measures.

use anyhow::Result;

use super::{Program, Source};
use crate::build::Tree;
use crate::workload::{Run, Word, Workload};

pub struct Dash;

impl Program for Dash {
    fn name(&self) -> &'static str {
        "dash"
    }

    fn source(&self) -> Source {
        Source::Debian("dash")
    }

    fn executable(&self) -> &'static str {
        "src/dash"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn needs(&self) -> &'static [&'static str] {
        &["autoconf", "automake"]
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        tree.step("sh", &["-c", "[ -x configure ] || ./autogen.sh"])?;
        tree.step("./configure", &[])?;
        // Tables are made by programs of its own; parallel makes of them race.
        tree.step("make", &[])
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        let arguments = vec![Word::File("b.sh")];
        let executable = self.executable();
        vec![Box::new(Run {
            name: "b.sh",
            executable,
            arguments,
            environment: &[("LC_ALL", "C")],
            is_answer: |_| true,
        })]
    }
}

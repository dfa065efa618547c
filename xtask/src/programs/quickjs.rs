//! QuickJS: a JavaScript engine whose interpreter is one function with a computed goto behind each operation.
//!
//! Debian 12 has no package of it, so the source is that of a crate; only its C code has retpolines.

use anyhow::Result;

use super::{Program, Source};
use crate::build::Tree;
use crate::variant::Variant;
use crate::workload::{Run, Word, Workload};

pub struct QuickJs;

const EXECUTABLE: &str = "target/release/quickjs-host";

impl Program for QuickJs {
    fn name(&self) -> &'static str {
        "quickjs"
    }

    fn source(&self) -> Source {
        Source::Crate { host: "quickjs-host", name: "rquickjs-sys" }
    }

    fn executable(&self) -> &'static str {
        EXECUTABLE
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn has(&self, variant: Variant) -> bool {
        !matches!(variant, Variant::Pgo | Variant::Bolt)
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        // Build scripts take the C compiler from CC, which is the variant's own.
        let target = format!("CARGO_TARGET_DIR={}", tree.dir.join("target").display());
        tree.step("env", &[&target, "cargo", "build", "--release", "--locked"])
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        let arguments = vec![Word::File("b.js")];
        vec![Box::new(Run { name: "b.js", executable: EXECUTABLE, arguments, environment: &[], is_answer: |_| true })]
    }
}

//! rhai, a script engine in Rust: calls through `dyn` for every function of a script. Built by cargo with
//! rustc's retpolines, for which rustc has one thunk, through r11.
//!
//! The standard library comes compiled without retpolines, on every variant alike. Flags of this kind are not
//! stable yet, so the stable compiler is told to take them.

use anyhow::Result;

use super::{Program, Source};
use crate::build::Tree;
use crate::variant::Variant;
use crate::workload::{Run, Word, Workload};

pub struct Rhai;

/// Named, so that the flags are for the program alone: build scripts have no thunks to link against.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const EXECUTABLE: &str = "target/x86_64-unknown-linux-gnu/release/rhai-host";
const ALLOWED: &str = "-Cunsafe-allow-abi-mismatch=retpoline,retpoline-external-thunk";

impl Program for Rhai {
    fn name(&self) -> &'static str {
        "rhai"
    }

    fn source(&self) -> Source {
        Source::Crate { host: "rhai-host", name: "rhai" }
    }

    fn executable(&self) -> &'static str {
        EXECUTABLE
    }

    fn recipe(&self) -> u32 {
        2
    }

    fn has(&self, variant: Variant) -> bool {
        !matches!(variant, Variant::Pgo | Variant::Bolt)
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        let (flags, features) = match tree.variant {
            Variant::Jmpthunk => (format!("-Zretpoline-external-thunk {ALLOWED}"), "bare-thunk"),
            Variant::Lfence => (format!("-Zretpoline-external-thunk {ALLOWED}"), "lfence-thunk"),
            Variant::Retpoline | Variant::Relpoline => (format!("-Zretpoline {ALLOWED}"), ""),
            Variant::Plain | Variant::Pgo | Variant::Bolt => (String::new(), ""),
        };
        let (flags, directory) = (format!("RUSTFLAGS={flags}"), tree.dir.join("target"));
        let target = format!("CARGO_TARGET_DIR={}", directory.display());
        let cargo = ["cargo", "build", "--release", "--locked", "--target", TARGET, "--features", features];
        tree.step("env", &[&["RUSTC_BOOTSTRAP=1", &flags, &target][..], &cargo[..]].concat())
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        let arguments = vec![Word::File("b.rhai")];
        let executable = EXECUTABLE;
        vec![Box::new(Run { name: "b.rhai", executable, arguments, environment: &[], is_answer: |_| true })]
    }
}

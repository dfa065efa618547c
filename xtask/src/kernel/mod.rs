//! `cargo xtask kernel-build` and `cargo xtask kernel-test`: the module `relpoline.ko`.
//!
//! [`mod@build`] compiles the engine with the stable toolchain for the kernel and lets kbuild link it with
//! the C shim. [`debian`] fetches other kernels than the machine's. [`image`] unpacks Debian's stock kernel
//! and reads from it what the module must find. [`guest`] boots that kernel in QEMU with a memory file system
//! of our own, in software emulation. [`mod@test`] says what is run in it and judges the outcome; [`matrix`]
//! does so for all kernels.

mod build;
mod debian;
mod guest;
mod image;
mod matrix;
mod refusals;
mod test;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

pub use build::{build, copy_shim, engine};

use build::build_for_test;
pub use matrix::test;
pub use test::test_built;

/// Options of `kernel-build`.
#[derive(Args, Clone)]
pub struct BuildOptions {
    /// The kernel to build for [default: the newest whose headers are installed]
    #[arg(long, value_name = "RELEASE")]
    release: Option<String>,
    /// A kernel of Debian's by its short name, which is fetched and not installed [default: none]
    #[arg(long, value_name = "NAME", conflicts_with = "release")]
    kernel: Option<String>,
    /// Where to build [default: target/kernel/RELEASE]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Build a deliberately broken engine, which the tests must catch
    #[arg(long, value_name = "FAULT")]
    broken: Option<String>,
}

/// Options of `kernel-test`.
#[derive(Args, Clone)]
pub struct TestOptions {
    #[command(flatten)]
    build: BuildOptions,
    /// All of Debian's kernels that are known here, one after the other, and some of them on other processors
    #[arg(long, conflicts_with_all = ["release", "kernel", "out", "broken"])]
    all: bool,
    /// Only these parts of the test, and what they need [default: all]
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The processor that QEMU emulates. Without cmpxchg16b: QEMU 7.2 sometimes leaves wrong flags behind it
    /// (seen on 6.12)
    #[arg(long, value_name = "MODEL", default_value = "max,-cx16")]
    cpu: String,
    /// How many processors QEMU emulates
    #[arg(long, value_name = "N", default_value_t = 2)]
    processors: u32,
    /// Boot with the mitigations that the kernel chooses for that processor, not with spectre_v2=retpoline
    #[arg(long)]
    default_mitigations: bool,
    /// Times that sites are promoted anew under load
    #[arg(long, default_value_t = 10_000)]
    promotions: u32,
    /// Times that they are, while kprobes on them come, are armed, disarmed, and go
    #[arg(long, value_name = "PROMOTIONS", default_value_t = 500)]
    churn: u32,
    /// Times that the module is unloaded and loaded under load
    #[arg(long, default_value_t = 20)]
    reloads: u32,
    /// Exit with success, saying so, when the packages that the test needs are not there
    #[arg(long)]
    skip_without_packages: bool,
}

/// The root of the source tree.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// Where cargo puts what it builds.
fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs a command, and fails with what it printed.
fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{name} cannot be started"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{name} failed ({}):\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(said + &String::from_utf8_lossy(&output.stderr))
}

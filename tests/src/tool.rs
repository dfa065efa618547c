//! The command `relpoline` and its engine.
//!
//! Cargo builds a package's binaries for the tests of that package alone, and the command belongs to another
//! one. So the first test that wants it has cargo build it, into the same target directory and with the same
//! profile as the test itself; when that has been done before, cargo has nothing to do. Cargo's own lock keeps
//! test executables that run at the same time apart.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

/// Names the command, in place of the one that is built.
const VARIABLE: &str = "RELPOLINE_BIN";
/// Where the engine's file lies beside the command.
const ENGINE: &str = "librelpoline_engine.so";

/// Directory of the profile that this test was built with: `target/debug`.
fn profile_directory() -> PathBuf {
    let exe = env::current_exe().expect("a test knows its own path");
    let deps = exe
        .ancestors()
        .find(|path| path.ends_with("deps"))
        .expect("a test lies in deps/");
    deps.parent()
        .expect("deps/ lies in a profile's directory")
        .to_path_buf()
}

/// Cargo's target directory.
#[must_use]
pub fn target_directory() -> PathBuf {
    profile_directory()
        .parent()
        .expect("a profile's directory lies in target/")
        .to_path_buf()
}

/// The command.
#[must_use]
pub fn relpoline() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| env::var_os(VARIABLE).map_or_else(build_relpoline, PathBuf::from))
}

/// The engine that the command preloads.
#[must_use]
pub fn engine() -> PathBuf {
    relpoline().with_file_name(ENGINE)
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
}

fn build_relpoline() -> PathBuf {
    let directory = profile_directory();
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "build",
        "--locked",
        "-p",
        "relpoline-cli",
        "--bin",
        "relpoline",
        "--profile",
        profile,
    ]);
    cargo
        .arg("--target-dir")
        .arg(target_directory())
        .current_dir(workspace());
    succeed(&mut cargo);
    directory.join("relpoline")
}

/// An engine built with `--cfg relpoline_broken="variant"`: one rule of the design is broken in it.
///
/// Built without link-time optimisation, which takes longer than the test.
#[must_use]
pub fn broken_engine(variant: &str) -> PathBuf {
    let target = target_directory().join("broken");
    let kept = target.join(format!("{variant}.so"));
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "rustc",
        "--locked",
        "--lib",
        "--crate-type",
        "cdylib",
        "--profile",
        "preload",
        "--features",
        "preload",
    ]);
    cargo.args([
        "--config",
        "profile.preload.lto=false",
        "--config",
        "profile.preload.codegen-units=2",
    ]);
    cargo
        .arg("--manifest-path")
        .arg(workspace().join("crates/engine/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target);
    cargo.args(["--", "-Clink-arg=-nostartfiles"]);
    cargo.arg("-Clink-arg=-Wl,-z,initfirst,-z,now,-z,relro,-soname,librelpoline_engine.so");
    cargo
        .env("RUSTFLAGS", format!("--cfg relpoline_broken=\"{variant}\""))
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_BUILD_TARGET");
    succeed(&mut cargo);
    fs::copy(target.join("preload").join(ENGINE), &kept)
        .expect("the broken engine cannot be copied");
    kept
}

fn succeed(command: &mut Command) {
    let output = command.output().expect("cannot start cargo");
    assert!(
        output.status.success(),
        "{command:?} fails:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

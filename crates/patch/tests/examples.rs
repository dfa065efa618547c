//! The examples check each call that they make.

use std::path::Path;
use std::process::{Command, Output};

fn succeeds(run: &Output) {
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success(), "{} {text} {}", run.status, String::from_utf8_lossy(&run.stderr));
    assert!(text.contains("all right"), "{text}");
    println!("{text}");
}

#[test]
fn a_toy_compiler_in_two_tiers() {
    // Built with this test, unless it alone was asked for.
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--offline", "--example", "toy_jit", "--manifest-path"]);
    cargo.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    succeeds(&cargo.output().expect("cargo runs"));
}

/// Cranelift is fetched and built for it, which takes minutes.
#[test]
#[ignore = "slow: .ci/run --long"]
fn functions_that_cranelift_compiles() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("cranelift/Cargo.toml");
    let cargo = || Command::new(env!("CARGO"));
    let fetched = cargo().args(["fetch", "--quiet", "--manifest-path"]).arg(&manifest).output().expect("cargo runs");
    if !fetched.status.success() {
        println!("skipped: {}", String::from_utf8_lossy(&fetched.stderr));
        return;
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cranelift");
    let run = cargo()
        .args(["run", "--quiet", "--offline", "-j2", "--release", "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(target)
        .output();
    succeeds(&run.expect("cargo runs"));
}

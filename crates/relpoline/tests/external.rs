//! Crates outside the workspace, built as a user would build them, under eight threads and constant change.
//!
//! `RELPOLINE_STRESS_SECONDS=30` runs it for longer than the default of 2 s.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(miri), not(feature = "no-patch")))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Builds the external crates, perhaps with a deliberate fault; returns where the results are.
fn build(fault: Option<&str>) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/external/Cargo.toml");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("external").join(fault.unwrap_or("right"));
    let flags = fault.map_or(String::new(), |f| format!("--cfg relpoline_broken=\"{f}\""));
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--offline", "--quiet", "-j2", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", flags)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    target.join("release")
}

fn stress(results: &Path, seconds: &str) -> Output {
    Command::new(results.join("stress")).arg(seconds).arg(results.join("libplugin.so")).output().expect("stress runs")
}

#[test]
fn no_call_goes_wrong_while_everything_changes() {
    let seconds = std::env::var("RELPOLINE_STRESS_SECONDS").unwrap_or_else(|_| String::from("2"));
    let run = stress(&build(None), &seconds);
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{} {text} {}", run.status, String::from_utf8_lossy(&run.stderr));
    assert!(text.contains("none wrong"), "{text}");
    println!("{text}");
}

#[test]
fn the_broken_variant_is_noticed() {
    let run = stress(&build(Some("key-skips")), "20");
    assert!(!run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    println!("{} {}", run.status, String::from_utf8_lossy(&run.stderr));
}

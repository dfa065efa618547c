//! `cargo relpoline build`: as cargo starts it, on crates made here, with the toolchain that runs the tests.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const PROGRAM: &str = "fn a(x: u64) -> u64 { x + 1 }
fn b(x: u64) -> u64 { x ^ 5 }
fn main() {
    let table: [fn(u64) -> u64; 2] = std::hint::black_box([a, b]);
    println!(\"{}\", (0..3000000_usize).fold(0, |sum, i| std::hint::black_box(table)[(i % 10 == 9) as usize](sum)));
}";

/// A crate of one program.
fn made() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("src")).unwrap();
    let manifest = "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[workspace]\n";
    fs::write(place.path().join("Cargo.toml"), manifest).unwrap();
    fs::write(place.path().join("src/main.rs"), PROGRAM).unwrap();
    place
}

/// What cargo would start for `cargo relpoline …` in a directory, where nothing of this build's settings is left.
fn cargo_relpoline(place: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cargo-relpoline"));
    command.arg("relpoline").args(arguments).current_dir(place);
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "CFLAGS"] {
        command.env_remove(name);
    }
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn what_it_builds_is_promoted() {
    let place = made();
    let output = cargo_relpoline(place.path(), &["build", "--offline"]).output().unwrap();
    let text = said(&output);
    assert!(output.status.success() && text.contains("target/debug/hello: relpoline can promote"), "{text}");
    assert!(!text.contains("cannot be enabled with"), "rustc complains about our flags: {text}");
    let report = place.path().join("r.json");
    let mut run = Command::new(env!("CARGO_BIN_EXE_relpoline"));
    run.args(["run", "--count", "--report"]).arg(&report).arg("--").arg(place.path().join("target/debug/hello"));
    let ran = run.output().unwrap();
    assert!(ran.status.success(), "{}", said(&ran));
    let report: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert!(report["coverage"].as_f64().unwrap() > 0.9, "{report:#}");
}

/// Flags that are set already stay, wherever they come from.
#[test]
fn flags_of_the_environment_and_of_config_files_stay() {
    let place = made();
    let source =
        PROGRAM.replace("fn main() {", "#[cfg(not(wanted))] compile_error!(\"a flag was lost\");\nfn main() {");
    fs::write(place.path().join("src/main.rs"), source).unwrap();
    let mut command = cargo_relpoline(place.path(), &["build", "--offline"]);
    let output = command.env("RUSTFLAGS", "--cfg wanted --check-cfg cfg(wanted)").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    fs::create_dir(place.path().join(".cargo")).unwrap();
    let config = "[build]\nrustflags = [\"--cfg\", \"wanted\", \"--check-cfg\", \"cfg(wanted)\"]\n";
    fs::write(place.path().join(".cargo/config.toml"), config).unwrap();
    let output = cargo_relpoline(place.path(), &["build", "--offline"]).output().unwrap();
    assert!(output.status.success() && said(&output).contains("relpoline can promote"), "{}", said(&output));
}

/// Cargo takes some flags in place of ours. What was built is looked at, so that is noticed.
#[test]
fn a_build_without_retpolines_is_a_failure() {
    let place = made();
    fs::create_dir(place.path().join(".cargo")).unwrap();
    let config = "[target.'cfg(target_os = \"linux\")']\nrustflags = [\"-Cdebuginfo=0\"]\n";
    fs::write(place.path().join(".cargo/config.toml"), config).unwrap();
    let output = cargo_relpoline(place.path(), &["build", "--offline"]).output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("nothing that was built has retpolines") && text.contains("[target."), "{text}");
}

#[test]
fn cargos_own_failures_are_cargos() {
    let place = made();
    fs::write(place.path().join("src/main.rs"), "fn main() { 1 + \"\" }").unwrap();
    let output = cargo_relpoline(place.path(), &["build", "--offline"]).output().unwrap();
    assert_eq!(output.status.code(), Some(101), "{}", said(&output));
    assert!(said(&output).contains("cannot add"), "{}", said(&output));
    let chosen = cargo_relpoline(place.path(), &["build", "--message-format=json"]).output().unwrap();
    assert!(said(&chosen).contains("--message-format cannot be chosen"), "{}", said(&chosen));
    let nothing = cargo_relpoline(place.path(), &["fly"]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(2));
    let help = cargo_relpoline(place.path(), &["--help"]).output().unwrap();
    assert!(help.status.success() && said(&help).contains("cargo relpoline build"));
}

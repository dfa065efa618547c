//! Crates outside the workspace, built as a user would build them: under eight threads and constant change; as
//! dylib and cdylib; with two versions of this crate in one program.
//!
//! `RELPOLINE_STRESS_SECONDS=30` runs it for longer than the default of 2 s.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(miri), not(feature = "no-patch")))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Builds the workspace at `manifest` as `name`; returns where the results are.
fn build_at(manifest: &Path, name: &str, flags: &str, arguments: &[&str]) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("external").join(name);
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--offline", "--quiet", "-j2", "--manifest-path"])
        .arg(manifest)
        .args(arguments)
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", flags)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    target.join("release")
}

fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/external/Cargo.toml")
}

/// Builds the stress program and its plug-in, perhaps with a deliberate fault.
fn build(fault: Option<&str>) -> PathBuf {
    let flags = fault.map_or(String::new(), |f| format!("--cfg relpoline_broken=\"{f}\""));
    build_at(&manifest(), fault.unwrap_or("right"), &flags, &["-p", "stress", "-p", "plugin"])
}

fn succeeds(run: &Output) -> String {
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success(), "{} {text} {}", run.status, String::from_utf8_lossy(&run.stderr));
    text
}

fn stress(results: &Path, seconds: &str) -> Output {
    Command::new(results.join("stress")).arg(seconds).arg(results.join("libplugin.so")).output().expect("stress runs")
}

#[test]
fn no_call_goes_wrong_while_everything_changes() {
    let seconds = std::env::var("RELPOLINE_STRESS_SECONDS").unwrap_or_else(|_| String::from("2"));
    let run = stress(&build(None), &seconds);
    let text = succeeds(&run);
    assert!(text.contains("none wrong"), "{text}");
    println!("{text}");
}

#[test]
fn the_broken_variant_is_noticed() {
    let run = stress(&build(Some("key-skips")), "20");
    assert!(!run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    println!("{} {}", run.status, String::from_utf8_lossy(&run.stderr));
}

#[test]
fn a_dylib_shares_its_keys_and_calls_with_its_program() {
    let results = build_at(&manifest(), "dylib", "-C prefer-dynamic", &["-p", "user"]);
    let sysroot = Command::new("rustc").args(["--print", "target-libdir"]).output().expect("rustc runs");
    let libraries = format!(
        "{}:{}:{}",
        results.display(),
        results.join("deps").display(),
        String::from_utf8_lossy(&sysroot.stdout).trim()
    );
    let run = Command::new(results.join("user")).env("LD_LIBRARY_PATH", libraries).output().expect("user runs");
    assert!(succeeds(&run).contains("all right"));
}

/// A program with this version of the crate and the next one: neither sees the other's sites.
#[test]
fn two_versions_do_not_disturb_each_other() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("two-versions");
    let _ = std::fs::remove_dir_all(&place);
    copy(&here.join("src"), &place.join("next/src"));
    let write = |path: &str, text: String| {
        std::fs::create_dir_all(place.join(path).parent().expect("a directory")).expect("created");
        std::fs::write(place.join(path), text).expect("written");
    };
    let read = |path: &str| std::fs::read_to_string(here.join(path)).expect(path);
    write("next/README.md", String::from("The next version."));
    write("next/build.rs", read("build.rs"));
    write(
        "next/src/patched/asm.rs",
        read("src/patched/asm.rs").replace("relpoline_sites_0_1_0", "relpoline_sites_0_2_0"),
    );
    let crates = here.parent().expect("crates/").display().to_string();
    write(
        "next/Cargo.toml",
        format!(
            "[package]\nname = \"relpoline\"\nversion = \"0.2.0\"\nedition = \"2024\"\n\
             [features]\nno-patch = []\nretpoline = []\nc = []\n\
             [dependencies]\nrelpoline-core = {{ path = \"{crates}/core\" }}\n\
             relpoline-text = {{ path = \"{crates}/text\" }}\n\
             rustix = {{ version = \"1.1\", default-features = false, features = [\"mm\", \"process\"] }}\n"
        ),
    );
    write(
        "Cargo.toml",
        format!(
            "[workspace]\n[package]\nname = \"two\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
             [dependencies]\nrelpoline = {{ path = \"{crates}/relpoline\" }}\n\
             next = {{ package = \"relpoline\", path = \"next\" }}\n"
        ),
    );
    write("src/main.rs", read("tests/external/two_versions.rs"));
    std::fs::copy(here.join("tests/external/Cargo.lock"), place.join("Cargo.lock")).expect("copied");
    let results = build_at(&place.join("Cargo.toml"), "two", "", &[]);
    assert!(succeeds(&Command::new(results.join("two")).output().expect("two runs")).contains("all right"));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("created");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).expect("copied");
        }
    }
}

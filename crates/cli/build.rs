//! Builds the engine that the command preloads, puts it beside the binary and makes it embeddable.
//!
//! The engine needs panic=abort, no std and LTO whatever profile the command has, so it is built by a nested
//! cargo with a profile and a target directory of its own (a shared one would dead-lock on cargo's lock).
//! The result is `OUT_DIR/librelpoline_engine.so`, included by `src/preload/embedded.rs`, and a copy in
//! `target/<profile>/`, so that a debugger and `ldd` have a file to look at.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

const LIBRARY: &str = "librelpoline_engine.so";

fn main() {
    let crates = directory("CARGO_MANIFEST_DIR").parent().map(Path::to_path_buf).unwrap_or_default();
    let out = directory("OUT_DIR");
    watch(&crates);
    let built = build_engine(&crates.join("engine"), &out.join("engine"));
    let embedded = out.join(LIBRARY);
    replace(&built, &embedded).expect("cannot copy the engine into OUT_DIR");
    if let Some(profile) = out.ancestors().nth(3) {
        // Only a convenience: the command carries the embedded copy.
        let _ = replace(&built, &profile.join(LIBRARY));
    }
    let bytes = fs::read(&embedded).expect("cannot read the engine back");
    println!("cargo::rustc-env=RELPOLINE_ENGINE_HASH={:016x}", fnv1a(&bytes));
}

fn directory(variable: &str) -> PathBuf {
    PathBuf::from(env::var_os(variable).unwrap_or_else(|| panic!("cargo did not set {variable}")))
}

/// Flags for the engine's rustc: of ours only those that keep paths of the machine, and builds in other places, out of it.
fn engine_flags() -> String {
    let ours = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let kept = ours
        .split('\u{1f}')
        .filter(|flag| flag.starts_with("--remap-path-prefix") || *flag == "-Clink-arg=-Wl,--build-id=sha1");
    ["-Cforce-frame-pointers=yes"].into_iter().chain(kept).collect::<Vec<_>>().join("\u{1f}")
}

/// Everything the engine is made of.
fn watch(crates: &Path) {
    for name in ["core", "text", "learn", "stats", "engine"] {
        for part in ["src", "Cargo.toml", "build.rs"] {
            let path = crates.join(name).join(part);
            if path.exists() {
                println!("cargo::rerun-if-changed={}", path.display());
            }
        }
    }
    for name in ["build.rs", "../../Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", crates.join("cli").join(name).display());
    }
}

/// Runs the nested cargo and returns the library it made. Its errors become ours.
fn build_engine(manifest: &Path, target: &Path) -> PathBuf {
    let triple = env::var("TARGET").expect("cargo did not set TARGET");
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["rustc", "--lib", "--crate-type", "cdylib", "--profile", "preload", "--features", "preload"])
        .args(["--locked", "--target", &triple, "--manifest-path"])
        .arg(manifest.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        // `initfirst`: its constructor runs before every other one, while the process has a single thread.
        // `nostdlib`: any loader can load it, so it needs neither start-up files nor a library.
        .args(["--", "-Clink-arg=-nostdlib"])
        .arg("-Clink-arg=-Wl,-z,initfirst,-z,now,-z,relro,-soname,librelpoline_engine.so")
        // Flags meant for the command (coverage, sanitizers, another CPU) would break or unportably change a
        // library that lives in other people's processes. Set, it also overrides config files. Profilers that follow
        // frame pointers see the program's functions through those of the engine.
        .env("CARGO_ENCODED_RUSTFLAGS", engine_flags())
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("CARGO_TARGET_DIR")
        // clippy and Miri put themselves in the compiler's place.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CLIPPY_ARGS")
        .output()
        .expect("cannot start cargo for the engine");
    if !output.status.success() {
        eprintln!("the engine could not be built:\n{}", String::from_utf8_lossy(&output.stderr));
        std::process::exit(1);
    }
    target.join(triple).join("preload").join(LIBRARY)
}

/// Copies atomically: programs may be running that have the old file mapped.
fn replace(from: &Path, to: &Path) -> io::Result<()> {
    let fresh = to.with_extension(format!("so.{}", std::process::id()));
    fs::copy(from, &fresh)?;
    fs::rename(fresh, to)
}

/// 64-bit FNV-1a: names the cached copy; what counts is the comparison of contents.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

//! The command `relpoline` and its engine.
//!
//! Cargo builds a package's binaries for the tests of that package alone, and the command belongs to another
//! one. So the first test that wants it has cargo build it, into the same target directory and with the same
//! profile as the test itself; after `cargo test --workspace` has built everything, cargo has nothing to do.
//! Cargo's own lock keeps test executables that run at the same time apart.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{env, fs};

/// Names the command, in place of the one that is built.
const VARIABLE: &str = "RELPOLINE_BIN";
/// Where the engine's file lies beside the command.
const ENGINE: &str = "librelpoline_engine.so";

/// Directory of the profile that this test was built with: `target/debug`.
fn profile_directory() -> PathBuf {
    let exe = env::current_exe().expect("a test knows its own path");
    let lies_in = exe.ancestors().find(|path| path.ends_with("deps") || path.ends_with("examples"));
    let lies_in = lies_in.expect("a test lies in deps/, an example in examples/");
    lies_in.parent().expect("which lies in a profile's directory").to_path_buf()
}

/// Cargo's target directory.
#[must_use]
pub fn target_directory() -> PathBuf {
    profile_directory().parent().expect("a profile's directory lies in target/").to_path_buf()
}

/// The command.
#[must_use]
pub fn relpoline() -> &'static Path {
    // What failed once fails for every test, but is tried once only.
    static PATH: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let path = PATH.get_or_init(|| env::var_os(VARIABLE).map_or_else(build_relpoline, |path| Ok(path.into())));
    path.as_deref().unwrap_or_else(|error| panic!("{error}"))
}

/// The engine that the command preloads.
#[must_use]
pub fn engine() -> PathBuf {
    relpoline().with_file_name(ENGINE)
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

fn build_relpoline() -> Result<PathBuf, String> {
    let directory = profile_directory();
    let mut cargo = Command::new(env!("CARGO"));
    // As `cargo test --workspace` builds it, for a test of the command's own: everything with the same
    // features is there then. `header` brings cbindgen, and with it proc-macro2 and syn as crates of a test.
    // Without that cargo compiles these with another profile, and everything that derives with them once
    // more, which took minutes beside programs that were waiting for it.
    cargo.args(["test", "--no-run", "--locked", "--workspace", "--test", "output", "--test", "header"]);
    if let Some(profile) = directory.file_name().filter(|name| *name != "debug") {
        cargo.arg("--profile").arg(profile);
    }
    cargo.arg("--target-dir").arg(target_directory()).current_dir(workspace());
    succeed(&mut cargo)?;
    Ok(directory.join("relpoline"))
}

/// Mistakes that are made in constants, or in crates that know no `broken!`: each takes a build of its own.
const BUILT_IN: [&str; 4] = ["flags-at-goto", "gate-not-aligned", "little-room", "boards-at-once"];
/// What stands in an engine's file before the names of the mistakes that it makes (crates/text/src/sync.rs),
/// and how many bytes there are with these words.
const WORDS: &[u8] = b"relpoline makes these mistakes:";
const ROOM: usize = 160;

/// An engine that breaks the rule `variant`. Several at once are joined by `+`.
///
/// There is one build for all of them, with `--cfg relpoline_breakable`: what it shall do wrong is written
/// into its file. The cfg is passed by a wrapper around the compiler that cargo uses for the workspace's own
/// crates only, so the other ones are built once.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn broken_engine(variant: &str) -> PathBuf {
    // All are built under one name: the next one may come when this one is read.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let target = target_directory().join("broken");
    // By this name the tool knows it in a process.
    let kept = target.join(variant).join(ENGINE);
    let (built_in, written): (Vec<&str>, Vec<&str>) = variant.split('+').partition(|name| BUILT_IN.contains(name));
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["rustc", "--locked", "--lib", "--crate-type", "cdylib", "--profile", "preload"]);
    cargo.args(["--features", "preload"]);
    cargo.args(["--target-dir"]).arg(&target);
    cargo.arg("--manifest-path").arg(workspace().join("crates/engine/Cargo.toml"));
    cargo.args(["--", "-Clink-arg=-nostartfiles"]);
    cargo.arg("-Clink-arg=-Wl,-z,initfirst,-z,now,-z,relro,-soname,librelpoline_engine.so");
    cargo
        .env("RUSTC_WORKSPACE_WRAPPER", wrapper(&target, &built_in))
        .env("CARGO_ENCODED_RUSTFLAGS", "-Cforce-frame-pointers=yes");
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET");
    succeed(&mut cargo).unwrap_or_else(|error| panic!("{error}"));
    let mut engine = fs::read(target.join("preload").join(ENGINE)).expect("the engine cannot be read");
    write_mistakes(&mut engine, &written.join("+"));
    fs::create_dir_all(target.join(variant)).expect("cannot make a directory for the broken engine");
    // Not written over: a program of another test may be running with it.
    let fresh = kept.with_extension("fresh");
    fs::write(&fresh, engine).expect("the broken engine cannot be written");
    fs::rename(&fresh, &kept).expect("the broken engine cannot be renamed");
    kept
}

/// Writes into an engine's file what it shall do wrong.
fn write_mistakes(engine: &mut [u8], names: &str) {
    let found: Vec<usize> =
        engine.windows(WORDS.len()).enumerate().filter(|(_, bytes)| *bytes == WORDS).map(|(at, _)| at).collect();
    assert_eq!(found.len(), 1, "an engine's mistakes stand in one place");
    let room = &mut engine[found[0] + WORDS.len()..found[0] + ROOM];
    assert!(names.len() < room.len() && room.iter().all(|byte| *byte == 0), "{names}: no room");
    room[..names.len()].copy_from_slice(names.as_bytes());
}

/// A script that runs the compiler for an engine that can be broken, with these mistakes built in.
fn wrapper(target: &Path, built_in: &[&str]) -> PathBuf {
    let script = target.join(format!("{}.sh", [&["breakable"], built_in].concat().join("+")));
    let cfgs: String = built_in.iter().map(|one| format!(" --cfg 'relpoline_broken=\"{one}\"'")).collect();
    let text = format!("#!/bin/sh\nexec \"$@\" --cfg relpoline_breakable{cfgs}\n");
    // An unchanged script keeps its time, or everything would be built again.
    if fs::read(&script).ok().as_deref() != Some(text.as_bytes()) {
        fs::create_dir_all(target).expect("cannot make a directory for the broken engines");
        write_executable(&script, text.as_bytes());
    }
    script
}

/// Makes a file of `content` that can be executed, at once: another test's child, forked while this process
/// wrote it, would hold it open for writing, so this process does not.
///
/// # Panics
/// When it cannot be written.
pub fn write_executable(path: &Path, content: &[u8]) {
    let mut content_of = tempfile::NamedTempFile::new().expect("no temporary file");
    content_of.write_all(content).expect("a temporary file cannot be written");
    install(content_of.path(), path);
}

/// Copies a file to `path`, where it can be executed at once, by everybody.
///
/// # Panics
/// When it cannot be copied.
pub fn install(file: &Path, path: &Path) {
    let copied = Command::new("install").args(["-m", "755"]).arg(file).arg(path).status();
    assert!(copied.is_ok_and(|status| status.success()), "{} cannot be written", path.display());
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("cannot start cargo: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("{command:?} fails:\n{text}"))
}

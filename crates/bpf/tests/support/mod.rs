//! An assembler for tests: the syntax of bpf_conformance's files, one instruction per line.
//!
//! ```text
//! mov %r0, 1        add32 %r1, %r2      ldxw %r1, [%r2+4]     stdw [%r10-8], 5
//! jeq %r1, 2, L1    call local f        lock fetch add [%r1+0], %r2
//! L1:               # a comment
//! ```
#![allow(dead_code, reason = "each test file uses its part")]

pub mod asm;
pub mod kernel;

use relpoline_bpf::insn::Insn;
use relpoline_bpf::{MapHandle, Options, Program, Runtime, Source};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

/// Loads what is assembled from `text`.
pub fn load(runtime: &Runtime, name: &str, text: &str, maps: &[MapHandle]) -> Program {
    load_with(runtime, name, text, maps, Options::default())
}

/// As [`load`], with options.
pub fn load_with(runtime: &Runtime, name: &str, text: &str, maps: &[MapHandle], options: Options) -> Program {
    let insns = asm::assemble(text).unwrap_or_else(|e| panic!("{name}: {e}"));
    load_insns(runtime, name, &insns, maps, options).unwrap_or_else(|e| panic!("{e}"))
}

/// Loads instructions.
pub fn load_insns(
    runtime: &Runtime,
    name: &str,
    insns: &[Insn],
    maps: &[MapHandle],
    options: Options,
) -> Result<Program, relpoline_bpf::LoadError> {
    Program::load(runtime, Source { name, section: "", insns, maps }, options)
}

/// The test program `name`.c: compiled once per test process where there is a clang that can, else the object in
/// the repository.
pub fn object(name: &str) -> Vec<u8> {
    static BUILT: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    built.entry(name.into()).or_insert_with(|| build(name)).clone()
}

fn build(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let out = std::env::temp_dir().join(format!("relpoline-bpf-{}-{name}.o", std::process::id()));
    let clang = std::process::Command::new("clang")
        .args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-c", "-o"])
        .arg(&out)
        .arg(folder.join(format!("{name}.c")))
        .stderr(std::process::Stdio::null())
        .status();
    let path = if clang.is_ok_and(|s| s.success()) { out.clone() } else { folder.join(format!("{name}.o")) };
    let bytes = std::fs::read(path).unwrap();
    let _ = std::fs::remove_file(out);
    bytes
}

/// Waits until no more than `bytes` of code are left, for at most ten seconds: another thread of the test may be the
/// one that is freeing it.
pub fn code_shrinks_to(runtime: &Runtime, bytes: usize) -> bool {
    let begin = std::time::Instant::now();
    while runtime.code_bytes() > bytes && begin.elapsed().as_secs() < 10 {
        runtime.quiesce();
        std::thread::yield_now();
    }
    runtime.code_bytes() == bytes
}

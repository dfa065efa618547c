//! Thunks for external references, and the other ways in which compilers protect indirect branches: all of it
//! links, gives the same result, and is promoted.

use std::path::Path;
use std::process::Command;

use relpoline_cli::report::Report;

use crate::compiled::CALLS;
use crate::started::{relpoline, stdout};

/// [`CALLS`] in Rust.
const RUST: &str = r#"
use std::hint::black_box;
trait Step { fn step(&self, x: u64) -> u64; }
struct Add;
struct Twist;
impl Step for Add { fn step(&self, x: u64) -> u64 { x.wrapping_add(3) } }
impl Step for Twist { fn step(&self, x: u64) -> u64 { x ^ 5 } }
#[unsafe(no_mangle)] #[inline(never)]
fn many(table: &[Box<dyn Step>], calls: u64) -> u64 {
    (0..calls).fold(0, |sum, i| table[usize::from(i % 10 == 9)].step(sum))
}
fn main() {
    let table: Vec<Box<dyn Step>> = vec![Box::new(Add), Box::new(Twist)];
    println!("{}", many(&black_box(table), 3_000_000));
}"#;

/// Compiles a program with thunks of ours and promotes it. Without that compiler there is nothing to test.
fn check(compiler: &str, source: (&str, &str), flags: &[&str]) {
    if Command::new(compiler).arg("--version").output().is_err() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    stdout(relpoline(&["thunks", "--out"]).arg(at("thunks.S")));
    std::fs::write(at(source.0), source.1).unwrap();
    let assembled = Command::new("cc").arg("-c").arg("thunks.S").current_dir(directory.path()).status().unwrap();
    assert!(assembled.success());
    let mut compile = Command::new(compiler);
    compile.args(flags).args([source.0, "-o", "program"]).current_dir(directory.path());
    let said = compile.output().unwrap();
    assert!(said.status.success(), "{compile:?}: {said:?}");
    assert_promoted(&at("program"), &at("report"));
}

fn assert_promoted(program: &Path, report: &Path) {
    let alone = stdout(&mut Command::new(program));
    let said = stdout(relpoline(&["run", "--report"]).arg(report).arg("--").arg(program));
    assert_eq!(said, alone);
    let report: Report = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let promoted = report.sites.iter().filter(|site| ["promoted", "linked"].contains(&site.state.as_str()));
    let names: Vec<_> = promoted.filter_map(|site| site.symbol.as_deref()).collect();
    assert!(names.iter().any(|name| name.starts_with("many+")), "{names:?}");
}

#[test]
fn gcc_with_external_thunks() {
    let flags =
        ["-O2", "-fcf-protection=none", "-mindirect-branch=thunk-extern", "-mindirect-branch-register", "thunks.o"];
    check("gcc", ("program.c", CALLS), &flags);
}

#[test]
fn gcc_with_inline_thunks() {
    let flags = ["-O2", "-fcf-protection=none", "-mindirect-branch=thunk-inline", "-mindirect-branch-register"];
    check("gcc", ("program.c", CALLS), &flags);
}

#[test]
fn clang_with_thunks_of_its_own_and_external_ones() {
    check("clang", ("program.c", CALLS), &["-O2", "-mretpoline"]);
    check("clang", ("program.c", CALLS), &["-O2", "-mretpoline", "-mretpoline-external-thunk", "thunks.o"]);
}

#[test]
fn rustc_with_external_thunks() {
    const FEATURES: &str = "-Ctarget-feature=+retpoline-external-thunk,+retpoline-indirect-calls,\
                            +retpoline-indirect-branches";
    check("rustc", ("program.rs", RUST), &["-O", FEATURES, "-Clink-arg=thunks.o"]);
}

#[test]
fn thunks_may_come_with_several_objects() {
    let source = stdout(&mut relpoline(&["thunks"]));
    assert_eq!(source.matches("comdat").count(), 15);
    assert_eq!(source.matches(".hidden").count(), 15);
}

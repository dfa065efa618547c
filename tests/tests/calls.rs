//! Calls and jumps of every kind reach the right place with the right arguments, at every optimisation level.

use std::process::Command;

use relpoline_tests::{Outcome, Program, Run, Site};

/// Functions of `calls.c` whose targets follow a foreseeable order.
const FORESEEABLE: [&str; 7] =
    ["one_target", "two_targets", "four_targets", "eight_targets", "many_targets", "arguments", "hidden_arguments"];

fn runs_right(flags: &[&str], promoted: &[&str]) {
    promotes(&Run::new(Program::retpolined("calls.c").flags(flags).build()), promoted);
}

/// Runs a program that must work each time, and have these functions' sites promoted once in three times: what calls cost is
/// measured at the first judgement, and beside other tests a tree of many targets may seem to win nothing then.
fn promotes(run: &Run, promoted: &[&str]) -> Outcome {
    let is_promoted = |outcome: &Outcome, name| outcome.report().sites_in(name).any(Site::was_promoted);
    for _ in 0..2 {
        let outcome = run.same();
        if promoted.iter().all(|name| is_promoted(&outcome, name)) {
            return outcome;
        }
    }
    let outcome = run.same();
    outcome.report().assert_promoted(promoted);
    outcome
}

#[test]
fn optimised() {
    runs_right(&["-O2"], &[&FORESEEABLE[..], &["tail", "interpret"]].concat());
}

#[test]
fn not_optimised() {
    runs_right(&["-O0"], &FORESEEABLE);
}

#[test]
fn little_optimised() {
    runs_right(&["-O1"], &FORESEEABLE);
}

#[test]
fn much_optimised() {
    runs_right(&["-O3"], &[&FORESEEABLE[..], &["tail", "interpret"]].concat());
}

#[test]
fn at_a_fixed_address() {
    runs_right(&["-no-pie", "-fno-pie"], &FORESEEABLE);
}

#[test]
fn with_inline_thunks() {
    runs_right(&["-mindirect-branch=thunk-inline"], &FORESEEABLE);
}

#[test]
fn for_the_widest_vectors() {
    runs_right(&["-O3", "-march=native"], &FORESEEABLE);
}

#[test]
fn stripped() {
    // Without symbols the report cannot name functions; thunks are found by their bytes.
    let program = Program::retpolined("calls.c").flags(&["-s"]).build();
    let outcome = Run::new(program).same();
    assert!(outcome.report().sites_promoted >= 8, "{}", outcome.report().summary());
}

#[test]
fn again_and_again_with_exact_counts() {
    let program = Program::retpolined("calls.c").build();
    let outcome = promotes(&Run::new(program).args(&["6"]).option("--count"), &FORESEEABLE);
    let coverage = outcome.report().coverage.expect("there is no coverage");
    assert!((0.5..=1.0).contains(&coverage), "{coverage}");
}

#[test]
fn without_links() {
    let program = Program::retpolined("calls.c").build();
    let outcome = promotes(&Run::new(program).option("--no-link"), &FORESEEABLE);
    assert_eq!(outcome.report().engine.links, 0);
}

#[test]
fn every_register_is_kept() {
    let program = Program::retpolined("registers.c").build();
    let outcome = Run::new(program).same();
    let callers = [
        "call_by_rax",
        "call_by_rcx",
        "call_by_rdx",
        "call_by_r10",
        "call_by_r11",
        "call_by_rbp",
        "call_by_rsi",
        "call_by_rdi",
        "call_by_r13",
    ];
    outcome.report().assert_promoted(&callers);
}

#[test]
fn the_engine_uses_no_code_that_touches_vectors() {
    // Libc's memcpy would; the slow path saves the lower halves of vector registers only.
    let engine = relpoline_tests::tool::engine();
    let output = |tool: &str, arg: &str| {
        let output = Command::new(tool).arg(arg).arg(&engine).output().expect("binutils are needed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let imports = output("nm", "-D");
    let imports: Vec<&str> =
        imports.lines().filter_map(|line| line.trim().strip_prefix("U ")?.split('@').next()).collect();
    assert!(imports.is_empty(), "{imports:?}");
    let code = output("objdump", "-d");
    assert!(code.lines().count() > 1000);
    let wide: Vec<&str> =
        code.lines().filter(|line| line.contains("%ymm") || line.contains("%zmm") || line.contains("\tv")).collect();
    assert!(wide.is_empty(), "{wide:#?}");
}

#[test]
fn objects_exceptions_and_jumps_in_cpp() {
    let program = Program::retpolined("objects.cc").build();
    let outcome = Run::new(program).same();
    outcome.report().assert_promoted(&["long_jumps()", "functions()"]);
    assert!(outcome.report().engine.links >= 4, "{}", outcome.report().summary());
}

#[test]
fn a_dry_run_changes_nothing() {
    let program = Program::retpolined("calls.c").build();
    let outcome = Run::new(program).option("--dry-run").same();
    let report = outcome.report();
    assert!(report.sites_total >= 8 && report.engine.patches == 0, "{}", report.summary());
}

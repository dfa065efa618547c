//! Computed gotos: every one is promoted, wherever its labels come from, and finds every flag, register and word of the red
//! zone as the program left it.

use relpoline_tests::{Program, Run, Site};

/// Functions of `gotos.c`, but for one.
const LOOPS: [&str; 5] = ["table_and_a_label", "distances", "short_distances", "encoded", "kept_by_the_compiler"];
/// Those of assembly.
const QUESTIONS: [&str; 3] = ["by_arithmetic", "by_distance", "by_condition"];

fn runs_right(flags: &[&str], promoted: &[&str]) {
    let program = Program::retpolined("gotos.c").flags(flags).build();
    let outcome = Run::new(program).same();
    let report = outcome.report();
    report.assert_promoted(promoted);
    for name in promoted {
        assert!(report.sites_in(name).all(|site| site.state != "refused"), "{name}: {}", report.summary());
    }
}

#[test]
fn wherever_their_labels_come_from() {
    runs_right(&[], &[&LOOPS[..], &QUESTIONS].concat());
}

#[test]
fn at_a_fixed_address() {
    runs_right(&["-no-pie", "-fno-pie"], &[&LOOPS[..], &QUESTIONS, &["by_small_words"]].concat());
}

#[test]
fn not_optimised_and_much_optimised() {
    for level in ["-O0", "-O1", "-O3"] {
        let program = Program::retpolined("gotos.c").flags(&[level]).build();
        Run::new(program).same().report().assert_promoted(&QUESTIONS);
    }
}

/// Such a jump is no site: its thunk stands where it is.
#[test]
fn with_inline_thunks() {
    runs_right(&["-mindirect-branch=thunk-inline", "-DINLINE"], &[]);
}

/// Cold, recorded, settling, linked, missed, switched off and on: by each register, with thunks of both families.
fn keeps_everything(flags: &[&str]) {
    let program = Program::retpolined("flags.c").flags(flags).build();
    for option in ["--count", "--no-link", "--nervous"] {
        let outcome = Run::new(&program).option(option).same();
        for register in
            ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"]
        {
            let name = format!("jump_by_{register}");
            let sites: Vec<_> = outcome.report().sites_in(&name).collect();
            assert!(!sites.is_empty(), "{name} is not known: {}", outcome.report().summary());
            // It may be learning anew when its calls end; under a nervous engine it may never have come
            // further.
            let is_right = |site: &Site| site.was_promoted() || option == "--nervous" && site.state != "refused";
            assert!(sites.iter().all(|site| is_right(site)), "{option} {name}: {}", outcome.report().summary());
        }
        let switched = Run::new(&program).arg("switch").option(option).promoted();
        switched.assert_success();
    }
}

#[test]
fn everything_is_kept_with_gccs_thunks() {
    keeps_everything(&[]);
}

#[test]
fn everything_is_kept_with_clangs_thunks() {
    keeps_everything(&["-DLONG_LOOP"]);
}

#[test]
fn everything_is_kept_at_a_fixed_address() {
    keeps_everything(&["-no-pie", "-fno-pie"]);
}

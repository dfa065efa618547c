//! The break of programs grows as far as without the engine, wherever they are linked to lie.

use std::path::PathBuf;

use relpoline_tests::{Program, Run, broken};

/// Megabytes: more than the 2 GiB within which an arena has to lie.
const MUCH: &str = "6000";

fn program(flags: &[&str]) -> PathBuf {
    Program::retpolined("heap.c").flags(flags).build()
}

#[test]
fn the_break_grows_as_far_as_ever() {
    // With zeroes behind the program, as large as the room that there is for an arena at best.
    for flags in [&["-pie", "-fPIE"][..], &["-no-pie"], &["-no-pie", "-DZEROES=30000000"]] {
        for _ in 0..4 {
            let outcome = Run::new(program(flags)).args(&[MUCH]).same();
            assert!(outcome.text().contains("grew by 6000 MB"), "{flags:?}: {}", outcome.text());
            outcome.report().assert_promoted(&["site"]);
        }
    }
}

/// Where it begins is not always the same.
#[test]
fn the_break_without_random_addresses() {
    let program = program(&["-no-pie"]);
    let run = Run::new("setarch").arg("-R").arg(&program).args(&[MUCH]);
    let outcome = run.same();
    assert!(outcome.text().contains("grew by 6000 MB"), "{}", outcome.text());
}

#[test]
fn a_heap_that_ends_early_is_noticed() {
    let program = Program::retpolined("heap.c").flags(&["-no-pie"]);
    let outcome = broken::run("heap-ends-early", &program, &[MUCH], "--count");
    outcome.assert_success();
    assert!(!outcome.text().contains("grew by 6000 MB"), "{}", outcome.text());
}

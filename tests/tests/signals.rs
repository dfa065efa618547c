//! Signals arrive at every instant of a call, on small stacks, and some never return.

use relpoline_tests::{Outcome, Program, Run};

fn run(mode: &str) -> Outcome {
    let outcome = Run::new(Program::retpolined("signals.c").build()).args(&[mode]).promoted();
    outcome.assert_success();
    // Learning has survived: the sites that are called last are promoted.
    outcome.report().assert_promoted(&["later_site", "main_site"]);
    let judgements = outcome.report().engine.judgements;
    assert!(judgements < 2_000_000, "the slow path is entered all the time: {judgements}");
    outcome
}

#[test]
fn handlers_that_call() {
    let outcome = run("storm");
    assert!(outcome.report().engine.patches > 100, "{}", outcome.report().summary());
}

#[test]
fn handlers_that_never_return() {
    let outcome = run("jumps");
    // Every site that learned goes on learning: a site is not left half-way where a jump came in between.
    let main = outcome.report().sites_in("main_site").next().expect("main_site did not run");
    assert!(main.relearned >= 2 && main.target_count >= 1, "{}", outcome.report().summary());
}

#[test]
fn threads_that_block_all_signals() {
    run("blocked");
}

#[test]
fn handlers_for_traps_and_faults() {
    run("own");
}

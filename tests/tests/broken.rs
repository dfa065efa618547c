//! Engines that break one rule each are caught: the test that watches over the rule can fail.
//!
//! The places that are broken are marked `relpoline_broken` in crates/text and crates/engine.

use relpoline_tests::{Outcome, Program, Run, tool};

/// Runs a program with a broken engine.
fn run(variant: &str, program: &Program, args: &[&str], option: &str) -> Outcome {
    let engine = tool::broken_engine(variant);
    Run::new(program.build()).args(args).option(option).env("RELPOLINE_ENGINE", engine).promoted()
}

/// A program notices, by one of its checks or by dying; a race may need a few attempts.
fn is_caught(variant: &str, source: &str, args: &[&str], option: &str) {
    let program = Program::retpolined(source);
    let caught = (0..10).any(|_| {
        let outcome = run(variant, &program, args, option);
        assert!(outcome.failed() || outcome.status.success(), "{variant} cannot be run: {}", outcome.text());
        outcome.failed()
    });
    assert!(caught, "{variant} goes unnoticed");
}

#[test]
fn a_gate_that_changes_in_two_halves() {
    is_caught("two-byte-patch", "threads.c", &[], "--no-link");
}

#[test]
fn a_child_that_writes_its_parents_arena() {
    is_caught("child-shares-arena", "fork.c", &["bytes"], "--count");
}

#[test]
fn a_fork_that_does_not_wait_for_a_link() {
    is_caught("fork-does-not-wait", "fork.c", &["descriptors"], "--count");
}

#[test]
fn an_arena_that_can_be_made_writable() {
    is_caught("unsealed", "pages.c", &["engine"], "--count");
}

#[test]
fn a_system_call_under_a_filter() {
    is_caught("calls-in-sandbox", "sandbox.c", &["kill", "prctl"], "--count");
}

#[test]
fn vector_registers_that_are_not_given_back() {
    is_caught("vectors-clobbered", "registers.c", &[], "--count");
}

#[test]
fn a_site_that_stays_half_done() {
    // Every call is still right; what is lost is learning.
    let program = Program::retpolined("signals.c");
    let lost = (0..10).any(|_| {
        let outcome = run("left-half-done", &program, &["jumps"], "--count");
        let site = outcome.report().sites_in("main_site").next().cloned();
        site.is_none_or(|site| site.relearned < 2 || site.target_count == 0)
    });
    assert!(lost, "a site that stays half-done goes unnoticed");
}

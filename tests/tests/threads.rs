//! Threads in the same sites while these are promoted, linked and learned anew; stacks that are not the thread's.

use relpoline_tests::broken::run;
use relpoline_tests::{Outcome, Program, Run};

#[test]
fn eight_threads_with_changing_targets() {
    let outcome = Run::new(Program::retpolined("threads.c").build()).same();
    let report = outcome.report();
    report.assert_promoted(&["shared_site", "contended_site"]);
    let relearned: u32 = report.sites.iter().map(|site| site.relearned).sum();
    assert!(relearned >= 5, "{}", report.summary());
}

#[test]
fn eight_threads_behind_gates() {
    let outcome = Run::new(Program::retpolined("threads.c").build()).option("--no-link").same();
    outcome.report().assert_promoted(&["shared_site", "contended_site"]);
}

#[test]
fn coroutines_on_small_stacks() {
    let outcome = Run::new(Program::retpolined("coroutines.c").build()).same();
    outcome.report().assert_promoted(&["coroutine_site", "switched_site"]);
}

const FEW: &str = "--max-targets=8";

/// What was counted of half a million misses.
fn counted_misses(outcome: &Outcome) -> u64 {
    let report = outcome.report();
    let site = report.sites_in("missing_site").next().unwrap_or_else(|| panic!("{}", report.summary()));
    assert_eq!(site.state, "linked", "{site:?}");
    site.misses
}

/// The count would wander from cache to cache, which costs several retpolines each time.
#[test]
fn misses_of_several_threads_that_stay_are_not_counted_for_long() {
    let outcome = |threads: &str| Run::new(Program::retpolined("misses.c").build()).args(&[threads]).option(FEW).same();
    let several = counted_misses(&outcome("2"));
    assert!(several < 100_000, "{several}");
    // Where all calls are counted these are too.
    let all = Run::new(Program::retpolined("misses.c").build()).args(&["2"]).option(FEW).option("--count").same();
    assert!(counted_misses(&all) > 200_000, "{}", counted_misses(&all));
    // A single thread goes on counting, and learns anew as soon as they become more.
    let single = counted_misses(&outcome("1"));
    assert!(single > 200_000, "{single}");
}

#[test]
fn it_is_noticed_that_misses_of_several_threads_are_counted_for_ever() {
    let outcome = run("misses-contended", &Program::retpolined("misses.c"), &["2"], FEW);
    let counted = counted_misses(&outcome);
    assert!(counted > 200_000, "it goes unnoticed: {counted}");
}

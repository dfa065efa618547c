//! Threads in the same sites while these are promoted, linked and learned anew; stacks that are not the thread's.

use relpoline_tests::{Program, Run};

#[test]
fn eight_threads_with_changing_targets() {
    let outcome = Run::new(Program::retpolined("threads.c").build()).same();
    let report = outcome.report();
    report.assert_promoted(&["shared_site", "contended_site"]);
    assert!(report.sites_in("shared_site").any(|site| site.relearned >= 5), "{}", report.summary());
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

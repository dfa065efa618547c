//! Engines that break one rule each are caught: the test that watches over the rule can fail.
//!
//! The places that are broken are marked `broken!` or `relpoline_broken` in crates/core, crates/text and crates/engine.

use relpoline_tests::Program;
use relpoline_tests::broken::{TESTED, TORTURED, noticed, notices, run, tortured};

/// The torture notices, or the test that watches over the rule.
fn is_caught(variant: &str) {
    let options = TORTURED.iter().find(|(name, _)| *name == variant);
    // On a busy machine a race may need a few attempts.
    let tortured = |options: &[&str]| (0..3).find_map(|_| tortured(variant, 45, options));
    let seen = options.map_or_else(|| noticed(variant), |(_, options)| tortured(options));
    assert!(seen.is_some(), "{variant} goes unnoticed");
}

/// What is seen of the others is not the way they are built.
#[test]
fn an_engine_that_is_built_like_them_and_breaks_nothing() {
    let whole = "nothing";
    for (_, source, args, option) in TESTED {
        assert_eq!(notices(whole, source, args, option), None);
    }
    assert_eq!(tortured(whole, 5, &[]), None);
    // Neither is it that sites have boards.
    assert_eq!(tortured("boards-at-once", 5, &[]), None);
}

#[test]
fn a_gate_that_changes_in_two_halves() {
    is_caught("two-byte-patch");
}

#[test]
fn a_tree_that_is_written_over() {
    is_caught("tree-in-place");
}

#[test]
fn cells_that_are_used_again() {
    is_caught("cell-reused");
}

#[test]
fn a_gate_across_two_cache_lines() {
    is_caught("gate-not-aligned");
}

#[test]
fn flags_that_are_live_at_a_label() {
    is_caught("flags-at-goto");
}

#[test]
fn a_stub_that_counts_with_flags() {
    is_caught("flags-in-stub");
}

#[test]
fn links_that_nobody_noted() {
    is_caught("links-unseen");
}

#[test]
fn data_below_the_stack_pointer() {
    is_caught("red-zone-trodden");
}

#[test]
fn a_link_that_comes_too_late() {
    is_caught("linger+poke-outlives-lock");
}

#[test]
fn a_leaf_that_takes_its_boards_word_for_it() {
    is_caught("boards-at-once+leaf-believes");
}

#[test]
fn a_child_that_writes_its_parents_arena() {
    is_caught("child-shares-arena");
}

#[test]
fn a_fork_that_does_not_wait_for_a_link() {
    is_caught("fork-does-not-wait");
}

#[test]
fn a_child_that_goes_back_into_a_judgement() {
    is_caught("child-inside-judgement");
}

#[test]
fn a_visitor_that_changes_text() {
    is_caught("visitor-pokes");
}

#[test]
fn an_arena_that_can_be_made_writable() {
    is_caught("unsealed");
}

#[test]
fn a_system_call_under_a_filter() {
    is_caught("calls-in-sandbox");
}

#[test]
fn an_environment_that_is_read_unasked() {
    is_caught("reads-unasked");
}

#[test]
fn memory_that_a_child_took_and_nobody_takes_back() {
    is_caught("memory-stays-lent");
}

#[test]
fn vector_registers_that_are_not_given_back() {
    is_caught("vectors-clobbered");
}

#[test]
fn a_thread_pointer_that_is_believed_to_be_libcs() {
    is_caught("trusts-thread-pointer");
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

//! Engines that break one rule each are caught: the test that watches over the rule can fail.
//!
//! The places that are broken are marked `relpoline_broken` in crates/core, crates/text and crates/engine.
//!
//! `cargo test -p relpoline-tests --test broken -- --ignored --nocapture` prints how long each of them goes unnoticed by
//! `relpoline torture`.

use std::process::Command;
use std::time::Instant;

use relpoline_tests::{Outcome, Program, Run, tool};
use serde_json::Value;

/// Variants whose mistake makes calls go wrong, with what `relpoline torture` is told: gates change where sites are not linked.
const TORTURED: [(&str, &[&str]); 5] = [
    ("two-byte-patch", &["--no-link"]),
    ("tree-in-place", &[]),
    ("cell-reused", &[]),
    ("gate-not-aligned", &[]),
    ("flags-at-goto", &[]),
];

/// Variants whose mistake has a test of its own: program, arguments, option.
const TESTED: [(&str, &str, &[&str], &str); 5] = [
    ("child-shares-arena", "fork.c", &["bytes"], "--count"),
    ("fork-does-not-wait", "fork.c", &["descriptors"], "--count"),
    ("unsealed", "pages.c", &["engine"], "--count"),
    ("calls-in-sandbox", "sandbox.c", &["kill", "prctl"], "--count"),
    ("vectors-clobbered", "registers.c", &[], "--count"),
];

/// Runs a program with a broken engine.
fn run(variant: &str, program: &Program, args: &[&str], option: &str) -> Outcome {
    let engine = tool::broken_engine(variant);
    Run::new(program.build()).args(args).option(option).env("RELPOLINE_ENGINE", engine).promoted()
}

/// What the program says when it notices, by one of its checks or by dying; a race may need a few attempts.
fn noticed(variant: &str) -> Option<String> {
    let (_, source, args, option) = TESTED.iter().find(|(name, ..)| *name == variant)?;
    let program = Program::retpolined(source);
    (0..10).find_map(|_| {
        let outcome = run(variant, &program, args, option);
        assert!(outcome.failed() || outcome.status.success(), "{variant} cannot be run: {}", outcome.text());
        outcome.failed().then(|| format!("{source} {}: {} {}", args.join(" "), outcome.status, outcome.text().trim()))
    })
}

/// What the torture sees, if it notices within so many seconds.
fn tortured(variant: &str, seconds: u32, options: &[&str]) -> Option<String> {
    let mut command = Command::new(tool::relpoline());
    command.args(["torture", "--json", "--seconds", &seconds.to_string()]).args(options);
    let output = command.env("RELPOLINE_ENGINE", tool::broken_engine(variant)).output().expect("it can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    let figures: Value = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{variant} cannot be tortured: {}", String::from_utf8_lossy(&output.stderr)));
    let first = figures["faults"].get(0).map(|fault| fault.as_str().unwrap_or_default().to_owned());
    assert_eq!(output.status.success(), first.is_none(), "{text}");
    first
}

/// The torture notices, or the test that watches over the rule.
fn is_caught(variant: &str) {
    let options = TORTURED.iter().find(|(name, _)| *name == variant);
    let seen = options.map_or_else(|| noticed(variant), |(_, options)| tortured(variant, 45, options));
    assert!(seen.is_some(), "{variant} goes unnoticed");
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
fn a_child_that_writes_its_parents_arena() {
    is_caught("child-shares-arena");
}

#[test]
fn a_fork_that_does_not_wait_for_a_link() {
    is_caught("fork-does-not-wait");
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
fn vector_registers_that_are_not_given_back() {
    is_caught("vectors-clobbered");
}

/// How long each goes unnoticed: by the torture, and if that does not notice within a minute, by its own test.
#[test]
#[ignore = "prints a table; takes up to ten minutes"]
fn table() {
    let seconds = std::env::var("RELPOLINE_TORTURE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let others = TESTED.iter().map(|(name, ..)| (*name, &[] as &[&str]));
    for (variant, options) in TORTURED.into_iter().chain(others) {
        // Built before the clock starts.
        let _ = (tool::broken_engine(variant), tool::relpoline());
        let begun = Instant::now();
        let seen = tortured(variant, seconds, options);
        println!("{}", row(variant, "torture", begun, seen.as_deref()));
        if seen.is_none() {
            let begun = Instant::now();
            let seen = noticed(variant);
            println!("{}", row(variant, "its own test", begun, seen.as_deref()));
            assert!(seen.is_some(), "{variant} goes unnoticed");
        }
    }
}

fn row(variant: &str, by: &str, begun: Instant, seen: Option<&str>) -> String {
    let seen = seen.and_then(|text| text.lines().next()).unwrap_or("unnoticed");
    format!("| `{variant}` | {by} | {:.1} s | {seen} |", begun.elapsed().as_secs_f64())
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

//! Engines that break one rule each, and who notices.
//!
//! Those whose mistake makes calls go wrong are left to `relpoline torture`; the others have a program of
//! `tests/programs` that watches over the rule. `cargo run -p relpoline-tests --example broken` prints how
//! long each goes unnoticed.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::{Outcome, Program, Run, tool};

/// Variants whose mistake makes calls go wrong, with what `relpoline torture` is told: gates change where
/// sites are not linked.
pub const TORTURED: [(&str, &[&str]); 7] = [
    ("two-byte-patch", &["--no-link"]),
    ("tree-in-place", &[]),
    ("cell-reused", &[]),
    ("gate-not-aligned", &[]),
    ("flags-at-goto", &[]),
    ("linger+poke-outlives-lock", &[]),
    ("boards-at-once+leaf-believes", &[]),
];

/// Variants whose mistake has a test of its own: program, arguments, option.
pub const TESTED: [(&str, &str, &[&str], &str); 13] = [
    ("reads-unasked", "starts.c", &["unreadable", "/tmp", "/usr/bin/true"], "--count"),
    ("memory-stays-lent", "starts.c", &["many", "/tmp", "/usr/bin/true"], "--count"),
    ("child-shares-arena", "fork.c", &["bytes"], "--count"),
    ("fork-does-not-wait", "fork.c", &["descriptors"], "--count"),
    ("child-inside-judgement", "fork.c", &["handlers"], "--nervous"),
    ("visitor-pokes", "fork.c", &["visitors"], "--nervous"),
    ("links-unseen", "control.c", &["links"], "--count"),
    // Not counted: a child whose calls are counted for a report has memory of its own at once.
    ("unsealed", "pages.c", &["engine"], "--nervous"),
    ("calls-in-sandbox", "sandbox.c", &["kill", "prctl"], "--count"),
    ("vectors-clobbered", "registers.c", &[], "--count"),
    ("flags-in-stub", "flags.c", &[], "--count"),
    ("red-zone-trodden", "flags.c", &[], "--count"),
    ("trusts-thread-pointer", "pointer.c", &["none", "call", "main"], "--count"),
];

/// Runs a program with a broken engine.
#[must_use]
pub fn run(variant: &str, program: &Program, args: &[&str], option: &str) -> Outcome {
    let engine = tool::broken_engine(variant);
    // What is broken may be slow, and beside other tests slower.
    let run = Run::new(program.build()).args(args).option(option).deadline(Duration::from_secs(300));
    run.env("RELPOLINE_ENGINE", engine).promoted()
}

/// What the program says when it notices, by one of its checks or by dying; a race may need a few attempts.
#[must_use]
pub fn noticed(variant: &str) -> Option<String> {
    let (_, source, args, option) = TESTED.iter().find(|(name, ..)| *name == variant)?;
    (0..10).find_map(|_| notices(variant, source, args, option))
}

/// Likewise, at once, for any engine.
#[must_use]
pub fn notices(variant: &str, source: &str, args: &[&str], option: &str) -> Option<String> {
    let outcome = run(variant, &Program::retpolined(source), args, option);
    // Not by whoever was to start it: its checks name their place.
    let names_its_place = [source, "check.h"].iter().any(|file| outcome.text().contains(&format!("{file}:")));
    let by_the_program = outcome.status.signal().is_some() || names_its_place;
    let is_sound = if outcome.failed() { by_the_program } else { outcome.status.success() };
    assert!(is_sound, "{variant} cannot be run: {} {}", outcome.status, outcome.text());
    outcome.failed().then(|| format!("{source} {}: {} {}", args.join(" "), outcome.status, outcome.text().trim()))
}

/// What the torture sees, if it notices within so many seconds.
#[must_use]
pub fn tortured(variant: &str, seconds: u32, options: &[&str]) -> Option<String> {
    let mut command = Command::new(tool::relpoline());
    command.args(["torture", "--json", "--seconds", &seconds.to_string()]).args(options);
    let output = command.env("RELPOLINE_ENGINE", tool::broken_engine(variant)).output().expect("it can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    let figures: Value = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{variant} cannot be tortured: {}", String::from_utf8_lossy(&output.stderr)));
    let first = figures["faults"].get(0).map(|fault| fault.as_str().unwrap_or_default().to_owned());
    assert_eq!(output.status.success(), first.is_none(), "{text}");
    // That is true of an engine that cannot be loaded, too.
    let is_idle = first.as_ref().is_some_and(|first| first.starts_with("nothing was promoted"));
    assert!(!is_idle, "{variant} does nothing: {text}");
    first
}

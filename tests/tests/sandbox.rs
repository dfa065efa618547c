//! seccomp filters that refuse or kill: no system call is made any more, and promotion goes on by gates.

use relpoline_tests::{Outcome, Program, Run};

fn run(args: &[&str], options: &[&str]) -> Outcome {
    let run = Run::new(Program::retpolined("sandbox.c").build()).args(args);
    options.iter().fold(run, |run, option| run.option(option)).same()
}

/// The filter comes after learning has begun, or before; by both ways to install it.
fn survives(mode: &str) {
    for how in ["prctl", "syscall", "early"] {
        let outcome = run(&[mode, how], &[]);
        outcome.report().assert_promoted(&["before_site", "after_site"]);
        let site = outcome.report().sites_in("after_site").next().expect("after_site did not run");
        assert_eq!(site.state, "promoted", "a link needs a system call");
    }
}

#[test]
fn without_a_filter() {
    let outcome = run(&["none"], &[]);
    let site = outcome.report().sites_in("after_site").next().expect("after_site did not run");
    assert_eq!(site.state, "linked");
}

#[test]
fn a_filter_that_refuses() {
    survives("errno");
}

#[test]
fn a_filter_that_kills() {
    survives("kill");
}

#[test]
fn strict_mode() {
    run(&["strict"], &[]);
}

#[test]
fn strict_mode_before_anything_is_learned() {
    run(&["strict", "early"], &[]);
}

#[test]
fn the_clock_is_forbidden() {
    run(&["clock"], &[]);
    run(&["clock", "early"], &[]);
}

#[test]
fn switched_off_in_a_sandbox() {
    for args in [["kill", "prctl"], ["kill", "syscall"], ["errno", "prctl"], ["speculation", ""]] {
        let outcome = run(&args, &["--off-in-sandbox"]);
        let report = outcome.report();
        assert!(!report.engine.enabled && report.engine.why_disabled.is_some(), "{args:?}\n{}", report.summary());
        assert_eq!(report.sites_promoted, 0, "{args:?}\n{}", report.summary());
    }
}

#[test]
fn speculation_control_alone_changes_nothing() {
    run(&["speculation"], &[]).report().assert_promoted(&["before_site", "after_site"]);
}

#[test]
fn libraries_loaded_behind_a_filter_stay_as_they_are() {
    let plugin = Program::retpolined("plugin.c").flags(&["-shared", "-fPIC", "-DVARIANT=0", "-DPADDING=1"]).build();
    let outcome = Run::new(Program::retpolined("blacklist.c").build()).arg("library").arg(plugin).same();
    outcome.report().assert_promoted(&["site"]);
    assert!(!outcome.report().sites_in("plugin_calls").any(|site| site.was_promoted()));
}

#[test]
fn programs_started_behind_a_filter_go_without_the_engine() {
    for how in ["execv", "execlp"] {
        Run::new(Program::retpolined("blacklist.c").build()).arg(how).same().assert_success();
    }
}

//! Promotion is switched off and on from inside, while threads run.

use relpoline_tests::{Program, Run};

#[test]
fn disable_leads_every_site_back_to_its_thunk() {
    let program = Program::retpolined("control.c").build();
    Run::new(&program).plain().assert_success();
    for option in ["--count", "--no-link"] {
        let outcome = Run::new(&program).args(&["engine"]).option(option).promoted();
        outcome.assert_success();
        outcome.report().assert_promoted(&["quiet_site", "running_site"]);
    }
}

#[test]
fn a_link_that_nobody_noted_is_undone() {
    let outcome = Run::new(Program::retpolined("control.c").build()).args(&["links"]).promoted();
    outcome.assert_success();
    outcome.report().assert_promoted(&["quiet_site", "running_site"]);
}

#[test]
fn options_that_choose() {
    let program = Program::retpolined("calls.c").build();
    let run = |options: &[&str]| options.iter().fold(Run::new(&program), |run, option| run.option(option)).same();
    let one = run(&["--max-targets", "1"]);
    assert!(one.report().sites.iter().all(|site| site.target_count <= 1), "{}", one.report().summary());
    one.report().assert_promoted(&["one_target"]);
    assert_eq!(run(&["--exclude", "calls-*"]).report().sites_promoted, 0);
    assert_eq!(run(&["--only", "lib*"]).report().sites_promoted, 0);
    run(&["--only", "calls-*"]).report().assert_promoted(&["one_target", "four_targets"]);
}

/// Thunks that are none of the compilers': a site that is led back to its thunk gets a whole one all the same.
#[test]
fn unusual_thunks_are_given_back() {
    let thunks = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/thunks.S");
    for variant in ["-DPAUSE_ONLY", "-DLFENCE_ONLY"] {
        let flags = ["-mindirect-branch=thunk-extern", variant, thunks];
        let program = Program::retpolined("control.c").flags(&flags).build();
        let outcome = Run::new(&program).args(&["engine"]).promoted();
        outcome.assert_success();
        outcome.report().assert_promoted(&["quiet_site", "running_site"]);
    }
}

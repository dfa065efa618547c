//! Children learn for themselves and never change what their parent executes; daemons go on.

use relpoline_tests::{Outcome, Program, Report, Run, broken};

fn run(mode: &str) -> Outcome {
    Run::new(Program::retpolined("fork.c").build()).args(&[mode]).same()
}

/// Reports of forked children, not of programs that were started by exec.
fn forked(outcome: &Outcome) -> Vec<&Report> {
    outcome.children.iter().filter(|report| report.forked_from.is_some()).collect()
}

#[test]
fn workers_learn_what_their_parent_does_not_know() {
    let outcome = run("prefork");
    assert_eq!(outcome.report().sites_promoted, 0, "the parent called nothing");
    assert_eq!(forked(&outcome).len(), 4);
    for child in forked(&outcome) {
        child.assert_promoted(&["worker_site", "parent_site"]);
    }
}

#[test]
fn workers_learn_something_else_than_their_parent() {
    let outcome = run("learned");
    outcome.report().assert_promoted(&["parent_site"]);
    assert_eq!(forked(&outcome).len(), 4);
    for child in forked(&outcome) {
        child.assert_promoted(&["worker_site", "parent_site"]);
        assert!(child.sites_in("worker_site").any(|site| site.relearned > 0), "{}", child.summary());
    }
}

#[test]
fn children_of_children() {
    let outcome = run("generations");
    assert_eq!(forked(&outcome).len(), 5);
    for child in forked(&outcome) {
        child.assert_promoted(&["worker_site"]);
    }
}

#[test]
fn a_child_that_gave_up_its_rights() {
    // It checks by itself that it is promoted: it may not write a report.
    run("unprivileged").report().assert_promoted(&["worker_site"]);
}

#[test]
fn children_that_hardly_live() {
    run("storm").report().assert_promoted(&["storm_site"]);
}

/// A child that ends by `_exit` cannot remove its statistics; the next one does.
#[test]
fn the_statistics_of_the_dead_do_not_pile_up() {
    let program = Program::retpolined("fork.c").build();
    let run = || {
        let mut command = std::process::Command::new(&program);
        let output =
            command.arg("leftovers").env("LD_PRELOAD", relpoline_tests::tool::engine()).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(run().starts_with("12 had, 1 left\n"), "{}", run());
}

#[test]
fn children_get_no_descriptor_of_their_parents_memory() {
    assert!(run("descriptors").report().engine.links > 0, "nothing was linked meanwhile");
}

/// With an engine in which every fourth link takes a quarter of a second: longer than fork waits for who only stands still.
#[test]
fn fork_waits_for_a_link_however_long_it_takes() {
    let children = |variant| broken::run(variant, &Program::retpolined("fork.c"), &["descriptors", "60"], "--count");
    children("linger").assert_success();
    let outcome = children("linger+fork-does-not-wait");
    assert!(outcome.failed() && outcome.text().contains("a child has inherited"), "{}", outcome.text());
}

/// A known weakness (SECURITY.md), shown with an engine in which links take long: the child of a raw clone inherits the
/// descriptor. What it executes does not.
#[test]
fn what_a_cloned_child_inherits_ends_with_exec() {
    let outcome = broken::run("linger", &Program::retpolined("fork.c"), &["cloned"], "--count");
    outcome.assert_success();
    assert!(!outcome.text().contains("0 inherited"), "nothing was inherited that exec could close: {}", outcome.text());
}

#[test]
fn children_of_handlers_that_interrupted_the_engine() {
    let run = Run::new(Program::retpolined("fork.c").build()).args(&["handlers"]).option("--nervous");
    run.same().report().assert_promoted(&["worker_site"]);
}

#[test]
fn children_of_a_process_with_threads() {
    let outcome = run("threads");
    assert!(forked(&outcome).iter().any(|child| child.sites_promoted > 0));
}

#[test]
fn vfork_and_posix_spawn() {
    run("vfork").report().assert_promoted(&["storm_site"]);
}

#[test]
fn vfork_children_change_no_text() {
    let outcome = Run::new(Program::retpolined("fork.c").build()).args(&["visitors"]).option("--nervous").same();
    outcome.report().assert_promoted(&["storm_site"]);
    assert!(outcome.report().engine.links > 0, "nothing was linked");
}

#[test]
fn vfork_children_that_are_killed() {
    run("killed").report().assert_promoted(&["worker_site"]);
}

#[test]
fn clone_without_libc() {
    let outcome = run("clone");
    outcome.report().assert_promoted(&["worker_site"]);
    assert_eq!(forked(&outcome).len(), 1);
    forked(&outcome)[0].assert_promoted(&["worker_site", "parent_site"]);
}

#[test]
fn no_byte_of_the_parents_code_changes() {
    let outcome = run("bytes");
    outcome.report().assert_promoted(&["worker_site", "parent_site"]);
    assert!(forked(&outcome).iter().all(|child| child.sites_promoted > 0));
}

/// Until it has statistics of its own, a child can write its parent's: that must not lead the parent astray, nor the command.
#[test]
fn a_child_that_forges_its_parents_statistics() {
    let library = Program::retpolined("plugin.c").flags(&["-shared", "-fPIC", "-DVARIANT=1", "-DPADDING=1"]).build();
    for option in ["--count", "--nervous"] {
        let run = Run::new(Program::retpolined("fork.c").build()).args(&["forger"]).arg(&library).option(option);
        run.promoted().assert_success();
    }
}

#[test]
fn a_daemon_that_closes_everything() {
    let outcome = Run::new(Program::retpolined("daemon.c").build()).args(&["close"]).same();
    outcome.report().assert_promoted(&["before_site", "after_site"]);
}

#[test]
fn a_daemon_that_detaches() {
    let outcome = Run::new(Program::retpolined("daemon.c").build()).args(&["detach"]).same();
    // The report on a process that outlives the one that was started may be cut short.
    outcome.report().assert_promoted(&["before_site"]);
}

#[test]
fn a_daemon_that_locks_itself_in() {
    let empty = tempfile::tempdir().expect("no temporary directory");
    let run = Run::new(Program::retpolined("daemon.c").build()).arg("chroot").arg(empty.path());
    if run.plain().failed() {
        println!("skipped: no right to chroot");
        return;
    }
    run.same().report().assert_promoted(&["before_site", "after_site"]);
}

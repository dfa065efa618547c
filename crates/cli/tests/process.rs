//! Runs of programs, as `relpoline try` and `demo` make them: what was written, how it ended, whose time counts.
//!
//! In a process of its own, one after the other: a run takes every child that ends for one of its own.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use relpoline_cli::workbench::process::{Run, run};

fn shell(script: &str) -> Run {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null());
    run(command).unwrap()
}

#[test]
fn runs_of_programs() {
    what_was_written_and_how_it_ended();
    much_output_is_neither_kept_nor_lost();
    children_that_are_left_behind_are_counted();
    children_that_stay_are_not_waited_for();
}

fn what_was_written_and_how_it_ended() {
    let ran = shell("echo a; echo b >&2; echo c; exit 3");
    assert_eq!((ran.status.code(), &*ran.stdout.text(), &*ran.stderr.text()), (Some(3), "a\nc\n", "b\n"));
    assert_eq!(shell("echo a; echo c").stdout, ran.stdout);
    assert_eq!(shell("echo a; echo d").stdout.first_difference(&ran.stdout), Some(2));
    assert_eq!(shell("echo a").stdout.first_difference(&ran.stdout), Some(2));
    assert_eq!(shell("kill -9 $$").status.signal(), Some(9));
    assert!(ran.wall > 0.0);
}

fn much_output_is_neither_kept_nor_lost() {
    let ran = shell("head -c 3000000 /dev/zero");
    assert_eq!(ran.stdout.text().len(), 1 << 20);
    assert_ne!(ran.stdout, shell("head -c 2999999 /dev/zero; echo").stdout);
    assert_eq!(ran.stdout, shell("head -c 3000000 /dev/zero").stdout);
}

/// The loop runs in a child whose parent does not wait for it.
fn children_that_are_left_behind_are_counted() {
    let ran = shell("( i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done ) & exit 0");
    assert!(!ran.is_survived);
    assert!(ran.processor() > 0.005, "{ran:?}");
}

fn children_that_stay_are_not_waited_for() {
    assert!(shell("sleep 4 & exit 0").is_survived);
}

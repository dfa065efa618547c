//! File systems that another user's process answers for (FUSE), or does not.
//!
//! The kernel is a real one's, and so is the mount; it lies in a mount namespace of its own, which the command is started in.
//! What is asked of that process it reads, and it does not answer: from then on not even SIGKILL ends who asked. Limits of
//! time are a few seconds here, by a variable that only debug builds know.

use std::process::{Child, Command, Stdio};

use relpoline_tests::{Living, Program, tool};

use crate::attacker::{is_root, open_directory};
use crate::command::{assert_clean, text};

/// A process with such a file system; `None` where there is none to be had.
fn silent(operation: &str, place: &str) -> Option<Living> {
    if !is_root() {
        return None;
    }
    let program = Program::retpolined("hostile.c").build();
    let living = Living::start(Command::new(program).args(["fuse", place, operation]));
    if living.said != "ready" {
        println!("skipped: no file system in user space can be mounted here ({})", living.said);
        return None;
    }
    Some(living)
}

/// The command, where that file system is mounted. It is killed after a minute, which does not end it where it waits for an
/// answer.
fn among(living: &Living, arguments: &[&str]) -> Child {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "60", "nsenter", "-m", "-t", &living.pid().to_string()]);
    command.arg(tool::relpoline()).args(arguments).env("RELPOLINE_HASTE", "1");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What it says; it has ended by itself, without success.
fn refusal(child: Child, what: &str) -> String {
    let said = child.wait_with_output().unwrap();
    let words = text(&said.stderr);
    assert_eq!(said.status.code(), Some(1), "{what}: {}: {words}", said.status);
    assert_clean(&said.stderr, what);
    assert_eq!(words.lines().count(), 1, "{what}: {words}");
    words
}

#[test]
fn a_file_system_that_does_not_answer_ends_the_command() {
    // All at once: they wait.
    let mut all = Vec::new();
    for operation in ["lookup", "getattr", "statfs", "open", "read"] {
        let place = open_directory();
        let Some(living) = silent(operation, &place.path().display().to_string()) else { return };
        let file = place.path().join("file").display().to_string();
        let started: Vec<(String, Child)> = [
            &["inspect", &file][..],
            &["report", &file],
            &["profile", "show", &file],
            &["profile", "merge", "-o", &file, &file],
            &["metrics", "--textfile", &file],
        ]
        .into_iter()
        .map(|arguments| (format!("{operation}: {arguments:?}"), among(&living, arguments)))
        .collect();
        all.push((place, living, started));
    }
    for (_place, mut living, started) in all {
        for (what, child) in started {
            println!("{what}: {}", refusal(child, &what).trim_end());
        }
        assert!(living.is_alive());
    }
}

/// What a process has mapped is a file there.
#[test]
fn memory_that_does_not_answer_ends_the_command() {
    for verb in [&["attach", "--anyway"][..], &["attach"], &["detach"], &["relearn"]] {
        let place = open_directory();
        let Some(mut living) = silent("read", &place.path().display().to_string()) else { return };
        let pid = living.pid().to_string();
        let said = refusal(among(&living, &[verb, &[&pid]].concat()), verb[0]);
        assert!(said.contains("given up"), "{verb:?}: {said}");
        println!("{verb:?}: {}", said.trim_end());
        // Nobody is left who traces it, and it goes on.
        assert!(living.is_alive() && living.ends_with(""), "{verb:?}");
    }
}

/// The broken variant: nobody stands by.
#[test]
fn a_command_that_waits_alone_does_not_come_back() {
    if !cfg!(debug_assertions) {
        return println!("skipped: the broken variant is in debug builds only");
    }
    let place = open_directory();
    let Some(living) = silent("lookup", &place.path().display().to_string()) else { return };
    let file = place.path().join("file").display().to_string();
    let mut command = Command::new("nsenter");
    command.args(["-m", "-t", &living.pid().to_string()]).arg(tool::relpoline()).args(["inspect", &file]);
    command.env("RELPOLINE_HASTE", "1").env("RELPOLINE_BROKEN", "waits-for-ever");
    let mut child = command.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(6));
    let waits = child.try_wait().unwrap().is_none();
    // With the process that does not answer, the waiting ends.
    drop(living);
    let _ = child.wait();
    assert!(waits, "it came back by itself");
}

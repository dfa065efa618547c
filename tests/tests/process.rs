//! What a process is to others, and what it may have of its own: its number, its core, its break, its thread pointer.

use std::fs;
use std::path::Path;
use std::process::Command;

use relpoline_tests::living::text;
use relpoline_tests::tool;
use relpoline_tests::{Living, Program};

/// Whether it can be had here; else that is said.
fn is_allowed(what: &str, check: &mut Command) -> bool {
    let allowed = check.output().is_ok_and(|output| output.status.success());
    if !allowed {
        println!("skipped: {what}");
    }
    allowed
}

/// A program as number 1 of a pid namespace of its own, where `before` is run by a shell first.
fn number_one(engine: &Path, before: &str) -> Living {
    let script = format!("{before} exec env LD_PRELOAD=$1 $2");
    let mut command = Command::new("unshare");
    command.args(["-p", "-m", "-f", "--kill-child", "sh", "-c", &script, "sh"]).arg(engine);
    Living::start(command.arg(Program::retpolined("attached.c").build()))
}

/// The only child of a process.
fn child_of(pid: u32) -> String {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
    children.trim().to_owned()
}

/// Starts pairs of processes that are number 1 of their namespaces, and share /dev/shm; whether each pair is listed.
fn pairs_are_listed(engine: &Path) -> Option<bool> {
    if !is_allowed("namespaces need root", Command::new("unshare").args(["-p", "-m", "-f", "true"])) {
        return None;
    }
    // /proc of the namespace; of the outer one; none at all.
    let surroundings = ["mount -t proc proc /proc;", "", "mount -t tmpfs tmpfs /proc;"];
    let mut listed = true;
    for before in surroundings {
        let pair = [number_one(engine, before), number_one(engine, before)];
        let list = Command::new(tool::relpoline()).arg("list").output().expect("relpoline can be started");
        let pids = pair.each_ref().map(|one| child_of(one.pid()));
        let numbers: Vec<String> =
            text(&list).lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect();
        listed &= pids.iter().all(|pid| numbers.contains(pid));
        for one in pair {
            drop(one);
        }
    }
    Some(listed)
}

/// One after the other: they share a directory, and the broken one removes what is in it.
#[test]
fn processes_of_one_number_in_two_namespaces() {
    assert_ne!(pairs_are_listed(&tool::engine()), Some(false), "one of two processes is not listed");
    let broken = tool::broken_engine("named-by-number");
    assert_ne!(pairs_are_listed(&broken), Some(true), "a process that is known by its number only goes unnoticed");
}

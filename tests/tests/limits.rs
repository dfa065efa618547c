//! Little of everything. The engine may decline; the program must not notice.

use relpoline_tests::tool::{self, target_directory};
use relpoline_tests::{Outcome, Program, Run};

fn run(args: &[&str]) -> Outcome {
    let run = Run::new(Program::retpolined("limits.c").build()).args(args);
    let (plain, promoted) = (run.plain(), run.promoted());
    promoted.assert_like(&plain);
    promoted
}

fn promotes(args: &[&str]) {
    let outcome = run(args);
    outcome.assert_success();
    outcome.report().assert_promoted(&["limited_site"]);
}

#[test]
fn address_space() {
    for megabytes in ["16", "32", "48", "64", "80", "100", "128", "160", "200", "250", "300", "400", "600"] {
        run(&["space", megabytes]).assert_success();
    }
    promotes(&["space", "2000"]);
}

#[test]
fn descriptors() {
    // With three, libc itself cannot be loaded: the program ends the same way, the loader says more about it.
    let three = Run::new(Program::retpolined("limits.c").build()).args(&["files", "3"]);
    assert_eq!(three.plain().status, three.promoted().status);
    // With four there are no statistics: their file is made through a descriptor of its directory.
    run(&["files", "4"]).assert_success();
    for files in ["5", "6", "8"] {
        promotes(&["files", files]);
    }
}

#[test]
fn stack() {
    promotes(&["stack", "256"]);
    promotes(&["stack", "1024"]);
}

#[test]
fn file_size() {
    // The arena is a file in memory, and larger than this.
    run(&["size", "1000000"]).assert_success();
}

#[test]
fn locked_memory() {
    promotes(&["locked", "0"]);
}

/// Programs that hold all of their memory hold the engine's reserved tables too: so much of them, and no more.
#[test]
fn memory_that_is_held() {
    let run = Run::new(Program::retpolined("limits.c").build()).args(&["holds-memory"]);
    let outcome = run.promoted();
    outcome.assert_success();
    println!("{}", outcome.text());
    outcome.report().assert_promoted(&["limited_site"]);
}

/// The engine looks at the file of what is executed: locks on other files, and those by flock on that one, stay.
#[test]
fn locks_on_files_stay() {
    let place = tempfile::tempdir().unwrap();
    let (program, other) = (place.path().join("program"), place.path().join("other"));
    tool::install(&Program::retpolined("limits.c").build(), &program);
    std::fs::write(&other, "locked").unwrap();
    let run = Run::new(&program).args(&["takes-locks"]).arg(&program).arg(&other);
    run.same().report().assert_promoted(&["limited_site"]);
}

#[test]
fn no_proc() {
    let outcome = run(&["proc"]);
    outcome.assert_success();
    if outcome.text().contains("skipped") {
        println!("{}", outcome.text());
        return;
    }
    // Nobody can be asked for the names of functions.
    assert_eq!(outcome.report().sites_promoted, 1, "{}", outcome.report().summary());
    assert_eq!(outcome.report().engine.links, 0);
}

#[test]
fn no_memfd() {
    assert_eq!(run(&["memfd"]).report().sites_promoted, 0);
}

#[test]
fn text_that_cannot_be_written_through_proc() {
    promotes(&["pwrite"]);
}

#[test]
fn no_page_is_writable_and_executable() {
    let program = Program::retpolined("pages.c").build();
    Run::new(&program).plain().assert_success();
    let outcome = Run::new(&program).args(&["engine"]).promoted();
    outcome.assert_success();
    outcome.report().assert_promoted(&["page_site"]);
}

#[test]
fn a_huge_environment() {
    let mut run = Run::new(Program::retpolined("limits.c").build()).args(&["nothing"]);
    for number in 0..3000 {
        run = run.env(&format!("VARIABLE_{number}"), "x".repeat(200));
    }
    let outcome = run.same();
    outcome.report().assert_promoted(&["limited_site"]);
}

/// Statistics are a sparse file: a store to a page that the file system cannot hold would be a SIGBUS.
#[test]
fn a_full_file_system() {
    let program = Program::retpolined("limits.c").build();
    for kibibytes in ["8", "160"] {
        let directory = target_directory().join(format!("tiny-{kibibytes}"));
        std::fs::create_dir_all(&directory).unwrap();
        let script = "mount -t tmpfs -o size=$1k tmpfs $2 || exit 99; export RELPOLINE_OPTS=stats=$2 LD_PRELOAD=$3; exec $4 stack 1024";
        let status = std::process::Command::new("unshare")
            .args(["-m", "sh", "-c", script, "sh", kibibytes])
            .arg(&directory)
            .args([tool::engine(), program.clone()])
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        if status.code() == Some(99) || !status.success() && !is_root() {
            println!("skipped: mounting needs root");
            return;
        }
        assert!(status.success(), "{kibibytes} KiB: {status}");
    }
}

fn is_root() -> bool {
    std::process::Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n")
}

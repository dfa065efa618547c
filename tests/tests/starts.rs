//! Programs that start programs find everything as without the engine: results, errors, environments, other people's
//! functions, the stack. Each part of `starts.c` tells what comes of every way to start something, with and without.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use relpoline_tests::living::is_installed;
use relpoline_tests::{Living, Outcome, Program, Run, tool};

fn starts(part: &str, place: &Path, program: &Path) -> Run {
    // Bound at once: to bind a function on its first call takes more stack than anything of ours.
    let starter = Program::retpolined("starts.c").flags(&["-Wl,-z,now"]).build();
    Run::new(starter).arg(part).arg(place).arg(program)
}

/// Runs a part with and without the engine, in a directory of the same name.
fn alike_with(part: &str, program: &Path, with: impl Fn(Run) -> Run) -> Outcome {
    let outer = tempfile::tempdir().expect("no temporary directory");
    let place = outer.path().join("place");
    let run = with(starts(part, &place, program));
    let in_place = |run: &dyn Fn() -> Outcome| {
        fs::create_dir(&place).expect("cannot make a directory");
        let outcome = run();
        fs::remove_dir_all(&place).expect("cannot remove it");
        outcome
    };
    let plain = in_place(&|| run.plain());
    let promoted = in_place(&|| run.promoted());
    plain.assert_success();
    promoted.assert_like(&plain);
    promoted.report().assert_promoted(&["site"]);
    promoted
}

fn arguments() -> PathBuf {
    Program::retpolined("arguments.c").build()
}

fn alike(part: &str) -> Outcome {
    alike_with(part, &arguments(), |run| run)
}

#[test]
fn files_of_every_kind() {
    assert!(alike("files").stdout.len() > 10_000, "the program did nothing");
}

#[test]
fn pointers_that_lead_nowhere() {
    let _ = alike("pointers");
    let _ = alike("unreadable");
}

#[test]
fn environments_and_arguments_of_any_size() {
    let _ = alike("large");
}

#[test]
fn from_the_smallest_stacks() {
    let _ = alike("tiny");
}

#[test]
fn what_spawn_does_before_it_starts_a_program() {
    let _ = alike("actions");
}

#[test]
fn memory_that_children_borrow_is_given_back() {
    let _ = alike("many");
}

#[test]
fn other_preloads_are_asked_as_ever() {
    let interposer = Program::plain("interposer.c").flags(&["-shared", "-fPIC", "-w"]).build();
    let outcome = alike_with("chain", &arguments(), |run| run.env("LD_PRELOAD", &interposer));
    for name in ["execve", "execv", "execl", "posix_spawn", "fexecve", "prctl", "syscall"] {
        assert!(outcome.text().contains(&format!("[{name}]")), "{name} was passed by");
    }
}

/// What other C libraries and no C library make of an environment that names the engine.
#[test]
fn programs_without_glibc() {
    let fixed = Program::retpolined("arguments.c").flags(&["-static"]).build();
    let _ = alike_with("actions", &fixed, |run| run);
    if !is_installed("musl-gcc") {
        println!("skipped: there is no musl-gcc");
        return;
    }
    let place = tempfile::tempdir().expect("no temporary directory");
    for part in ["actions", "many", "pointers"] {
        let program = place.path().join("musl");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/arguments.c");
        let built = Command::new("musl-gcc").args(["-O2", "-w"]).arg(source).arg("-o").arg(&program).status();
        assert!(built.expect("musl-gcc can be started").success());
        let _ = alike_with(part, &program, |run| run);
    }
}

#[test]
fn fakechroot_works_as_ever() {
    if !is_installed("fakechroot") {
        println!("skipped: there is no fakechroot");
        return;
    }
    let place = tempfile::tempdir().expect("no temporary directory");
    let root = place.path().join("root");
    fs::create_dir_all(root.join("inside")).expect("cannot make a root");
    fs::write(root.join("inside/mark"), "in the root\n").expect("cannot write");
    // What it starts reads a file by a path that exists in the other root only.
    for line in ["cat /inside/mark", "exec cat /inside/mark", "sh -c 'cat /inside/mark'", "/bin/echo $0; ls /inside"] {
        let script = format!("cd /; {line}");
        let run = Run::new("fakechroot").args(&["-s", "-b", "/usr/lib/fakechroot", "sh", "-c", &script]);
        let run = run.env("FAKECHROOT_BASE", root.as_os_str());
        let (plain, promoted) = (run.plain(), run.promoted());
        promoted.assert_like(&plain);
    }
}

/// Bytes of stack that each start took.
fn stack(run: &dyn Fn(&Run) -> Outcome) -> Vec<i64> {
    let place = tempfile::tempdir().expect("no temporary directory");
    run(&starts("stacks", place.path(), &arguments())).assert_success();
    let told = fs::read_to_string(place.path().join("stack")).expect("it told nothing");
    told.lines().map(|line| line.parse().expect("numbers")).collect()
}

#[test]
fn little_stack_is_taken_whatever_the_environment() {
    let (plain, promoted) = (stack(&Run::plain), stack(&Run::promoted));
    assert_eq!((plain.len(), promoted.len()), (32, 32));
    for (n, (without, with)) in plain.iter().zip(&promoted).enumerate() {
        assert!(with - without <= 512, "start {n}: {without} bytes became {with}");
    }
    assert_ne!(plain, promoted, "the engine was passed by");
}

/// The preload of a caller is kept to the byte, however long it is.
#[test]
fn a_long_preload_arrives() {
    let place = tempfile::tempdir().expect("no temporary directory");
    let script = place.path().join("length");
    tool::write_executable(
        &script,
        b"#!/bin/sh\n[ ${#LD_PRELOAD} -lt 1000 ] || echo ${#LD_PRELOAD} ${#RELPOLINE_OPTS}\n",
    );
    let outcome = alike_with("large", &script, |run| run);
    assert!(outcome.text().contains("90000 0"), "{}", outcome.text());
}

fn statistics_of(pid: u32) -> bool {
    let user = fs::metadata("/proc/self").map(|me| std::os::unix::fs::MetadataExt::uid(&me)).unwrap_or(0);
    fs::read_dir(format!("/dev/shm/relpoline-{user}")).is_ok_and(|files| {
        files.flatten().any(|file| file.file_name().to_string_lossy().starts_with(&format!("{pid}-")))
    })
}

/// Files are known to have no retpolines by what they are, not by where they lie.
#[test]
fn a_library_that_takes_anothers_place_is_looked_at() {
    let flags = ["-shared", "-fPIC", "-DVARIANT=0", "-DPADDING=1"];
    let place = tempfile::tempdir().expect("no temporary directory");
    let path = place.path().join("plugin.so");
    let is_promoted = |engine: &Path| {
        let mut command = Command::new(tool::relpoline());
        command.args(["run", "--quiet", "--"]).arg(Program::plain("late.c").build()).arg(&path);
        let mut living = Living::start(command.env("RELPOLINE_ENGINE", engine));
        assert_eq!(living.tell("l"), "loaded");
        statistics_of(living.pid())
    };
    let exchange = |engine: &Path| {
        fs::copy(Program::plain("plugin.c").flags(&flags).build(), &path).expect("cannot copy");
        // Only what has been there for a while is remembered.
        std::thread::sleep(std::time::Duration::from_millis(3100));
        assert!(!is_promoted(engine) && !is_promoted(engine));
        fs::remove_file(&path).expect("cannot remove");
        fs::copy(Program::retpolined("plugin.c").flags(&flags).build(), &path).expect("cannot copy");
        is_promoted(engine)
    };
    assert!(exchange(&tool::engine()), "the library is taken for the one that was there before");
    fs::remove_file(&path).expect("cannot remove");
    let broken = tool::broken_engine("clean-by-name");
    assert!(!exchange(&broken), "a library that is known by its place goes unnoticed");
}

fn mapped(pid: u32, what: &str) -> usize {
    fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs").matches(what).count()
}

/// Nothing is made for a program in which there is nothing to promote; when a library brings something, it is promoted.
#[test]
fn nothing_is_made_before_the_first_retpoline() {
    let flags = ["-shared", "-fPIC", "-DVARIANT=0", "-DPADDING=1"];
    let plugin = Program::retpolined("plugin.c").flags(&flags).build();
    for forked in [false, true] {
        let mut command = Command::new(tool::relpoline());
        command.args(["run", "--quiet", "--"]).arg(Program::plain("late.c").build()).arg(&plugin);
        let mut living = Living::start(&mut command);
        assert_eq!(living.said, "ready");
        let pid = living.pid();
        assert!(!statistics_of(pid), "statistics of nothing");
        assert_eq!(mapped(pid, "memfd:"), 0, "an arena for nothing");
        assert!(mapped(pid, "relpoline") > 0, "the engine is not there");
        assert_eq!(living.tell(if forked { "f" } else { "l" }), "loaded");
        if !forked {
            assert!(statistics_of(pid) && mapped(pid, "memfd:") > 0, "the library was passed by");
            let report = living.must(&["report", "--format", "json"]);
            let report: relpoline_tests::Report = serde_json::from_str(&report).expect("a report");
            report.assert_promoted(&["plugin_calls"]);
            assert_eq!(living.tell("u"), "1 arenas are unwound through");
        }
        assert!(living.ends_with("late done"));
    }
}

#[test]
fn a_program_without_retpolines_has_no_table_of_the_engines() {
    let outcome = Command::new(tool::relpoline())
        .args(["run", "--", "sh", "-c", "cat /proc/self/maps"])
        .output()
        .expect("relpoline can be started");
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    // Besides the engine's own segments: what it has reserved would have no name.
    let (mut unnamed, mut plain) = (0, 0);
    for line in text.lines() {
        unnamed += u64::from(line.split_whitespace().count() == 5);
    }
    let without = Command::new("cat").arg("/proc/self/maps").output().expect("cat can be started");
    for line in String::from_utf8_lossy(&without.stdout).lines() {
        plain += u64::from(line.split_whitespace().count() == 5);
    }
    // Its zeroed data is one.
    assert!(unnamed <= plain + 1, "{text}");
}

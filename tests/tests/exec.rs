//! Programs that start programs: these get their arguments and environment as they should, and the engine where it
//! can follow.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use relpoline_tests::{Outcome, Program, Run, tool};

fn start(how: &str, program: &Path) -> Run {
    Run::new(Program::retpolined("exec.c").build()).arg(how).arg(program)
}

fn alike(how: &str, program: &Path) -> Outcome {
    let run = start(how, program);
    let (plain, promoted) = (run.plain(), run.promoted());
    promoted.assert_like(&plain);
    promoted
}

/// A file in `directory` that can be executed, as far as its mode goes.
fn executable(directory: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = directory.join(name);
    tool::write_executable(&path, content);
    path
}

const WAYS: [&str; 15] = [
    "execl", "execl1", "execl4", "execl5", "execlp", "execle", "execle2", "execv", "execvp", "execvpe", "execve",
    "empty", "fexecve", "clear", "null",
];

#[test]
fn every_exec_passes_arguments_and_is_followed() {
    let program = Program::retpolined("arguments.c").build();
    for how in WAYS {
        let outcome = alike(how, &program);
        // The process is the same one, and so is its report.
        assert_eq!(Path::new(&outcome.report().program), program, "{how}");
        outcome.report().assert_promoted(&["started_site"]);
    }
}

#[test]
fn every_spawn_passes_arguments_and_is_followed() {
    let program = Program::retpolined("arguments.c").build();
    for how in ["posix_spawn", "posix_spawnp", "system"] {
        let outcome = alike(how, &program);
        outcome.report().assert_promoted(&["starter_site"]);
        let followed = outcome.children.iter().filter(|report| Path::new(&report.program) == program);
        let children: Vec<_> = followed.collect();
        assert!(!children.is_empty(), "{how} is not followed");
        children.iter().for_each(|child| child.assert_promoted(&["started_site"]));
    }
}

#[test]
fn not_followed_when_asked() {
    let program = Program::retpolined("arguments.c").build();
    for how in ["posix_spawn", "system", "execve"] {
        let run = start(how, &program).option("--no-follow");
        let (plain, promoted) = (run.plain(), run.promoted());
        promoted.assert_like(&plain);
        assert!(promoted.children.iter().all(|report| report.sites_promoted == 0), "{how} is followed");
    }
}

/// Ways that differ in who looks for the program and what may go wrong then.
const DIFFERENT: [&str; 6] = ["execl", "execvp", "execve", "fexecve", "posix_spawn", "posix_spawnp"];

#[test]
fn static_programs_are_left_alone() {
    let program = Program::retpolined("arguments.c").flags(&["-static"]).build();
    for how in DIFFERENT {
        let outcome = alike(how, &program);
        if how.starts_with("posix") {
            assert_eq!(outcome.report().not_followed.len(), 1, "{how}");
        }
    }
}

#[test]
fn files_that_are_no_programs() {
    let directory = tempfile::tempdir().expect("no temporary directory");
    let mut elf32 = b"\x7fELF\x01\x01\x01".to_vec();
    elf32.resize(4096, 0);
    elf32[16..20].copy_from_slice(&[2, 0, 3, 0]);
    let place = directory.path();
    let files = [
        executable(place, "of-32-bits", &elf32),
        executable(place, "empty", b""),
        executable(place, "cut-short", b"\x7fELF\x02\x01\x01"),
        executable(place, "noise", &[0xa5; 300]),
        executable(place, "without-interpreter", b"#!/nowhere/interpreter\n"),
        executable(place, "only-a-mark", b"#!\n"),
        executable(place, "calls-itself", format!("#!{}\n", place.join("calls-itself").display()).as_bytes()),
        place.join("not-there"),
        place.join("not-there/either"),
        place.to_path_buf(),
    ];
    for file in &files {
        for how in DIFFERENT {
            let _ = alike(how, file);
        }
    }
}

#[test]
fn a_file_without_rights() {
    let directory = tempfile::tempdir().expect("no temporary directory");
    let file = executable(directory.path(), "data", b"#!/bin/sh\necho no\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("cannot change the mode");
    for how in DIFFERENT {
        let _ = alike(how, &file);
    }
}

#[test]
fn scripts_are_followed_into_their_interpreters() {
    let directory = tempfile::tempdir().expect("no temporary directory");
    let program = Program::retpolined("arguments.c").build();
    let shell = executable(directory.path(), "shell-script", b"#!/bin/sh -e\necho \"$# $1 $2\"\nexit 5\n");
    let line = format!("#!{} an argument\n", program.display());
    let ours = executable(directory.path(), "own-script", line.as_bytes());
    let nested = executable(directory.path(), "nested", format!("#!{}\n", ours.display()).as_bytes());
    for how in ["execl", "execv", "execvp", "execve", "posix_spawn", "posix_spawnp"] {
        let _ = alike(how, &shell);
        let _ = alike(how, &nested);
        let outcome = alike(how, &ours);
        let all = outcome.children.iter().chain(&outcome.report);
        assert!(
            all.filter(|report| Path::new(&report.program) == program).any(|report| report.sites_promoted > 0),
            "{how}"
        );
    }
}

#[test]
fn a_shell_script_without_a_mark() {
    // execvp and execlp hand such a file to the shell.
    let directory = tempfile::tempdir().expect("no temporary directory");
    let script = executable(directory.path(), "no-mark", b"echo \"from the shell: $# $1\"\n");
    for how in ["execvp", "execlp", "execvpe", "execv", "posix_spawnp"] {
        let _ = alike(how, &script);
    }
}

#[test]
fn switched_off_by_the_environment() {
    let program = Program::retpolined("arguments.c").build();
    let outcome = Run::new(program).env("RELPOLINE", "off").same();
    assert_eq!(outcome.report().sites_promoted, 0);
}

#[test]
fn exit_statuses_are_the_programs_own() {
    let program = Program::retpolined("arguments.c").build();
    let run = Run::new(program).args(&["seven"]);
    let (plain, promoted) = (run.plain(), run.promoted());
    assert_eq!(plain.status.code(), Some(7));
    promoted.assert_like(&plain);
}

//! `relpoline try` of programs that say of themselves what is not so, or that other users have taken over.
//!
//! What a program has mapped is told by its own statistics, which it can write; a process of it that has given up root's
//! rights can be another user's.

use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;
use std::process::{Command, Output};

use relpoline_tests::{Program, tool};
use serde_json::Value;

use crate::attacker::{ATTACKER, EVIL, is_root, open_directory};
use crate::command::{assert_clean, ends_with, limited, text};

/// Exit statuses of `try` when it could try.
const TRIED: [i32; 5] = [0, 3, 4, 5, 6];

/// What `try` finds out of the hostile program, once round.
fn tried(what: &str, path: &str) -> Value {
    let program = Program::retpolined("hostile.c").build().display().to_string();
    let said = ends_with(&["try", "--json", "-n", "1", "--", &program, what, path], &TRIED);
    serde_json::from_slice(&said.stdout).unwrap_or_else(|_| panic!("{path}: {said:?}"))
}

/// Why there is no twin.
fn missing(figures: &Value) -> &str {
    figures["twin"]["missing"].as_str().unwrap_or_default()
}

#[test]
fn files_that_a_program_says_it_has() {
    let place = open_directory();
    let at = |name: &str| place.path().join(name).display().to_string();
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    fs::create_dir(at("directory")).unwrap();
    File::create(at("large")).unwrap().set_len(1 << 40).unwrap();
    for (path, why) in [
        (at("fifo"), "it is not a regular file"),
        (at("directory"), "it is a directory"),
        ("/dev/zero".into(), "it is not a regular file"),
        ("/proc/kmsg".into(), "something that the kernel makes up"),
        (at("large"), "its files have more than 1024 MiB"),
    ] {
        let figures = tried("forges", &path);
        assert_eq!(figures["promotion"]["files"][0].as_str(), Some(&*path), "{figures:#}");
        assert!(missing(&figures).contains(why), "{path}: {figures:#}");
    }
}

/// What root's twin executes is not another user's to choose: copies are made of what only root can change.
#[test]
fn files_that_another_user_could_exchange() {
    if !is_root() {
        return;
    }
    let place = open_directory();
    let theirs = place.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    let program = Program::retpolined("hostile.c").build();
    for (name, directory, owner, mode) in [
        ("in-their-directory", &*theirs, 0, 0o755),
        ("theirs", place.path(), ATTACKER, 0o755),
        ("open", place.path(), 0, 0o777),
        ("ours", place.path(), 0, 0o755),
    ] {
        let file = directory.join(name);
        tool::install(&program, &file);
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        lchown(&file, Some(owner), None).unwrap();
        lchown(&theirs, Some(ATTACKER), None).unwrap();
        let figures = tried("forges", &file.display().to_string());
        let is_copied = !missing(&figures).contains("cannot be copied");
        assert_eq!(is_copied, name == "ours", "{name}: {figures:#}");
    }
}

/// A file that only root can read stays that when its copy is mounted over it.
#[test]
fn a_copy_tells_nobody_what_its_file_does_not() {
    if !is_root() {
        return;
    }
    let place = open_directory();
    let secret = place.path().join("secret");
    tool::install(&Program::retpolined("hostile.c").build(), &secret);
    for (mode, is_read) in [(0o600, false), (0o644, true)] {
        fs::set_permissions(&secret, Permissions::from_mode(mode)).unwrap();
        let figures = tried("reads", &secret.display().to_string());
        assert_eq!(missing(&figures), "", "{mode:o}: {figures:#}");
        assert_eq!(figures["twin"]["thunks"].as_u64().map(|thunks| thunks > 0), Some(true), "{figures:#}");
        assert_eq!(figures["verdict"].to_string().contains("exit status: 7"), is_read, "{mode:o}: {figures:#}");
    }
}

/// A program whose name, arguments and output are orders for a terminal.
#[test]
fn names_and_output_that_give_orders() {
    let directory = open_directory();
    let evil: Vec<u8> = EVIL.iter().copied().filter(|byte| *byte != b'/').collect();
    let program = directory.path().join(std::ffi::OsStr::from_bytes(&[b"prog".as_slice(), &evil].concat()));
    tool::install(&Program::retpolined("hostile.c").build(), &program);
    let script = directory.path().join("script");
    let written = "#!/bin/sh\nprintf '\\033]0;OWNED\\007\\033[31m\\n\\2332J'; echo \"$LD_PRELOAD\"; exec \"$@\"\n";
    tool::write_executable(&script, written.as_bytes());
    let try_it = |options: &[&str], command: &[&Path]| -> Output {
        let mut start = limited(tool::relpoline(), &[&["try", "-n", "1"], options].concat());
        let output = start.arg("--").args(command).arg("\u{1b}[31m\n\u{202e}").output().unwrap();
        assert!(output.status.code().is_some_and(|code| code < 7), "{}: {}", output.status, text(&output.stderr));
        assert_clean(&output.stdout, "try");
        assert_clean(&output.stderr, "try");
        output
    };
    for command in [&[&*program][..], &[&script, &program], &[Path::new(std::ffi::OsStr::from_bytes(&evil))]] {
        let shown = try_it(&[], command);
        let json = try_it(&["--json"], command);
        if shown.status.code() != Some(1) {
            let figures: Value = serde_json::from_slice(&json.stdout).unwrap_or_else(|_| panic!("{json:?}"));
            assert!(figures["command"].to_string().contains("OWNED"), "{figures:#}");
        }
    }
    // Output that differs with the engine only is told by its line.
    let differs = try_it(&[], &[&script, &program]);
    assert!(text(&differs.stdout).contains("stdout, from line 2 on"), "{}", text(&differs.stdout));
}

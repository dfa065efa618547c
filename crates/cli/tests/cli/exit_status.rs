//! Exit codes: the program's own, or 125, 126, 127 as env(1) has them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;

use crate::started::{output, relpoline, run_shell, stdout};

/// Both ways of starting: becoming the program, and staying behind.
fn both_ways(directory: &tempfile::TempDir) -> [Vec<String>; 2] {
    let report = directory.path().join("r").display().to_string();
    [vec![], vec!["--report".into(), report]]
}

fn code_of(options: &[String], command: &[&str]) -> Option<i32> {
    let mut start = relpoline(&["run"]);
    output(start.args(options).arg("--").args(command)).status.code()
}

#[test]
fn the_programs_own_pass_through() {
    let directory = tempfile::tempdir().unwrap();
    for options in both_ways(&directory) {
        for code in [0, 3, 124, 255] {
            assert_eq!(code_of(&options, &["sh", "-c", &format!("exit {code}")]), Some(code), "{options:?}");
        }
    }
}

#[test]
fn a_signal_ends_us_as_it_ended_the_program() {
    let directory = tempfile::tempdir().unwrap();
    for options in both_ways(&directory) {
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGSEGV, libc::SIGINT] {
            let mut start = relpoline(&["run"]);
            let status = output(start.args(&options).args(["--", "sh", "-c", &format!("kill -{signal} $$")])).status;
            assert_eq!(status.signal(), Some(signal), "{options:?}");
        }
    }
}

#[test]
fn what_cannot_be_started_has_a_code_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str, mode| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let plain = file("plain", "", 0o644);
    let orphan = file("orphan", "#!/no/such/interpreter\n", 0o755);
    let garbage = file("garbage", "\x7fELF\x02\x01\x01garbage", 0o755);
    for options in both_ways(&directory) {
        let cases =
            [("no-such-program", 127), ("/no/such/program", 127), ("", 127), (&orphan, 127), (&plain, 126), ("/", 126)];
        for (program, code) in cases {
            assert_eq!(code_of(&options, &[program]), Some(code), "{program} {options:?}");
        }
        assert_ne!(code_of(&options, &[&garbage]), Some(0));
    }
}

#[test]
fn our_own_failure_is_125() {
    assert_eq!(code_of(&["--report".into(), "/no/such/directory/r".into()], &["true"]), Some(125));
    assert_eq!(code_of(&["--no-such-option".into()], &["true"]), Some(125));
    assert_eq!(code_of(&["--max-targets=97".into()], &["true"]), Some(125));
    let status = output(run_shell(&[], "true").env("RELPOLINE_ENGINE", "/no/such/engine.so")).status;
    assert_eq!(status.code(), Some(125));
    assert_eq!(output(&mut relpoline(&["run"])).status.code(), Some(125));
    assert_eq!(output(&mut relpoline(&["no-such-verb"])).status.code(), Some(2));
}

#[test]
fn a_script_without_an_interpreter_is_given_to_the_shell() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("script");
    fs::write(&path, "echo \"$0 $1\"\n").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    let said = stdout(relpoline(&["run", "--quiet", "--"]).arg(&path).arg("x"));
    assert_eq!(said, format!("{} x\n", path.display()));
}

#[test]
fn programs_are_looked_for_as_execvp_does() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("a"), directory.path().join("b"));
    for (place, mode) in [(&first, 0o644), (&second, 0o755)] {
        fs::create_dir(place).unwrap();
        fs::write(place.join("tool"), "#!/bin/sh\necho \"$0\"\n").unwrap();
        fs::set_permissions(place.join("tool"), Permissions::from_mode(mode)).unwrap();
    }
    let search = |path: String| relpoline(&["run", "--", "tool"]).env("PATH", path).output().unwrap();
    let found = search(format!("/no/where:{}:{}:/bin", first.display(), second.display()));
    assert_eq!(String::from_utf8_lossy(&found.stdout), format!("{}/tool\n", second.display()));
    assert_eq!(search(first.display().to_string()).status.code(), Some(126));
    let mut here = relpoline(&["run", "--", "tool"]);
    assert_eq!(stdout(here.env("PATH", ":/bin").current_dir(&second)), "./tool\n");
}

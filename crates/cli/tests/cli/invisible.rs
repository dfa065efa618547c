//! What a program can see of us: nothing but its preload and its options.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::compiled::{Compiled, HELLO};
use crate::started::{RELPOLINE, output, relpoline, run_shell, stdout};

/// The two ways of starting.
const WAYS: [&[&str]; 2] = [&[], &["--report", "/dev/null"]];

#[test]
fn stdin_and_stdout_are_the_programs() {
    for way in WAYS {
        let mut child = run_shell(way, "cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"through\0and through").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.stdout, b"through\0and through");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    }
}

#[test]
fn its_executable_and_name_are_its_own() {
    for way in WAYS {
        let mut start = relpoline(&["run"]);
        let link = stdout(start.args(way).args(["--", "readlink", "/proc/self/exe"]));
        assert_eq!(link, stdout(Command::new("readlink").arg("/proc/self/exe")));
        let mut start = relpoline(&["run"]);
        let line = stdout(start.args(way).args(["--", "cat", "/proc/self/cmdline"]));
        assert_eq!(line, "cat\0/proc/self/cmdline\0");
    }
}

#[test]
fn without_a_report_it_has_our_pid() {
    let script = format!("echo $$; exec {RELPOLINE} run -- sh -c 'echo $$'");
    let pids = stdout(Command::new("sh").args(["-c", &script]));
    let [first, second] = pids.lines().collect::<Vec<_>>()[..] else { panic!("{pids}") };
    assert_eq!(first, second);
}

#[test]
fn signals_are_inherited_as_they_are() {
    let show = "grep -E 'Sig(Ign|Blk|Cgt)' /proc/self/status";
    for setting in ["", "trap '' PIPE;", "trap '' INT CHLD HUP;"] {
        let plain = stdout(Command::new("sh").args(["-c", &format!("{setting} exec {show}")]));
        for way in WAYS {
            let script = format!("{setting} exec {RELPOLINE} run {} -- {show}", way.join(" "));
            assert_eq!(stdout(Command::new("sh").args(["-c", &script])), plain, "{setting} {way:?}");
        }
    }
}

#[test]
fn descriptors_are_inherited_as_they_are() {
    let show = "ls /proc/self/fd";
    for redirection in ["", "<&-", "2>&-", "7</dev/null"] {
        let plain = stdout(Command::new("sh").args(["-c", &format!("{show} {redirection}")]));
        for way in WAYS {
            let script = format!("{RELPOLINE} run {} -- {show} {redirection}", way.join(" "));
            assert_eq!(stdout(Command::new("sh").args(["-c", &script])), plain, "{redirection} {way:?}");
        }
    }
}

#[test]
fn the_environment_stays_but_for_two_variables() {
    let strip = |text: String| -> Vec<String> {
        let ours = |line: &&str| !line.starts_with("LD_PRELOAD=") && !line.starts_with("RELPOLINE_OPTS=");
        text.lines().filter(ours).map(str::to_owned).collect()
    };
    let plain = stdout(Command::new("env").args(["-i", "B=2", "A=1", "B2=", "env"]));
    let ours = stdout(Command::new("env").args(["-i", "B=2", "A=1", "B2=", RELPOLINE, "run", "--", "/usr/bin/env"]));
    assert_eq!(strip(ours), strip(plain));
}

#[test]
fn what_the_user_preloads_comes_after_the_engine() {
    let library = Compiled::new("int loaded_by_the_user;", &["-shared", "-fPIC"]);
    let program = Compiled::new(HELLO, &[]);
    let said = output(relpoline(&["run", "--", program.text()]).env("LD_PRELOAD", &library.path));
    let text = String::from_utf8(said.stdout).unwrap();
    let preload = text.split(' ').nth(1).unwrap();
    assert!(preload.contains("librelpoline_engine.so:") && preload.ends_with(library.text()), "{text}");
    assert_eq!(said.status.code(), Some(7));
    assert_eq!(String::from_utf8(said.stderr).unwrap(), "");
}

#[test]
fn relpoline_in_relpoline_preloads_once() {
    let script = format!("exec {RELPOLINE} run -- sh -c 'echo $LD_PRELOAD'");
    assert_eq!(stdout(&mut run_shell(&[], &script)).matches("librelpoline_engine.so").count(), 1);
}

#[test]
fn switched_off_it_is_not_there_at_all() {
    let program = Compiled::new(HELLO, &[]);
    let said = output(relpoline(&["run", "--", program.text()]).env("RELPOLINE", "off"));
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "hello - -\n");
    assert_eq!((said.status.code(), &said.stderr[..]), (Some(7), &b""[..]));
}

#[test]
fn a_command_that_was_installed_alone_writes_the_engine_to_the_cache() {
    let directory = tempfile::tempdir().unwrap();
    let alone = directory.path().join("relpoline");
    std::fs::copy(RELPOLINE, &alone).unwrap();
    let start = || {
        let mut command = Command::new(&alone);
        command.args(["run", "--", "sh", "-c", "echo $LD_PRELOAD"]);
        stdout(command.env("XDG_CACHE_HOME", directory.path().join("cache")).env_remove("LD_PRELOAD"))
    };
    let first = start();
    assert!(first.starts_with(&format!("{}/cache/relpoline/engine-", directory.path().display())), "{first}");
    assert_eq!(start(), first);
}

#[test]
fn a_stale_neighbour_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let alone = directory.path().join("relpoline");
    std::fs::copy(RELPOLINE, &alone).unwrap();
    std::fs::write(directory.path().join("librelpoline_engine.so"), "old").unwrap();
    let said =
        Command::new(&alone).args(["run", "--", "true"]).env("XDG_CACHE_HOME", directory.path()).output().unwrap();
    assert!(said.status.success());
    assert!(String::from_utf8(said.stderr).unwrap().contains("is from another build"));
}

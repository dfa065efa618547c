//! Processes that are attached to, and are not what processes are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use relpoline_tests::{Living, Program, tool};

use crate::attacker::{is_root, open_directory};
use crate::command::{ends, limited, text};

/// Attaching to a process whose loader's structures are anything.
#[test]
fn loaders_that_lie() {
    let program = Program::retpolined("hostile.c").build();
    for mode in [
        "empty-circle",
        "circle-of-lists",
        "circle",
        "end-of-memory",
        "link-at-the-end",
        "huge-dynamic",
        "large-dynamic",
        "zeroes",
        "endless-names",
        "escapes",
        "dynamics",
        "flips",
    ] {
        let mut living = Living::start(Command::new(&program).args(["links", mode]));
        assert_eq!(living.said, "ready", "{mode}");
        let pid = living.pid().to_string();
        let attached = ends(&["attach", "--anyway", &pid]);
        // A list that is right every other moment may be read at a right one.
        if mode != "flips" {
            assert_eq!(attached.status.code(), Some(1), "{mode}: {}", text(&attached.stdout));
            assert_eq!(text(&attached.stderr).lines().count(), 1, "{mode}: {}", text(&attached.stderr));
        }
        for verb in ["detach", "relearn"] {
            ends(&[verb, &pid]);
        }
        assert!(living.is_alive(), "{mode}");
    }
}

/// A process whose threads never come to rest is attached to or refused, and goes on.
#[test]
fn a_process_that_does_not_keep_still() {
    let program = Program::retpolined("hostile.c").build();
    let mut living = Living::start(Command::new(program).arg("storm"));
    assert_eq!(living.said, "ready");
    let pid = living.pid().to_string();
    for verb in [&["attach", "--anyway"][..], &["disable"], &["relearn"], &["detach"]] {
        ends(&[verb, &[&pid]].concat());
    }
    assert!(living.is_alive());
}

/// A process that never comes to a stop is given up when the time is over, which is two seconds here instead of two minutes; it
/// goes on. Without that limit it would be refused after ten, in other words.
#[test]
fn what_takes_too_long_is_given_up() {
    if !cfg!(debug_assertions) {
        return println!("skipped: the limit can be lowered in debug builds only");
    }
    let program = Program::retpolined("hostile.c").build();
    let mut living = Living::start(Command::new(program).args(["state", "lends"]));
    assert_eq!(living.said, "ready");
    let mut attach = limited(tool::relpoline(), &["attach", "--anyway", &living.pid().to_string()]);
    let said = attach.env("RELPOLINE_HASTE", "2").output().unwrap();
    let words = text(&said.stderr);
    // Root has somebody who stands by and says so; others are ended by the alarm, or by the deadline.
    let is_given_up = said.status.code() == Some(1) && words.contains("too long") || said.status.code() == Some(142);
    assert!(is_given_up, "{}: {words}", said.status);
    assert!(living.is_alive() && living.ends_with(""));
}

/// Names of files that a process has not, to look for functions in.
#[test]
fn names_that_lead_to_no_file() {
    let directory = open_directory();
    let fifo = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in
        [fifo.to_str().unwrap(), "/dev/zero", "/proc/kmsg", "/../../../dev/zero", "", "relative", "/proc/self/mem"]
    {
        let mut command = Command::new(tool::relpoline());
        command.args(["run", "-q", "--"]).arg(Program::retpolined("hostile.c").build()).args(["name", path]);
        let mut living = Living::start(&mut command);
        assert_eq!(living.said, "ready");
        let pid = living.pid().to_string();
        ends(&["relearn", "--site", "main", &pid]);
        ends(&["disable", "--site", "no_such_function", &pid]);
        ends(&["explain", &pid, "main"]);
        assert!(living.is_alive());
    }
}

/// A state that whoever looks at processes rarely meets: the command says something in time, and the process goes on.
#[test]
fn processes_in_odd_states() {
    let program = Program::retpolined("hostile.c").build();
    let place = open_directory();
    for what in ["private", "elsewhere", "lends", "execs", "maps", "ends", "no-text"] {
        let mut living = Living::start(Command::new(&program).args(["state", what]).arg(place.path()));
        assert_eq!(living.said, "ready", "{what}");
        let pid = living.pid().to_string();
        for arguments in [
            &["list"][..],
            &["attach", "--anyway", &pid],
            &["report", &pid],
            &["disable", &pid],
            &["detach", &pid],
            &["attach", &pid],
        ] {
            let said = ends(arguments);
            if what == "no-text" && arguments == ["attach", "--anyway", &pid] {
                assert!(said.status.success(), "{}", text(&said.stderr));
            }
        }
        // One that ends, or is replaced, while it is worked on does so by itself, not by a signal.
        if what != "ends" {
            assert!(living.is_alive(), "{what}");
            assert!(living.ends_with(""), "{what}");
        }
    }
}

/// Processes that are number 1 of pid namespaces of their own: each is worked on by the number that it has for us, and no
/// other one is.
#[test]
fn processes_of_other_pid_namespaces() {
    if !is_root() {
        return;
    }
    let program = Program::retpolined("hostile.c").build();
    let start = |mount: &[&str]| {
        let mut unshare = Command::new("unshare");
        Living::start(
            unshare.args(["--pid", "--fork", "--kill-child"]).args(mount).arg(&program).args(["state", "plain"]),
        )
    };
    // With a /proc of its own, and with ours.
    let (mut first, mut second) = (start(&["--mount-proc"]), start(&[]));
    if (&*first.said, &*second.said) != ("ready", "ready") {
        return println!("skipped: no pid namespaces here");
    }
    let pid_in = |living: &Living| {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", living.pid())).unwrap();
        children.trim().to_owned()
    };
    let (one, other) = (pid_in(&first), pid_in(&second));
    let enabled = |pid: &str| {
        let report = ends(&["report", "--format", "json", pid]);
        let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
        report["engine"]["enabled"].as_bool()
    };
    for pid in [&one, &other] {
        assert!(ends(&["attach", "--anyway", pid]).status.success());
    }
    let list = text(&ends(&["list"]).stdout);
    for pid in [&one, &other] {
        let is_it = |line: &str| line.split_whitespace().any(|word| word == pid);
        assert_eq!(list.lines().filter(|line| is_it(line)).count(), 1, "{pid}: {list}");
    }
    assert!(ends(&["disable", &one]).status.success());
    assert_eq!((enabled(&one), enabled(&other)), (Some(false), Some(true)));
    for arguments in [["enable", &one], ["relearn", &other], ["detach", &one], ["detach", &other]] {
        let said = ends(&arguments);
        assert!(said.status.success(), "{arguments:?}: {}", text(&said.stderr));
    }
    // Its own number is init's here.
    assert_eq!(ends(&["report", "1"]).status.code(), Some(1));
    assert!(first.is_alive() && second.is_alive() && first.ends_with("") && second.ends_with(""));
}

/// A process whose control group is frozen does not answer: it is refused in time, and goes on when it may.
#[test]
fn a_frozen_process() {
    if !is_root() {
        return;
    }
    let program = Program::retpolined("hostile.c").build();
    let mut living = Living::start(Command::new(&program).args(["state", "plain"]));
    let Some(group) = Frozen::of(living.pid()) else {
        return println!("skipped: control groups cannot be made here");
    };
    let pid = living.pid().to_string();
    for verb in ["list", "report", "attach", "detach"] {
        let arguments = if verb == "list" { vec![verb] } else { vec![verb, &pid] };
        let said = ends(&arguments);
        assert_eq!(said.status.success(), verb == "list" || verb == "detach", "{verb}: {}", text(&said.stderr));
    }
    drop(group);
    assert!(ends(&["attach", "--anyway", &pid]).status.success());
    assert!(living.is_alive() && living.ends_with(""));
}

/// A control group in which nothing runs. What is in it goes on when it is dropped.
struct Frozen {
    group: PathBuf,
    thaw: (&'static str, &'static str),
    back: PathBuf,
    pid: u32,
}

impl Frozen {
    fn of(pid: u32) -> Option<Self> {
        let name = format!("relpoline-hostile-{pid}");
        for (root, file, freeze, thaw) in [
            ("/sys/fs/cgroup/freezer", "freezer.state", "FROZEN", "THAWED"),
            ("/sys/fs/cgroup", "cgroup.freeze", "1", "0"),
        ] {
            let group = Path::new(root).join(&name);
            if fs::create_dir(&group).is_ok() {
                let frozen = Self { group, thaw: (file, thaw), back: root.into(), pid };
                let is_in = fs::write(frozen.group.join("cgroup.procs"), pid.to_string()).is_ok();
                if is_in && fs::write(frozen.group.join(file), freeze).is_ok() {
                    return Some(frozen);
                }
            }
        }
        None
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = fs::write(self.group.join(self.thaw.0), self.thaw.1);
        let _ = fs::write(self.back.join("cgroup.procs"), self.pid.to_string());
        let _ = fs::remove_dir(&self.group);
    }
}

//! Processes that are chosen by their name and by their unit.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::compiled::{Compiled, RETPOLINE};
use crate::observed::SERVER;
use crate::started::{output, relpoline, stdout};

/// Two processes of one name of their own, without an engine, until this is dropped.
struct Two {
    /// What they were made in.
    _program: Compiled,
    name: String,
    children: Vec<Child>,
}

impl Two {
    /// `letter` tells them from those of the other test.
    fn new(letter: char) -> Self {
        let program = Compiled::new(SERVER, &RETPOLINE);
        // No longer than what the system keeps of it.
        let name = format!("chosen{letter}{}", std::process::id());
        let path = program.directory().join(&name);
        fs::copy(&program.path, &path).unwrap();
        let start = |_| {
            let mut child = Command::new(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n");
            child
        };
        Self { children: (0..2).map(start).collect(), name, _program: program }
    }

    fn pids(&self) -> [u32; 2] {
        [self.children[0].id(), self.children[1].id()]
    }

    /// How many of them have an engine that promotes.
    fn promoting(&self) -> usize {
        let list: serde_json::Value = serde_json::from_str(&stdout(&mut relpoline(&["list", "--json"]))).unwrap();
        let pids = self.pids().map(u64::from);
        let engines = list["engines"].as_array().unwrap().iter();
        engines.filter(|one| pids.iter().any(|pid| one["pid"] == *pid) && one["enabled"] == true).count()
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Attaches to them and detaches again, twice each: what is done already is said, and is no failure.
fn attach_and_detach(two: &Two, chosen: &[&str]) {
    let say = |verb: &str| stdout(relpoline(&[verb]).args(chosen));
    let named = |said: &str, what: &str| {
        let of = |pid| said.lines().any(|line| line.contains(&format!("process {pid}: ")) && line.contains(what));
        two.pids().into_iter().all(of)
    };
    let said = say("attach");
    assert!(named(&said, "attached in") && two.promoting() == 2, "{said}");
    let again = say("attach");
    assert!(!again.contains("attached in") && two.promoting() == 2, "{again}");
    let said = say("detach");
    assert!(named(&said, "detached in") && two.promoting() == 0, "{said}");
    let again = say("detach");
    assert!(!again.contains("detached in"), "{again}");
}

#[test]
fn processes_are_attached_to_by_their_name() {
    let two = Two::new('n');
    attach_and_detach(&two, &["--name", &two.name]);
    let none = output(&mut relpoline(&["attach", "--name", "no such program"]));
    let said = String::from_utf8(none.stderr).unwrap();
    assert!(none.status.code() == Some(1) && said.contains("no process called no such program"), "{said}");
}

/// A control group that is called like a unit, which is all that a unit is to who looks for its processes.
struct Unit {
    group: PathBuf,
    name: String,
}

impl Unit {
    /// With these processes in it; nothing where none can be made.
    fn of(pids: &[u32]) -> Option<Self> {
        let name = format!("chosen-{}.service", std::process::id());
        let roots = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/freezer", "/sys/fs/cgroup"];
        for group in roots.map(|root| Path::new(root).join(&name)) {
            if fs::create_dir(&group).is_ok() {
                let unit = Self { group, name: name.clone() };
                if pids.iter().all(|pid| fs::write(unit.group.join("cgroup.procs"), pid.to_string()).is_ok()) {
                    return Some(unit);
                }
            }
        }
        None
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let root = self.group.parent().unwrap();
        for pid in fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(root.join("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.group);
    }
}

#[test]
fn processes_are_attached_to_by_their_unit() {
    let two = Two::new('u');
    let Some(unit) = Unit::of(&two.pids()) else {
        return println!("skipped: control groups cannot be made here");
    };
    attach_and_detach(&two, &["--unit", &unit.name]);
    // A unit's name is a whole one.
    let none = output(&mut relpoline(&["attach", "--unit", unit.name.trim_end_matches(".service")]));
    let said = String::from_utf8(none.stderr).unwrap();
    assert!(none.status.code() == Some(1) && said.contains("no process is in a unit called"), "{said}");
}

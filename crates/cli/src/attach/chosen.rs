//! Which processes are meant: by number, by name, with all that they have started, or by systemd unit.
//!
//! Who starts and ends while we look is not waited for: what is chosen is what was there. A process of which
//! we may know nothing is not found, and this process is never meant.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use anyhow::ensure;
use clap::Args;

use crate::live::process::Process;

/// Processes, on the command line.
#[derive(Debug, Default, Clone, Args)]
pub struct Chosen {
    /// The processes.
    #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..), required_unless_present_any = ["name", "unit"])]
    pub pids: Vec<i32>,
    /// All processes that are called NAME, or whose executable is (repeatable).
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,
    /// All processes of the systemd unit UNIT: those in its control group, of the system's units and your own
    /// (repeatable).
    #[arg(long, value_name = "UNIT")]
    pub unit: Vec<String>,
    /// With each process also those that it has started, and those that they have.
    #[arg(long)]
    pub tree: bool,
}

impl Chosen {
    /// Whether they were not all named one by one.
    #[must_use]
    pub const fn is_search(&self) -> bool {
        self.tree || !self.name.is_empty() || !self.unit.is_empty()
    }

    /// Their numbers: those that were given, in that order, then the others, one's own before those of other
    /// users. Whoever calls his processes like root's is served last, and holds up nobody but himself.
    ///
    /// # Errors
    /// When there is no process of a name, or in a unit.
    pub fn pids(&self) -> anyhow::Result<Vec<i32>> {
        if !self.is_search() {
            return Ok(self.pids.clone());
        }
        let own = rustix::process::geteuid().as_raw();
        let mut all: Vec<Process> = Process::all().into_iter().filter(|one| one.pid != std::process::id()).collect();
        all.sort_by_key(|one| {
            let owner = fs::metadata(format!("/proc/{}", one.pid)).map_or(u32::MAX, |about| about.uid());
            (owner != own, owner)
        });
        let mut chosen: Vec<u32> = self.pids.iter().map(|pid| pid.unsigned_abs()).collect();
        for name in &self.name {
            let named = all.iter().filter(|one| is_called(one, name)).map(|one| one.pid);
            let before = chosen.len();
            chosen.extend(named);
            ensure!(chosen.len() > before, "there is no process called {name} that you may look at");
        }
        for unit in &self.unit {
            let before = chosen.len();
            chosen.extend(all.iter().map(|one| one.pid).filter(|pid| {
                fs::read(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| is_in_unit(&groups, unit.as_bytes(), own))
            }));
            ensure!(
                chosen.len() > before,
                "no process is in a unit called {unit}; a unit's full name ends in .service or .scope: see \
                 systemctl status"
            );
        }
        if self.tree {
            let parents: BTreeMap<u32, u32> = all.iter().map(|one| (one.pid, one.parent)).collect();
            chosen = with_descendants(&chosen, &parents);
        }
        let mut seen = BTreeSet::new();
        Ok(chosen.into_iter().filter(|pid| seen.insert(*pid)).filter_map(|pid| i32::try_from(pid).ok()).collect())
    }
}

/// Whether a process bears the name, or its executable does. The system keeps 15 bytes of what a process
/// calls itself.
fn is_called(process: &Process, name: &str) -> bool {
    let executable = || {
        let path = fs::read_link(format!("/proc/{}/exe", process.pid)).ok()?;
        Some(path.file_name()?.as_bytes() == name.as_bytes())
    };
    (name.len() <= 15 && process.name == name) || executable().unwrap_or(false)
}

/// Whether a file `cgroup` of /proc names a unit of the system's, or of user `own`: a whole directory in one
/// of its paths. What comes before it are slices, and that user's own manager. Below another user's manager,
/// or in a container, a unit may be called anything.
fn is_in_unit(groups: &[u8], unit: &[u8], own: u32) -> bool {
    let manager = format!("user@{own}.service");
    let leads_on = |part: &&[u8]| part.ends_with(b".slice") || *part == manager.as_bytes();
    groups
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.splitn(3, |&byte| byte == b':').nth(2)?.strip_prefix(b"/"))
        .any(|path| {
            let mut parts = path.split(|&byte| byte == b'/');
            parts.find(|part| *part == unit || !leads_on(part)).is_some_and(|part| part == unit && !part.is_empty())
        })
}

/// These processes, each followed by those that descend from it.
fn with_descendants(chosen: &[u32], parents: &BTreeMap<u32, u32>) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (&pid, &parent) in parents {
        children.entry(parent).or_default().push(pid);
    }
    let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
    for &first in chosen {
        let mut waiting = vec![first];
        while let Some(pid) = waiting.pop() {
            // Numbers are used again, so what was read at different times may even go round in a circle.
            if seen.insert(pid) {
                all.push(pid);
                waiting.extend(children.get(&pid).into_iter().flatten().rev());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_a_process_and_all_below_it() {
        let parents: BTreeMap<u32, u32> = [(2, 1), (3, 2), (4, 2), (5, 4), (6, 1), (7, 6)].into();
        assert_eq!(with_descendants(&[2], &parents), [2, 3, 4, 5]);
        assert_eq!(with_descendants(&[4, 2, 6], &parents), [4, 5, 2, 3, 6, 7]);
        let circle: BTreeMap<u32, u32> = [(2, 3), (3, 2)].into();
        assert_eq!(with_descendants(&[2], &circle), [2, 3]);
    }

    #[test]
    fn a_unit_is_a_whole_directory_of_a_control_group() {
        let second = b"0::/system.slice/nginx.service\n";
        let first = b"12:cpu,cpuacct:/system.slice/nginx.service\n1:name=systemd:/system.slice/nginx.service/x\n";
        for groups in [&second[..], &first[..]] {
            assert!(is_in_unit(groups, b"nginx.service", 0));
            for other in [&b"nginx"[..], b"inx.service", b"", b"system.slice/nginx.service", b"cpu"] {
                assert!(!is_in_unit(groups, other, 0), "{}", String::from_utf8_lossy(other));
            }
        }
        assert!(!is_in_unit(b"0::/\n", b"", 0));
    }

    #[test]
    fn a_unit_of_another_users_or_of_a_containers_is_not_the_systems() {
        let of_a_user = b"0::/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service\n";
        assert!(is_in_unit(of_a_user, b"nginx.service", 1000));
        assert!(!is_in_unit(of_a_user, b"nginx.service", 0));
        assert!(is_in_unit(of_a_user, b"user@1000.service", 0), "that one is the system's");
        for container in ["/machine.slice/libpod-1.scope/system.slice/nginx.service", "/docker/1/nginx.service"] {
            assert!(!is_in_unit(format!("0::{container}\n").as_bytes(), b"nginx.service", 0), "{container}");
        }
    }

    #[test]
    fn a_process_is_found_by_its_executable_and_its_own_name() {
        let child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let guard = scopeguard(child);
        // Until it has become what it is to be.
        let by = |chosen: Chosen| {
            (0..500).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(2));
                chosen.pids().is_ok_and(|pids| pids.contains(&pid))
            })
        };
        assert!(by(Chosen { name: vec!["sleep".into()], ..Chosen::default() }));
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(by(Chosen { pids: vec![own], tree: true, ..Chosen::default() }), "it is below us");
        let none = Chosen { name: vec!["no such program".into()], ..Chosen::default() };
        assert!(none.pids().unwrap_err().to_string().contains("no process called no such program"));
        drop(guard);
    }

    /// Ends the child when the test does.
    fn scopeguard(child: std::process::Child) -> impl Drop {
        struct Ending(std::process::Child);
        impl Drop for Ending {
            fn drop(&mut self) {
                let _ = self.0.kill();
                let _ = self.0.wait();
            }
        }
        Ending(child)
    }
}

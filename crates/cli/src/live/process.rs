//! What /proc says of processes. All of it is read anew each time, and may be gone the moment after.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use relpoline_stats::live::{Name, started};

/// The first pid namespace: whoever is in it sees every process there is (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Whether a process that cannot be seen does not exist.
pub fn sees_all() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|found| found.ino() == FIRST_PID_NAMESPACE)
}

/// A process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its number, as we see it.
    pub pid: u32,
    /// Its number as it sees itself, in its own pid namespace.
    pub own_pid: u32,
    /// When it was started, as the system counts; 0 when we may not know.
    pub started: u64,
    /// The user it is.
    pub user: u32,
    /// What it calls itself.
    pub name: String,
}

impl Process {
    /// Looks at a process; `None` when there is none of that number.
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Some(Self {
            pid,
            own_pid: field("NSpid").and_then(|all| all.split_whitespace().next_back()?.parse().ok()).unwrap_or(pid),
            started: fs::read(format!("/proc/{pid}/stat")).ok().and_then(|stat| started(&stat)).unwrap_or(0),
            // Real, effective, saved, file system: the effective one makes files.
            user: field("Uid").and_then(|all| all.split_whitespace().nth(1)?.parse().ok())?,
            name: field("Name").unwrap_or_default().trim().to_owned(),
        })
    }

    /// All processes.
    pub fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| Self::of(entry.file_name().to_str()?.parse().ok()?)).collect()
    }

    /// The number of its mount namespace, if we may know it.
    pub fn mounts(&self) -> Option<u64> {
        fs::metadata(format!("/proc/{}/ns/mnt", self.pid)).ok().map(|found| found.ino())
    }

    /// The number of its pid namespace, if we may know it.
    pub fn pid_namespace(&self) -> Option<u64> {
        fs::metadata(format!("/proc/{}/ns/pid", self.pid)).ok().map(|found| found.ino())
    }

    /// Whether a statistics file of that name can be this process'.
    pub fn may_be(&self, name: &Name) -> bool {
        // What either side could not tell is taken for the same. Time namespaces shift the start, so it is no proof.
        let same = |known: u64, here: Option<u64>| known == 0 || here.is_none_or(|here| here == known);
        name.pid == self.own_pid && same(name.namespace, self.pid_namespace())
    }

    /// Its root directory, as a prefix for its paths.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid))
    }

    /// Whether it has a file mapped, by the file's number; `None` when we may not know.
    pub fn maps(&self, inode: u64) -> Option<bool> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid)).ok()?;
        let inode = inode.to_string();
        Some(maps.lines().any(|line| line.split_whitespace().nth(4) == Some(&inode)))
    }

    /// Its command line, in one line; empty when we may not know.
    pub fn command(&self) -> String {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let words = bytes.split(|&byte| byte == 0).filter(|word| !word.is_empty());
        let line = words.map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ");
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// The name of a user, or the number.
pub fn user_name(user: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = user.to_string();
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    });
    found.unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_with_its_own_number() {
        let me = Process::of(std::process::id()).unwrap();
        assert_eq!(me.own_pid, std::process::id());
        assert_eq!(me.user, rustix::process::geteuid().as_raw());
        let namespace = me.pid_namespace().unwrap();
        let name = Name { pid: me.own_pid, namespace, started: me.started };
        assert!(me.started > 0 && me.may_be(&name) && me.may_be(&Name { namespace: 0, ..name }));
        assert!(!me.may_be(&Name { namespace: namespace + 1, ..name }) && !me.may_be(&Name { pid: 1 << 30, ..name }));
        assert!(me.command().contains("relpoline") && me.mounts().is_some());
        assert_eq!((me.maps(u64::MAX), Process::of(u32::MAX)), (Some(false), None));
    }
}

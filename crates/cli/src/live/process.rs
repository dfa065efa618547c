//! What /proc says of processes. All of it is read anew each time, and may be gone the moment after.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use relpoline_stats::live::{Name, started};

use super::maps;
use crate::shown::Shown;

/// The first pid namespace: whoever is in it sees every process there is (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Ticks in a second, as /proc counts (`USER_HZ`): part of the kernel's ABI on x86-64.
const TICKS: f64 = 100.0;

/// Which file it is: the numbers of its device, and its own there. Numbers alone can be had by others:
/// whoever makes files for long enough has one of any number.
pub type FileId = ((u32, u32), u64);

/// Which file it is that has these attributes.
pub fn file_id(meta: &fs::Metadata) -> FileId {
    ((rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev())), meta.ino())
}

/// Whether a process that cannot be seen does not exist.
pub fn sees_all() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|found| found.ino() == FIRST_PID_NAMESPACE)
}

/// A file of /proc, in which a name that need not be text may stand.
pub fn text(path: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned())
}

/// A process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its number, as we see it.
    pub pid: u32,
    /// Its number as it sees itself, in its own pid namespace.
    pub own_pid: u32,
    /// The process that started it, or that has taken its place.
    pub parent: u32,
    /// When it was started, as the system counts; 0 when we may not know.
    pub started: u64,
    /// The user it is.
    pub user: u32,
    /// All that it is or may be again: real, effective, saved, file system.
    pub users: [u32; 4],
    /// Its group.
    pub group: u32,
    /// What it calls itself.
    pub name: String,
}

impl Process {
    /// Looks at a process; `None` when there is none of that number.
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read(format!("/proc/{pid}/status")).ok()?;
        Self::parse(pid, &status, &fs::read(format!("/proc/{pid}/stat")).unwrap_or_default())
    }

    /// What these two files of its say.
    pub fn parse(pid: u32, status: &[u8], stat: &[u8]) -> Option<Self> {
        // What a process calls itself need not be text.
        let status = String::from_utf8_lossy(status);
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        // Real, effective, saved, file system: the effective one makes files.
        let effective = |name| field(name).and_then(|all| all.split_whitespace().nth(1)?.parse().ok());
        let users = field("Uid")?.split_whitespace().filter_map(|user| user.parse().ok()).collect::<Vec<u32>>();
        Some(Self {
            pid,
            own_pid: field("NSpid").and_then(|all| all.split_whitespace().next_back()?.parse().ok()).unwrap_or(pid),
            parent: field("PPid").and_then(|pid| pid.trim().parse().ok()).unwrap_or(0),
            started: started(stat).unwrap_or(0),
            user: effective("Uid")?,
            users: users.try_into().ok()?,
            group: effective("Gid")?,
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
        // What either side could not tell is taken for the same. Time namespaces shift the start, so it is no
        // proof.
        let same = |known: u64, here: Option<u64>| known == 0 || here.is_none_or(|here| here == known);
        name.pid == self.own_pid && same(name.namespace, self.pid_namespace())
    }

    /// Its root directory, as a prefix for its paths.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid))
    }

    /// Whether it can have made a file of this user's: itself, or root for it.
    pub fn may_own(&self, user: u32) -> bool {
        user == 0 || self.users.contains(&user)
    }

    /// The files that it has mapped, by device and number; `None` when we may not know, or when there are far
    /// too many.
    pub fn mapped_files(&self) -> Option<BTreeSet<FileId>> {
        let mut files = BTreeSet::new();
        let insert = |line: maps::Line<'_>| {
            files.insert((line.device, line.inode));
            true
        };
        maps::each(self.pid, insert).ok().map(|()| files)
    }

    /// Whether it is still there: another one may have its number by now.
    pub fn is_there(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now.started == self.started)
    }

    /// Processor seconds that it has run, all threads together, without its children's.
    #[must_use]
    pub fn processor_seconds(&self) -> Option<f64> {
        processor_seconds(&fs::read(format!("/proc/{}/stat", self.pid)).ok()?)
    }

    /// Its command line, in one line; empty when we may not know.
    pub fn command(&self) -> Shown {
        const MOST: u64 = 4096;
        let mut bytes = Vec::new();
        let file = fs::File::open(format!("/proc/{}/cmdline", self.pid));
        // What was read until it went wrong is a command line, too.
        let _ = file.and_then(|file| file.take(MOST).read_to_end(&mut bytes));
        let words = bytes.split(|&byte| byte == 0).filter(|word| !word.is_empty());
        Shown::of_bytes(&words.collect::<Vec<_>>().join(&b' '))
    }
}

/// The same, by what its `stat` says (fields 14 and 15). Its name, in parentheses, may hold anything.
#[expect(clippy::cast_precision_loss, reason = "hundredths of a second")]
fn processor_seconds(stat: &[u8]) -> Option<f64> {
    let behind_name = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(behind_name + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace().skip(14 - 3);
    let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    Some(user.saturating_add(system) as f64 / TICKS)
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
    fn the_time_that_a_process_ran_is_read_behind_any_name() {
        let fields = "S 1 7 7 0 -1 4194560 1 0 0 0 150 50 9 9 20 0 1 0 1234 99";
        for name in ["a", ") S 1 2", "x) y) 3"] {
            let seconds = processor_seconds(format!("7 ({name}) {fields}").as_bytes()).unwrap();
            assert!((seconds - 2.0).abs() < 1e-6, "{seconds}");
        }
        assert_eq!(processor_seconds(b"7 (a) S 1 7"), None);
    }

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
        assert!(me.is_there() && !Process { started: me.started + 1, ..me.clone() }.is_there());
        assert_eq!(
            (me.mapped_files().map(|files| files.contains(&((0, 0), u64::MAX))), Process::of(u32::MAX)),
            (Some(false), None)
        );
    }
}

//! Whether a process can be attached to, and if not, why, and what to do about it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{bail, ensure};
use relpoline_stats::Refusal;
use relpoline_stats::program::{Program, examine};

use crate::live::process::text;

/// `PF_KTHREAD`.
const KERNEL_THREAD: u64 = 0x0020_0000;
const YAMA: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// `/proc/PID/status`.
struct Status(String);

impl Status {
    fn of(pid: i32) -> Option<Self> {
        text(&format!("/proc/{pid}/status")).map(Self)
    }

    /// The words behind `name:`.
    fn words(&self, name: &str) -> impl Iterator<Item = &str> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace()
    }

    fn number(&self, name: &str) -> u64 {
        self.words(name).next().and_then(|word| word.parse().ok()).unwrap_or(0)
    }

    fn name(&self) -> &str {
        self.words("Name").next().unwrap_or("?")
    }

    fn user(&self) -> u64 {
        self.words("Uid").nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
    }
}

fn kernel_flags(pid: i32) -> u64 {
    let stat = text(&format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    rest.split(' ').nth(6).and_then(|flags| flags.parse().ok()).unwrap_or(0)
}

/// What can be told without touching the process.
///
/// # Errors
/// Why it cannot be attached to.
pub fn look(pid: i32) -> anyhow::Result<()> {
    let Some(status) = Status::of(pid) else { bail!("there is no process {pid}") };
    let who = format!("process {pid} ({})", status.name());
    let leader = status.number("Tgid");
    ensure!(leader == u64::from(pid.unsigned_abs()), "{pid} is a thread of process {leader}: name that one");
    ensure!(pid.unsigned_abs() != std::process::id(), "that is relpoline itself");
    ensure!(kernel_flags(pid) & KERNEL_THREAD == 0, "{who} is a thread of the kernel's: it has no program");
    let state = status.words("State").next().unwrap_or_default();
    let alive = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    ensure!(!matches!(state, "Z" | "X") || alive > 1, "{who} has ended: it only waits for its parent to notice");
    let tracer = status.number("TracerPid");
    ensure!(
        tracer == 0,
        "{who} is traced by process {tracer} ({}), a debugger or another relpoline: end that first",
        i32::try_from(tracer).ok().and_then(Status::of).map_or("?".into(), |status| status.name().to_owned()),
    );
    ensure!(state != "T" && state != "t", "{who} is stopped: let it go on first (kill -CONT {pid})");
    look_closely(pid)
}

/// What can be told of the program that it runs.
///
/// # Errors
/// Why it cannot be attached to.
pub fn look_closely(pid: i32) -> anyhow::Result<()> {
    let Some(status) = Status::of(pid) else { bail!("there is no process {pid}") };
    let who = format!("process {pid} ({})", status.name());
    // Without the right to trace it the link cannot be read, and that is what tracing will say.
    if let Ok(file) = File::open(format!("/proc/{pid}/exe"))
        && let Program::Unfit(refusal) = examine(&mut |offset, buffer| file.read_at(buffer, offset).unwrap_or(0))
    {
        bail!("{who} cannot be attached to: {}{}", refusal.text(), remedy(refusal));
    }
    ensure!(
        status.number("Seccomp") == 0,
        "{who} has a seccomp filter, which might kill it for the system calls that attaching makes: start it with relpoline run",
    );
    ensure!(
        !status.words("x86_Thread_features").any(|feature| feature == "shstk"),
        "{who} cannot be attached to: {}; start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off",
        Refusal::ShadowStack.text(),
    );
    Ok(())
}

fn remedy(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Static | Refusal::OtherLoader => "; link it dynamically against glibc",
        Refusal::OtherClass | Refusal::OtherMachine => "; build it for x86-64",
        _ => "",
    }
}

/// What a thread is doing: the letter in `/proc/PID/task/TID/stat`.
pub fn state_of_thread(pid: i32, tid: i32) -> Option<char> {
    let stat = text(&format!("/proc/{pid}/task/{tid}/stat"))?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether the main thread has ended before the others.
pub fn main_thread_has_ended(pid: i32) -> bool {
    Status::of(pid).is_some_and(|status| status.words("State").next() == Some("Z"))
}

/// What it means that tracing was refused.
pub fn of_tracing(pid: i32, error: &io::Error) -> anyhow::Error {
    let Some(status) = Status::of(pid) else { return anyhow::anyhow!("there is no process {pid}") };
    let mut text = format!("process {pid} ({}) ", status.name());
    let me = rustix::process::geteuid().as_raw();
    let scope = fs::read_to_string(YAMA).ok().and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(0);
    let refused = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES));
    // Writing to a String cannot fail.
    let _ = match scope {
        _ if !refused => write!(text, "cannot be traced: {error}"),
        _ if status.number("TracerPid") != 0 => {
            write!(
                text,
                "is traced by process {}, a debugger or another relpoline: end that first",
                status.number("TracerPid")
            )
        }
        _ if me != 0 && u64::from(me) != status.user() => {
            write!(text, "belongs to another user ({}): run relpoline as that user or as root", status.user())
        }
        3 => write!(
            text,
            "cannot be traced: {YAMA} is 3, which forbids it until the next boot; start it with relpoline run"
        ),
        2 if me != 0 => write!(text, "cannot be traced: {YAMA} is 2, so only root may; run relpoline as root"),
        1 if me != 0 => write!(
            text,
            "cannot be traced: {YAMA} is 1, so only its ancestors may; run relpoline as root, or set it to 0"
        ),
        _ if me != 0 => write!(
            text,
            "cannot be traced: it has changed its user or has privileges of its own; run relpoline as root"
        ),
        _ => write!(
            text,
            "cannot be traced, not even by this root: CAP_SYS_PTRACE is missing, or a security module forbids it; run relpoline outside of this container"
        ),
    };
    anyhow::anyhow!(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_cannot_be_attached_to_are_told_apart() {
        let why = |pid| look(pid).unwrap_err().to_string();
        assert!(why(std::process::id().cast_signed()).contains("relpoline itself"));
        assert!(why(i32::MAX).contains("no process"));
        // kthreadd, where a container does not hide it.
        if fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n") {
            assert!(why(2).contains("kernel"));
        }
    }
}

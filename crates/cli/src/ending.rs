//! When a signal ends a command: what it has started ends, its files go, and then it is ended as it would
//! have been.
//!
//! A handler may do next to nothing, so it wakes a thread. That one asks the command's children to end, waits
//! until they have, and does what was [registered](register). The main thread goes on meanwhile, finds its
//! children dead, and has nothing to say about that ([`settle`]).
//!
//! Signals that were ignored when the command was started (nohup) stay ignored. Programs that are started
//! have them as usual. What must not be begun and left takes a moment only, and holds signals back
//! ([`Held`]).

use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// What ends us.
const ENDINGS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
/// Children that do not end when they are asked to are killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// So often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(10);

/// The signal that has come.
static ARRIVED: AtomicI32 = AtomicI32::new(0);
/// The end of the pipe by which the handler wakes the thread; -1 before there is one. It is never closed.
static WAKE: AtomicI32 = AtomicI32::new(-1);
/// What is to be done, and its numbers.
static TO_DO: Mutex<Vec<(u64, Deed)>> = Mutex::new(Vec::new());

type Deed = Box<dyn FnOnce() + Send>;

/// What is done when a signal ends the command as long as this lives.
#[derive(Debug)]
pub struct Registered(u64);

/// Makes something, with what is done about it when a signal ends the command. Once that has begun nothing
/// new is made.
///
/// # Errors
/// When it cannot be made, or signals cannot be watched.
pub fn register<T>(make: impl FnOnce() -> anyhow::Result<(T, Deed)>) -> anyhow::Result<(T, Registered)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut to_do = to_do();
    if WAKE.load(Ordering::Relaxed) < 0 {
        watch().context("signals cannot be watched")?;
    }
    let (made, deed) = make()?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    to_do.push((number, deed));
    Ok((made, Registered(number)))
}

impl Drop for Registered {
    fn drop(&mut self) {
        to_do().retain(|(number, _)| *number != self.0);
    }
}

fn to_do() -> MutexGuard<'static, Vec<(u64, Deed)>> {
    TO_DO.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits to be ended if a signal has come: what failed meanwhile failed for that.
pub fn settle() {
    while ARRIVED.load(Ordering::Relaxed) != 0 {
        std::thread::sleep(LOOK);
    }
}

extern "C" fn note(signal: libc::c_int) {
    ARRIVED.store(signal, Ordering::Relaxed);
    // SAFETY: write may be called in handlers; the byte is live, and the descriptor is never closed.
    unsafe { libc::write(WAKE.load(Ordering::Relaxed), [0_u8].as_ptr().cast(), 1) };
}

/// Starts the thread, and lets signals wake it.
fn watch() -> io::Result<()> {
    let (reader, writer) = io::pipe()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || end(reader))?;
    WAKE.store(OwnedFd::from(writer).into_raw_fd(), Ordering::Relaxed);
    for signal in ENDINGS {
        // SAFETY: zeros are a valid action; the handler makes one system call; all pointers are to live
        // values.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &raw mut before);
            if before.sa_sigaction != libc::SIG_IGN {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = note as extern "C" fn(libc::c_int) as usize;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
    Ok(())
}

/// Waits for a signal, and ends this process.
fn end(mut woken: io::PipeReader) {
    if woken.read_exact(&mut [0]).is_err() {
        return;
    }
    end_children();
    // Held to the end: whoever wants to register something, or to go on after it, waits.
    let mut to_do = to_do();
    while let Some((_, deed)) = to_do.pop() {
        deed();
    }
    let signal = ARRIVED.load(Ordering::Relaxed);
    // SAFETY: the default action runs no code of ours. A thread of ours has no signal blocked that the
    // command did not have.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
    }
    std::thread::sleep(LOOK);
    // Only where it was blocked when we were started.
    std::process::exit(128 + signal);
}

/// Asks them to end; those that do not are killed.
fn end_children() {
    let begun = Instant::now();
    let mut asked = Vec::new();
    loop {
        let children = children();
        if children.is_empty() {
            return;
        }
        let is_late = begun.elapsed() > PATIENCE;
        for child in children {
            if is_late || !asked.contains(&child) {
                // SAFETY: a number and a signal. The main thread alone may have waited for that child since
                // it was listed, a moment ago, and numbers are given out in turn.
                unsafe { libc::kill(child, if is_late { libc::SIGKILL } else { libc::SIGTERM }) };
                asked.push(child);
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// Children of all of our threads that have not ended.
fn children() -> Vec<libc::pid_t> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let numbers = lists.flat_map(|list| list.split_whitespace().filter_map(|one| one.parse().ok()).collect::<Vec<_>>());
    numbers.filter(|child| !has_ended(*child)).collect()
}

/// Whether nothing is left of it but its status.
fn has_ended(pid: libc::pid_t) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// While it lives, these signals wait. For a moment: whoever sends them does, too.
pub struct Held {
    before: libc::sigset_t,
}

impl Held {
    /// From now on.
    #[must_use]
    pub fn now() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set to which the signals are added; zeros are a valid mask,
        // which the call fills.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in ENDINGS {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            let mut before = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), &raw mut before);
            Self { before }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: the mask came from the system.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_forgotten() {
        let ((), registered) = register(|| Ok(((), Box::new(|| {}) as Deed))).unwrap();
        let number = registered.0;
        let is_there = || to_do().iter().any(|(one, _)| *one == number);
        assert!(is_there());
        drop(registered);
        assert!(!is_there());
        assert!(register(|| -> anyhow::Result<((), Deed)> { anyhow::bail!("not made") }).is_err());
    }

    #[test]
    fn a_child_that_has_ended_is_none() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id().cast_signed();
        assert!(children().contains(&pid));
        child.kill().unwrap();
        assert!((0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(2));
            !children().contains(&pid)
        }));
        child.wait().unwrap();
    }

    #[test]
    fn signals_wait_while_they_are_held() {
        let blocked = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim().to_owned();
            u64::from_str_radix(&mask, 16).unwrap()
        };
        let ours = ENDINGS.iter().fold(0, |mask, signal| mask | 1_u64 << (signal - 1));
        let before = blocked();
        let held = Held::now();
        assert_eq!(blocked(), before | ours);
        drop(held);
        assert_eq!(blocked(), before);
    }
}

//! A process that stands by, so that whoever started the command has it back in time.
//!
//! What others have made may lie on a file system that a process of theirs answers for (FUSE): a path, or
//! what a process has mapped. The kernel waits for the answer, and once the question is with that process not
//! even SIGKILL ends the wait. A time limit of our own ([`Patience`]) ends only waits that can be ended. So
//! root's commands that look at what others have made do so in a child. When its time is over and it has not
//! ended, its parent says so and ends; the child ends when the kernel lets it, and does nothing any more: its
//! own end is already decided.
//!
//! Nobody else needs that: the kernel does not let other users' FUSE answer root and not them.
//!
//! [`Patience`]: crate::live::Patience

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::arguments::Verb;
use crate::run::signals::{self, Arrived};
use crate::run::supervise::{self, Ending};
use crate::top::terminal;

/// How often the parent looks.
const LOOK: Duration = Duration::from_millis(250);
/// In seconds, how long a child that was told to end may take.
const LATE: u64 = 2;

/// The second of the machine's clock at which the time of a child is over, or 0. In memory that both have.
static DEADLINE: OnceLock<&'static AtomicU64> = OnceLock::new();

/// Whether a command looks at what other users have made, and comes to an end by itself or when it is told
/// to.
fn looks_at_others(verb: &Verb) -> bool {
    match verb {
        Verb::Attach(_)
        | Verb::Detach(_)
        | Verb::Enable(_)
        | Verb::Disable(_)
        | Verb::Relearn(_)
        | Verb::List(_)
        | Verb::Explain(_)
        | Verb::Top(_)
        | Verb::Report(_)
        | Verb::Metrics(_)
        | Verb::Profile(_)
        | Verb::Perf(_)
        | Verb::Inspect(_) => true,
        // They work on what this user has named, start programs of their own, or read nothing.
        Verb::Run(_)
        | Verb::Try(_)
        | Verb::Doctor(_)
        | Verb::Demo(_)
        | Verb::Bench(_)
        | Verb::Torture(_)
        | Verb::Bpf(_)
        | Verb::Kernel(_)
        | Verb::Thunks(_)
        | Verb::Completions(_)
        | Verb::Man(_) => false,
    }
}

/// Goes on in a child where that is needed. In the parent it does not return before the child has ended, or
/// its time is over; then it returns with what the command is to end with.
///
/// Nothing may run in this process but this thread.
#[must_use]
pub fn stand_by(verb: &Verb) -> Option<ExitCode> {
    if !rustix::process::geteuid().is_root() || !looks_at_others(verb) || crate::attach::is_broken("waits-for-ever") {
        return None;
    }
    // Without that memory, or a child, the command works as well, as long as everything answers.
    let deadline = shared()?;
    let terminal = terminal::Before::now();
    let before = signals::block();
    let parent = std::process::id();
    match child_with_our_descriptors() {
        -1 => {
            before.restore();
            None
        }
        0 => {
            before.restore();
            // SAFETY: it names a signal for the time after our parent's end.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            if rustix::process::getppid().is_none_or(|now| now.as_raw_nonzero().get().unsigned_abs() != parent) {
                // It has ended before we asked.
                // SAFETY: ends this process, which has done nothing yet.
                unsafe { libc::_exit(1) };
            }
            let _ = DEADLINE.set(deadline);
            None
        }
        pid => Some(wait(pid, deadline, &terminal)),
    }
}

/// A child as by fork(2), but with the same table of descriptors: those of a child that cannot end would keep
/// a pipe open, and whoever reads from that waiting.
fn child_with_our_descriptors() -> libc::pid_t {
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: this process has a single thread, which holds no lock, and nobody has registered anything for
    // forks: so the child may do whatever we may. Memory is copied, and no pointer is passed.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    libc::pid_t::try_from(pid).unwrap_or(-1)
}

/// Whether this is such a child.
#[must_use]
pub fn is_watched() -> bool {
    DEADLINE.get().is_some()
}

/// The time of this process, if it is a child, is over after this, or never.
pub fn ends_in(left: Option<Duration>) {
    if let Some(deadline) = DEADLINE.get() {
        deadline.store(left.map_or(0, |left| second_after(now(), left)), Relaxed);
    }
}

/// The first second in which a time that began in second `now` is over for certain.
fn second_after(now: u64, left: Duration) -> u64 {
    let begun = u64::from(left.subsec_nanos() > 0);
    now.saturating_add(left.as_secs()).saturating_add(begun)
}

fn now() -> u64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec.unsigned_abs()
}

/// A number in memory that children share.
fn shared() -> Option<&'static AtomicU64> {
    use rustix::mm::{MapFlags, ProtFlags};
    // SAFETY: a new mapping at a place of the kernel's choice. It is a page of zeros, which are a number, and
    // stays for ever.
    unsafe {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let page = rustix::mm::mmap_anonymous(std::ptr::null_mut(), 4096, protection, MapFlags::SHARED).ok()?;
        Some(NonNull::new(page.cast::<AtomicU64>())?.as_ref())
    }
}

/// Waits for the child, and no longer than it has time.
fn wait(pid: libc::pid_t, deadline: &AtomicU64, terminal: &terminal::Before) -> ExitCode {
    let (mut told, mut alarmed) = (None, false);
    loop {
        if let Some(ending) = supervise::drain(pid) {
            return match ending {
                // Its own alarm.
                Ending::Killed(libc::SIGALRM) if !alarmed => given_up("it was ended"),
                ending => ending.imitate(),
            };
        }
        let limits = [deadline.load(Relaxed), told.unwrap_or(0)];
        if limits.iter().any(|&limit| limit != 0 && now() > limit.saturating_add(LATE)) {
            // SAFETY: it has not been waited for to its end, so the number is still its.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            std::thread::sleep(LOOK);
            terminal.give_back();
            if supervise::drain(pid).is_some() {
                return given_up("it was ended");
            }
            let code = given_up(&format!("process {pid} of ours ends when that is answered"));
            // SAFETY: it closes descriptors, of the child too, which does nothing with them any more; nor do
            // we.
            unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
            return code;
        }
        match signals::next(Some(LOOK)) {
            Arrived::Sent(signal) => {
                alarmed |= signal == libc::SIGALRM;
                // SAFETY: as above.
                unsafe { libc::kill(pid, signal) };
                told = told.or(ends(signal).then(now));
            }
            // The kernel has told the child, too.
            Arrived::Told(signal) => told = told.or(ends(signal).then(now)),
            Arrived::Child | Arrived::Other => {}
        }
    }
}

/// Whether a signal is to end a command.
fn ends(signal: libc::c_int) -> bool {
    matches!(signal, libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT)
}

fn given_up(what: &str) -> ExitCode {
    crate::complain(format_args!(
        "given up: it took too long, perhaps since a file system that a process answers for (FUSE) did not answer; {what}"
    ));
    let _ = io::stderr().flush();
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_second_is_one() {
        let after = |millis| second_after(100, Duration::from_millis(millis));
        assert_eq!([after(0), after(1), after(1000), after(1001)], [100, 101, 101, 102]);
        assert_eq!(second_after(100, Duration::MAX), u64::MAX);
    }
}

//! What this process was given, so that the program it becomes is given the same.
//!
//! Rust's runtime prepares a process for Rust: it ignores SIGPIPE and opens /dev/null for standard
//! descriptors that are closed. Both would be inherited across exec, and a program that runs under relpoline
//! must not differ in either. So a constructor, which runs before the runtime, notes how things were, and
//! [`hand_on`] puts them back just before exec.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

static PIPE_IGNORED: AtomicBool = AtomicBool::new(true);
static CLOSED: AtomicU8 = AtomicU8::new(0);

/// Notes how things are. Called once, before `main`, by the constructor in `main.rs`.
pub extern "C" fn record() {
    PIPE_IGNORED.store(is_ignored(libc::SIGPIPE), Relaxed);
    let closed = (0..3).filter(|&fd| is_closed(fd)).fold(0, |bits, fd| bits | 1 << fd);
    CLOSED.store(closed, Relaxed);
}

/// Puts things back as they were. What follows has to be exec.
pub fn hand_on() {
    let disposition = if PIPE_IGNORED.load(Relaxed) { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: neither disposition is a function, so no code of ours can be called.
    unsafe { libc::signal(libc::SIGPIPE, disposition) };
    for fd in (0..3).filter(|fd| CLOSED.load(Relaxed) & 1 << fd != 0) {
        // SAFETY: this is the /dev/null that the runtime opened; nothing in this process owns it.
        unsafe { libc::close(fd) };
    }
}

/// Lets SIGPIPE end this process, as it ends any filter whose reader (`| head`) goes away.
pub fn end_with_the_reader() {
    // SAFETY: the default action is no function.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Whether `signal` is ignored.
fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: a sigaction of zeros is a valid one, and a null new action only asks.
    let (result, action) = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(signal, std::ptr::null(), &raw mut action), action)
    };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Whether there is no descriptor `fd`.
fn is_closed(fd: libc::c_int) -> bool {
    // SAFETY: F_GETFD reads a flag, whatever the number.
    unsafe { libc::fcntl(fd, libc::F_GETFD) == -1 }
}

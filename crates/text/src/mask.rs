//! Keeping signal handlers away from a thread for a moment.
//!
//! A handler may fork, or leave by `siglongjmp` what it interrupted. Where neither must happen (a descriptor of the
//! process' own memory is open, a lock is pinned) signals wait. Faults do not: one that is blocked would end the process.

#[cfg(not(relpoline_model))]
use core::ffi::{c_long, c_ulong};

/// Runs `work` while no signal handler can interrupt this thread. Makes two system calls.
#[cfg(not(relpoline_model))]
pub fn held_back<R>(work: impl FnOnce() -> R) -> R {
    // SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS.
    const FAULTS: [u32; 6] = [4, 5, 7, 8, 11, 31];
    let all = FAULTS.iter().fold(u64::MAX, |set, signal| set & !(1 << (signal - 1)));
    let before = set_mask(all);
    let result = work();
    if let Some(before) = before {
        let _ = set_mask(before);
    }
    result
}

/// In the model, signals come from the model.
#[cfg(relpoline_model)]
pub fn held_back<R>(work: impl FnOnce() -> R) -> R {
    let before = crate::sync::hold_back(true);
    let result = work();
    crate::sync::hold_back(before);
    result
}

/// Sets this thread's mask; what it was, or `None` when that was refused. libc's own two signals are blocked too, which
/// its wrapper would leave out: cancellation is one of them.
#[cfg(not(relpoline_model))]
fn set_mask(mask: u64) -> Option<u64> {
    const SYS_RT_SIGPROCMASK: c_long = 14;
    const SIG_SETMASK: c_ulong = 2;
    let mut before = 0u64;
    let answer: c_long;
    // SAFETY: rt_sigprocmask(2) changes this thread's mask; both words live as long as the call.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") SYS_RT_SIGPROCMASK => answer,
            in("rdi") SIG_SETMASK, in("rsi") &raw const mask, in("rdx") &raw mut before, in("r10") size_of::<u64>(),
            lateout("rcx") _, lateout("r11") _, options(nostack),
        );
    }
    (answer == 0).then_some(before)
}

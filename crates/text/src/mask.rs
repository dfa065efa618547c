//! Keeping signal handlers away from a thread for a moment.
//!
//! A handler may fork, or leave by `siglongjmp` what it interrupted. Where neither must happen (a descriptor
//! of the process' own memory is open, a lock is pinned) signals wait. Faults do not, unless they did before:
//! one that is blocked would end the process.

#[cfg(not(relpoline_model))]
use core::ffi::{c_long, c_ulong};

/// Runs `work` while no signal handler can interrupt this thread. Makes two system calls.
#[cfg(not(relpoline_model))]
pub fn held_back<R>(work: impl FnOnce() -> R) -> R {
    // SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS.
    const FAULTS: [u32; 6] = [4, 5, 7, 8, 11, 31];
    let all = FAULTS.iter().fold(u64::MAX, |set, signal| set & !(1 << (signal - 1)));
    let _restored = Restored(change_mask(SIG_BLOCK, all));
    work()
}

/// What the mask was before; it is so again when this is dropped.
#[cfg(not(relpoline_model))]
struct Restored(Option<u64>);

#[cfg(not(relpoline_model))]
impl Drop for Restored {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            let _ = change_mask(SIG_SETMASK, before);
        }
    }
}

/// In the model, signals come from the model.
#[cfg(relpoline_model)]
pub fn held_back<R>(work: impl FnOnce() -> R) -> R {
    let before = crate::sync::hold_back(true);
    let result = work();
    crate::sync::hold_back(before);
    result
}

#[cfg(not(relpoline_model))]
const SIG_BLOCK: c_ulong = 0;
#[cfg(not(relpoline_model))]
const SIG_SETMASK: c_ulong = 2;

/// Changes this thread's mask; what it was, or `None` when that was refused. libc's own two signals are
/// blocked too, which its wrapper would leave out: cancellation is one of them.
#[cfg(not(relpoline_model))]
fn change_mask(how: c_ulong, mask: u64) -> Option<u64> {
    const SYS_RT_SIGPROCMASK: c_long = 14;
    let mut before = 0u64;
    let answer: c_long;
    // SAFETY: rt_sigprocmask(2) changes this thread's mask; both words live as long as the call.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") SYS_RT_SIGPROCMASK => answer,
            in("rdi") how, in("rsi") &raw const mask, in("rdx") &raw mut before, in("r10") size_of::<u64>(),
            lateout("rcx") _, lateout("r11") _, options(nostack),
        );
    }
    (answer == 0).then_some(before)
}

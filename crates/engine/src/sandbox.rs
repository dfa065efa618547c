//! Knowing when system calls become dangerous.
//!
//! Once a seccomp filter is in place, a system call that the program never makes may kill it. `prctl`,
//! `seccomp` (which libc does not wrap: it goes through `syscall`) and `syscall` are therefore interposed.
//! From the moment a filter is asked for, the engine makes no system call any more: learning and promoting by
//! gates goes on, links stay as they are, libraries that are loaded later stay as they are, and programs that are
//! started by exec go without the engine, whose own start the filter may not allow.
//!
//! Strict mode (and `PR_SET_TSC`) also forbids reading the time-stamp counter. Promotion is switched off
//! before that: every site goes back to its retpoline.
//!
//! A filter installed by an inline system call is not seen: a documented limit.

use core::ffi::{c_int, c_long, c_ulong};
use core::sync::atomic::{AtomicBool, Ordering};
use relpoline_text::mask;

const PR_SET_SECCOMP: c_long = 22;
const PR_SET_TSC: c_long = 26;
const PR_SET_SPECULATION_CTRL: c_long = 53;
const PR_TSC_SIGSEGV: c_long = 2;
const SECCOMP_MODE_STRICT: c_long = 1;
const SECCOMP_SET_MODE_STRICT: c_long = 0;
const SECCOMP_SET_MODE_FILTER: c_long = 1;
const SYS_PRCTL: c_long = 157;
const SYS_SECCOMP: c_long = 317;

static SEALED: AtomicBool = AtomicBool::new(false);
static TIMELESS: AtomicBool = AtomicBool::new(false);

/// Whether the engine may make system calls.
#[must_use]
pub fn may_call() -> bool {
    // The broken variant that the tests must catch: a filter is passed over.
    cfg!(relpoline_broken = "calls-in-sandbox") || !SEALED.load(Ordering::Acquire)
}

/// Lets the engine make no system call from now on: it was put into a process in which it would not hear of a filter.
pub fn seal() {
    SEALED.store(true, Ordering::Release);
}

/// Runs `work` while no signal handler can interrupt this thread, none that forks or leaves by longjmp above all; in a
/// sandbox, where nothing worth it is done, as it is.
pub fn held_back<R>(work: impl FnOnce() -> R) -> R {
    if may_call() { mask::held_back(work) } else { work() }
}

/// Whether the engine may read the time-stamp counter.
#[must_use]
pub fn may_read_clock() -> bool {
    !TIMELESS.load(Ordering::Acquire)
}

/// A request that matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Request {
    /// A seccomp filter.
    Filter,
    /// Seccomp's strict mode, which also takes the time-stamp counter away; or that alone.
    Timeless { strict: bool },
    /// Control of speculation.
    Careful,
    /// None of these.
    Other,
}

fn classify(number: c_long, first: c_long, second: c_long) -> Request {
    // The kernel takes an int there: what stands above it in the register means nothing.
    let first = c_long::from(first as c_int);
    match (number, first, second) {
        (SYS_SECCOMP, SECCOMP_SET_MODE_STRICT, _) | (SYS_PRCTL, PR_SET_SECCOMP, SECCOMP_MODE_STRICT) => {
            Request::Timeless { strict: true }
        }
        (SYS_PRCTL, PR_SET_TSC, PR_TSC_SIGSEGV) => Request::Timeless { strict: false },
        (SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, _) | (SYS_PRCTL, PR_SET_SECCOMP, _) => Request::Filter,
        (SYS_PRCTL, PR_SET_SPECULATION_CTRL, _) => Request::Careful,
        _ => Request::Other,
    }
}

/// To be called before a request that may restrict the process: latches what has to be latched.
extern "C" fn before(number: c_long, first: c_long, second: c_long) {
    let request = classify(number, first, second);
    if request == Request::Other {
        return;
    }
    crate::engine::entering_sandbox(matches!(request, Request::Timeless { .. }), || {
        if matches!(request, Request::Filter | Request::Timeless { strict: true }) {
            SEALED.store(true, Ordering::Release);
        }
        if matches!(request, Request::Timeless { .. }) {
            TIMELESS.store(true, Ordering::Release);
        }
    });
}

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

/// Sets errno and returns what a wrapper returns on failure.
pub(crate) extern "C" fn fail(negative_errno: c_long) -> c_long {
    // SAFETY: libc's errno of this thread.
    unsafe { *__errno_location() = (-negative_errno) as c_int };
    -1
}

/// Makes a system call with up to six arguments; the kernel's answer, errors negative.
///
/// # Safety
/// As for the call.
pub(crate) unsafe fn raw(number: c_long, args: [c_ulong; 6]) -> c_long {
    let answer;
    // SAFETY: the kernel's convention; passed on otherwise.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number => answer,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
        );
    }
    answer
}

/// As libc's wrappers answer: -1 and errno for an error.
pub(crate) fn as_libc(answer: c_long) -> c_long {
    if (-4095..0).contains(&answer) { fail(answer) } else { answer }
}

/// prctl(2).
///
/// # Safety
/// As for the call.
#[cfg_attr(feature = "preload", unsafe(no_mangle))]
pub unsafe extern "C" fn prctl(option: c_int, a: c_ulong, b: c_ulong, c: c_ulong, d: c_ulong) -> c_int {
    before(SYS_PRCTL, c_long::from(option), a as c_long);
    // SAFETY: passed on.
    as_libc(unsafe { raw(SYS_PRCTL, [option as c_ulong, a, b, c, d, 0]) }) as c_int
}

/// syscall(2). Its seventh argument lies on the stack, so it is written in assembly: note, then do as libc
/// does.
///
/// # Safety
/// As for the call.
#[unsafe(naked)]
#[cfg_attr(feature = "preload", unsafe(no_mangle))]
pub unsafe extern "C" fn syscall() -> c_long {
    core::arch::naked_asm!(
        "cmp rdi, {seccomp}", "je 2f",
        "cmp rdi, {prctl}", "jne 3f",
        "2:",
        "push rdi", "push rsi", "push rdx", "push rcx", "push r8", "push r9", "sub rsp, 8",
        "call {before}",
        "add rsp, 8", "pop r9", "pop r8", "pop rcx", "pop rdx", "pop rsi", "pop rdi",
        "3:",
        "mov rax, rdi", "mov rdi, rsi", "mov rsi, rdx", "mov rdx, rcx", "mov r10, r8", "mov r8, r9",
        "mov r9, [rsp + 8]",
        "syscall",
        "cmp rax, -4095", "jae 4f",
        "ret",
        "4:", "mov rdi, rax", "jmp {fail}",
        seccomp = const SYS_SECCOMP, prctl = const SYS_PRCTL, before = sym before, fail = sym fail,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_restrict_are_told_from_those_that_ask() {
        assert_eq!(classify(SYS_SECCOMP, 1, 0), Request::Filter);
        assert_eq!(classify(SYS_PRCTL, PR_SET_SECCOMP, 2), Request::Filter);
        assert_eq!(classify(SYS_PRCTL, PR_SET_SECCOMP | 7 << 32, 2), Request::Filter);
        assert_eq!(classify(SYS_SECCOMP, 0, 0), Request::Timeless { strict: true });
        // SECCOMP_GET_ACTION_AVAIL and SECCOMP_GET_NOTIF_SIZES.
        assert_eq!(classify(SYS_SECCOMP, 2, 0), Request::Other);
        assert_eq!(classify(SYS_SECCOMP, 3, 0), Request::Other);
    }
}

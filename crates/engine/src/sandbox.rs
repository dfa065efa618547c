//! Knowing when system calls become dangerous.
//!
//! Once a seccomp filter is in place, a system call that the program never makes may kill it. Programs ask
//! for one by libc's `prctl` or `syscall` (there is no function for `seccomp`), which are led here by their
//! first instructions ([`crate::entries`]) and go on as if nothing had been. From the moment a filter is
//! asked for, the engine makes no system call any more: learning and promoting by gates goes on, links stay
//! as they are, libraries that are loaded later stay as they are, and programs that are started by exec go
//! without the engine, whose own start the filter may not allow. (Where the environment names the engine, it
//! is left out of a copy: for that memory is mapped, as the new program itself does first of all.)
//!
//! Strict mode (and `PR_SET_TSC`) also forbids reading the time-stamp counter. Promotion is switched off
//! before that: every site goes back to its retpoline.
//!
//! A filter installed by an inline system call is not seen: a documented limit.

use crate::control;
use core::ffi::{c_int, c_long, c_ulong};
use core::sync::atomic::{AtomicBool, Ordering};
use relpoline_stats::control::hook;
use relpoline_text::broken;
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
    broken!("calls-in-sandbox") || !SEALED.load(Ordering::Acquire)
}

/// Lets the engine make no system call from now on: it was put into a process in which it would not hear of a
/// filter.
pub fn seal() {
    SEALED.store(true, Ordering::Release);
}

/// Runs `work` while no signal handler can interrupt this thread, none that forks or leaves by longjmp above
/// all; in a sandbox, where nothing worth it is done, as it is.
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

/// What the first instructions of libc's `syscall` (`mov %rdi, %rax; mov %rsi, %rdi`) are led to.
///
/// # Safety
/// To be jumped to from there alone.
#[unsafe(naked)]
#[cfg_attr(feature = "preload", unsafe(export_name = "relpoline_syscall"))]
pub unsafe extern "C" fn syscall() -> c_long {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "cmp rdi, {seccomp}", "je 2f",
        "cmp rdi, {prctl}", "jne 3f",
        "2:",
        "sub rsp, 56", ".cfi_adjust_cfa_offset 56",
        "mov [rsp], rdi", "mov [rsp + 8], rsi", "mov [rsp + 16], rdx",
        "mov [rsp + 24], rcx", "mov [rsp + 32], r8", "mov [rsp + 40], r9",
        "call {before}",
        "mov rdi, [rsp]", "mov rsi, [rsp + 8]", "mov rdx, [rsp + 16]",
        "mov rcx, [rsp + 24]", "mov r8, [rsp + 32]", "mov r9, [rsp + 40]",
        "add rsp, 56", ".cfi_adjust_cfa_offset -56",
        "3:",
        "mov rax, rdi", "mov rdi, rsi",
        "mov r11, [rip + {control}@GOTPCREL]", "mov r11, [r11 + {hook}]", "add r11, 6",
        "jmp r11",
        ".cfi_endproc",
        seccomp = const SYS_SECCOMP, prctl = const SYS_PRCTL, before = sym before,
        control = sym control::SHARED, hook = const control::address_of_hook(hook::SYSCALL),
    )
}

/// What libc's `prctl` is led to. It goes on in `syscall`, behind the moves of its first two arguments, with
/// the others one place further on.
///
/// # Safety
/// To be jumped to from there alone.
#[unsafe(naked)]
#[cfg_attr(feature = "preload", unsafe(export_name = "relpoline_prctl"))]
pub unsafe extern "C" fn prctl() -> c_int {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "sub rsp, 40", ".cfi_adjust_cfa_offset 40",
        "mov [rsp], r8", "mov [rsp + 8], rcx", "mov [rsp + 16], rdx", "mov [rsp + 24], rsi", "mov [rsp + 32], rdi",
        "mov rdx, rsi", "mov rsi, rdi", "mov edi, {prctl}",
        "call {before}",
        "mov r9, [rsp]", "mov r8, [rsp + 8]", "mov rcx, [rsp + 16]", "mov rdx, [rsp + 24]", "mov rdi, [rsp + 32]",
        "add rsp, 40", ".cfi_adjust_cfa_offset -40",
        "mov eax, {prctl}",
        "mov r11, [rip + {control}@GOTPCREL]", "mov r11, [r11 + {hook}]", "add r11, 6",
        "jmp r11",
        ".cfi_endproc",
        prctl = const SYS_PRCTL, before = sym before,
        control = sym control::SHARED, hook = const control::address_of_hook(hook::SYSCALL),
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

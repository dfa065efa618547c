//! The processor time of this process: on a busy machine less passes than on the clock.

/// Nanoseconds that threads of this process have run for, by a system call. `None` where that is refused, and
/// in the model.
#[must_use]
pub fn used_ns() -> Option<u64> {
    if cfg!(relpoline_model) {
        return None;
    }
    const SYS_CLOCK_GETTIME: i64 = 228;
    const CLOCK_PROCESS_CPUTIME_ID: u64 = 2;
    let mut time = [0u64; 2];
    let answer: i64;
    // SAFETY: clock_gettime(2) writes these two words, which live as long as the call.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") SYS_CLOCK_GETTIME => answer,
            in("rdi") CLOCK_PROCESS_CPUTIME_ID, in("rsi") time.as_mut_ptr(),
            lateout("rcx") _, lateout("r11") _, options(nostack),
        );
    }
    (answer == 0).then(|| time[0].saturating_mul(1_000_000_000).saturating_add(time[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_uses_time() {
        let before = used_ns().unwrap();
        let mut x = before;
        while used_ns().unwrap() < before + 1_000_000 {
            x = core::hint::black_box(x.wrapping_mul(31));
        }
        assert!(used_ns().unwrap() < before + 60_000_000_000);
    }
}

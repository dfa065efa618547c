//! A fence before bounds checks of untrusted code, switched on and off while it runs.
//!
//! An `lfence` behind a bounds check stops the processor from reading past the bounds in speculation. It is
//! needed while somebody else's code runs here, and dear. A sandbox that can switch it live pays only then.

use relpoline::{UpdateError, static_key, unlikely};
use relpoline_uses::{compare, looped, work};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

static_key! {
    /// Whether reads are fenced.
    static FENCED: bool = false;
}
static FLAG: AtomicBool = AtomicBool::new(false);

#[inline(always)]
fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has it.
    unsafe {
        std::arch::x86_64::_mm_lfence();
    }
}

/// Reads an element, with `guard` between the check and the read.
#[inline(always)]
fn read(memory: &[u64], at: u64, guard: impl Fn()) -> u64 {
    let at = at as usize & 0x3ff;
    if at < memory.len() {
        guard();
        memory[at]
    } else {
        0
    }
}

fn main() -> Result<(), UpdateError> {
    let memory: Vec<u64> = (0..1000).collect();
    let memory = black_box(memory.as_slice());
    let by_key = || {
        if unlikely!(FENCED) {
            fence();
        }
    };
    let by_flag = || {
        if FLAG.load(Ordering::Relaxed) {
            fence();
        }
    };
    for on in [false, true, false] {
        FENCED.set(on)?;
        assert_eq!((read(memory, 7, by_key), read(memory, 1010, by_key)), (7, 0));
    }
    for (on, title) in [(false, "a checked read, fences off"), (true, "a checked read, fences on")] {
        FENCED.set(on)?;
        FLAG.store(on, Ordering::Relaxed);
        compare(
            title,
            &mut [
                ("no fence", looped!(x => work(x).wrapping_add(read(memory, x, || ())))),
                ("by a key", looped!(x => work(x).wrapping_add(read(memory, x, by_key)))),
                ("by an `AtomicBool`", looped!(x => work(x).wrapping_add(read(memory, x, by_flag)))),
                ("always", looped!(x => work(x).wrapping_add(read(memory, x, fence)))),
            ],
        );
    }
    Ok(())
}

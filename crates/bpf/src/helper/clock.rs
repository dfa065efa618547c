//! Time, chance, and which slot this is.

use super::HelperCall;
use crate::trap::TrapKind;
use rustix::time::{ClockId, clock_gettime};

fn nanoseconds(clock: ClockId) -> Result<u64, TrapKind> {
    let now = clock_gettime(clock);
    Ok(now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned())
}

/// Nanoseconds since boot, sleep left out.
pub fn monotonic(_: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    nanoseconds(ClockId::Monotonic)
}

/// Nanoseconds since boot.
pub fn boot(_: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    nanoseconds(ClockId::Boottime)
}

/// Ticks of 4 ms, as of a kernel of 250 Hz.
pub fn jiffies(_: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    Ok(nanoseconds(ClockId::Monotonic)? / 4_000_000)
}

/// 32 bits by xorshift64*, one state per thread. Not for secrets, like the kernel's.
pub fn random(_: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    use std::cell::Cell;
    use std::hash::{BuildHasher, RandomState};
    thread_local!(static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0) | 1));
    let mut x = STATE.get();
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    STATE.set(x);
    Ok(x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32)
}

/// The calling thread's slot, which stands for a CPU.
pub fn slot(_: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    crate::slot::mine().map(|slot| slot as u64).ok_or(TrapKind::NoSlot)
}

//! Countdowns: what generated code counts down, and how long.

use core::sync::atomic::Ordering::Relaxed;
use relpoline_text::arena::Counters;
use relpoline_text::broken;
use relpoline_text::sync::AtomicU32;

/// Calls until a site that found the learner busy asks again.
pub const LATER: u32 = if cfg!(relpoline_model) { 16 } else { 64 };

/// A countdown that nobody waits for. It does end: whoever stored it may have come too late, to a site that
/// waits for something else by now. Then the site asks once more, and is judged by what it is.
#[must_use]
pub fn never() -> u32 {
    // The broken variant that the tests must catch: such a site is not heard of again.
    if broken!("waits-for-ever") {
        return i32::MAX.cast_unsigned();
    }
    if cfg!(relpoline_model) { 100 } else { 1 << 24 }
}

/// A countdown of `calls`, where 0 says that nobody waits for its end.
#[must_use]
pub fn running(calls: u32) -> u32 {
    if calls == 0 { never() } else { calls }
}

/// Whether it has ended. Threads that count at once take it below zero.
#[must_use]
pub fn is_over(counter: &AtomicU32) -> bool {
    counter.load(Relaxed).cast_signed() <= 0
}

/// Restarts the countdowns that have ended, without judging.
pub fn postpone(counters: &Counters, calls: u32) {
    for counter in [&counters.misses, &counters.exits, &counters.settle] {
        if is_over(counter) {
            counter.store(calls, Relaxed);
        }
    }
}

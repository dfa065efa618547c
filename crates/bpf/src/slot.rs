//! Slots of per-CPU maps: one for each thread that runs programs.
//!
//! In the kernel nobody else touches a CPU's values while a program runs there. Here a thread may be put off
//! at any instruction and go on elsewhere, so a slot belongs to a thread, from its first use until it ends,
//! whatever CPUs, quotas and affinities there are. Finding it costs a load. What a program learns as its
//! CPU's number is its slot.
//!
//! There are as many slots as the machine may ever have CPUs, and 64 at least; a thread beyond that has none,
//! and programs that want one are trapped there.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Slots there are at least.
const LEAST: usize = 64;
/// Slots there are at most.
const MOST: usize = 1024;

/// A bit for each slot that is taken.
static TAKEN: [AtomicU64; MOST / 64] = [const { AtomicU64::new(0) }; MOST / 64];

/// This thread's slot, given back when it ends.
struct Mine(Option<usize>);

impl Drop for Mine {
    fn drop(&mut self) {
        KNOWN.set(UNKNOWN);
        if let Some(slot) = self.0 {
            TAKEN[slot / 64].fetch_and(!(1 << (slot % 64)), Ordering::Release);
        }
    }
}

thread_local! {
    static MINE: Mine = Mine(take());
    /// The same, once it is known: compiled code has it from here.
    static KNOWN: Cell<u32> = const { Cell::new(UNKNOWN) };
}

/// What [`known`] says where the thread has not asked for its slot yet, or has none.
pub const UNKNOWN: u32 = u32::MAX;

/// The calling thread's slot, if it has one and has asked for it before.
#[inline]
pub fn known() -> u32 {
    KNOWN.get()
}

fn take() -> Option<usize> {
    (0..count()).find(|slot| {
        let bit = 1 << (slot % 64);
        TAKEN[slot / 64].fetch_or(bit, Ordering::Acquire) & bit == 0
    })
}

/// How many slots there are: as many values has each key of a per-CPU map.
#[must_use]
pub fn count() -> usize {
    // Not a `OnceLock`: a forked child would wait for the thread of its parent that was at it.
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    match COUNT.load(Ordering::Relaxed) {
        0 => {
            let count = possible_cpus().clamp(LEAST, MOST);
            COUNT.store(count, Ordering::Relaxed);
            count
        }
        count => count,
    }
}

/// In a forked child: only this thread exists.
pub fn settle() {
    let mine = MINE.try_with(|mine| mine.0).ok().flatten();
    for (word, taken) in TAKEN.iter().enumerate() {
        taken.store(mine.filter(|slot| slot / 64 == word).map_or(0, |slot| 1 << (slot % 64)), Ordering::Relaxed);
    }
}

/// CPUs that the machine may ever have.
fn possible_cpus() -> usize {
    let last = std::fs::read_to_string("/sys/devices/system/cpu/possible").ok().and_then(|text| {
        // Ranges like 0-3,8-11.
        text.trim().rsplit([',', '-']).next()?.parse::<usize>().ok()
    });
    last.map_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get), |last| last + 1)
}

/// The calling thread's slot, if it has one.
#[inline]
pub fn mine() -> Option<usize> {
    // The broken variant that the tests must catch: threads share the slots of the CPUs that they run on.
    if cfg!(relpoline_broken = "slots-are-shared") {
        return Some(0);
    }
    let mine = MINE.try_with(|mine| mine.0).ok().flatten();
    KNOWN.set(mine.map_or(UNKNOWN, |slot| slot as u32));
    mine
}

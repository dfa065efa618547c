//! What a window of observed calls says about a site: its targets, their shares, and whether their order
//! can be foretold.
//!
//! While a site learns, its gate writes every call's target into a trace buffer, in order. An entry holds
//! the target in its low 48 bits and a *tag* in its high 16: bits of the stack pointer, so that the calls
//! of threads that run at the same time can be told apart. A window is 256 to 2,048 entries.
//!
//! Reading a trace takes two passes. [`Histogram::observe`] reads each entry once (other threads may still
//! be writing), counts distinct targets and leaves behind a list of small numbers: target 0 to 254, or 255
//! for "one of the others". [`Predictor::replay`] runs over those numbers like a branch predictor with a long
//! history would, and says how often it would have been right. That decides whether a branch tree is worth
//! having: sixteen targets in a repeating order cost next to nothing, sixteen in random order cost more than
//! a retpoline.
//!
//! Everything works in memory that the caller provides ([`Scratch`]), uses integers alone, and keeps stack
//! frames to a few dozen bytes: the slow path may run on a small signal stack.

mod histogram;
mod predict;

pub use histogram::{Histogram, MAX_DISTINCT, OTHER};
pub use predict::{Predictability, Predictor};

use core::sync::atomic::{AtomicU64, Ordering};

/// Most entries of a trace.
pub const WINDOW_MAX: usize = 2048;

/// One whole in the 16.16 fixed-point shares used throughout: 100 %.
pub const ONE: u32 = 1 << 16;

/// A trace entry for a call of `target` by the thread with `tag`.
#[must_use]
pub const fn entry(target: u64, tag: u16) -> u64 {
    (target & TARGET_MASK) | ((tag as u64) << 48)
}

const TARGET_MASK: u64 = (1 << 48) - 1;

/// The target of an entry. Bit 47 is extended, as addresses are canonical; kernel addresses survive.
#[must_use]
pub const fn target_of(entry: u64) -> u64 {
    ((entry << 16).cast_signed() >> 16).cast_unsigned()
}

/// The tag of an entry.
#[must_use]
pub const fn tag_of(entry: u64) -> u16 {
    (entry >> 48) as u16
}

/// A window of calls, oldest first. At most [`WINDOW_MAX`] entries are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a>(Entries<'a>);

#[derive(Clone, Copy, Debug)]
enum Entries<'a> {
    Still(&'a [u64]),
    Live(&'a [AtomicU64]),
}

impl<'a> Trace<'a> {
    /// A trace that nobody writes to any more.
    #[must_use]
    pub const fn new(entries: &'a [u64]) -> Trace<'a> {
        Trace(Entries::Still(entries))
    }

    /// A trace that threads may still be writing to, as in a running program. Each entry is read once.
    #[must_use]
    pub const fn live(entries: &'a [AtomicU64]) -> Trace<'a> {
        Trace(Entries::Live(entries))
    }

    /// Number of entries, [`WINDOW_MAX`] at most.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.0 {
            Entries::Still(e) => e.len(),
            Entries::Live(e) => e.len(),
        }
        .min(WINDOW_MAX)
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entry `i`, or 0 past the end.
    #[must_use]
    pub fn get(&self, i: usize) -> u64 {
        match self.0 {
            Entries::Still(e) => e.get(i).copied().unwrap_or(0),
            Entries::Live(e) => e.get(i).map_or(0, |cell| cell.load(Ordering::Relaxed)),
        }
    }
}

/// The memory that reading a trace needs: about 50 KiB, meant for a static behind the caller's lock.
#[derive(Debug)]
pub struct Scratch {
    /// Targets and their counts.
    pub histogram: Histogram,
    /// The replayed predictor.
    pub predictor: Predictor,
}

impl Scratch {
    /// Memory in which nothing was read yet.
    #[must_use]
    pub const fn new() -> Scratch {
        Scratch { histogram: Histogram::new(), predictor: Predictor::new() }
    }

    /// Reads `trace`: fills the histogram and says how predictable the sequence is.
    pub fn read(&mut self, trace: &Trace<'_>) -> Predictability {
        self.histogram.observe(trace);
        self.predictor.replay(&self.histogram)
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::new()
    }
}

//! How often a branch predictor would foresee the next target.
//!
//! The replay is prediction by partial matching, which is what the TAGE predictors of current CPUs
//! approximate: for each of several history lengths, a table remembers which target followed that history
//! last time; the longest history that was met before and has been right gives the prediction. History is
//! kept per thread, as each hardware thread has its own.
//!
//! Real predictors are imperfect in ways that depend on the model, and see more than this site's targets.
//! Therefore five predictors with different limits on history length (1 to 16 targets) run side by side with
//! "always the most frequent", and the best of them counts. The first half of the window (512 calls at most)
//! only trains.

use super::{Histogram, ONE};
use crate::bounded::first_mut;

/// History lengths, in targets.
const ORDERS: [u32; 5] = [1, 2, 4, 8, 16];
/// Entries of a table per history length, for the largest window.
const TABLE: usize = 2048;
/// Calls that train without being scored, at most.
const WARM_UP: usize = 512;
const THREADS: usize = 16;
/// Confidence at which a prediction is as sure as it gets.
const SURE: u32 = 3;

/// How predictable a window was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Predictability {
    /// Share of calls whose target the best predictor foresaw, in 1/65536.
    pub accuracy: u32,
    /// Share of calls that went to the most frequent target, in 1/65536, over the same calls: what is
    /// foreseen without any history.
    pub baseline: u32,
}

impl Predictability {
    /// Of a window with one target.
    pub const PERFECT: Predictability = Predictability { accuracy: ONE, baseline: ONE };

    /// Which part of the mistakes of a predictor without history remains, in 1/65536: 0 for a repeating
    /// order, [`ONE`] for a random one.
    #[must_use]
    pub fn randomness(&self) -> u32 {
        let blind = ONE.saturating_sub(self.baseline);
        let left = ONE.saturating_sub(self.accuracy);
        if blind == 0 {
            return ONE;
        }
        ((u64::from(left) << 16) / u64::from(blind)).min(u64::from(ONE)) as u32
    }
}

/// What followed a history: which history, as far as 16 bits tell (0 for none), the target, and how sure it
/// is. One word, so that an update is one load and one store.
#[derive(Clone, Copy, Debug)]
struct Slot(u32);

const VACANT: Slot = Slot(0);

/// A prediction that is never right.
const NO_GUESS: u32 = 256;

impl Slot {
    fn new(check: u32, target: u32, confidence: u32) -> Slot {
        Slot(check << 16 | target << 8 | confidence)
    }

    fn check(self) -> u32 {
        self.0 >> 16
    }

    fn target(self) -> u32 {
        self.0 >> 8 & 0xff
    }

    fn confidence(self) -> u32 {
        self.0 & 0xff
    }

    /// Knowing that `target` followed the history with this check.
    fn trained(self, check: u32, target: u32) -> Slot {
        if self.check() != check {
            return Slot::new(check, target, 1);
        }
        match (self.target() == target, self.confidence()) {
            (true, SURE..) => self,
            (true, _) => Slot(self.0 + 1),
            (false, 0) => Slot::new(check, target, 1),
            (false, _) => Slot(self.0 - 1),
        }
    }
}

/// The replayed predictor's tables.
#[derive(Debug)]
pub struct Predictor {
    tables: [[Slot; TABLE]; ORDERS.len()],
    /// The last 16 targets of each thread, the latest in the low byte.
    history: [u128; THREADS],
    mask: usize,
}

impl Predictor {
    /// A predictor that has seen nothing.
    #[must_use]
    pub const fn new() -> Predictor {
        Predictor { tables: [[VACANT; TABLE]; ORDERS.len()], history: [0; THREADS], mask: TABLE - 1 }
    }

    /// Replays the calls of `histogram` from an untrained state.
    pub fn replay(&mut self, histogram: &Histogram) -> Predictability {
        let calls = histogram.calls() as usize;
        if calls < 2 || histogram.distinct() < 2 {
            return Predictability::PERFECT;
        }
        self.reset(calls);
        let warm_up = (calls / 2).min(WARM_UP);
        let hottest = histogram.hottest();
        let mut right = [0u32; ORDERS.len() + 1];
        for i in 0..calls {
            let (target, thread) = histogram.call(i);
            let hits = self.step(target, usize::from(thread));
            if i >= warm_up {
                for (count, hit) in right.iter_mut().zip(hits) {
                    *count += u32::from(hit);
                }
                right[ORDERS.len()] += u32::from(target == hottest);
            }
        }
        let scored = (calls.saturating_sub(warm_up) as u32).max(1);
        let share = |count: u32| ((count << 16) / scored).min(ONE);
        let best = right.iter().copied().max().unwrap_or(0);
        Predictability { accuracy: share(best), baseline: share(right[ORDERS.len()]) }
    }

    /// Small windows use a part of the tables, so that little memory is cleared and touched.
    fn reset(&mut self, calls: usize) {
        let used = calls.next_power_of_two().clamp(64, TABLE);
        self.mask = used - 1;
        for table in &mut self.tables {
            first_mut(table, used).fill(VACANT);
        }
        self.history = [0; THREADS];
    }

    /// Predicts one call with each limit on history length, then trains: which of them were right.
    fn step(&mut self, target: u8, thread: usize) -> [bool; ORDERS.len()] {
        let history = self.history[thread % THREADS];
        let mut hits = [false; ORDERS.len()];
        let (mut guess, mut confidence) = (NO_GUESS, 0);
        for (table, (order, hit)) in self.tables.iter_mut().zip(ORDERS.into_iter().zip(&mut hits)) {
            let (index, check) = place(history, order);
            let slot = &mut table[index & self.mask & (TABLE - 1)];
            // A longer history wins unless it was wrong last time while a shorter one is surer.
            if slot.check() == check && (slot.confidence() > 0 || confidence == 0) {
                (guess, confidence) = (slot.target(), slot.confidence());
            }
            *hit = guess == u32::from(target);
            *slot = slot.trained(check, u32::from(target));
        }
        // 0 stands for "no call yet", so targets count from 1; the 255th wraps to 0, which is harmless.
        self.history[thread % THREADS] = (history << 8) | u128::from(target.wrapping_add(1));
        hits
    }
}

impl Default for Predictor {
    fn default() -> Predictor {
        Predictor::new()
    }
}

/// Table index and check of the last `order` targets.
#[inline]
fn place(history: u128, order: u32) -> (usize, u32) {
    let (recent, older) = (history as u64, (history >> 64) as u64);
    let kept = match order {
        16 => recent ^ older.wrapping_mul(0xc2b2_ae3d_27d4_eb4f).rotate_left(23),
        8 => recent,
        _ => recent & ((1 << (8 * order)) - 1),
    };
    let h = (kept ^ (kept >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((h >> 40) as usize, ((h >> 20) as u32 & 0xffff).max(1))
}

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

/// History lengths, in targets.
const ORDERS: [u32; 5] = [1, 2, 4, 8, 16];
/// Entries of a table per history length, for the largest window.
const TABLE: usize = 2048;
/// Calls that train without being scored, at most.
const WARM_UP: usize = 512;
const THREADS: usize = 16;
/// Confidence at which a prediction is as sure as it gets.
const SURE: u8 = 3;

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

/// What followed a history.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Which history, as far as 16 bits tell; 0 for none.
    check: u16,
    target: u8,
    confidence: u8,
}

const VACANT: Slot = Slot { check: 0, target: 0, confidence: 0 };

/// The replayed predictor's tables.
#[derive(Debug)]
pub struct Predictor {
    tables: [[Slot; TABLE]; ORDERS.len()],
    /// The last 16 targets of each thread, the latest in the low byte.
    history: [u128; THREADS],
    mask: usize,
}

impl Predictor {
    /// Untrained.
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
            let hits = self.step(target, usize::from(thread) % THREADS);
            if i >= warm_up {
                for (count, hit) in right.iter_mut().zip(hits) {
                    *count += u32::from(hit);
                }
                right[ORDERS.len()] += u32::from(target == hottest);
            }
        }
        let scored = (calls - warm_up) as u32;
        let share = |count: u32| ((count << 16) / scored).min(ONE);
        let best = right.iter().copied().max().unwrap_or(0);
        Predictability { accuracy: share(best), baseline: share(right[ORDERS.len()]) }
    }

    /// Small windows use a part of the tables, so that little memory is cleared and touched.
    fn reset(&mut self, calls: usize) {
        let used = calls.next_power_of_two().clamp(64, TABLE);
        self.mask = used - 1;
        for table in &mut self.tables {
            table[..used].fill(VACANT);
        }
        self.history = [0; THREADS];
    }

    /// Predicts one call with each limit on history length, then trains: which of them were right.
    fn step(&mut self, target: u8, thread: usize) -> [bool; ORDERS.len()] {
        let history = self.history[thread];
        let mut hits = [false; ORDERS.len()];
        let mut best: Option<Slot> = None;
        for (table, (order, hit)) in self.tables.iter_mut().zip(ORDERS.into_iter().zip(&mut hits)) {
            let (index, check) = place(history, order);
            let slot = &mut table[index & self.mask];
            if slot.check == check {
                best = Some(prefer(*slot, best));
            }
            *hit = best.is_some_and(|b| b.target == target);
            train(slot, check, target);
        }
        // 0 stands for "no call yet", so targets count from 1; the 255th wraps to 0, which is harmless.
        self.history[thread] = (history << 8) | u128::from(target.wrapping_add(1));
        hits
    }
}

impl Default for Predictor {
    fn default() -> Predictor {
        Predictor::new()
    }
}

/// A longer history wins unless it was wrong last time while the shorter one is surer.
fn prefer(longer: Slot, shorter: Option<Slot>) -> Slot {
    match shorter {
        Some(s) if longer.confidence == 0 && s.confidence > 0 => s,
        _ => longer,
    }
}

fn train(slot: &mut Slot, check: u16, target: u8) {
    if slot.check != check {
        *slot = Slot { check, target, confidence: 1 };
    } else if slot.target == target {
        slot.confidence = (slot.confidence + 1).min(SURE);
    } else if slot.confidence > 0 {
        slot.confidence -= 1;
    } else {
        (slot.target, slot.confidence) = (target, 1);
    }
}

/// Table index and check of the last `order` targets.
fn place(history: u128, order: u32) -> (usize, u16) {
    let kept = if order >= 16 { history } else { history & ((1 << (8 * order)) - 1) };
    let folded = (kept as u64) ^ ((kept >> 64) as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    let h = (folded ^ (folded >> 29) ^ u64::from(order)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((h >> 40) as usize, ((h >> 24) as u16).max(1))
}

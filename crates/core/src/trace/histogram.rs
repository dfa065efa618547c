//! Counting the distinct targets of a trace.

use super::{Trace, WINDOW_MAX, tag_of, target_of};
use crate::bounded::{at, first, first_mut, put};
use crate::tree::shape::sort;

/// Most distinct targets that are counted one by one.
pub const MAX_DISTINCT: usize = 255;

/// One element for each number, [`OTHER`] included: any `u8` is an index.
const NUMBERS: usize = MAX_DISTINCT + 1;

/// The number that stands for every further target.
pub const OTHER: u8 = 255;

/// Threads that are told apart; further ones share these numbers.
const THREADS: usize = 16;

/// Slots of the hash table: twice the targets, so that probing stays short.
const SLOTS: usize = 512;
const EMPTY: u8 = 255;

/// The targets of a trace with their counts, and the trace itself in small numbers.
#[derive(Debug)]
pub struct Histogram {
    targets: [u64; NUMBERS],
    counts: [u16; NUMBERS],
    /// Numbers of the targets by descending count.
    ranking: [u8; NUMBERS],
    distinct: usize,
    others: u32,
    /// Target numbers by hash; [`EMPTY`] where there is none.
    slots: [u8; SLOTS],
    /// The trace: which target, by which thread.
    sequence: [u8; WINDOW_MAX],
    threads: [u8; WINDOW_MAX],
    len: usize,
    tags: [u16; THREADS],
    tags_used: usize,
}

impl Histogram {
    /// Of nothing.
    #[must_use]
    pub const fn new() -> Histogram {
        Histogram {
            targets: [0; NUMBERS],
            counts: [0; NUMBERS],
            ranking: [0; NUMBERS],
            distinct: 0,
            others: 0,
            slots: [EMPTY; SLOTS],
            sequence: [0; WINDOW_MAX],
            threads: [0; WINDOW_MAX],
            len: 0,
            tags: [0; THREADS],
            tags_used: 0,
        }
    }

    /// Forgets what it knew and counts `trace`, reading each entry once.
    pub fn observe(&mut self, trace: &Trace<'_>) {
        self.slots.fill(EMPTY);
        (self.distinct, self.others, self.tags_used) = (0, 0, 0);
        self.len = trace.len();
        for i in 0..self.len {
            let entry = trace.get(i);
            let (number, thread) = (self.number(target_of(entry)), self.thread(tag_of(entry)));
            put(&mut self.sequence, i, number);
            put(&mut self.threads, i, thread);
            match number {
                OTHER => self.others += 1,
                known => self.counts[usize::from(known)] += 1,
            }
        }
        self.rank();
    }

    /// The number of `target`, given out in order of appearance.
    fn number(&mut self, target: u64) -> u8 {
        let mut slot = hash(target);
        loop {
            let number = self.slots[slot % SLOTS];
            if number == EMPTY {
                return self.admit(slot, target);
            }
            if self.targets[usize::from(number)] == target {
                return number;
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    fn admit(&mut self, slot: usize, target: u64) -> u8 {
        if self.distinct == MAX_DISTINCT {
            return OTHER;
        }
        let number = self.distinct as u8;
        self.slots[slot % SLOTS] = number;
        self.targets[usize::from(number)] = target;
        self.counts[usize::from(number)] = 0;
        self.distinct += 1;
        number
    }

    /// Whether several threads called.
    #[must_use]
    pub fn has_threads(&self) -> bool {
        self.tags_used > 1
    }

    fn thread(&mut self, tag: u16) -> u8 {
        if let Some(known) = first(&self.tags, self.tags_used).iter().position(|&t| t == tag) {
            return known as u8;
        }
        if self.tags_used == THREADS {
            return (tag % THREADS as u16) as u8;
        }
        put(&mut self.tags, self.tags_used, tag);
        self.tags_used += 1;
        (self.tags_used - 1) as u8
    }

    fn rank(&mut self) {
        let ranking = first_mut(&mut self.ranking, self.distinct);
        for (i, slot) in ranking.iter_mut().enumerate() {
            *slot = i as u8;
        }
        let counts = &self.counts;
        // Ties by number, that is by first appearance, so that the outcome does not depend on the sort.
        sort(ranking, |&a, &b| {
            let (ca, cb) = (counts[usize::from(a)], counts[usize::from(b)]);
            ca > cb || (ca == cb && a < b)
        });
    }

    /// Calls counted.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.len as u32
    }

    /// Distinct targets that were counted one by one, [`MAX_DISTINCT`] at most.
    #[must_use]
    pub fn distinct(&self) -> usize {
        self.distinct
    }

    /// Calls to targets beyond the first [`MAX_DISTINCT`].
    #[must_use]
    pub fn others(&self) -> u32 {
        self.others
    }

    /// Targets seen exactly once. By Good and Turing's estimate, their share of the window is the share of
    /// future calls that will go to targets not seen yet.
    #[must_use]
    pub fn singletons(&self) -> u32 {
        first(&self.counts, self.distinct).iter().filter(|&&c| c == 1).count() as u32
    }

    /// Target and count at `rank` (0 = the most frequent).
    #[must_use]
    pub fn ranked(&self, rank: usize) -> Option<(u64, u32)> {
        let number = usize::from(*first(&self.ranking, self.distinct).get(rank)?);
        Some((self.targets[number], u32::from(self.counts[number])))
    }

    /// How often `target` was seen.
    #[must_use]
    pub fn count(&self, target: u64) -> u32 {
        let mut slot = hash(target);
        loop {
            match self.slots[slot % SLOTS] {
                EMPTY => return 0,
                n if self.targets[usize::from(n)] == target => return u32::from(self.counts[usize::from(n)]),
                _ => slot = (slot + 1) % SLOTS,
            }
        }
    }

    /// The trace in small numbers: (target number or [`OTHER`], thread number) of call `i`.
    #[must_use]
    pub fn call(&self, i: usize) -> (u8, u8) {
        (at(&self.sequence, i), at(&self.threads, i))
    }

    /// The number that the most frequent target goes by in [`Histogram::call`].
    #[must_use]
    pub fn hottest(&self) -> u8 {
        if self.distinct == 0 { OTHER } else { self.ranking[0] }
    }
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram::new()
    }
}

fn hash(target: u64) -> usize {
    (target.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.trailing_zeros())) as usize
}

// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Which slots of the module's text are in use.
//!
//! A slot that nobody is led to any more may still be executed: by a thread that was preempted in it. So it
//! is *leaving*, until a grace period began after that (*waiting*) and ended (*free*). The grace period waits
//! until every processor has been through the scheduler (`synchronize_rcu_tasks_rude`) and every preempted
//! task has gone on by itself (`synchronize_rcu_tasks`).

/// Where a slot is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Use {
    Free = 0,
    Used,
    Leaving,
    Waiting,
}

/// The slots of one kind. At most `N`.
#[derive(Debug)]
pub struct Slots<const N: usize> {
    uses: [Use; N],
    /// Where the search for a free one goes on: a slot is used again as late as possible.
    next: usize,
    free: usize,
    leaving: usize,
}

impl<const N: usize> Slots<N> {
    /// All free.
    #[must_use]
    pub const fn new() -> Slots<N> {
        Slots { uses: [Use::Free; N], next: 0, free: N, leaving: 0 }
    }

    /// Takes a free slot.
    pub fn take(&mut self) -> Option<usize> {
        if self.free == 0 {
            return None;
        }
        for step in 0..N {
            let i = (self.next + step) % N;
            if let Some(slot) = self.uses.get_mut(i)
                && *slot == Use::Free
            {
                *slot = Use::Used;
                self.next = i + 1;
                self.free -= 1;
                return Some(i);
            }
        }
        None
    }

    /// Nobody is led to slot `i` any more.
    pub fn leave(&mut self, i: usize) {
        if let Some(slot) = self.uses.get_mut(i)
            && *slot == Use::Used
        {
            *slot = Use::Leaving;
            self.leaving += 1;
        }
    }

    /// A grace period begins: what is leaving now will be free at its end.
    pub fn grace_begins(&mut self) {
        self.all(Use::Leaving, Use::Waiting);
        self.leaving = 0;
    }

    /// The grace period has ended.
    pub fn grace_ended(&mut self) {
        // The broken variant that the tests must catch: slots come free that nobody waited for.
        let from = if cfg!(relpoline_broken = "kernel-no-grace") { Use::Leaving } else { Use::Waiting };
        self.free += self.all(from, Use::Free);
    }

    fn all(&mut self, from: Use, to: Use) -> usize {
        let mut changed = 0;
        for slot in &mut self.uses {
            if *slot == from {
                *slot = to;
                changed += 1;
            }
        }
        changed
    }

    /// Slots that can be taken.
    #[must_use]
    pub const fn free(&self) -> usize {
        self.free
    }

    /// Slots that wait for a grace period to begin.
    #[must_use]
    pub const fn leaving(&self) -> usize {
        self.leaving
    }
}

impl<const N: usize> Default for Slots<N> {
    fn default() -> Slots<N> {
        Slots::new()
    }
}

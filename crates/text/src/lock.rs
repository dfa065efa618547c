//! The try-lock under which sites are judged.
//!
//! Nobody ever waits for it: a thread that finds it taken goes on without judging. Its holder may vanish (a
//! killed vfork child, a `siglongjmp` out of a handler that interrupted it), so the lock knows when it was
//! taken, and it is broken when it is held longer than any judgement lasts. Breaking is safe, not only
//! likely to be: whatever is written under the lock is either a whole word (gates), a freshly taken cell
//! (trees), or advice (site states); see the rules in ARCHITECTURE.md.
//!
//! A forked child that inherits a taken lock resets it ([`TryLock::reset`]).

use crate::broken;
use crate::sync::AtomicU64;
use core::sync::atomic::Ordering;

/// See the module's text. All zero is free.
pub struct TryLock {
    /// 0, or the time stamp (non-zero) at which it was taken; it names the holder too.
    taken_at: AtomicU64,
}

/// Proof of holding a [`TryLock`]; gives it back when dropped, unless it was broken meanwhile.
pub struct Held<'a> {
    lock: &'a TryLock,
    stamp: u64,
}

impl TryLock {
    /// A free lock.
    #[must_use]
    pub const fn new() -> TryLock {
        TryLock { taken_at: AtomicU64::new(0) }
    }

    /// Takes the lock if it is free, or was taken more than `patience` ticks before `now`.
    pub fn try_take(&self, now: u64, patience: u64) -> Option<Held<'_>> {
        let stamp = (now | 1) & !PINNED;
        let seen = self.taken_at.load(Ordering::Relaxed);
        if seen != 0 && now.saturating_sub(seen) < patience {
            return None;
        }
        // A stamp equal to the one seen would let two holders believe they are the same.
        let stamp = if stamp == seen { stamp.wrapping_add(2) } else { stamp };
        // The broken variant that the model must catch: two see it free, and both take it.
        if broken!("lock-in-two-steps") {
            self.taken_at.store(stamp, Ordering::Release);
            return Some(Held { lock: self, stamp });
        }
        self.taken_at
            .compare_exchange(seen, stamp, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| Held { lock: self, stamp })
    }

    /// Goes on holding what [`Held::keep`] kept; `None` when it was broken meanwhile.
    pub fn resume(&self, stamp: u64) -> Option<Held<'_>> {
        (stamp != 0 && self.taken_at.load(Ordering::Acquire) == stamp).then_some(Held { lock: self, stamp })
    }

    /// Frees the lock whoever holds it: for a forked child, in which the holder does not exist.
    pub fn reset(&self) {
        self.taken_at.store(0, Ordering::Release);
    }
}

impl Default for TryLock {
    fn default() -> Self {
        Self::new()
    }
}

/// Set in the stamp of a lock that must not be broken: its holder is known to be alive and takes its time.
const PINNED: u64 = 1 << 63;

impl Held<'_> {
    /// Keeps others from breaking the lock, however long it is held from here on.
    pub fn pin(&mut self) {
        let pinned = self.stamp | PINNED;
        if self.lock.taken_at.compare_exchange(self.stamp, pinned, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.stamp = pinned;
        }
    }

    /// Keeps the lock taken beyond this value's life: the stamp to [`TryLock::resume`] with.
    #[must_use]
    pub fn keep(self) -> u64 {
        let stamp = self.stamp;
        core::mem::forget(self);
        stamp
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = self.lock.taken_at.compare_exchange(self.stamp, 0, Ordering::Release, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_lock_is_refused_and_an_old_one_broken() {
        let lock = TryLock::new();
        let first = lock.try_take(1000, 100).unwrap();
        assert!(lock.try_take(1050, 100).is_none());
        let second = lock.try_take(1200, 100).unwrap();
        drop(first); // must not free what the second holds
        assert!(lock.try_take(1210, 100).is_none());
        drop(second);
        assert!(lock.try_take(1211, 100).is_some());
    }

    #[test]
    fn a_pinned_lock_is_never_broken_and_can_be_kept() {
        let lock = TryLock::new();
        let mut held = lock.try_take(1000, 100).unwrap();
        held.pin();
        assert!(lock.try_take(1 << 40, 100).is_none());
        let stamp = held.keep();
        assert!(lock.try_take(1 << 40, 100).is_none());
        drop(lock.resume(stamp).unwrap());
        assert!(lock.resume(stamp).is_none());
        assert!(lock.try_take(1 << 40, 100).is_some());
    }
}

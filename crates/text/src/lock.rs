//! The try-lock under which sites are judged.
//!
//! Nobody ever waits for it: a thread that finds it taken goes on without judging. Its holder may vanish (a
//! killed vfork child, a `siglongjmp` out of a handler that interrupted it), so the lock knows when it was
//! taken, and it is broken when it is held longer than any judgement lasts. Breaking is safe, not only
//! likely to be: whatever is written under the lock is either a whole word (gates), a freshly taken cell
//! (trees), or advice (site states); see the rules in ARCHITECTURE.md.
//!
//! # What must not be overtaken
//! A holder that did not vanish, but was only put off by the scheduler, is *overtaken* when the lock is
//! broken: it goes on, believing that it holds it. One thing must not be done then: changing the program's
//! text, which may have been put back or unmapped by whoever holds the lock now. So holders enter their
//! names, with the stamps by which they hold it, and [`TryLock::pinned`] lets a holder do something only if
//! it still is one, and nobody break the lock meanwhile. Who pins must come back: signals are held back
//! meanwhile ([`crate::mask`]), and children made by vfork, which may be killed alone, do not pin
//! ([`TryLock::is_at_home`]).
//!
//! A forked child that inherits a taken lock resets it ([`TryLock::reset`]).

use crate::broken;
use crate::sync::{AtomicU32, AtomicU64};
use core::sync::atomic::Ordering;

/// Holders at a time whose names are known: more than one when the lock was broken while its holder went on.
const HOLDERS: usize = 8;

/// See the module's text. All zero is free. The first word is read from outside: 0 while the lock is free.
#[repr(C)]
pub struct TryLock {
    /// 0, or the time stamp (non-zero) at which it was taken; it tells holders apart.
    taken_at: AtomicU64,
    /// A name stays when its thread left by longjmp, until that thread holds the lock again.
    holders: [Holder; HOLDERS],
    /// The process whose threads take it; 0 when that is not known.
    home: AtomicU32,
}

/// Who took the lock, and with which stamp.
struct Holder {
    /// 0 for nobody.
    name: AtomicU64,
    /// Means something to the thread of that name only, which wrote it.
    stamp: AtomicU64,
}

/// Proof of holding a [`TryLock`]; gives it back when dropped, unless it was broken meanwhile.
pub struct Held<'a> {
    lock: &'a TryLock,
    stamp: u64,
    name: u64,
    /// Number of the holder's entry.
    place: usize,
}

/// Set in the stamp of a lock that must not be broken: its holder is known to be alive and takes its time.
const PINNED: u64 = 1 << 63;

impl TryLock {
    /// A free lock.
    #[must_use]
    pub const fn new() -> TryLock {
        let holders = [const { Holder { name: AtomicU64::new(0), stamp: AtomicU64::new(0) } }; HOLDERS];
        TryLock { taken_at: AtomicU64::new(0), holders, home: AtomicU32::new(0) }
    }

    /// Lets the thread called `name` (not 0) take the lock if it is free, or was taken more than `patience`
    /// ticks before `now`.
    pub fn try_take(&self, name: u64, now: u64, patience: u64) -> Option<Held<'_>> {
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
            return Some(self.enter(name, stamp));
        }
        let taken = self.taken_at.compare_exchange(seen, stamp, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok().then(|| self.enter(name, stamp))
    }

    /// Lets the thread called `name` go on holding what [`Held::keep`] kept; `None` when it was broken
    /// meanwhile.
    pub fn resume(&self, name: u64, stamp: u64) -> Option<Held<'_>> {
        (stamp != 0 && self.taken_at.load(Ordering::Acquire) == stamp).then(|| self.enter(name, stamp))
    }

    /// Notes that the lock is `name`'s by `stamp`.
    fn enter(&self, name: u64, stamp: u64) -> Held<'_> {
        let is_old = |holder: &Holder| holder.name.load(Ordering::Relaxed) == name;
        let is_free =
            |holder: &Holder| holder.name.compare_exchange(0, name, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        let place = self.holders.iter().position(is_old).or_else(|| self.holders.iter().position(is_free));
        // When all are taken by threads that left, one of those goes.
        let place = place.unwrap_or_else(|| {
            self.holders[0].name.store(name, Ordering::Relaxed);
            0
        });
        // After the name: should two meet here, the one called by the name must not find the other's stamp.
        self.holders[place].stamp.store(stamp, Ordering::Relaxed);
        Held { lock: self, stamp, name, place }
    }

    /// Whether the thread called `name` holds the lock, was overtaken, or left while it did.
    #[must_use]
    pub fn is_held_by(&self, name: u64) -> bool {
        self.holders.iter().any(|holder| holder.name.load(Ordering::Relaxed) == name)
    }

    /// Lets the thread called `name` do `work` if it holds the lock, which nobody breaks meanwhile. `None`,
    /// and nothing is done, when it holds the lock no more.
    ///
    /// `work` must come to its end whatever happens to the thread but the end of its process.
    pub fn pinned<R>(&self, name: u64, work: impl FnOnce() -> R) -> Option<R> {
        // The broken variant that the tests must catch: who was overtaken does it all the same.
        if broken!("poke-outlives-lock") {
            return Some(work());
        }
        let is_mine = |holder: &&Holder| holder.name.load(Ordering::Relaxed) == name;
        let holder = self.holders.iter().find(is_mine)?;
        let stamp = holder.stamp.load(Ordering::Relaxed);
        // Another one may have taken the place, and put in a stamp of its own.
        if !is_mine(&holder) {
            return None;
        }
        if stamp & PINNED != 0 {
            return (self.taken_at.load(Ordering::Acquire) == stamp).then(work);
        }
        let change = |from, to| self.taken_at.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
        if stamp == 0 || change(stamp, stamp | PINNED).is_err() {
            return None;
        }
        let result = work();
        // Nobody else changes a pinned lock, unless a forked child resets its copy of it.
        let _ = change(stamp | PINNED, stamp);
        Some(result)
    }

    /// The stamp by which it is held now, 0 while it is free.
    #[must_use]
    pub fn stamp(&self) -> u64 {
        self.taken_at.load(Ordering::Acquire)
    }

    /// Whether it is held by somebody who must not be overtaken.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.stamp() & PINNED != 0
    }

    /// Frees the lock whoever holds it: for a forked child, in which the holder does not exist.
    pub fn reset(&self) {
        self.home.store(0, Ordering::Relaxed);
        self.taken_at.store(0, Ordering::Release);
    }

    /// Notes that this process is the one whose threads take the lock. Makes a system call.
    pub fn settle(&self) {
        self.home.store(this_process(), Ordering::Relaxed);
    }

    /// Whether this is the process that the lock has settled in, and not a child that shares its memory
    /// (vfork). Makes a system call.
    #[must_use]
    pub fn is_at_home(&self) -> bool {
        // The broken variant that the tests must catch: visitors take themselves for the host.
        broken!("visitor-pokes") || self.home.load(Ordering::Relaxed) == this_process()
    }
}

fn this_process() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get().cast_unsigned()
}

impl Default for TryLock {
    fn default() -> Self {
        Self::new()
    }
}

impl Held<'_> {
    /// Whether nobody has broken the lock so far. Who breaks it after this sees what this thread did before.
    #[must_use]
    pub fn is_still_held(&self) -> bool {
        let (seen, same) = (self.stamp, self.stamp);
        self.lock.taken_at.compare_exchange(seen, same, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Keeps others from breaking the lock, however long it is held from here on. False when it was broken
    /// before.
    #[must_use]
    pub fn pin(&mut self) -> bool {
        self.change_stamp(self.stamp | PINNED)
    }

    /// By what the lock knows this holder; without the mark of a pinned lock.
    #[must_use]
    pub fn stamp(&self) -> u64 {
        self.stamp & !PINNED
    }

    /// Lets others break the lock again when it is held for too long.
    pub fn unpin(&mut self) {
        self.change_stamp(self.stamp & !PINNED);
    }

    fn change_stamp(&mut self, stamp: u64) -> bool {
        let changed =
            self.lock.taken_at.compare_exchange(self.stamp, stamp, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if changed {
            self.stamp = stamp;
            self.lock.holders[self.place].stamp.store(stamp, Ordering::Relaxed);
        }
        changed
    }

    /// Keeps the lock taken beyond this value's life, by nobody in particular: the stamp to
    /// [`TryLock::resume`] with.
    #[must_use]
    pub fn keep(self) -> u64 {
        let stamp = self.stamp;
        self.leave();
        core::mem::forget(self);
        stamp
    }

    /// Takes the name out.
    fn leave(&self) {
        let name = &self.lock.holders[self.place].name;
        let _ = name.compare_exchange(self.name, 0, Ordering::Release, Ordering::Relaxed);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // First: who has no name any more holds nothing.
        self.leave();
        let _ = self.lock.taken_at.compare_exchange(self.stamp, 0, Ordering::Release, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_lock_is_refused_and_an_old_one_broken() {
        let lock = TryLock::new();
        let first = lock.try_take(1, 1000, 100).unwrap();
        assert!(lock.try_take(2, 1050, 100).is_none());
        let second = lock.try_take(2, 1200, 100).unwrap();
        drop(first); // must not free what the second holds
        assert!(lock.try_take(1, 1210, 100).is_none());
        drop(second);
        assert!(lock.try_take(1, 1211, 100).is_some());
    }

    /// Counters of two processors may differ, and that of a virtual machine may jump.
    #[test]
    fn a_clock_that_jumps_back_breaks_no_lock_and_one_that_jumps_forth_breaks_it_soundly() {
        let lock = TryLock::new();
        let first = lock.try_take(1, 1 << 40, 100).unwrap();
        assert!(lock.try_take(2, 1000, 100).is_none());
        let second = lock.try_take(2, 1 << 41, 100).unwrap();
        assert!(lock.pinned(1, || ()).is_none() && lock.pinned(2, || ()).is_some());
        drop(first);
        assert!(lock.try_take(3, 1 << 41, 100).is_none());
        drop(second);
        drop(lock.try_take(3, 1, 100).unwrap());
    }

    #[test]
    fn a_pinned_lock_is_never_broken_and_can_be_kept() {
        let lock = TryLock::new();
        let mut held = lock.try_take(1, 1000, 100).unwrap();
        assert!(held.pin());
        assert!(lock.try_take(2, 1 << 40, 100).is_none());
        let stamp = held.keep();
        assert!(lock.try_take(2, 1 << 40, 100).is_none() && !lock.is_held_by(1));
        drop(lock.resume(2, stamp).unwrap());
        assert!(lock.resume(2, stamp).is_none());
        assert!(lock.try_take(2, 1 << 40, 100).is_some());
    }

    #[test]
    fn who_was_overtaken_does_nothing_and_who_does_something_is_not_overtaken() {
        let lock = TryLock::new();
        let late = || lock.try_take(2, 2000, 100);
        let first = lock.try_take(1, 1000, 100).unwrap();
        assert!(lock.pinned(1, || assert!(late().is_none())).is_some());
        let second = late().unwrap();
        let mut first = first;
        assert!(!first.is_still_held() && second.is_still_held());
        assert!(!first.pin() && lock.is_held_by(1) && lock.is_held_by(2));
        assert!(lock.pinned(1, || ()).is_none());
        assert!(lock.pinned(2, || assert!(lock.try_take(1, 9000, 100).is_none())).is_some());
        drop(second);
        assert!(lock.pinned(1, || ()).is_none() && lock.pinned(3, || ()).is_none());
        drop(first);
        assert!(lock.pinned(1, || ()).is_none() && !lock.is_held_by(1));
    }

    #[test]
    fn a_handler_that_overtakes_its_own_thread_ends_what_it_interrupted() {
        let lock = TryLock::new();
        let interrupted = lock.try_take(1, 1000, 100).unwrap();
        drop(lock.try_take(1, 2000, 100).unwrap());
        assert!(lock.pinned(1, || ()).is_none());
        drop(interrupted);
        let mut held = lock.try_take(1, 3000, 100).unwrap();
        assert!(held.pin());
        assert!(lock.pinned(1, || ()).is_some());
    }
}

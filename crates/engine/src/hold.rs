//! Holding the engine's lock.
//!
//! [The lock](relpoline_text::lock) knows its holders by name. A child that a signal handler forks has to
//! know whether the one thread it consists of was holding it: then it goes back into what the handler had
//! interrupted ([`crate::fork`]). And whoever changes text has to know that nobody else holds it by now
//! ([`crate::link`]).

use crate::calibrate;
use crate::control;
use crate::fork;
use crate::sandbox;
use crate::state::{Engine, LOCK, engine};
use core::sync::atomic::{Ordering, compiler_fence};
use relpoline_text::lock::Held;
use relpoline_text::sync;

/// Ticks after which a lock is believed to be abandoned: some 100 ms.
pub const PATIENCE: u64 = 1 << 28;

/// Proof of holding the engine's lock; gives it back when dropped.
pub type Hold = Held<'static>;

/// This thread's name. The tool's thread has the thread pointer of the one that made it, but its own stack.
pub fn me() -> u64 {
    let here = 0u8;
    control::name_on_stack((&raw const here) as u64).unwrap_or_else(sync::thread)
}

/// Whether this thread holds the lock, or left while it did.
pub fn is_mine() -> bool {
    LOCK.is_held_by(me())
}

/// Takes the lock if it is free, or was taken too long ago, and no fork waits for it.
pub fn try_take() -> Option<Hold> {
    // In a child: whoever held it does not exist here.
    fork::settle_epoch();
    if !fork::is_settled() || fork::is_wanted() {
        return None;
    }
    let hold = LOCK.try_take(me(), calibrate::now(), PATIENCE)?;
    compiler_fence(Ordering::SeqCst);
    // A handler may have forked since the epoch was looked at, and this be the child. From here on it would
    // be known.
    fork::is_settled().then_some(hold)
}

/// Takes the lock, waiting for a judgement that is under way, at most as long as one can last, for whoever
/// has pinned it, and for forks.
pub fn take() -> Hold {
    let begun = calibrate::now();
    loop {
        // Looked at with the lock in hand: it may have been broken while its holder forks.
        if let Some(hold) = try_take().filter(|_| !fork::is_under_way()) {
            return hold;
        }
        wait_a_moment(calibrate::now().wrapping_sub(begun));
    }
}

/// Waits until no other thread forks, or seems to have vanished in it.
pub fn wait_for_forks() {
    let begun = calibrate::now();
    while fork::is_under_way() {
        wait_a_moment(calibrate::now().wrapping_sub(begun));
    }
}

/// Goes on holding what [`Held::keep`] kept; `None` when it was broken meanwhile.
pub fn resume(stamp: u64) -> Option<Hold> {
    LOCK.resume(me(), stamp)
}

/// Takes the lock, unless it is `held`, and keeps others from breaking it. A child made by vfork does not: it
/// may be killed alone, and would leave its parent's lock pinned.
pub fn take_pinned(mut held: Option<Hold>) -> Hold {
    loop {
        let mut hold = held.take().unwrap_or_else(take);
        if is_visiting() || hold.pin() {
            return hold;
        }
    }
}

/// Whether this is a child that shares its parent's memory. In a sandbox nobody may ask.
fn is_visiting() -> bool {
    sandbox::may_call() && !LOCK.is_at_home()
}

/// Does something with the engine that may take longer than a judgement, and must not be taken over by others
/// half-way. Handlers wait, so that none leaves it by longjmp; in a sandbox they do not, and it may be taken
/// over. `held` is the lock, if this thread has it.
pub fn undisturbed<R>(mut held: Option<Hold>, work: impl FnOnce(&mut Engine) -> R) -> R {
    let mut work = Some(work);
    loop {
        // Taken, and given back, outside: as long as this thread has the lock no other one enters a sandbox,
        // in which its signals could not be let through again.
        let mut hold = held.take().unwrap_or_else(take);
        let result = sandbox::held_back(|| {
            if sandbox::may_call() && LOCK.is_at_home() && !hold.pin() {
                return None;
            }
            // SAFETY: the lock is held.
            let result = work.take().map(|work| work(unsafe { engine() }));
            hold.unpin();
            result
        });
        if let Some(result) = result {
            return result;
        }
    }
}

/// Between two tries for the lock, after `waited` cycles of it: whoever holds it may be waiting for this
/// processor.
pub fn wait_a_moment(waited: u64) {
    /// Cycles of waiting without giving up the processor.
    const SPIN: u64 = 1 << 17;
    /// Cycles of waiting without sleeping, since to yield to a thread of lower priority is to do nothing.
    const YIELD: u64 = 1 << 24;
    sync::relax();
    if waited > YIELD && sandbox::may_call() {
        control::rest();
    } else if waited > SPIN && sandbox::may_call() {
        rustix::thread::sched_yield();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the lock and loses it to somebody who leaves at once.
    fn overtaken() -> Hold {
        let hold = take();
        drop(LOCK.try_take(me() + 1, calibrate::now() + 2 * PATIENCE, PATIENCE).expect("it was held for too long"));
        hold
    }

    fn is_pinned() -> bool {
        LOCK.try_take(me() + 1, u64::MAX >> 2, 1).is_none()
    }

    #[test]
    fn who_was_overtaken_takes_the_lock_again() {
        LOCK.settle();
        let mut times = 0;
        undisturbed(Some(overtaken()), |_| {
            times += 1;
            assert!(is_pinned(), "others may take it over");
        });
        assert_eq!(times, 1);
        assert!(!is_mine(), "it was not given back");
        let mut hold = take_pinned(Some(overtaken()));
        assert!(is_mine() && is_pinned());
        hold.unpin();
        drop(hold);
        assert!(!is_mine());
        drop(take());
    }
}

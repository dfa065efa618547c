//! Holding the engine's lock, and knowing who does.
//!
//! [The lock](relpoline_text::lock) knows when it was taken, not by whom. A child that a signal handler forks has to know
//! whether the one thread it consists of was holding the lock: then it goes back into what the handler had interrupted
//! ([`crate::fork`]). So whoever holds it enters a name, which is the same in the child.

use crate::calibrate;
use crate::fork;
use crate::sandbox;
use crate::state::LOCK;
use core::sync::atomic::{AtomicU64, Ordering};
use relpoline_text::lock::Held;
use relpoline_text::sync;

/// Ticks after which a lock is believed to be abandoned: some 100 ms.
pub const PATIENCE: u64 = 1 << 28;

/// Those who hold the lock. More than one when it was broken while its holder went on. A name stays when its thread left
/// by longjmp, until that thread holds the lock again.
static NAMES: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

/// This thread's name: its thread pointer.
fn me() -> u64 {
    let pointer: u64;
    // SAFETY: the first word of the thread's control block points to itself (System V ABI for x86-64, TLS variant II).
    unsafe { core::arch::asm!("mov {}, fs:[0]", out(reg) pointer, options(nostack, readonly, preserves_flags)) };
    pointer
}

/// Whether this thread holds the lock, or left while it did.
pub fn is_mine() -> bool {
    // The model's threads share one thread pointer, and none of them forks in a handler.
    !cfg!(relpoline_model) && NAMES.iter().any(|name| name.load(Ordering::Relaxed) == me())
}

/// A place in [`NAMES`] with this thread's name in it.
struct Name(usize);

impl Name {
    fn enter() -> Name {
        let me = me();
        let is_old = |name: &AtomicU64| name.load(Ordering::Relaxed) == me;
        let is_free = |name: &AtomicU64| name.compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        let place = NAMES.iter().position(is_old).or_else(|| NAMES.iter().position(is_free));
        // When all are taken by threads that left, one of those goes.
        Name(place.unwrap_or_else(|| {
            NAMES[0].store(me, Ordering::Relaxed);
            0
        }))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Some(name) = NAMES.get(self.0) {
            let _ = name.compare_exchange(me(), 0, Ordering::Release, Ordering::Relaxed);
        }
    }
}

/// Proof of holding the engine's lock; gives it back when dropped.
pub struct Hold {
    // Dropped first: who has no name any more holds nothing.
    name: Name,
    held: Held<'static>,
}

impl Hold {
    fn new(held: Held<'static>) -> Hold {
        let name = Name::enter();
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
        Hold { name, held }
    }

    /// Keeps others from breaking the lock, however long it is held from here on.
    pub fn pin(&mut self) {
        self.held.pin();
    }

    /// Keeps the lock taken while this thread does something else: the stamp to [`resume`] with.
    #[must_use]
    pub fn keep(self) -> u64 {
        drop(self.name);
        self.held.keep()
    }
}

/// Takes the lock if it is free, or was taken too long ago.
pub fn try_take() -> Option<Hold> {
    // In a child: whoever held it does not exist here.
    fork::settle_epoch();
    if !fork::is_settled() {
        return None;
    }
    let hold = Hold::new(LOCK.try_take(calibrate::now(), PATIENCE)?);
    // A handler may have forked since the epoch was looked at, and this be the child. From here on it would be known.
    fork::is_settled().then_some(hold)
}

/// Takes the lock, waiting for a judgement that is under way, at most as long as one can last.
pub fn take() -> Hold {
    let begun = calibrate::now();
    loop {
        if let Some(hold) = try_take() {
            return hold;
        }
        wait_a_moment(calibrate::now().wrapping_sub(begun));
    }
}

/// Goes on holding what [`Hold::keep`] kept; `None` when it was broken meanwhile.
pub fn resume(stamp: u64) -> Option<Hold> {
    LOCK.resume(stamp).map(Hold::new)
}

/// Between two tries for the lock, after `waited` cycles of it: whoever holds it may be waiting for this processor.
pub fn wait_a_moment(waited: u64) {
    /// Cycles of waiting without giving up the processor.
    const SPIN: u64 = 1 << 17;
    sync::relax();
    if waited > SPIN && sandbox::may_call() {
        rustix::thread::sched_yield();
    }
}

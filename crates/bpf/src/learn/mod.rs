//! Promoting tail calls whose index is computed at run time.
//!
//! Such a call loads the program's entry from the array's table and jumps there through its *gate*, an
//! aligned word in its own code that leads to one of these:
//!
//! ```text
//! gate: jmp ──▶ counting stub    dec misses ; jle learner ; retpoline       cold, and where trees end
//!           ──▶ recording stub   writes the target into a ring ; retpoline  learning
//!           ──▶ settling stub    dec calls ; jle learner ; tree             young trees
//!           ──▶ tree             cmp target, T1 ; je T1 ; … ; counting stub promoted
//!           ──▶ retpoline                                                   left alone
//! ```
//!
//! Stubs, trees and the policy that chooses between them are those which promote the retpolines of whole
//! programs ([`relpoline_core::policy`], [`relpoline_core::tree`], [`relpoline_text::stub`]), and so is the
//! learner ([`relpoline_learn`]). What differs: the word changes in the program's own code, so there is
//! nothing to link; and trees are freed, since there are grace periods.
//!
//! # Why an update needs to know nothing of trees
//! A tree compares *the entry that was just loaded from the slot*, not the index. So it says "if the slot
//! leads to T, jump to T", which is true whatever the slot led to when the tree was made. When a slot
//! changes, its old program is no longer loaded, and the tree misses. When a program is freed, nobody can
//! load its entry any more; and should another program be placed at the same address, jumping there is right
//! again. A program that was loaded from a slot lives until the run ends: that is what grace periods are for.
//! Stale targets cost time, and are unlearned by the misses they cause.
//!
//! # Locks
//! The learner ([`slow`]) is entered in the middle of a run, on the run's own thread. It takes one lock for
//! the whole process, and only if it is free: else the call goes on and asks later. While it holds the lock
//! it never waits, and it never takes the lock on arrays, whose holder may be waiting for this very run to
//! end.
//!
//! | module | what it does |
//! |---|---|
//! | [`site`] | a gate, its stubs, and where it is led |
//! | [`judge`] | the slow path: what generated code calls |
//! | [`near`] | counters within reach of code |
//! | [`rings`] | memory in which learning sites record their calls |

mod judge;
pub mod near;
mod rings;
mod site;

pub use judge::slow;
pub use site::{Known, Site};

use relpoline_learn::round::Round;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError, TryLockResult, Weak};
use std::time::Instant;

/// Everything that learning shares.
pub struct Shared {
    /// See [`relpoline_learn`]. It has rings from the first time on that it is asked.
    learner: relpoline_learn::Learner<1>,
    /// All sites, to look whether one that was left alone is due for another chance.
    sites: Vec<Weak<Site>>,
    round: Round,
    /// When it began, to measure the rate of the clock.
    begun: Option<(u64, Instant)>,
}

impl Shared {
    const fn new() -> Shared {
        Shared { learner: relpoline_learn::Learner::new(), sites: Vec::new(), round: Round::new(), begun: None }
    }
}

static SHARED: Mutex<Shared> = Mutex::new(Shared::new());

/// What learning shares, for [`crate::fork`] to hold.
pub fn hold() -> TryLockResult<MutexGuard<'static, Shared>> {
    SHARED.try_lock()
}

/// In a forked child: its parent's sites are not its own to learn at, so it begins anew.
pub fn settle(shared: &mut Shared) {
    *shared = Shared::new();
}

/// What learning shares, if nobody has it.
fn try_lock() -> Option<MutexGuard<'static, Shared>> {
    match SHARED.try_lock() {
        Ok(shared) => Some(shared),
        Err(TryLockError::Poisoned(shared)) => Some(shared.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// What learning shares. Who has it never waits for anything.
fn lock() -> MutexGuard<'static, Shared> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time-stamp counter.
fn now() -> u64 {
    // SAFETY: rdtsc is unprivileged unless a program forbids it by prctl(PR_SET_TSC).
    unsafe { core::arch::x86_64::_rdtsc() }
}

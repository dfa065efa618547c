//! A forked child's learner.
//!
//! A child goes on executing its parent's arena pages, whose writable alias it does not have, so that it must
//! not touch them. A child that shows some interest in learning gets arenas of its own; one that may not have
//! them goes on with what its parent knew. Both locks are held over `fork`, so that nothing is half-way in a
//! child; one that was made in another way begins anew when its parent was in the middle of something.

use super::{KEPT, Shared, Tables};
use crate::imp::wiped;
use core::sync::atomic::Ordering;

/// Slow paths before a child gets arenas of its own: one that calls exec at once never does.
const PATIENCE: u32 = 16;

/// Notices that this is a new process. False while another thread is busy with it.
pub fn settle_epoch(shared: &Shared) -> bool {
    wiped::LEARNING.settle(|| {
        let stamp = shared.lock.stamp();
        let torn = stamp != 0 && stamp != KEPT.load(Ordering::Acquire);
        // Whoever held the lock at the fork does not exist here.
        shared.lock.reset();
        if !super::is_sealed() {
            shared.lock.settle();
        }
        // SAFETY: nobody else gets past the epoch before it is settled.
        let tables = unsafe { &mut *shared.tables.get() };
        tables.inherited = true;
        tables.torn |= torn;
        tables.entries = 0;
    })
}

/// Whether a child is interested enough by now.
pub fn is_patient(tables: &mut Tables) -> bool {
    tables.entries += 1;
    tables.entries < PATIENCE
}

/// Gives a forked child arenas of its own, or freezes its learner.
pub fn become_own(tables: &mut Tables) {
    let own = tables.arenas.iter_mut().all(|group| {
        // SAFETY: in the child, under the lock, before anything was written.
        unsafe { group.arena.privatise() }.is_ok()
    });
    tables.inherited = false;
    tables.frozen = !own;
    if core::mem::take(&mut tables.torn) && own {
        tables.all_begin_anew();
    }
}

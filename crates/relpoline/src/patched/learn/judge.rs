//! The slow path: what generated code calls when a countdown or a recording window of a table ends.
//!
//! It runs on the caller's thread, between a call and its callee, perhaps in a signal handler. It takes the
//! lock or goes on without; it never waits or allocates.

use super::hand::Hand;
use super::{PATIENCE, Tables, contest, fork, is_sealed, now, shared, undisturbed};
use relpoline_learn::Learner;
use relpoline_learn::countdown::{LATER, never, postpone};
use relpoline_text::sync;

/// What generated code calls.
pub unsafe extern "C" fn slow(id: u32, _target: u64, _top: u64) {
    let Some(shared) = shared() else { return };
    if is_sealed() {
        // SAFETY: nobody changes the list of tables any more.
        unsafe { &*shared.tables.get() }.postpone(id, never());
        return;
    }
    if !fork::settle_epoch(shared) {
        return;
    }
    let begun = now();
    if let Some(mut held) = shared.lock.try_take(sync::thread(), begun, PATIENCE) {
        // When it was broken in between, somebody else judges.
        let _ = undisturbed(shared, &mut held, |tables| tables.attend(id, begun));
    }
}

impl Tables {
    /// Does what there is to do when something of table `id` has ended.
    fn attend(&mut self, id: u32, begun: u64) {
        if self.inherited && !fork::is_patient(self) {
            fork::become_own(self);
        }
        if self.frozen || self.inherited {
            self.postpone(id, if self.frozen { never() } else { LATER });
            return;
        }
        let (ticks, instant) = self.begun;
        self.learner.tell_time(begun.saturating_sub(ticks), instant.elapsed().as_millis() as u64);
        if let Some((learner, mut table)) = self.at(id)
            && !table.is_gone()
            && !contest::turn_ended(learner, &mut table, begun)
        {
            learner.attend(&mut table, begun);
        }
        self.look_around(begun);
    }

    /// Restarts a table's countdowns without judging.
    fn postpone(&self, id: u32, calls: u32) {
        if let Some(table) = self.tables.get(id as usize) {
            postpone(table.counters(), calls);
        }
    }

    /// Gives tables that were left to the pointer another chance when their time has come. In a contest it
    /// has not.
    fn look_around(&mut self, now: u64) {
        let count = self.tables.len() as u32;
        let mut round = core::mem::take(&mut self.round);
        let _ = round.find(count, |id| {
            self.at(id).is_some_and(|(learner, mut table)| table.is_free() && learner.look_at(&mut table, now))
        });
        self.round = round;
    }

    /// Table number `id`, and the learner for it.
    pub fn at(&mut self, id: u32) -> Option<(&mut Learner<1>, Hand<'_>)> {
        let Tables { learner, tables, trees, arenas, .. } = self;
        let table = tables.get_mut(id as usize)?;
        let arena = &arenas.get(usize::from(table.group))?.arena;
        Some((learner, Hand { table, arena, trees }))
    }
}

//! What the user can ask of a dynamic call.

use super::judge::NEVER;
use super::publish::TEST;
use super::table::{NO_RING, NONE};
use super::{Learner, is_sealed, with};
use crate::table::{DynamicCall, State, Stats, TargetStats};
use core::sync::atomic::Ordering;
use relpoline_core::policy::{Counters, Phase, Reason, SiteState};
use relpoline_core::trace;

/// Most targets that can be given.
const PINNED_MAX: usize = 16;

/// Does something with the table of `call`.
fn with_table<R>(call: &DynamicCall, act: impl FnOnce(&mut Learner, u32) -> R) -> Option<R> {
    let id = call.index()?;
    with(|learner| act(learner, id))
}

/// Changes the table of `call`, unless nothing is changed any more.
fn change_table<R>(call: &DynamicCall, act: impl FnOnce(&mut Learner, u32) -> R) -> Option<R> {
    if is_sealed() { None } else { with_table(call, act) }
}

/// What a call has learned and done.
pub fn stats(call: &DynamicCall) -> Stats {
    with_table(call, |learner, id| learner.stats(id))
        .flatten()
        .unwrap_or_else(|| Stats::plain("not registered, or no executable memory can be had near it"))
}

/// Leaves a call to the pointer.
pub fn pause(call: &DynamicCall) {
    let _ = change_table(call, |learner, id| learner.bar(id, Reason::Disabled));
}

/// Lets a call begin anew.
pub fn forget(call: &DynamicCall) {
    let _ = change_table(call, Learner::start_counting);
}

/// Lets trees count their calls, or not.
pub fn count_calls(call: &DynamicCall, on: bool) {
    let _ = change_table(call, |learner, id| {
        if let Some(table) = learner.tables.get_mut(id as usize) {
            table.counted = on;
        }
        learner.start_counting(id);
    });
}

/// Lets trees go in place without a contest, or not.
pub fn always_promote(call: &DynamicCall, on: bool) {
    let _ = change_table(call, |learner, id| {
        if let Some(table) = learner.tables.get_mut(id as usize) {
            table.unchallenged = on;
        }
        learner.start_counting(id);
    });
}

/// Gives a call its targets.
pub fn pin(call: &DynamicCall, targets: &[*const ()]) -> bool {
    !targets.is_empty()
        && targets.len() <= PINNED_MAX
        && change_table(call, |learner, id| learner.pin(id, targets)).unwrap_or(false)
}

fn state_of(phase: Phase, reason: Reason, pinned: bool) -> State {
    match phase {
        Phase::Cold => State::Cold,
        Phase::Learning => State::Learning,
        Phase::Promoted | Phase::Linked => State::Promoted,
        Phase::Retpolined => State::Unpromoted,
        Phase::Barred if pinned => State::Pinned,
        Phase::Barred if reason == Reason::Disabled => State::Paused,
        Phase::Barred => State::Plain,
    }
}

impl Learner {
    /// Lets every table begin anew, whatever it was doing; those that were given their targets keep them.
    pub fn begin_anew(&mut self) {
        self.rings.take_all_back();
        for id in 0..self.tables.len() as u32 {
            let Some(table) = self.tables.get_mut(id as usize) else { return };
            table.ring = NO_RING;
            table.counters().cursor.store(self.rings.idle(), Ordering::Relaxed);
            if !table.pinned && !table.gone {
                self.start_counting(id);
            }
        }
    }

    /// The table's module is unloaded. False when its text gate could not be led past our memory.
    pub fn close(&mut self, id: u32) -> bool {
        self.bar(id, Reason::Disabled);
        let Some(table) = self.tables.get_mut(id as usize) else { return true };
        table.gone = true;
        // SAFETY: text of a module that is registered still.
        unsafe { (table.text_gate as *const u8).read_volatile() == TEST }
    }

    /// Leaves a table to the pointer for good, or until it begins anew.
    pub fn bar(&mut self, id: u32, reason: Reason) {
        self.stop_recording(id);
        self.unlink(id);
        self.publish_plain(id);
        if let Some(table) = self.tables.get_mut(id as usize) {
            table.state = SiteState::barred(reason);
            table.pinned = false;
            table.contest = None;
        }
    }

    fn pin(&mut self, id: u32, targets: &[*const ()]) -> bool {
        self.bar(id, Reason::Excluded);
        let Ok(tree) = self.tree_for_given(id, targets) else { return false };
        self.publish_tree(id, tree, Counters { settle: 0, misses: NEVER, exits: 0 });
        if let Some(table) = self.tables.get_mut(id as usize) {
            table.pinned = true;
        }
        let _ = self.link(id);
        true
    }

    fn stats(&self, id: u32) -> Option<Stats> {
        let table = self.tables.get(id as usize)?;
        let phase = table.state.phase();
        let state = match table.contest {
            Some(_) => State::Timed,
            None => state_of(phase, table.state.reason(), table.pinned),
        };
        let in_place = matches!(state, State::Promoted | State::Pinned) && table.tree != NONE;
        let learned = if in_place { table.tree } else { table.rejected };
        let left = table.counters().misses.load(Ordering::Relaxed).cast_signed().max(0).cast_unsigned();
        let window = if in_place { u64::from(table.misses.saturating_sub(left)) } else { 0 };
        Some(Stats {
            state,
            reason: if table.pinned { "pinned" } else { table.state.reason().text() },
            targets: self.targets_of(learned),
            hits: table.counters().calls.load(Ordering::Relaxed),
            misses: table.missed + window,
            relearnings: table.relearned,
            patches: table.patches,
        })
    }

    fn targets_of(&self, tree: u32) -> Vec<TargetStats> {
        let Some(tree) = self.trees.get(tree as usize) else { return Vec::new() };
        let first = tree.first_target as usize;
        let targets = self.targets.get(first..first + usize::from(tree.targets)).unwrap_or_default();
        let share = |of: u32| f64::from(of) / f64::from(trace::ONE);
        targets.iter().map(|t| TargetStats { address: t.address as usize, share: share(t.share) }).collect()
    }
}

//! What the user can ask of a dynamic call.

use super::hand::TEST;
use super::table::NONE;
use super::{Tables, is_sealed, with};
use crate::table::{DynamicCall, State, Stats, TargetStats};
use core::sync::atomic::Ordering::Relaxed;
use relpoline_core::policy::{Counters, Phase, Reason};
use relpoline_core::trace;
use relpoline_core::tree::Target;
use relpoline_learn::countdown::never;
use relpoline_learn::{Site, To};

/// Most targets that can be given.
const PINNED_MAX: usize = 16;
/// Of those, so many are compared one after the other.
const CHAIN: usize = 4;

/// Does something with the table of `call`.
fn with_table<R>(call: &DynamicCall, act: impl FnOnce(&mut Tables, u32) -> R) -> Option<R> {
    let id = call.index()?;
    with(|tables| act(tables, id))
}

/// Changes the table of `call`, unless nothing is changed any more.
fn change_table<R>(call: &DynamicCall, act: impl FnOnce(&mut Tables, u32) -> R) -> Option<R> {
    if is_sealed() { None } else { with_table(call, act) }
}

/// What a call has learned and done.
pub fn stats(call: &DynamicCall) -> Stats {
    with_table(call, |tables, id| tables.stats(id))
        .flatten()
        .unwrap_or_else(|| Stats::plain("not registered, or no executable memory can be had near it"))
}

/// Leaves a call to the pointer.
pub fn pause(call: &DynamicCall) {
    let _ = change_table(call, |tables, id| tables.bar(id, Reason::Disabled));
}

/// Lets a call begin anew.
pub fn forget(call: &DynamicCall) {
    let _ = change_table(call, Tables::begin_anew);
}

/// Lets trees count their calls, or not.
pub fn count_calls(call: &DynamicCall, on: bool) {
    let _ = change_table(call, |tables, id| {
        if let Some(table) = tables.tables.get_mut(id as usize) {
            table.counted = on;
        }
        tables.begin_anew(id);
    });
}

/// Lets trees go in place without a contest, or not.
pub fn always_promote(call: &DynamicCall, on: bool) {
    let _ = change_table(call, |tables, id| {
        if let Some(table) = tables.tables.get_mut(id as usize) {
            table.unchallenged = on;
        }
        tables.begin_anew(id);
    });
}

/// Gives a call its targets.
pub fn pin(call: &DynamicCall, targets: &[*const ()]) -> bool {
    !targets.is_empty()
        && targets.len() <= PINNED_MAX
        && change_table(call, |tables, id| tables.pin(id, targets)).unwrap_or(false)
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

impl Tables {
    /// Lets a table begin anew, whatever it was doing: it counts its calls until there are enough.
    pub fn begin_anew(&mut self, id: u32) {
        let Some((learner, mut hand)) = self.at(id) else { return };
        hand.table.pinned = false;
        hand.table.contest = None;
        hand.table.rejected = NONE;
        learner.begin_anew(&mut hand);
    }

    /// Lets every table begin anew; those that were given their targets keep them.
    pub fn all_begin_anew(&mut self) {
        for id in 0..self.tables.len() as u32 {
            let Some((learner, mut hand)) = self.at(id) else { return };
            learner.stop_recording(&mut hand);
            if !hand.table.pinned && !hand.table.gone {
                self.begin_anew(id);
            }
        }
        self.learner.rings.recount(core::iter::empty());
    }

    /// The table's module is unloaded. False when its text gate could not be led past our memory.
    pub fn close(&mut self, id: u32) -> bool {
        self.bar(id, Reason::Disabled);
        let Some(table) = self.tables.get_mut(id as usize) else { return true };
        table.gone = true;
        table.own = &[];
        // SAFETY: text of a module that is registered still.
        unsafe { (table.text_gate as *const u8).read_volatile() == TEST }
    }

    /// Leaves a table to the pointer for good, or until it begins anew.
    fn bar(&mut self, id: u32, reason: Reason) {
        let Some((learner, mut hand)) = self.at(id) else { return };
        learner.bar(&mut hand, reason);
        hand.table.pinned = false;
        hand.table.contest = None;
    }

    fn pin(&mut self, id: u32, targets: &[*const ()]) -> bool {
        self.bar(id, Reason::Excluded);
        let Some((learner, mut hand)) = self.at(id) else { return false };
        let share = trace::ONE / targets.len().max(1) as u32;
        let mut given = [Target { address: 0, share }; PINNED_MAX];
        for (to, from) in given.iter_mut().zip(targets) {
            to.address = *from as u64;
        }
        let given = given.get(..targets.len()).unwrap_or_default();
        let Ok(tree) = hand.tree_for(given, CHAIN, false) else { return false };
        learner.put_in_place(&mut hand, tree, Counters { settle: 0, misses: 0, exits: 0 });
        hand.table.pinned = true;
        let _ = hand.link();
        true
    }

    /// Ends whatever is under way at a table: it keeps its tree, if it has one in place.
    pub fn leave_as_it_is(&mut self, id: u32) {
        let Some((_, mut hand)) = self.at(id) else { return };
        let keeps = hand.table.pinned || (hand.table.memory.state.has_tree() && hand.table.contest.is_none());
        if !keeps {
            self.bar(id, Reason::Disabled);
        } else if !hand.table.memory.linked {
            hand.lead(To::Head);
        }
        if let Some(table) = self.tables.get(id as usize) {
            let counters = table.counters();
            for counter in [&counters.misses, &counters.exits, &counters.settle] {
                counter.store(never(), Relaxed);
            }
        }
    }

    fn stats(&self, id: u32) -> Option<Stats> {
        let table = self.tables.get(id as usize)?;
        let memory = &table.memory;
        let state = match table.contest {
            Some(_) => State::Timed,
            None => state_of(memory.state.phase(), memory.state.reason(), table.pinned),
        };
        let in_place = matches!(state, State::Promoted | State::Pinned) && table.tree != NONE;
        let learned = if in_place { table.tree } else { table.rejected };
        let left = table.counters().misses.load(Relaxed).cast_signed().max(0).cast_unsigned();
        let window = if in_place { u64::from(memory.misses.saturating_sub(left)) } else { 0 };
        Some(Stats {
            state,
            reason: if table.pinned { "pinned" } else { memory.state.reason().text() },
            targets: self.targets_of(learned),
            hits: table.counters().calls.load(Relaxed),
            misses: memory.missed + window,
            relearnings: memory.relearned,
            patches: table.patches,
        })
    }

    fn targets_of(&self, tree: u32) -> Vec<TargetStats> {
        let share = |of: u32| f64::from(of) / f64::from(trace::ONE);
        let targets = self.trees.standing(tree).map_or(&[][..], |tree| tree.targets);
        targets.iter().map(|t| TargetStats { address: t.address as usize, share: share(t.share) }).collect()
    }
}

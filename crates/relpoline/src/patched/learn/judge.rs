//! The slow path: what to do when a countdown or a recording window of a table ends.
//!
//! It runs on the caller's thread, between a call and its callee, perhaps in a signal handler. It takes the
//! lock or goes on without; it never waits or allocates.

use super::table::{NO_RING, Table};
use super::{Learner, PATIENCE, fork, is_sealed, now, shared, undisturbed};
use core::sync::atomic::{AtomicU32, Ordering};
use relpoline_core::policy::{Action, Current, Event, Phase, Reason, SiteState};
use relpoline_core::trace::{Trace, WINDOW_MAX};
use relpoline_text::stub::RING_BITS;
use relpoline_text::sync;

/// A countdown that does not end within the life of a process.
pub const NEVER: u32 = i32::MAX.cast_unsigned();
/// Calls until a table that found the lock taken asks again.
const LATER: u32 = 64;
/// Tables that one slow path looks at for another chance.
const DUE_STEPS: u32 = 16;

/// What generated code calls.
pub unsafe extern "C" fn slow(id: u32, _target: u64) {
    let Some(shared) = shared() else { return };
    if is_sealed() {
        // SAFETY: nobody changes the list of tables any more.
        unsafe { &*shared.learner.get() }.postpone(id, NEVER);
        return;
    }
    if !fork::settle_epoch(shared) {
        return;
    }
    let begun = now();
    if let Some(mut held) = shared.lock.try_take(sync::thread(), begun, PATIENCE) {
        // When it was broken in between, somebody else judges.
        let _ = undisturbed(shared, &mut held, |learner| learner.attend(id, begun));
    }
}

fn is_over(counter: &AtomicU32) -> bool {
    counter.load(Ordering::Relaxed).cast_signed() <= 0
}

impl Learner {
    /// Does what there is to do when something of table `id` has ended.
    fn attend(&mut self, id: u32, begun: u64) {
        if self.inherited && !fork::is_patient(self) {
            fork::become_own(self);
        }
        if self.frozen || self.inherited {
            self.postpone(id, if self.frozen { NEVER } else { LATER });
            return;
        }
        self.tell_time(begun);
        self.judge(id, begun);
        self.look_around(begun);
    }

    /// Restarts a table's countdowns without judging.
    fn postpone(&self, id: u32, calls: u32) {
        let Some(table) = self.tables.get(id as usize) else { return };
        let counters = table.counters();
        for counter in [&counters.misses, &counters.exits, &counters.settle] {
            if is_over(counter) {
                counter.store(calls, Ordering::Relaxed);
            }
        }
    }

    /// Measures the rate of ticks, which the policy's budget is in.
    fn tell_time(&mut self, now: u64) {
        let (ticks, instant) = self.begun;
        let ms = instant.elapsed().as_millis() as u64;
        if ms >= 10 {
            self.policy.costs.cycles_per_ms = u32::try_from(now.saturating_sub(ticks) / ms).unwrap_or(u32::MAX);
        }
    }

    /// Lets the policy look at whatever ended at table `id`.
    fn judge(&mut self, id: u32, now: u64) {
        let Some(&table) = self.tables.get(id as usize) else { return };
        if table.gone {
            return;
        }
        if self.turn_ended(id, now) {
            return;
        }
        let counters = table.counters();
        match table.state.phase() {
            Phase::Cold if is_over(&counters.misses) => self.decide(id, Event::ColdExpired, now),
            Phase::Learning => self.window_ended(id, now),
            Phase::Promoted | Phase::Linked => {
                if is_over(&counters.settle) {
                    counters.settle.store(NEVER, Ordering::Relaxed);
                    self.decide(id, Event::Settled, now);
                }
                if is_over(&counters.exits) {
                    counters.exits.store(NEVER, Ordering::Relaxed);
                    self.decide(id, Event::ExitWindow { exits: table.exits }, now);
                }
                if is_over(&counters.misses) {
                    counters.misses.store(NEVER, Ordering::Relaxed);
                    if let Some(table) = self.tables.get_mut(id as usize) {
                        table.missed += u64::from(table.misses);
                    }
                    self.decide(id, Event::MissWindow { misses: table.misses }, now);
                }
            }
            _ => {
                if is_over(&counters.misses) {
                    counters.misses.store(NEVER, Ordering::Relaxed);
                }
            }
        }
    }

    /// The recording stub has filled another part of its ring.
    fn window_ended(&mut self, id: u32, now: u64) {
        let Some(&table) = self.tables.get(id as usize) else { return };
        if table.ring == NO_RING {
            return;
        }
        let within = table.counters().cursor.load(Ordering::Relaxed) & ((1 << RING_BITS) - 1);
        // A cursor at the start has gone round once.
        let recorded = if within == 0 { 1 << (RING_BITS - 3) } else { within as usize / 8 };
        if recorded < table.window as usize {
            return;
        }
        let trace = self.rings.records(table.ring, recorded.min(WINDOW_MAX));
        let current = self.current(&table);
        self.decide(id, Event::WindowFull { trace: Trace::live(trace), current }, now);
    }

    /// The tree that a table had before it went back to learning.
    fn current(&self, table: &Table) -> Option<Current<'static>> {
        let tree = self.trees.get(table.tree as usize)?;
        let first = tree.first_target as usize;
        let targets = self.targets.get(first..first + usize::from(tree.targets))?;
        // SAFETY: the list never grows beyond its capacity, so it never moves; the policy is done with the
        // targets before anything is written to them.
        let targets = unsafe { core::slice::from_raw_parts(targets.as_ptr(), targets.len()) };
        Some(Current { targets, chain: usize::from(tree.chain) })
    }

    /// Asks the policy and does what it says; when that fails, tells it so and does what it says then.
    pub fn decide(&mut self, id: u32, event: Event<'_>, now: u64) {
        let Some(table) = self.tables.get(id as usize) else { return };
        let Some(group) = self.arenas.get(usize::from(table.group)) else { return };
        let mut state = table.state;
        let arena = &group.arena;
        let action = self.policy.on(&mut state, event, now, &|target| arena.reaches(target));
        self.set_state(id, state);
        if let Err(reason) = self.act(id, action, now) {
            self.refuse(id, reason, now);
        }
    }

    /// Tells the policy that what it wanted is not to be, and does what it says then.
    pub fn refuse(&mut self, id: u32, reason: Reason, now: u64) {
        let Some(table) = self.tables.get(id as usize) else { return };
        let mut state = table.state;
        let action = self.policy.refused(&mut state, reason, now);
        self.set_state(id, state);
        let _ = self.act(id, action, now);
    }

    fn set_state(&mut self, id: u32, state: SiteState) {
        if let Some(table) = self.tables.get_mut(id as usize) {
            table.state = state;
        }
    }

    fn act(&mut self, id: u32, action: Action, now: u64) -> Result<(), Reason> {
        let Some(table) = self.tables.get_mut(id as usize) else { return Ok(()) };
        let counters = table.counters();
        match action {
            Action::None => {}
            Action::CountCold { calls } => {
                table.misses = calls;
                counters.misses.store(calls, Ordering::Relaxed);
                self.stop_recording(id);
                self.unlink(id);
                self.publish_counting(id);
            }
            Action::Learn { window } => self.learn(id, window)?,
            Action::ContinueLearning { window } => table.window = window,
            Action::Promote(start) => {
                let tree = self.tree_for_plan(id)?;
                self.stop_recording(id);
                self.challenge(id, tree, start, now);
            }
            Action::Resume(start) => {
                let tree = table.tree;
                self.stop_recording(id);
                self.publish_tree(id, tree, start);
            }
            Action::Retpoline(_) => {
                self.stop_recording(id);
                self.unlink(id);
                self.publish_plain(id);
            }
            Action::CountMisses { window } => {
                table.misses = window;
                counters.misses.store(window, Ordering::Relaxed);
            }
            Action::CountExits { window } => {
                table.exits = window;
                counters.exits.store(window, Ordering::Relaxed);
            }
            Action::CountSettle { calls } => counters.settle.store(calls, Ordering::Relaxed),
            Action::StopCounting => self.publish_head(id),
            Action::Link => self.link(id)?,
        }
        Ok(())
    }

    /// Gives tables that were left to the pointer another chance when their time has come.
    fn look_around(&mut self, now: u64) {
        let count = self.tables.len() as u32;
        for _ in 0..DUE_STEPS.min(count) {
            self.next_due = (self.next_due + 1) % count;
            let id = self.next_due;
            if self.tables.get(id as usize).is_some_and(|t| !t.gone && t.state.is_due(now)) {
                self.decide(id, Event::Due, now);
                return;
            }
        }
    }
}

//! The learner: what generated code calls when a countdown or a recording window of a site ends.

use super::site::{NEVER, Site, State};
use super::{Learner, now, try_learner};
use relpoline_core::policy::{Action, Current, Event, Phase, Reason};
use relpoline_core::trace::{Trace, WINDOW_MAX};
use relpoline_text::stub::RING_BITS;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Calls until a site that found the learner busy asks again.
const LATER: u32 = 64;
/// Sites that one call of the learner looks at for another chance.
const DUE_STEPS: usize = 16;
/// What leading a gate straight to its tree costs [cycles]: one store.
const LINK: u32 = 200;
/// What the settling stub costs [1/16 cycle].
const SETTLING: u32 = 24;

/// The learner's door in generated code.
pub extern "C" fn slow(site: *const Site) {
    // SAFETY: stubs name the site that they belong to, which lives as long as the code that led here, which lives as
    // long as the run.
    let site = unsafe { &*site };
    if site.shared().space.is_inherited() {
        // A run that was going on at the fork: the code it runs is its parent's.
        return site.postpone(NEVER);
    }
    let begun = now();
    let Some(mut learner) = try_learner() else {
        return site.postpone(LATER);
    };
    learner.tell_time(begun);
    learner.judge(site, begun);
    let others = learner.look_around(begun);
    drop(learner);
    // One may be the last of its runtime, whose end is nobody's business under the lock.
    drop(others);
}

fn is_over(counter: &AtomicU32) -> bool {
    counter.load(Relaxed).cast_signed() <= 0
}

impl Site {
    /// Restarts countdowns without judging.
    fn postpone(&self, calls: u32) {
        let counters = self.counters();
        for counter in [&counters.misses, &counters.exits, &counters.settle] {
            if is_over(counter) {
                counter.store(calls, Relaxed);
            }
        }
    }
}

impl Learner {
    /// Sets the costs that differ from a whole program's, and measures the rate of the clock, which budgets are in.
    fn tell_time(&mut self, now: u64) {
        let (ticks, instant) = *self.begun.get_or_insert_with(|| (now, Instant::now()));
        (self.policy.costs.link, self.policy.costs.gate) = (LINK, SETTLING);
        let ms = instant.elapsed().as_millis() as u64;
        if ms >= 10 {
            self.policy.costs.cycles_per_ms = u32::try_from(now.saturating_sub(ticks) / ms).unwrap_or(u32::MAX);
        }
    }

    /// Lets the policy look at whatever ended at `site`.
    fn judge(&mut self, site: &Site, now: u64) {
        let mut state = site.state();
        let counters = site.counters();
        match state.policy.phase() {
            Phase::Cold if is_over(&counters.misses) => self.decide(site, &mut state, Event::ColdExpired, now),
            Phase::Learning => self.window_ended(site, &mut state, now),
            Phase::Promoted | Phase::Linked => {
                if is_over(&counters.settle) {
                    counters.settle.store(NEVER, Relaxed);
                    self.decide(site, &mut state, Event::Settled, now);
                }
                if is_over(&counters.exits) {
                    counters.exits.store(NEVER, Relaxed);
                    let exits = state.exits;
                    self.decide(site, &mut state, Event::ExitWindow { exits }, now);
                }
                if is_over(&counters.misses) {
                    counters.misses.store(NEVER, Relaxed);
                    let misses = state.misses;
                    state.missed += u64::from(misses);
                    self.decide(site, &mut state, Event::MissWindow { misses }, now);
                }
            }
            // A thread that is late: the site is counted no more.
            _ => site.postpone(NEVER),
        }
    }

    /// The recording stub has filled another part of its ring.
    fn window_ended(&mut self, site: &Site, state: &mut State, now: u64) {
        let Some(ring) = state.ring else { return };
        let within = site.counters().cursor.load(Relaxed) & ((1 << RING_BITS) - 1);
        // A cursor at the start has gone round once.
        let recorded = if within == 0 { 1 << (RING_BITS - 3) } else { within as usize / 8 };
        if recorded < state.window as usize {
            return;
        }
        let trace = Trace::live(ring.records(recorded.min(WINDOW_MAX)));
        let before = state.tree.as_ref().map(|tree| (tree.targets.clone(), tree.chain));
        let current = before.as_ref().map(|(targets, chain)| Current { targets, chain: *chain });
        self.decide(site, state, Event::WindowFull { trace, current }, now);
    }

    /// Asks the policy and does what it says; when that fails, tells it so and does what it says then.
    fn decide(&mut self, site: &Site, state: &mut State, event: Event<'_>, now: u64) {
        let memory = site.shared().space.memory();
        let (start, end) = (memory.address(0), memory.address(memory.len()));
        // All programs of a runtime are here; anything else is a stale record.
        let reach = |target: u64| (start..end).contains(&target);
        let action = self.policy.on(&mut state.policy, event, now, &reach);
        if let Err(reason) = self.act(site, state, action) {
            let action = self.policy.refused(&mut state.policy, reason, now);
            // What follows a refusal needs no room.
            let _ = self.act(site, state, action);
        }
    }

    fn act(&mut self, site: &Site, state: &mut State, action: Action) -> Result<(), Reason> {
        match action {
            Action::None => {}
            Action::CountCold { calls } => {
                site.count_misses(state, calls);
                site.stop_recording(state, self);
                site.lead_to_counting();
            }
            Action::Learn { window } => {
                let ring = self.rings.lend().ok_or(Reason::BudgetSpent)?;
                state.window = window;
                site.lead_to_recording(state, ring);
            }
            Action::ContinueLearning { window } => state.window = window,
            Action::Promote(start) => {
                site.build(state, self.policy.plan())?;
                site.stop_recording(state, self);
                site.lead_to_tree(state, start);
            }
            Action::Resume(start) => {
                site.stop_recording(state, self);
                site.lead_to_tree(state, start);
            }
            Action::Retpoline(_) => {
                site.stop_recording(state, self);
                site.lead_to_retpoline(state);
            }
            Action::CountMisses { window } => site.count_misses(state, window),
            Action::CountExits { window } => {
                state.exits = window;
                site.counters().exits.store(window, Relaxed);
            }
            Action::CountSettle { calls } => site.counters().settle.store(calls, Relaxed),
            // A gate in the program's own code is as direct as it gets.
            Action::Link | Action::StopCounting => site.lead_to_head(state),
        }
        Ok(())
    }

    /// Gives a site that was left alone another chance when its time has come. Who was looked at is returned, to be
    /// dropped without the lock.
    fn look_around(&mut self, now: u64) -> Vec<Arc<Site>> {
        let mut seen = Vec::new();
        for _ in 0..DUE_STEPS.min(self.sites.len()) {
            self.next_due = (self.next_due + 1) % self.sites.len();
            let Some(site) = self.sites[self.next_due].upgrade() else { continue };
            let mut state = site.state();
            let due = state.policy.is_due(now);
            if due {
                self.decide(&site, &mut state, Event::Due, now);
            }
            drop(state);
            seen.push(site);
            if due {
                break;
            }
        }
        seen
    }
}

// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The tick: from counters and windows to decisions, from decisions to pokes.

use relpoline_core::policy::{Action, Config, Costs, Current, Event, Phase, Policy, Reason, SiteState};
use relpoline_core::trace::Trace;

use crate::layout::{COLD_STUB, RECORDER, SITES, TARGETS, recorder};
use crate::machine::{Machine, Poke};
use crate::price::{self, Price};
use crate::report::Totals;
use crate::site::{Counts, NONE, Site};
use crate::slots::Slots;
use crate::table::Table;
use crate::trees::Trees;
use crate::windows::Windows;

/// Changes handed to the kernel at once: as many as its own batch holds.
const BATCH: usize = 256;
/// Between two looks at sites (ms), while something happens. A look that finds nothing to do doubles it.
const LOOK_MS: u64 = 20;
const LOOK_CALM_MS: u64 = 640;
/// Most cold sites that a look reads: with many processors a reading is dear.
const COLD_PER_LOOK: usize = 4096;
/// Until the next tick while sites learn (µs).
const TICK_LEARNING: u32 = 2_000;
/// While nothing is enabled and nothing waits: there is no next tick until somebody asks for one. The shim
/// knows it as
/// `NO_END`.
pub const NO_TICK: u32 = u32::MAX;
/// A site that has not filled its window in this time is too rare to be worth its recording stub (ms).
const PATIENCE_MS: u32 = 2_000;

/// What costs what in a kernel, before anything was measured.
pub const COSTS: Costs = Costs { patch: price::FIRST, link: price::FIRST, judge: 6_000, ..Costs::TYPICAL };

/// The knobs in a kernel. Sites are many and most are rare; targets are four at most, so that a tree is one
/// cell.
pub const CONFIG: Config = Config {
    max_targets: TARGETS as u8,
    cold_calls: 128,
    cold_share: 1 << 16,
    // A rare site stays: each change of text interrupts all processors.
    cold_patience: u32::MAX,
    window_max: crate::windows::LENGTH as u32,
    trials: false,
    retry_ms: 100,
    max_retry_backoff: 9,
    patch_burst: 4_000,
    patch_interval_us: 1_000,
    ..Config::DEFAULT
};

/// Where the parts of the module's text are, and where the kernel's thunks.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Places {
    /// The counting stubs.
    pub cold: u64,
    /// The recording stubs.
    pub recorders: u64,
    /// The tree slots.
    pub trees: u64,
    /// The thunks by register number.
    pub thunks: [u64; 16],
}

/// What a tick wants to ask the policy.
#[derive(Clone, Copy)]
enum Question {
    Cold(u32),
    Window,
    Misses(u32),
    Due,
}

/// The engine. Everything in it is used under one lock.
#[derive(Debug)]
pub struct Engine<M: 'static> {
    pub(crate) machine: M,
    pub(crate) policy: Policy,
    pub(crate) places: Places,
    /// By number. A number is used again after its module has gone.
    pub(crate) sites: Table<Site>,
    pub(crate) numbers: Slots<SITES>,
    pub(crate) trees: Trees,
    pub(crate) windows: Windows,
    pub(crate) enabled: bool,
    pub(crate) counting: bool,
    /// See [`PATIENCE_MS`].
    pub(crate) patience_ms: u32,
    /// Whether some site waits for its change.
    pending: bool,
    /// What a change has cost of late.
    pub(crate) price: Price,
    next_look: u64,
    /// Until the look after that (ms).
    look_ms: u64,
    /// The site at which the next look begins to read those that are cold.
    next_cold: usize,
    /// Questions that the policy was asked.
    asked: u64,
    pub(crate) totals: Totals,
}

impl<M: Machine> Engine<M> {
    /// Without sites and memory. To be given both before it is used.
    #[must_use]
    pub const fn new(machine: M) -> Engine<M> {
        let mut policy = Policy::new();
        policy.config = CONFIG;
        policy.costs = COSTS;
        Engine {
            machine,
            policy,
            places: Places { cold: 0, recorders: 0, trees: 0, thunks: [0; 16] },
            sites: Table::new(&mut []),
            numbers: Slots::new(),
            trees: Trees::new(),
            windows: Windows::new(),
            enabled: false,
            counting: false,
            patience_ms: PATIENCE_MS,
            pending: false,
            price: Price::new(),
            next_look: 0,
            look_ms: LOOK_MS,
            next_cold: 0,
            asked: 0,
            totals: Totals::NONE,
        }
    }

    /// Gives it its places, its memory, and the rate of its clock.
    pub fn furnish(&mut self, places: Places, sites: Table<Site>, windows: &'static mut [u64], cycles_per_ms: u32) {
        self.places = places;
        self.trees.locate(places.trees);
        self.sites = sites;
        self.windows.furnish(windows);
        self.policy.costs.cycles_per_ms = cycles_per_ms;
        let now = self.machine.now();
        self.policy.budget.start(now, &self.policy.config);
    }

    /// The knobs and the budget.
    pub fn policy_mut(&mut self) -> &mut Policy {
        &mut self.policy
    }

    /// The kernel.
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// The sites by number; those that are gone are among them.
    #[must_use]
    pub fn sites(&self) -> &Table<Site> {
        &self.sites
    }

    /// The trees.
    #[must_use]
    pub fn trees(&self) -> &Trees {
        &self.trees
    }

    /// Whether sites are promoted.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Looks at what has happened and does what follows. Returns when to come again (µs), or [`NO_TICK`].
    pub fn tick(&mut self) -> u32 {
        let now = self.machine.now();
        self.totals.ticks += 1;
        self.drain();
        if self.enabled {
            self.judge_windows(now);
            if now >= self.next_look {
                let is_calm = !self.look(now) && self.windows.is_idle();
                self.look_ms = if is_calm { LOOK_CALM_MS.min(2 * self.look_ms) } else { LOOK_MS };
                self.next_look = now.saturating_add(self.cycles(self.look_ms));
            }
        }
        self.poke();
        match (self.enabled, self.pending) {
            (true, _) if !self.windows.is_idle() => TICK_LEARNING,
            (true, _) => 1_000 * self.look_ms as u32,
            // Somebody else has a branch that shall be put back.
            (false, true) => 1_000 * LOOK_CALM_MS as u32,
            (false, false) => NO_TICK,
        }
    }

    fn cycles(&self, ms: u64) -> u64 {
        ms * u64::from(self.policy.costs.cycles_per_ms)
    }

    /// Promotes from now on: every site begins cold.
    pub fn enable(&mut self) {
        if !self.enabled {
            self.enabled = true;
            for id in 0..self.sites.len() {
                self.begin(id);
            }
            self.poke();
        }
    }

    /// Lets every site lead to its thunk again. True once all of them do: a site that a kprobe has must wait.
    pub fn disable(&mut self) -> bool {
        self.enabled = false;
        for id in 0..self.sites.len() {
            self.forget(id);
            self.lead(id, |site| site.thunk);
        }
        self.poke();
        self.sites.iter().all(|site| !site.is_pending())
    }

    /// Makes every site that is not barred begin anew.
    pub fn relearn(&mut self) {
        for id in 0..self.sites.len() {
            if self.enabled && self.sites.get(id).is_some_and(|site| !site.is_pending()) {
                self.begin(id);
            }
        }
        self.poke();
    }

    /// Site `id` begins cold. Its counting stub must stand.
    pub(crate) fn begin(&mut self, id: usize) {
        self.forget(id);
        let calls = self.policy.config.cold_calls;
        self.count_cold(id, calls);
    }

    /// Takes tree and recording stub from site `id` and forgets what the policy knew. Its branch stays.
    pub(crate) fn forget(&mut self, id: usize) {
        self.stop_recording(id);
        self.abandon_tree(id);
        if let Some(site) = self.sites.get_mut(id)
            && !site.is_barred()
        {
            site.state = SiteState::new();
        }
    }

    /// Says where site `id` shall lead.
    fn lead(&mut self, id: usize, to: impl FnOnce(&Site) -> u64) {
        let Some(site) = self.sites.get_mut(id) else { return };
        if !site.gone && !site.is_barred() {
            site.want = to(site);
            self.pending |= site.to != site.want;
        }
    }

    fn cold_stub(&self, id: usize) -> u64 {
        self.places.cold + id as u64 * COLD_STUB
    }

    fn count_cold(&mut self, id: usize, calls: u32) {
        let (stub, reading) = (self.cold_stub(id), self.machine.cold_calls(id));
        if let Some(site) = self.sites.get_mut(id) {
            (site.awaited, site.reading) = (calls, reading);
        }
        self.lead(id, |_| stub);
    }

    /// Distributes what processors have recorded over the windows of the sites that learn.
    fn drain(&mut self) {
        let Engine { machine, windows, totals, .. } = self;
        let lost = machine.drain(&mut |cpu, record| {
            totals.records += 1;
            windows.add(record, cpu);
        });
        totals.lost += u64::from(lost);
    }

    fn judge_windows(&mut self, now: u64) {
        let mut from = 0;
        while let Some((recorder, id)) = self.windows.full(from) {
            from = recorder + 1;
            self.totals.windows += 1;
            self.ask(id as usize, Question::Window, now);
        }
    }

    /// Looks at sites' counters. Whether there was something to decide.
    fn look(&mut self, now: u64) -> bool {
        let asked = self.asked;
        let (len, from) = (self.sites.len(), self.next_cold);
        let mut cold = 0;
        // From where the look before ended, so that each cold site has its turn.
        for id in (from..len).chain(0..from.min(len)) {
            let Some(site) = self.sites.get(id) else { continue };
            if site.gone || site.is_pending() {
                continue;
            }
            if site.state.phase() == Phase::Cold {
                cold += 1;
                if cold > COLD_PER_LOOK {
                    continue;
                }
                self.next_cold = id + 1;
            }
            match site.state.phase() {
                Phase::Cold => {
                    let calls = self.machine.cold_calls(id).wrapping_sub(site.reading);
                    if calls >= site.awaited {
                        self.ask(id, Question::Cold(calls), now);
                    }
                }
                Phase::Learning => self.evict(id, now),
                Phase::Promoted | Phase::Linked => {
                    let misses = self.machine.misses(usize::from(site.tree)).wrapping_sub(site.reading);
                    if misses >= site.awaited {
                        self.ask(id, Question::Misses(misses), now);
                    } else if site.state.is_due(now) {
                        self.ask(id, Question::Due, now);
                    }
                }
                Phase::Retpolined if site.state.is_due(now) => self.ask(id, Question::Due, now),
                _ => {}
            }
        }
        self.asked != asked
    }

    /// Ends a learning that does not come to an end.
    fn evict(&mut self, id: usize, now: u64) {
        let patience = self.cycles(u64::from(self.patience_ms));
        let Some(site) = self.sites.get(id) else { return };
        if now.saturating_sub(site.learns_since) > patience {
            self.totals.evicted += 1;
            self.refused(id, Reason::Cold, now);
        }
    }

    /// Asks the policy and does what it says.
    fn ask(&mut self, id: usize, question: Question, now: u64) {
        self.asked += 1;
        let Engine { machine, policy, sites, trees, windows, .. } = self;
        let Some(site) = sites.get_mut(id) else { return };
        let event = match question {
            Question::Cold(calls) => {
                // The more sites there are, the longer ago it was looked at: what was called since then is
                // what counts.
                site.state.counted(calls);
                Event::ColdExpired
            }
            Question::Due => Event::Due,
            Question::Misses(misses) => Event::MissWindow { misses },
            Question::Window => {
                let tree = trees.get(site.tree);
                let current = tree.map(|tree| Current { targets: tree.targets(), chain: TARGETS });
                Event::WindowFull { trace: Trace::new(windows.records(site.recorder)), current }
            }
        };
        let action = policy.on(&mut site.state, event, now, &|target| machine.is_entry(target));
        if let Err(reason) = self.act(id, action, now) {
            self.refused(id, reason, now);
        }
    }

    /// Tells the policy that something could not be done, and does what it says then.
    fn refused(&mut self, id: usize, reason: Reason, now: u64) {
        let Some(site) = self.sites.get_mut(id) else { return };
        let action = self.policy.refused(&mut site.state, reason, now);
        // What is said now needs neither a slot nor a stub.
        let _ = self.act(id, action, now);
    }

    fn act(&mut self, id: usize, action: Action, now: u64) -> Result<(), Reason> {
        match action {
            Action::CountCold { calls } => self.count_cold(id, calls),
            Action::Learn { window } => self.learn(id, window, now)?,
            Action::ContinueLearning { window } => {
                if let Some(site) = self.sites.get(id) {
                    self.windows.lengthen(site.recorder, window);
                }
            }
            Action::Promote(start) => {
                self.build(id)?;
                self.lead_to_tree(id, start.misses);
            }
            Action::Resume(start) => self.lead_to_tree(id, start.misses),
            Action::Retpoline(_) => {
                self.stop_recording(id);
                self.totals.demotions += u64::from(self.abandon_tree(id));
                let stub = self.cold_stub(id);
                let counting = self.counting;
                self.lead(id, |site| if counting { stub } else { site.thunk });
            }
            Action::CountMisses { window } => self.count_misses(id, window),
            // A site is always linked here, and no tree has a part behind its chain.
            Action::None
            | Action::CountExits { .. }
            | Action::CountSettle { .. }
            | Action::StopCounting
            | Action::Link => {}
        }
        Ok(())
    }

    fn learn(&mut self, id: usize, window: u32, now: u64) -> Result<(), Reason> {
        let Some(&Site { reg, tree, .. }) = self.sites.get(id) else { return Ok(()) };
        let n = self.windows.open(reg.number(), id as u32, window).ok_or(Reason::BudgetSpent)?;
        let stub = self.places.recorders + recorder(reg.number(), n) as u64 * RECORDER;
        let Some(site) = self.sites.get_mut(id) else { return Ok(()) };
        site.recorder = recorder(reg.number(), n) as u16;
        site.learns_since = now;
        site.relearned += u32::from(tree != NONE);
        self.totals.relearned += u64::from(tree != NONE);
        self.lead(id, |_| stub);
        Ok(())
    }

    /// Ends what site `id` records.
    fn stop_recording(&mut self, id: usize) {
        let counting = self.counting;
        if let Some(site) = self.sites.get_mut(id)
            && site.recorder != NONE
        {
            let seen = self.windows.close(site.recorder);
            site.counts.plain += if counting { u64::from(seen) } else { 0 };
            site.recorder = NONE;
        }
    }

    /// Builds the tree that the policy has planned, or finds that it stands already.
    fn build(&mut self, id: usize) -> Result<(), Reason> {
        let Some(&Site { reg, thunk, tree: standing, .. }) = self.sites.get(id) else { return Ok(()) };
        let targets = self.policy.plan().targets();
        let hottest = targets.first().map_or(0, |target| target.address);
        let fingerprint = Trees::fingerprint(reg, targets);
        let stands = self.trees.get(standing).is_some_and(|tree| tree.fingerprint == fingerprint);
        if !stands {
            let tree = self.trees.build(&mut self.machine, reg, thunk, targets).ok_or(Reason::ArenaFull)?;
            let before = self.trees.get(standing).and_then(|tree| tree.targets().first()).map(|t| t.address);
            self.abandon_tree(id);
            if let Some(site) = self.sites.get_mut(id) {
                site.tree = tree;
                site.before = before.filter(|&b| b != hottest).unwrap_or(site.before);
            }
        }
        if let Some(site) = self.sites.get_mut(id) {
            site.promotions += 1;
            self.totals.promotions += 1;
        }
        Ok(())
    }

    fn lead_to_tree(&mut self, id: usize, misses: u32) {
        self.stop_recording(id);
        self.count_misses(id, misses);
        let counting = self.counting;
        let Some(&Site { tree, .. }) = self.sites.get(id) else { return };
        if tree != NONE {
            let entry = self.trees.entry(tree, counting);
            self.lead(id, |_| entry);
        }
    }

    fn count_misses(&mut self, id: usize, window: u32) {
        if let Some(site) = self.sites.get_mut(id) {
            site.reading = self.machine.misses(usize::from(site.tree));
            site.awaited = window;
        }
    }

    /// Site `id` has no tree any more; whether it had one. The slot is left once nothing leads there.
    fn abandon_tree(&mut self, id: usize) -> bool {
        self.add_up(id);
        let Some(site) = self.sites.get_mut(id) else { return false };
        let tree = core::mem::replace(&mut site.tree, NONE);
        if tree == NONE {
            return false;
        }
        let leads_there = [false, true].into_iter().any(|counting| site.to == self.trees.entry(tree, counting));
        if leads_there && !site.gone {
            site.old_tree = tree;
        } else {
            self.trees.slots.leave(usize::from(tree));
        }
        true
    }

    /// Makes the changes that wait, in batches.
    pub(crate) fn poke(&mut self) {
        if !self.pending {
            return;
        }
        self.pending = false;
        let mut batch = [Poke::default(); BATCH];
        let mut from = 0;
        while let Some(count) = self.gather(&mut batch, &mut from) {
            let Some(batch) = batch.get_mut(..count) else { break };
            let began = self.machine.now();
            self.machine.poke(batch);
            let took = self.machine.now().saturating_sub(began);
            let made = batch.iter().filter(|poke| poke.done).count();
            self.pay(took, made as u64);
            for poke in batch {
                self.landed(poke);
            }
        }
    }

    /// A batch of `made` changes took so many cycles: so dear are those that come.
    fn pay(&mut self, cycles: u64, made: u64) {
        self.price = self.price.measured(cycles, made);
        (self.policy.costs.patch, self.policy.costs.link) = (self.price.cycles(), self.price.cycles());
    }

    /// The next changes that wait, from site `from` on; `None` when there are no more.
    fn gather(&self, batch: &mut [Poke; BATCH], from: &mut usize) -> Option<usize> {
        let mut count = 0;
        while count < BATCH
            && let Some(site) = self.sites.get(*from)
        {
            if site.is_pending()
                && let Some(poke) = batch.get_mut(count)
            {
                let (old, new) = (site.bytes(site.to), site.bytes(site.want));
                let start = site.address - u64::from(site.is_padded);
                *poke = Poke { at: site.address, start, old, new, done: false, site: *from as u32 };
                count += 1;
            }
            *from += 1;
        }
        (count > 0).then_some(count)
    }

    fn landed(&mut self, poke: &Poke) {
        let Some(site) = self.sites.get_mut(poke.site as usize) else { return };
        if !poke.done {
            // Somebody else has the instruction: again at the next tick.
            self.totals.postponed += 1;
            self.pending = true;
            return;
        }
        self.totals.pokes += 1;
        site.to = site.want;
        let old = core::mem::replace(&mut site.old_tree, NONE);
        if old != NONE {
            self.trees.slots.leave(usize::from(old));
        }
    }

    /// Whether slots wait for a grace period.
    #[must_use]
    pub const fn wants_grace(&self) -> bool {
        self.trees.slots.leaving() > 0 || self.numbers.leaving() > 0
    }

    /// A grace period begins: what nothing leads to now is free at its end.
    pub fn grace_begins(&mut self) {
        self.trees.slots.grace_begins();
        self.numbers.grace_begins();
    }

    /// The grace period has ended.
    pub fn grace_ended(&mut self) {
        self.totals.graces += 1;
        self.trees.slots.grace_ended();
        self.numbers.grace_ended();
    }

    /// Counts every call from now on, or stops it. Counting costs a few instructions per call.
    pub fn count(&mut self, on: bool) {
        self.counting = on;
        for id in 0..self.sites.len() {
            self.restart_counts(id);
            let (stub, Some(&site)) = (self.cold_stub(id), self.sites.get(id)) else { continue };
            if site.is_pending() {
                continue;
            }
            match site.state.phase() {
                Phase::Promoted | Phase::Linked => {
                    let entry = self.trees.entry(site.tree, on);
                    self.lead(id, |_| entry);
                }
                Phase::Retpolined if self.enabled => self.lead(id, |site| if on { stub } else { site.thunk }),
                _ => {}
            }
        }
        self.totals.lost_before = self.totals.lost;
        self.poke();
    }

    fn restart_counts(&mut self, id: usize) {
        self.add_up(id);
        if let Some(site) = self.sites.get_mut(id) {
            site.counts = Counts::default();
        }
    }

    /// Brings the counts of site `id` up to date.
    pub(crate) fn add_up(&mut self, id: usize) {
        let Some(site) = self.sites.get_mut(id) else { return };
        let cold = self.machine.cold_calls(id);
        let plain = cold.wrapping_sub(core::mem::replace(&mut site.cold_reading, cold));
        let (mut calls, mut misses) = (0, 0);
        if let Some(tree) = self.trees.get_mut(site.tree) {
            let (c, m) = (self.machine.calls(usize::from(site.tree)), self.machine.misses(usize::from(site.tree)));
            calls = c.wrapping_sub(core::mem::replace(&mut tree.calls, c));
            misses = m.wrapping_sub(core::mem::replace(&mut tree.misses, m));
        }
        if self.counting {
            site.counts.plain += u64::from(plain);
            site.counts.calls += calls;
            // A call that is under way may have missed before it is seen to have been counted.
            site.counts.misses += u64::from(misses);
        }
    }
}

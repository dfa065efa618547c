//! The slow path: what happens when a countdown or a recording window of a site ends.
//!
//! It runs on the program's own thread, between a caller and its callee, perhaps in a signal handler on a
//! small stack. It takes the lock or goes on without; it never waits, allocates, or needs a system call.

use crate::calibrate;
use crate::crowd::Found;
use crate::engine::switch;
use crate::fork;
use crate::head;
use crate::hold;
use crate::report;
use crate::sandbox;
use crate::site::{NO_RING, NONE, Site, Tree};
use crate::state::{Engine, Frozen, engine};
use core::sync::atomic::{Ordering, compiler_fence};
use relpoline_core::policy::{Action, Current, Event, Phase, Reason, SiteState};
use relpoline_core::trace::{ONE, Trace, WINDOW_MAX};
use relpoline_core::tree::{self, CELL, Target, TreeSpec};
use relpoline_text::arena::{Arena, Counters};
use relpoline_text::cells::Cell;
use relpoline_text::frames::Shape;
use relpoline_text::stub::{self, Recording};
use relpoline_text::sync::{self, AtomicU32};

use core::mem::offset_of;
use relpoline_learn::countdown::{self, is_over, never, running};
use relpoline_text::broken;

pub use relpoline_learn::countdown::LATER;

/// Retpolined sites that one slow path looks at.
const DUE_STEPS: u32 = 16;

/// The site that is being judged. The next holder of the lock finds it set when the last one never came to an
/// end: a `siglongjmp` took it out of the middle, it was a vfork child that got killed, or another thread of
/// the process that this one was forked from.
static BUSY: AtomicU32 = AtomicU32::new(NONE);

/// What generated code calls.
///
/// # Safety
/// To be called by the slow path of an arena only, with the number of a site, or what stands for a [head].
pub unsafe extern "C" fn slow(number: u32, target: u64, top: u64) {
    if !sandbox::may_read_clock() || !fork::settle_epoch() {
        return;
    }
    let now = calibrate::now();
    let Some(_hold) = hold::try_take() else {
        // SAFETY: the table of sites never moves, and only atomics of one site are touched.
        unsafe { postpone(number, LATER) };
        return;
    };
    // SAFETY: the lock is held.
    let engine = unsafe { engine() };
    // The broken variant that the model must catch: nobody looks whether promotion is off.
    let enabled = engine.enabled || broken!("judges-while-off");
    if engine.frozen != Frozen::No || !enabled || (engine.inherited && !fork::become_own(engine)) {
        let later = match engine.frozen {
            Frozen::No if engine.enabled && engine.inherited => fork::STEP,
            Frozen::No if engine.enabled => LATER,
            _ => never(),
        };
        // SAFETY: as above.
        unsafe { postpone(number, later) };
        return;
    }
    engine.recover();
    match head::told(number) {
        Some(head) => engine.head_missed(head, top, now),
        None => engine.while_busy(number, |engine| engine.judge(number, target, now)),
    }
    engine.look_around(now);
    engine.spent(calibrate::now().wrapping_sub(now));
}

/// Restarts a site's or a head's countdowns without judging.
///
/// # Safety
/// `number` must be what the slow path was told.
unsafe fn postpone(number: u32, calls: u32) {
    // SAFETY: sites and heads are only appended; the fields read here do not change after that.
    let engine = unsafe { engine() };
    let counters = match head::told(number) {
        Some(head) => engine.counters_of_head(head),
        None => engine.sites.as_slice().get(number as usize).map(Site::counters),
    };
    if let Some(counters) = counters {
        countdown::postpone(counters, calls);
    }
}

impl Engine {
    /// Does to a site what must not be left half-done.
    pub fn while_busy(&mut self, id: u32, work: impl FnOnce(&mut Engine)) {
        BUSY.store(id, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        sync::begins(id);
        work(self);
        sync::ends();
        BUSY.store(NONE, Ordering::Release);
    }

    /// Does what the last holder of the lock left half-done: lets its site begin anew, switches all sites.
    #[inline(never)]
    pub fn recover(&mut self) {
        // The broken variant that the tests must catch: nobody looks.
        if broken!("left-half-done") {
            return;
        }
        self.recover_site(BUSY.load(Ordering::Relaxed));
        if self.half_switched {
            switch(self, self.enabled);
        }
    }

    fn recover_site(&mut self, id: u32) {
        if id as usize >= self.sites.len() {
            return;
        }
        self.rings.recount(self.sites.as_slice().iter().map(|site| site.ring));
        self.mend(id);
        BUSY.store(NONE, Ordering::Release);
    }

    /// Lets a site begin anew whatever was done to it.
    #[inline(never)]
    fn mend(&mut self, id: u32) {
        if self.sites.as_slice().get(id as usize).is_some_and(|site| !site.gone) {
            self.stop_recording(id);
            self.unlink(id);
            if self.enabled {
                self.restart(id);
            } else {
                self.publish_thunk(id);
            }
        }
    }

    /// Whether a site is not what its state says: a thread that stood still in a judgement for longer than
    /// the lock's patience has ended it when another one had judged, and nothing would ever come of the site
    /// again.
    #[inline(never)]
    fn is_astray(&self, site: &Site) -> bool {
        // Whoever wanted to undo its link could not.
        let may_be_linked = site.state.has_tree() || (site.alone && site.state.phase() == Phase::Retpolined);
        let linked_still = site.linked && !site.stuck && self.enabled && !may_be_linked;
        // The broken variants that the tests must catch: nobody compares; or this would mend what was left
        // half-done.
        if broken!("left-astray") {
            return false;
        }
        if broken!("left-half-done") {
            return false;
        }
        linked_still || fork::has_strayed(self, site)
    }

    /// Lets the policy look at whatever ended at site number `id`, by a call to `target`.
    #[inline(never)]
    pub fn judge(&mut self, id: u32, target: u64, now: u64) {
        self.calibrate();
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return };
        if site.gone {
            return;
        }
        if self.mend_if_astray(id) {
            return;
        }
        let counters = site.counters();
        match site.state.phase() {
            Phase::Cold if is_over(&counters.misses) => {
                self.count_misses(id);
                match self.finds_its_place(id, target, now) {
                    Found::Once => self.decide(id, Event::SeenOnce, now),
                    Found::Shared => self.share(id, target, now),
                    Found::Parked if self.park(id, now) => {}
                    Found::Apart | Found::Parked => self.decide(id, Event::ColdExpired, now),
                }
            }
            Phase::Learning => self.window_ended(id, now),
            Phase::Promoted | Phase::Linked => {
                if is_over(&counters.settle) {
                    counters.settle.store(never(), Ordering::Relaxed);
                    self.decide(id, Event::Settled, now);
                }
                if is_over(&counters.exits) {
                    counters.exits.store(never(), Ordering::Relaxed);
                    self.decide(id, Event::ExitWindow { exits: site.exits }, now);
                }
                if is_over(&counters.misses) {
                    self.count_misses(id);
                    counters.misses.store(never(), Ordering::Relaxed);
                    self.decide(id, Event::MissWindow { misses: site.misses }, now);
                }
            }
            // Where everything is counted, a site that is left alone counts on; in a crowd, until that is
            // worth a link.
            Phase::Retpolined if is_over(&counters.misses) => {
                self.count_misses(id);
                counters.misses.store(never(), Ordering::Relaxed);
                if !self.options().count {
                    self.join_the_crowd(id, now);
                }
            }
            _ => {}
        }
        report::site(self, id);
    }

    /// Leads a site of a crowd to the tree of those that call `target`, unlearned.
    #[inline(never)]
    fn share(&mut self, id: u32, target: u64, now: u64) {
        self.decide(id, Event::Known { targets: &[Target { address: target, share: ONE }], chain: 1 }, now);
        self.decide(id, Event::Joined, now);
    }

    /// Measures what calls cost here, once.
    pub fn calibrate(&mut self) {
        if !self.calibrated {
            self.calibrated = true;
            let rate = self.policy.costs.cycles_per_ms;
            self.policy.costs = calibrate::measure();
            self.policy.costs.cycles_per_ms = rate;
        }
    }

    /// Adds a finished countdown of the counting stub to the site's account.
    fn count_misses(&mut self, id: u32) {
        if let Some(site) = self.sites.get_mut(id as usize) {
            let account = if site.state.has_tree() { &mut site.missed } else { &mut site.calls_seen };
            *account += u64::from(site.misses);
        }
    }

    /// Leaves a site to its retpoline. Where calls are counted (`--count`), those of sites that are left
    /// alone are too: a report that knew only what went well would flatter. And in a crowd, until it is known
    /// that a link is worth its price.
    #[inline(never)]
    fn leave_alone(&mut self, id: u32) {
        let is_stuck = self.sites.as_slice().get(id as usize).is_none_or(|site| site.stuck);
        let calls = match (self.options().count, self.is_crowd()) {
            _ if is_stuck => None,
            (true, _) => Some(never()),
            (false, is_crowd) => is_crowd.then_some(head::ALONE_CALLS),
        };
        match (calls, self.sites.get_mut(id as usize)) {
            (Some(calls), Some(site)) => {
                site.misses = calls;
                site.counters().misses.store(calls, Ordering::Relaxed);
                self.publish_counting(id);
            }
            _ => self.publish_thunk(id),
        }
    }

    /// Whether a site that is left alone counts its calls all the same.
    #[must_use]
    pub fn counts_alone(&self, site: &Site) -> bool {
        self.arena(site).is_some_and(|arena| site.gate.target(arena) == Some(site.gate.counting(arena)))
    }

    /// Adds what a site that is left alone has counted since to its account, before its countdown is used for
    /// something else.
    pub fn count_left_alone(&mut self, id: u32) {
        let counts = self.sites.as_slice().get(id as usize).is_some_and(|site| self.counts_alone(site));
        if let Some(site) = self.sites.get_mut(id as usize)
            && counts
            && site.state.phase() == Phase::Retpolined
        {
            let left = site.counters().misses.load(Ordering::Relaxed);
            site.calls_seen += u64::from(site.misses.saturating_sub(left));
            site.misses = left;
        }
    }

    /// The recording stub has filled another part of its ring.
    #[inline(never)]
    fn window_ended(&mut self, id: u32, now: u64) {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return };
        if site.ring == NO_RING {
            return;
        }
        let Some(recorded) = self.rings.recorded(site.ring, site.counters().cursor.load(Ordering::Relaxed)) else {
            return site.counters().cursor.store(self.rings.address(site.ring), Ordering::Relaxed);
        };
        if recorded < site.window as usize {
            return;
        }
        let trace = self.rings.address(site.ring);
        let count = recorded.min(WINDOW_MAX);
        // SAFETY: `count` records of the ring that was lent to this site; others may still be writing them.
        let trace = unsafe { core::slice::from_raw_parts(trace as *const core::sync::atomic::AtomicU64, count) };
        let current = self.current(&site);
        self.decide(id, Event::WindowFull { trace: Trace::live(trace), current }, now);
    }

    /// The tree that a site had before it went back to learning.
    fn current(&self, site: &Site) -> Option<Current<'static>> {
        let tree = self.trees.as_slice().get(site.tree as usize)?;
        let first = tree.first_target as usize;
        let targets = self.targets.as_slice().get(first..first + usize::from(tree.targets))?;
        // SAFETY: the table of targets never moves, and shrinks in no way; the policy reads it before
        // anything is written to it.
        let targets = unsafe { core::slice::from_raw_parts(targets.as_ptr(), targets.len()) };
        Some(Current { targets, chain: usize::from(tree.chain) })
    }

    /// Asks the policy and does what it says; when that fails, tells it so and does what it says then.
    #[inline(never)]
    pub fn decide(&mut self, id: u32, event: Event<'_>, now: u64) {
        let Some(action) = self.ask(id, event, now) else { return };
        if let Err(reason) = self.act(id, action)
            && let Some(action) = self.ask_again(id, reason, now)
        {
            let _ = self.act(id, action);
        }
    }

    /// What the policy makes of an event. Not in [`Engine::decide`]: the stack on which that acts may be
    /// small.
    #[inline(never)]
    fn ask(&mut self, id: u32, event: Event<'_>, now: u64) -> Option<Action> {
        let site = self.sites.as_slice().get(id as usize)?;
        let arena = &self.groups.get(usize::from(site.arena))?.as_ref()?.arena;
        let mut state = site.state;
        self.policy.keeps_flags = site.kind.keeps_flags();
        let action = self.policy.on(&mut state, event, now, &|target| arena.reaches(target));
        self.set_state(id, state);
        Some(action)
    }

    /// What it wants instead of what could not be done.
    #[inline(never)]
    fn ask_again(&mut self, id: u32, reason: Reason, now: u64) -> Option<Action> {
        let mut state = self.sites.as_slice().get(id as usize)?.state;
        let action = self.policy.refused(&mut state, reason, now);
        self.set_state(id, state);
        Some(action)
    }

    /// What the policy remembers of a site.
    fn set_state(&mut self, id: u32, state: SiteState) {
        if let Some(site) = self.sites.get_mut(id as usize) {
            site.state = state;
        }
    }

    /// Does what the policy says.
    ///
    /// # Errors
    /// When it cannot be done: the policy is to be told why.
    #[inline(never)]
    pub fn act(&mut self, id: u32, action: Action) -> Result<(), Reason> {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return Ok(()) };
        let counters = site.counters();
        let Some(site) = self.sites.get_mut(id as usize) else { return Ok(()) };
        match action {
            Action::None => {}
            Action::CountCold { calls } => {
                site.misses = calls;
                counters.misses.store(calls, Ordering::Relaxed);
                self.stop_recording(id);
                self.unlink(id);
                self.publish_counting(id);
            }
            Action::Learn { window } => self.learn(id, window)?,
            Action::ContinueLearning { window } => site.window = window,
            Action::Promote(start) => {
                let tree = self.tree_for_plan(id)?;
                self.stop_recording(id);
                self.publish_tree(id, tree, start);
            }
            Action::Resume(start) => {
                self.stop_recording(id);
                self.publish_tree(id, site_tree(self, id), start);
            }
            Action::Retpoline(_) => {
                self.stop_recording(id);
                self.unlink(id);
                self.leave_alone(id);
            }
            Action::CountMisses { window } => {
                let site = *site;
                if !self.count_misses_of_head(&site, window)
                    && let Some(site) = self.sites.get_mut(id as usize)
                {
                    site.misses = window;
                    counters.misses.store(window, Ordering::Relaxed);
                }
            }
            Action::CountExits { window } => {
                site.exits = window;
                counters.exits.store(window, Ordering::Relaxed);
            }
            Action::CountSettle { calls } => counters.settle.store(calls, Ordering::Relaxed),
            Action::StopCounting => self.publish_head(id),
            Action::Link => self.link(id)?,
        }
        Ok(())
    }

    /// Ends a site's recording and gives its ring back.
    #[inline(never)]
    pub fn stop_recording(&mut self, id: u32) {
        if let Some(site) = self.sites.get_mut(id as usize)
            && site.ring != NO_RING
        {
            let recorded = self.rings.recorded(site.ring, site.counters().cursor.load(Ordering::Relaxed));
            site.calls_seen += recorded.unwrap_or(0) as u64;
            // Before another site gets it: whoever records late shall not do so there.
            site.counters().cursor.store(self.rings.nobodys(), Ordering::Relaxed);
            self.rings.give_back(site.ring);
            site.ring = NO_RING;
        }
    }

    /// Points the site at its recording stub, with a fresh ring.
    #[inline(never)]
    fn learn(&mut self, id: u32, window: u32) -> Result<(), Reason> {
        let Some(&before) = self.sites.as_slice().get(id as usize) else { return Ok(()) };
        if before.recording == NONE {
            let cell = self.build_recording(&before).ok_or(Reason::ArenaFull)?;
            if let Some(site) = self.sites.get_mut(id as usize) {
                site.recording = cell.0;
            }
        }
        let ring = self.rings.lend().ok_or(Reason::BudgetSpent)?;
        before.counters().cursor.store(self.rings.address(ring), Ordering::Relaxed);
        self.unlink(id);
        if !self.can_learn(id) {
            self.rings.give_back(ring);
            return Err(Reason::TextLocked);
        }
        if let Some(site) = self.sites.get_mut(id as usize) {
            let had_tree = site.tree != NONE;
            site.relearned += u32::from(had_tree);
            if had_tree {
                let left = site.counters().misses.load(Ordering::Relaxed);
                site.missed += u64::from(site.misses.saturating_sub(left));
            }
            // Nothing counts them down now, unless a link was not noted.
            site.counters().misses.store(never(), Ordering::Relaxed);
            site.ring = ring;
            site.window = window;
            let (cell, site) = (Cell(site.recording), *site);
            let at = self.arena(&site).map_or(0, |arena| arena.address(cell));
            self.publish(id, at);
        }
        Ok(())
    }

    #[inline(never)]
    fn build_recording(&self, site: &Site) -> Option<Cell> {
        let arena = self.arena(site)?;
        let keeps_flags = site.kind.keeps_flags();
        let cells = stub::recording_cells(keeps_flags);
        let cell = arena.take_run(cells)?;
        let to = Recording {
            reg: site.reg,
            counters: site.counters,
            thunk_at: site.way,
            slow_at: site.gate.slow(arena),
            keeps_flags,
        };
        // SAFETY: the cells were taken just now.
        let buf = unsafe { arena.fresh(cell, cells as usize) };
        stub::emit_recording(buf, arena.address(cell), &to).ok()?;
        if keeps_flags {
            arena.describe(cell, 1, Shape::Keeping, site.frame);
            arena.describe(Cell(cell.0 + 1), 1, Shape::KeepingOn, site.frame);
        } else {
            arena.describe(cell, 1, Shape::Recording, site.frame);
        }
        Some(cell)
    }

    /// The tree for the policy's plan: an equal one from before, or a new one.
    #[inline(never)]
    fn tree_for_plan(&mut self, id: u32) -> Result<u32, Reason> {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return Err(Reason::ArenaFull) };
        let arena = self.groups.get(usize::from(site.arena)).and_then(Option::as_ref).map(|g| &g.arena);
        let arena = arena.ok_or(Reason::ArenaFull)?;
        let plan = self.policy.plan();
        let counter = |offset: usize| site.counters + offset as u64;
        let exits = plan.count_exits().then(|| (counter(offset_of!(Counters, exits)), site.gate.slow(arena)));
        let spec = TreeSpec {
            reg: site.reg,
            targets: plan.targets(),
            chain: plan.chain(),
            miss: if site.stuck { site.gate.counting(arena) } else { site.gate.miss_address(arena) },
            hits_counter: self.options().count.then(|| counter(offset_of!(Counters, calls))),
            exits,
            keeps_flags: site.kind.keeps_flags(),
        };
        let fingerprint = tree::fingerprint(&spec) ^ u64::from(exits.is_some()) ^ (u64::from(site.stuck) << 1);
        if let Some(found) = self.find_tree(&site, fingerprint) {
            self.remember_shares(found);
            return Ok(found);
        }
        if self.is_spent(&site) {
            return self.board_for_plan(id);
        }
        // Built from a copy that nobody changes. The plan is everybody's: should this thread stand still here
        // until its lock is broken, another one's plan must not get between a compare and its jump.
        let first = self.targets.extend(spec.targets).ok_or(Reason::ArenaFull)?;
        let copy = self.targets.as_slice().get(first..first + spec.targets.len()).unwrap_or_default();
        let spec = TreeSpec { targets: copy, ..spec };
        let head = self.head_cell(arena, &site).ok_or(Reason::ArenaFull)?;
        // The broken variant that the model must catch: the gate leads to a tree that is not there yet.
        if broken!("published-unfinished") {
            site.gate.point_to(arena, arena.address(head));
        }
        // Not the copy, which would have to lie on a stack that may be small.
        let place = self.sites.as_slice().get(id as usize).ok_or(Reason::ArenaFull)?;
        let settling = build_tree(arena, place, &spec, head)?;
        let tree = Tree {
            fingerprint,
            head,
            settling,
            older: site.newest_tree,
            first_target: first as u32,
            targets: spec.targets.len() as u16,
            chain: spec.chain as u16,
            linked: NONE,
            linked_body: NONE,
            counts_exits: spec.exits.is_some(),
            by_miss_gate: !site.stuck,
            is_board: false,
        };
        let index = self.trees.push(tree).ok_or(Reason::ArenaFull)? as u32;
        if let Some(site) = self.sites.get_mut(id as usize) {
            site.newest_tree = index;
            site.built = site.built.saturating_add(1);
        }
        Ok(index)
    }

    /// A cell for the head of a tree. When the site is linked it gets another one, in the column of its gate:
    /// few trees live so long.
    fn head_cell(&self, arena: &Arena, site: &Site) -> Option<Cell> {
        // The broken variant that the tests must catch: the site's last tree is written over.
        if broken!("tree-in-place")
            && let Some(tree) = self.trees.as_slice().get(site.newest_tree as usize)
        {
            return Some(tree.head);
        }
        arena.take_run(1)
    }

    fn find_tree(&self, site: &Site, fingerprint: u64) -> Option<u32> {
        let mut at = site.newest_tree;
        while let Some(tree) = self.trees.as_slice().get(at as usize) {
            if tree.fingerprint == fingerprint {
                return Some(at);
            }
            at = tree.older;
        }
        None
    }

    /// The shares of an equal tree are those of the plan that found it.
    fn remember_shares(&mut self, tree: u32) {
        let Some(tree) = self.trees.as_slice().get(tree as usize) else { return };
        let first = tree.first_target as usize;
        let wanted = self.policy.plan().targets();
        if let Some(old) = self.targets.as_mut_slice().get_mut(first..first + usize::from(tree.targets))
            && old.len() == wanted.len()
        {
            old.copy_from_slice(wanted);
        }
    }

    /// Lets the site go to `to`: by its gate, or, when a link cannot be undone, by its miss gate.
    #[inline(never)]
    fn publish(&mut self, id: u32, to: u64) {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return };
        self.lead(id, &site, to);
    }

    /// Likewise, to a cell of a tree.
    fn publish_part(&mut self, id: u32, tree: &Tree, part: Cell) {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return };
        let Some(arena) = self.arena(&site) else { return };
        // A tree that leaves by the miss gate would, behind it, go round and round. The site is stuck with
        // that tree, or with one like it: what is missed there is counted.
        let round = broken!("behind-itself");
        let to =
            if site.stuck && tree.by_miss_gate && !round { site.gate.counting(arena) } else { arena.address(part) };
        self.lead(id, &site, to);
    }

    /// Whether `site` is stuck must be what it was when `to` was chosen: another thread may be here if the
    /// lock was broken.
    fn lead(&mut self, id: u32, site: &Site, to: u64) {
        let gate = if site.stuck { self.misses_by(id, site) } else { None };
        if let Some(arena) = self.arena(site) {
            if !site.stuck {
                site.gate.point_to(arena, to);
            } else if let Some(gate) = gate {
                gate.point_misses_to(arena, to);
            }
        }
        if let Some(site) = self.sites.get_mut(id as usize) {
            site.patches += 1;
        }
        self.count_patch();
    }

    /// Lets the site count its calls down.
    pub fn publish_counting(&mut self, id: u32) {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return };
        let at = self.arena(&site).map(|arena| site.gate.counting(arena));
        if let Some(at) = at {
            self.publish(id, at);
        }
    }

    /// Leaves the site to its thunk.
    #[inline(never)]
    pub fn publish_thunk(&mut self, id: u32) {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return };
        if site.stuck {
            self.publish(id, site.way);
            return;
        }
        let Some(arena) = self.arena(&site) else { return };
        site.gate.point_to_thunk(arena, &site.thunk);
        self.count_patch();
        if let Some(site) = self.sites.get_mut(id as usize) {
            site.patches += 1;
        }
    }

    #[inline(never)]
    fn publish_tree(&mut self, id: u32, tree: u32, start: relpoline_core::policy::Counters) {
        let Some(&built) = self.trees.as_slice().get(tree as usize) else { return };
        // The broken variant that the tests must catch: misses are counted for ever, whoever they are
        // contended by.
        let counts_all = self.options().count || broken!("misses-contended");
        let Some(site) = self.sites.get_mut(id as usize) else { return };
        let misses = if start.misses == 0 && counts_all { never() } else { start.misses };
        site.tree = tree;
        site.misses = misses;
        site.exits = start.exits;
        let site = *site;
        let counters = site.counters();
        counters.misses.store(running(misses), Ordering::Relaxed);
        counters.exits.store(running(start.exits), Ordering::Relaxed);
        counters.settle.store(running(start.settle), Ordering::Relaxed);
        self.lead_misses(&site, misses != 0);
        let settle = start.settle != 0 && !site.stuck;
        self.publish_part(id, &built, if settle { built.settling } else { built.head });
    }

    /// Lets what the site's own trees miss be counted, or go straight to the thunk. What is behind a tree
    /// that the site is stuck with belongs to learning.
    fn lead_misses(&self, site: &Site, counted: bool) {
        if let Some(arena) = self.arena(site).filter(|_| !site.stuck) {
            site.gate.point_misses_to(arena, if counted { site.gate.counting(arena) } else { site.way });
        }
    }

    /// Lets the gate lead straight to the tree.
    pub fn publish_head(&mut self, id: u32) {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return };
        let Some(&tree) = self.trees.as_slice().get(site.tree as usize) else { return };
        self.publish_part(id, &tree, tree.head);
    }

    /// Counts a change of a gate or of text.
    pub fn count_patch(&mut self) {
        let second = calibrate::now() / (u64::from(self.policy.costs.cycles_per_ms) * 1000).max(1);
        self.rate = if self.rate.0 == second { (second, self.rate.1 + 1) } else { (second, 1) };
        let most = self.rate.1;
        let header = self.share.header();
        header.patches += 1;
        header.patches_per_s_max = header.patches_per_s_max.max(most);
    }

    /// Looks at one site more, and lets it begin anew if it went astray: it may be where nothing counts.
    #[inline(never)]
    fn mend_a_stray(&mut self) {
        let id = self.next_stray % (self.sites.len() as u32).max(1);
        self.next_stray = id + 1;
        self.while_busy(id, |engine| _ = engine.mend_if_astray(id));
    }

    /// Lets a site begin anew if it went astray; whether it did.
    #[inline(never)]
    pub fn mend_if_astray(&mut self, id: u32) -> bool {
        let is_astray = self.sites.as_slice().get(id as usize).is_some_and(|site| self.is_astray(site));
        if is_astray {
            self.mend(id);
        }
        is_astray
    }

    /// Gives retpolined sites whose time has come another chance, and one that went astray.
    #[inline(never)]
    fn look_around(&mut self, now: u64) {
        self.mend_a_stray();
        let count = self.sites.len() as u32;
        for _ in 0..DUE_STEPS.min(count) {
            self.next_due = (self.next_due + 1) % count;
            let id = self.next_due;
            let due = self.sites.as_slice().get(id as usize).is_some_and(|s| !s.gone && s.state.is_due(now));
            if due {
                self.while_busy(id, |engine| {
                    engine.count_left_alone(id);
                    engine.decide(id, Event::Due, now);
                });
                report::site(self, id);
                return;
            }
        }
    }

    fn spent(&mut self, cycles: u64) {
        let header = self.share.header();
        header.learn_cycles += cycles;
        header.judgements += 1;
    }
}

fn site_tree(engine: &Engine, id: u32) -> u32 {
    engine.sites.as_slice().get(id as usize).map_or(NONE, |site| site.tree)
}

/// Builds a tree in fresh cells behind its `head`; the stub that settles it.
#[inline(never)]
fn build_tree(arena: &Arena, site: &Site, spec: &TreeSpec<'_>, head: Cell) -> Result<Cell, Reason> {
    let body_cells = (tree::body_size(spec) / CELL) as u32;
    let rest = arena.take_run(body_cells + 1).ok_or(Reason::ArenaFull)?;
    let (settling, body) = (rest, Cell(rest.0 + 1));
    // SAFETY: all these cells were taken just now.
    let (head_buf, settling_buf, body_buf) =
        unsafe { (arena.fresh(head, 1), arena.fresh(settling, 1), arena.fresh(body, body_cells as usize)) };
    arena.describe(head, 1, Shape::Flat, site.frame);
    arena.describe(settling, body_cells + 1, Shape::Flat, site.frame);
    tree::emit(spec, head_buf, arena.address(head), body_buf, arena.address(body)).map_err(|_| Reason::OutOfRange)?;
    stub::emit_settling(
        settling_buf,
        arena.address(settling),
        site.counters,
        site.gate.slow(arena),
        arena.address(head),
        spec.keeps_flags,
    )
    .map_err(|_| Reason::OutOfRange)?;
    Ok(settling)
}

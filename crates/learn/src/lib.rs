//! The one learner: what happens when a countdown or a recording window of a site ends.
//!
//! ```text
//! generated code ──▶ the caller's slow path: lock, clock ──▶ Learner::attend ──▶ Policy: what now?
//!                                                                 │
//!                    the caller's site: build, lead, link ◀───────┘ do it, or tell the policy that it cannot be
//! ```
//!
//! The engine, the library and eBPF's runtime learn alike, and differ in where a site comes from, where its
//! code lies and what leads there. That is behind [`Site`]. The learner knows no process and no report. It
//! allocates nothing, takes no lock, reads no clock and makes no system call: it runs between a caller and
//! its callee, perhaps in a signal handler on a small stack, so functions are kept apart (`inline(never)`)
//! where one frame for all would be large.
//!
//! | module | what it is for |
//! |---|---|
//! | [`site`] | the seam |
//! | [`memory`] | what is remembered of a site |
//! | [`countdown`] | countdowns, and how long they are |
//! | [`rings`] | where calls are recorded, and how many there are |
//! | [`trees`] | finding an equal tree again, where trees stay for ever |
//! | [`round`] | going round all sites for those that wait for another chance |
//! | [`epoch`] | noticing that this is a forked child |
//!
//! # Threads
//! Who calls the learner holds a lock of the caller's. Generated code goes on meanwhile, on every thread, and
//! some of it is *late*: in a stub that no gate leads to any more, or on its way to the lock since before the
//! last judgement. So:
//!
//! - A thread that arrives says only that something may have ended. What has is read off the counters, under
//!   the lock.
//! - A window that has just begun is empty, whoever arrives ([`rings::Rings::recorded`]).
//! - A cursor leaves its ring before the ring is given back; one that a late thread has put back is noticed.
//! - Every countdown ends ([`countdown::never`]), so a late store costs a site time, and never its future.
//! - Holders of a lock that can be broken may be overtaken. What they leave ([`memory::Memory::is_astray`])
//!   begins anew when anybody looks.
//!
//! `model` lets shuttle try that, with the real learner, counters, rings and policy; `tests/drift.rs` has a
//! case of each.
//!
//! # What an implementor has to do
//! The slow path takes the lock, or calls [`countdown::postpone`] with [`countdown::LATER`] and goes on.
//! Under the lock it calls [`Learner::attend`] with the site, then finds another one that is
//! [due](relpoline_core::policy::SiteState::is_due) or astray by [`round::Round::find`], and calls
//! [`Learner::look_at`]. `crates/bpf/src/learn` is the smallest example; the library's has links, a contest
//! between a tree and the plain jump (`admits`), and children that do not learn.
//!
//! The engine has [`rings`] and [`countdown`] from here, and a `judge` of its own as yet. Its adapter will
//! need what follows.
//! - `Memory` in place of the fields of its `Site` of the same names (`calls_seen` is `seen`); the rest of
//!   that struct, its arena, `Trees`, boards, options and statistics make up the view that implements
//!   [`Site`], so `Engine` is to be split into the learner (policy, rings), the sites, and what views borrow.
//! - `build` is `tree_for_plan`: [`trees::Trees::find`], then a board if the site's trees are spent, else
//!   [`trees::Trees::add`]. `code` of a tree is its cells, `by_miss_gate` and `is_board`. Its `Table` is a
//!   [`trees::List`].
//! - `lead(To::Thunk)` is `leave_alone`, with what `--count` wants; `lead` counts patches.
//! - `unlink` maps `Overtaken` and `NotHere` to [`Unlinked::Later`], `NoMem` and `Refused` to
//!   [`Unlinked::Stuck`], and answers `Stuck` at once where the site is stuck: there nothing is tried again.
//! - `has_strayed`, what is left half-done (`BUSY`), frozen and sleeping engines, and reports stay in the
//!   slow path, around `attend`; so does `count_left_alone` before [`Learner::look_at`].
//! - `recover` gives [`rings::Rings::recount`] the sites' [`memory::Memory::ring`]s; `fork::settle_epoch` is
//!   [`epoch::Epoch`].
//! - Its slow path is measured for the stack that it takes (`tests/tests/frames.rs`): frames of the learner
//!   count there too.

#![no_std]

pub mod countdown;
pub mod epoch;
pub mod memory;
pub mod rings;
pub mod round;
pub mod site;
pub mod trees;

pub use memory::Memory;
pub use site::{Site, To, Unlinked};

use core::sync::atomic::Ordering::Relaxed;
use countdown::{is_over, never, postpone, running};
use relpoline_core::policy::{Action, Counters as Start, Event, Phase, Policy, Reason, SiteState};
use relpoline_core::trace::{Trace, WINDOW_MAX};
use relpoline_text::broken;
use rings::Rings;

/// What all sites share: who decides, and where they record. Rings are 64 × `WORDS`.
#[derive(Debug)]
pub struct Learner<const WORDS: usize> {
    /// Decides.
    pub policy: Policy,
    /// Where sites record.
    pub rings: Rings<WORDS>,
}

impl<const WORDS: usize> Learner<WORDS> {
    /// One without rings, for a static.
    #[must_use]
    pub const fn new() -> Learner<WORDS> {
        Learner { policy: Policy::new(), rings: Rings::none() }
    }

    /// Sets the rate of ticks, which the policy's budget is in: `ticks` took `ms` milliseconds. A short time
    /// says nothing.
    pub fn tell_time(&mut self, ticks: u64, ms: u64) {
        if ms >= 10 {
            self.policy.costs.cycles_per_ms = u32::try_from(ticks / ms).unwrap_or(u32::MAX);
        }
    }

    /// Does what there is to do when something of `site` may have ended.
    #[inline(never)]
    pub fn attend<S: Site>(&mut self, site: &mut S, now: u64) {
        if site.memory().is_astray() {
            return self.begin_anew(site);
        }
        let misses_over = is_over(&site.counters().misses);
        match site.memory().state.phase() {
            Phase::Cold if misses_over => {
                site.memory_mut().count_ended();
                self.decide(site, Event::ColdExpired, now);
            }
            Phase::Learning => self.window_ended(site, now),
            Phase::Promoted | Phase::Linked => self.tree_was_counted(site, misses_over, now),
            // A thread that is late, or a site that is left alone and counts on.
            _ => {
                if misses_over {
                    site.memory_mut().count_ended();
                }
                postpone(site.counters(), never());
            }
        }
    }

    /// Looks at a site that nobody has called: gives it another chance if its time has come. Whether anything
    /// was done.
    pub fn look_at<S: Site>(&mut self, site: &mut S, now: u64) -> bool {
        if site.memory().is_astray() {
            self.begin_anew(site);
        } else if site.memory().state.is_due(now) {
            self.decide(site, Event::Due, now);
        } else {
            return false;
        }
        true
    }

    #[inline(never)]
    fn tree_was_counted<S: Site>(&mut self, site: &mut S, misses_over: bool, now: u64) {
        let (misses, exits) = (site.memory().misses, site.memory().exits);
        if is_over(&site.counters().settle) {
            site.counters().settle.store(never(), Relaxed);
            self.decide(site, Event::Settled, now);
        }
        if is_over(&site.counters().exits) {
            site.counters().exits.store(never(), Relaxed);
            self.decide(site, Event::ExitWindow { exits }, now);
        }
        if misses_over && site.memory().state.has_tree() {
            site.memory_mut().count_ended();
            site.counters().misses.store(never(), Relaxed);
            self.decide(site, Event::MissWindow { misses }, now);
        }
    }

    /// The recording stub may have filled another part of its ring.
    #[inline(never)]
    fn window_ended<S: Site>(&mut self, site: &mut S, now: u64) {
        let Some(ring) = site.memory().ring() else { return };
        let Some(recorded) = self.rings.recorded(ring, site.counters().cursor.load(Relaxed)) else {
            return site.counters().cursor.store(self.rings.address(ring), Relaxed);
        };
        if recorded < site.memory().window as usize {
            return;
        }
        let trace = Trace::live(self.rings.records(ring, recorded.min(WINDOW_MAX)));
        let event = Event::WindowFull { trace, current: site.standing() };
        let (state, action) = consult(&mut self.policy, site, event, now);
        self.apply(site, state, action, now);
    }

    /// Asks the policy and does what it says; when that fails, tells it so and does what it says then.
    #[inline(never)]
    pub fn decide<S: Site>(&mut self, site: &mut S, event: Event<'_>, now: u64) {
        let (state, action) = consult(&mut self.policy, site, event, now);
        self.apply(site, state, action, now);
    }

    fn apply<S: Site>(&mut self, site: &mut S, state: SiteState, action: Action, now: u64) {
        site.memory_mut().state = state;
        if let Err(reason) = self.act(site, action, now) {
            self.refuse(site, reason, now);
        }
    }

    /// Tells the policy that what it wanted is not to be, and does what it says then.
    #[inline(never)]
    pub fn refuse<S: Site>(&mut self, site: &mut S, reason: Reason, now: u64) {
        let mut state = site.memory().state;
        let action = self.policy.refused(&mut state, reason, now);
        site.memory_mut().state = state;
        // What follows a refusal needs no room.
        let _ = self.act(site, action, now);
    }

    #[inline(never)]
    fn act<S: Site>(&mut self, site: &mut S, action: Action, now: u64) -> Result<(), Reason> {
        match action {
            Action::None => {}
            Action::CountCold { calls } => self.count_calls(site, calls),
            Action::Learn { window } => self.learn(site, window)?,
            Action::ContinueLearning { window } => site.memory_mut().window = window,
            Action::Promote(start) => {
                let tree = site.build(self.policy.plan())?;
                self.stop_recording(site);
                if site.admits(&tree, start, now) {
                    self.put_in_place(site, tree, start);
                }
            }
            Action::Resume(start) => {
                self.stop_recording(site);
                lead_to_tree(site, start);
            }
            Action::Retpoline(_) => {
                self.stop_recording(site);
                let _ = unlink(site);
                site.lead(To::Thunk);
            }
            Action::CountMisses { window } => count_misses(site, window),
            Action::CountExits { window } => {
                site.memory_mut().exits = window;
                site.counters().exits.store(window, Relaxed);
            }
            Action::CountSettle { calls } => site.counters().settle.store(calls, Relaxed),
            Action::StopCounting => site.lead(To::Head),
            Action::Link => site.link()?,
        }
        Ok(())
    }

    /// Lets calls be recorded, in a fresh ring.
    #[inline(never)]
    fn learn<S: Site>(&mut self, site: &mut S, window: u32) -> Result<(), Reason> {
        site.prepare_to_record()?;
        let ring = self.rings.lend().ok_or(Reason::BudgetSpent)?;
        if unlink(site) == Unlinked::Later {
            self.rings.give_back(ring);
            return Err(Reason::Promoted);
        }
        site.counters().cursor.store(self.rings.address(ring), Relaxed);
        if site.standing().is_some() {
            count_broken_off(site);
        }
        count_misses(site, 0);
        let memory = site.memory_mut();
        memory.window = window;
        memory.borrow(ring);
        site.lead(To::Recording);
        Ok(())
    }

    /// Ends recording, and takes the ring back.
    #[inline(never)]
    pub fn stop_recording<S: Site>(&mut self, site: &mut S) {
        let Some(ring) = site.memory().ring() else { return };
        let recorded = self.rings.recorded(ring, site.counters().cursor.load(Relaxed)).unwrap_or(0);
        // The broken variant that the tests must catch: whoever records late does so in another site's ring.
        if !broken!("cursor-left") {
            site.counters().cursor.store(self.rings.nobodys(), Relaxed);
        }
        let memory = site.memory_mut();
        memory.seen += recorded as u64;
        if let Some(ring) = memory.take_ring() {
            self.rings.give_back(ring);
        }
    }

    /// Lets a site begin anew, whatever it was doing.
    #[inline(never)]
    pub fn begin_anew<S: Site>(&mut self, site: &mut S) {
        site.memory_mut().state = SiteState::new();
        self.count_calls(site, self.policy.config.cold_calls);
    }

    /// Leaves a site alone for good, or until it begins anew.
    pub fn bar<S: Site>(&mut self, site: &mut S, reason: Reason) {
        self.stop_recording(site);
        let _ = unlink(site);
        site.lead(To::Thunk);
        site.memory_mut().state = SiteState::barred(reason);
    }

    /// Puts a tree in place, with its countdowns.
    pub fn put_in_place<S: Site>(&mut self, site: &mut S, tree: S::Tree, start: Start) {
        site.adopt(tree);
        lead_to_tree(site, start);
    }

    fn count_calls<S: Site>(&mut self, site: &mut S, calls: u32) {
        self.stop_recording(site);
        let _ = unlink(site);
        count_misses(site, calls);
        site.lead(To::Counting);
    }
}

impl<const WORDS: usize> Default for Learner<WORDS> {
    fn default() -> Self {
        Self::new()
    }
}

/// Lets a new site count its `calls`: the first thing that is done to it. It needs no learner, but
/// [`Rings::nobodys`].
pub fn open<S: Site>(site: &mut S, nobodys: u64, calls: u32) {
    let counters = site.counters();
    counters.cursor.store(nobodys, Relaxed);
    counters.exits.store(never(), Relaxed);
    counters.settle.store(never(), Relaxed);
    count_misses(site, calls);
    site.lead(To::Counting);
}

/// What the policy says to `event`, and what it will remember of the site.
#[inline(never)]
fn consult<S: Site>(policy: &mut Policy, site: &S, event: Event<'_>, now: u64) -> (SiteState, Action) {
    policy.keeps_flags = site.keeps_flags();
    let mut state = site.memory().state;
    let action = policy.on(&mut state, event, now, &|target| site.reaches(target));
    (state, action)
}

fn count_misses<S: Site>(site: &mut S, calls: u32) {
    let misses = running(calls);
    site.memory_mut().misses = misses;
    site.counters().misses.store(misses, Relaxed);
}

/// A tree is not counted any more: its site learns again.
fn count_broken_off<S: Site>(site: &mut S) {
    let left = site.counters().misses.load(Relaxed);
    let memory = site.memory_mut();
    memory.relearned += 1;
    memory.missed += u64::from(memory.misses.saturating_sub(left));
}

fn lead_to_tree<S: Site>(site: &mut S, start: Start) {
    count_misses(site, start.misses);
    site.memory_mut().exits = start.exits;
    site.counters().exits.store(running(start.exits), Relaxed);
    site.counters().settle.store(running(start.settle), Relaxed);
    if !site.memory().stuck {
        // The broken variant that the tests must catch: misses are counted for ever.
        site.count_misses(start.misses != 0 || broken!("misses-contended"));
    }
    let settles = start.settle != 0 && !site.memory().stuck;
    site.lead(if settles { To::Settling } else { To::Head });
}

/// Lets a site's text lead to its gate, if it does not.
#[inline(never)]
fn unlink<S: Site>(site: &mut S) -> Unlinked {
    if !site.memory().linked {
        return Unlinked::Done;
    }
    let how = site.unlink();
    let memory = site.memory_mut();
    match how {
        Unlinked::Done => (memory.linked, memory.stuck) = (false, false),
        // The broken variant that the tests must catch: the site is led by its gate, where it does not come
        // by.
        Unlinked::Stuck => memory.stuck = !broken!("refusal-ignored"),
        Unlinked::Later => {}
    }
    how
}

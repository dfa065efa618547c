//! Sites among others: what the policy is told of a crowd, and what is done with those of its sites that have
//! found a place.
//!
//! Each site's first window ends with a call, and where that call goes is noted: in the site, and in a table
//! that says of a target how many sites were seen to call it. The table is small and forgets; it is asked for
//! a hint, and wrong hints cost a link and some misses.

use crate::report;
use crate::sandbox;
use crate::site::{NONE, Site};
use crate::state::Engine;
use core::sync::atomic::Ordering;
use relpoline_core::policy::{Phase, Place, SHARING};
use relpoline_core::trace::ONE;
use relpoline_text::cells::Cell;
use relpoline_text::clock;
use relpoline_text::gate;

/// Targets of which the number of callers is known.
const KNOWN: usize = 2048;
/// Bits of that number, below those of its target.
const COUNT_BITS: u32 = 16;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
/// Cycles between two questions how long the process has run: a fraction of a millisecond.
const ASKED_AFTER: u64 = 1 << 20;
/// Cycles after which half of what was known of it is forgotten: a second or two.
const KNOWN_FOR: u64 = 1 << 32;
/// Sites that are parked at a time.
const TOGETHER: usize = 16;

/// How many sites were seen to call a target.
pub struct Callers([u64; KNOWN]);

impl Callers {
    /// Nobody called anything.
    pub const fn none() -> Callers {
        Callers([0; KNOWN])
    }

    fn place(target: u64) -> usize {
        (target.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize % KNOWN
    }

    /// One more site was seen to call `target`.
    fn note(&mut self, target: u64) {
        let Some(entry) = self.0.get_mut(Callers::place(target)) else { return };
        let (known, count) = (*entry >> COUNT_BITS, *entry & COUNT_MAX);
        // One that many call gives way to others by and by.
        *entry = match count {
            _ if known == target => *entry - count + (count + 1).min(COUNT_MAX),
            2.. => *entry - 1,
            _ => (target << COUNT_BITS) | 1,
        };
    }

    /// How many sites were seen to call `target`: one at least.
    fn of(&self, target: u64) -> u32 {
        let entry = self.0.get(Callers::place(target)).copied().unwrap_or_default();
        if entry >> COUNT_BITS == target { (entry & COUNT_MAX).max(1) as u32 } else { 1 }
    }
}

/// For what part of the time this process was running, lately.
pub struct Running {
    /// Clock reading from which on it is known; 0: not yet.
    since: u64,
    /// What it had used by then, in cycles.
    before: u64,
    /// Clock reading at which it was asked, and the answer, 1/65536 of a processor.
    seen: (u64, u32),
}

impl Running {
    /// Nothing is known.
    pub const fn unknown() -> Running {
        Running { since: 0, before: 0, seen: (0, ONE) }
    }

    /// Asked of the kernel once in a while, as long as it may be.
    fn share(&mut self, now: u64, cycles_per_ms: u32) -> u32 {
        if now.wrapping_sub(self.seen.0) < ASKED_AFTER || !sandbox::may_call() {
            return self.seen.1;
        }
        let Some(used) = clock::used_ns() else { return ONE };
        let used = (u128::from(used) * u128::from(cycles_per_ms) / 1_000_000) as u64;
        let age = now.saturating_sub(self.since);
        let more = used.checked_sub(self.before).filter(|_| self.since != 0 && age > 0);
        let Some(more) = more else {
            // The first time, or the first time in a child.
            *self = Running { since: now, before: used, seen: (now, ONE) };
            return ONE;
        };
        let share = (u128::from(more) << 16) / u128::from(age);
        self.seen = (now, share.clamp(1, u128::from(ONE) * 1024) as u32);
        if age > KNOWN_FOR {
            (self.since, self.before) = (now - age / 2, used - more / 2);
        }
        self.seen.1
    }
}

/// What becomes of a cold site whose window has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is judged alone.
    Apart,
    /// It is one of a crowd, and is looked at once more.
    Once,
    /// It runs what others run that call the same; its link is paid for.
    Shared,
    /// It is parked, if that can be paid for.
    Parked,
}

impl Engine {
    /// A cold site's window has ended, by a call to `target`: what becomes of it in a crowd. It is only said
    /// here, and done by whoever asks: the stack may be small.
    #[inline(never)]
    pub fn finds_its_place(&mut self, id: u32, target: u64, now: u64) -> Found {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return Found::Apart };
        let is_call = !site.kind.keeps_flags();
        if site.sample == 0 {
            self.awake += 1;
            if let Some(site) = self.sites.get_mut(id as usize) {
                site.sample = target;
            }
            // Programs with a few warm sites have no use for what is noted, nor for its memory.
            if is_call && self.awake > SHARING / 8 {
                self.callers.note(target);
            }
        }
        if !is_call || !self.may_find_a_place(&site) {
            return Found::Apart;
        }
        if site.sample == 0 {
            // In a crowd one look is too few.
            let is_crowd = self.awake >= SHARING && site.state.phase() == Phase::Cold;
            return if is_crowd { Found::Once } else { Found::Apart };
        }
        let same = if site.sample == target { self.callers.of(target) } else { 0 };
        let busy = self.running.share(now, self.policy.costs.cycles_per_ms);
        match self.policy.place_in_crowd(&site.state, self.awake, same, busy, now) {
            Place::Shared if self.may_share(&site, target, now) => Found::Shared,
            Place::Parked => Found::Parked,
            _ => Found::Apart,
        }
    }

    /// Whether a site can be led to the tree of those that call `target`, unlearned, and its link is paid
    /// for.
    fn may_share(&mut self, site: &Site, target: u64, now: u64) -> bool {
        let reaches = self.arena(site).is_some_and(|arena| arena.reaches(target));
        reaches && self.policy.config.max_targets != 0 && self.policy.may_link_first(now)
    }

    fn may_find_a_place(&mut self, site: &Site) -> bool {
        let is_switched_on = self.enabled && !self.asleep && !self.options().no_link && !self.options().count;
        is_switched_on && !site.linked && !site.stuck && site.tree == NONE
    }

    /// Leads a site to its column's copy of the thunk, and with it those of its column that belong there too.
    #[inline(never)]
    pub fn park(&mut self, id: u32, now: u64) -> bool {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return false };
        let site = &site;
        let mut ids = [id; TOGETHER];
        let mut count = 1;
        for cell in Cell::gates_of(site.gate.cell.column()) {
            let Some(number) = self.arena(site).map(|arena| gate::number_in(arena, cell)) else { break };
            if count < TOGETHER && number != id && self.belongs_beside(number, site) {
                ids[count] = number;
                count += 1;
            }
        }
        if !self.policy.may_link_together(count as u32, now) {
            count = 1;
            if !self.policy.may_link_together(1, now) {
                return false;
            }
        }
        let ids = &ids[..count];
        for &id in ids {
            let Some(site) = self.sites.get_mut(id as usize) else { continue };
            let left = site.counters().misses.load(Ordering::Relaxed);
            site.calls_seen += if left.cast_signed() > 0 { u64::from(site.misses.saturating_sub(left)) } else { 0 };
            self.policy.park(&mut site.state, now);
        }
        self.link_all_to_thunk(ids);
        for &id in ids {
            self.publish_thunk(id);
            report::site(self, id);
        }
        true
    }

    /// Whether a site of the column in which `site` is parked can be parked with it.
    fn belongs_beside(&mut self, id: u32, site: &Site) -> bool {
        let Some(&other) = self.sites.as_slice().get(id as usize) else { return false };
        let is_alike = other.arena == site.arena && other.gate.cell.column() == site.gate.cell.column();
        let is_cold = other.state.phase() == Phase::Cold && other.state.promotions() == 0 && !other.gone;
        let is_unshared = other.sample != 0 && self.callers.of(other.sample) <= 1;
        is_alike && is_cold && is_unshared && self.may_find_a_place(&other)
    }

    /// A site begins anew, or is gone: it is none of the warm ones any more.
    pub fn leaves_the_crowd(&mut self, id: u32) {
        if let Some(site) = self.sites.get_mut(id as usize)
            && site.sample != 0
        {
            site.sample = 0;
            self.awake = self.awake.saturating_sub(1);
        }
    }
}

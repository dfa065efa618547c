//! The transitions: an event comes in, an action goes out.

use super::Policy;
use super::costs::cycles;
use super::judge::FEW;
use super::reason::Reason;
use super::site::{Action, Cause, Counters, Event, Phase, SiteState};
use super::trial::{Trial, UNWATCHED};
use crate::trace::WINDOW_MAX;

/// Longest window of a cold site.
const COLD_MAX: u32 = 1 << 14;
/// Most doublings of the wait for another look at a tree whose misses nobody counts.
const UNCOUNTED_BACKOFF: u8 = 3;
/// Settling windows grow by this factor until the site is linked or left alone.
const SETTLE_GROWTH: u32 = 4;
/// Settling windows until a site is left alone.
const SETTLE_WINDOWS: u32 = 4;

impl Policy {
    /// Takes in what happened at `site` at clock reading `now`, and says what to do.
    ///
    /// `reach` tells whether a tree may jump to an address: close enough, and a function's entry (or, at a
    /// jump site, one of its labels). Events that do not fit the site's phase, as late threads may bring,
    /// are answered with [`Action::None`]. A clock that runs backwards is taken to stand still.
    pub fn on(&mut self, site: &mut SiteState, event: Event<'_>, now: u64, reach: &dyn Fn(u64) -> bool) -> Action {
        self.budget.ensure_started(now, &self.config);
        self.replaced = None;
        match (event, site.phase) {
            (_, Phase::Barred) => Action::Retpoline(site.reason),
            (Event::Known { targets, chain }, Phase::Cold) => self.known(site, targets, chain, now),
            (Event::SeenOnce, Phase::Cold) => self.look_again(site, now),
            (Event::Joined, Phase::Promoted) => {
                site.phase = Phase::Linked;
                Action::Link
            }
            (Event::ColdExpired, Phase::Cold) => self.cold_expired(site, now),
            (Event::WindowFull { trace, current }, Phase::Learning) => {
                self.window_full(site, &trace, current, now, reach)
            }
            (Event::MissWindow { misses }, Phase::Promoted | Phase::Linked) => self.missed(site, misses, now),
            (Event::ExitWindow { exits }, Phase::Promoted | Phase::Linked) if site.counts_exits => {
                self.exited(site, exits, now)
            }
            (Event::Settled, Phase::Promoted) => self.settled(site, now),
            // Whoever was to link it could not.
            (Event::Settled, Phase::Linked) => Action::Link,
            (Event::Due, Phase::Retpolined | Phase::Promoted | Phase::Linked) if site.is_due(now) => {
                self.due(site, now)
            }
            _ => Action::None,
        }
    }

    /// The last action could not be carried out, for `reason` (no room, out of reach after all). Says what to
    /// do instead. To be called at once, before any other event.
    pub fn refused(&mut self, site: &mut SiteState, reason: Reason, now: u64) -> Action {
        match site.phase {
            Phase::Barred => Action::Retpoline(site.reason),
            // Only the link failed: the tree behind the gate stays.
            Phase::Linked => {
                site.phase = Phase::Promoted;
                Action::StopCounting
            }
            _ if site.had_tree && !site.trial.is_running() => {
                site.miss_backoff = self.doubled(site.miss_backoff);
                // After a refused promotion the site still has what the plan was to replace.
                if let Some(before) = self.replaced.take() {
                    (site.targets, site.counts_exits) = before;
                }
                self.resume(site, now, reason)
            }
            _ => self.retpoline(site, reason, now),
        }
    }

    fn cold_expired(&mut self, site: &mut SiteState, now: u64) -> Action {
        if site.trial.is_running() {
            return self.retpoline_timed(site, now);
        }
        let calls = if site.window == 0 { self.config.cold_calls } else { site.window };
        let elapsed = if site.since == 0 { self.budget.age(now) } else { now.saturating_sub(site.since) };
        let lost = cycles(calls, self.costs.retpoline.saturating_sub(self.costs.direct));
        let is_rare = lost.saturating_mul(u64::from(self.config.cold_share)) < elapsed;
        // Windows double, so all of them together had about twice the calls of this one.
        let price = self.price_of_learning() + u64::from(self.costs.link);
        let lost_little = 2 * lost < price.saturating_mul(u64::from(self.config.cold_patience));
        if is_rare && lost_little {
            site.since = now;
            site.window = calls.saturating_mul(2).min(COLD_MAX);
            return Action::CountCold { calls: site.window };
        }
        if self.config.max_targets == 0 {
            return self.retpoline(site, Reason::Disabled, now);
        }
        match self.learn(site, Cause::Calls, now) {
            Some(action) => action,
            None => self.retpoline(site, Reason::BudgetSpent, now),
        }
    }

    /// Starts learning if the budget allows.
    fn learn(&mut self, site: &mut SiteState, cause: Cause, now: u64) -> Option<Action> {
        let window = self.first_window();
        let unlink = if site.phase == Phase::Linked { self.costs.link } else { 0 };
        let price = self.price_of_learning() + u64::from(unlink);
        // What every site does once is bounded by that, however many there are.
        let is_first = site.promotions == 0 && cause == Cause::Calls;
        if !(is_first || self.budget.may_patch(now, &self.config, &self.costs))
            || !self.budget.spend(price, now, &self.config, &self.costs)
        {
            return None;
        }
        // One token for the way into learning and out of it again.
        if !is_first {
            self.budget.patch();
        }
        site.had_tree = site.has_tree();
        (site.phase, site.reason, site.cause) = (Phase::Learning, Reason::Learning, cause);
        (site.since, site.due) = (now, 0);
        Some(Action::Learn { window })
    }

    fn first_window(&self) -> u32 {
        self.config.window_first.clamp(1, self.window_max())
    }

    /// Cycles for a first window and what follows it, when one window is enough.
    fn price_of_learning(&self) -> u64 {
        let window = self.first_window();
        self.learning_price(window, window) + u64::from(self.costs.patch)
    }

    pub(super) fn window_max(&self) -> u32 {
        self.config.window_max.clamp(1, WINDOW_MAX as u32)
    }

    /// Cycles for tracing `more` calls and judging a window of `whole`.
    pub(super) fn learning_price(&self, more: u32, whole: u32) -> u64 {
        let counting = cycles(more, self.costs.counted_call.saturating_sub(self.costs.direct));
        counting + u64::from(self.costs.judge) + cycles(whole, self.costs.judge_call)
    }

    pub(super) fn doubled(&self, backoff: u8) -> u8 {
        (backoff + 1).min(self.config.max_backoff)
    }

    pub(super) fn resume(&self, site: &mut SiteState, now: u64, reason: Reason) -> Action {
        Action::Resume(self.in_place(site, reason, now))
    }

    /// A tree is in place from now on: the counters it starts with.
    pub(super) fn in_place(&self, site: &mut SiteState, reason: Reason, now: u64) -> Counters {
        (site.phase, site.reason, site.since) = (Phase::Promoted, reason, now);
        site.promoted = now;
        // What cannot be noticed by counting is looked at from time to time.
        let order_unwatched = usize::from(site.targets) > FEW && !site.counts_exits;
        site.due = match (site.uncounted, order_unwatched) {
            (true, _) => self.retry_after(site.retry_backoff.min(UNCOUNTED_BACKOFF), now),
            (false, true) => self.retry_at(site, now),
            (false, false) => 0,
        };
        // A site that changes often is linked later.
        site.window = self.config.settle_calls << site.promotions.saturating_sub(1).min(5);
        Counters { settle: site.window, misses: self.miss_window(site), exits: self.exit_window(site) }
    }

    fn miss_window(&self, site: &SiteState) -> u32 {
        if site.uncounted {
            return 0;
        }
        let young = site.promotions <= self.config.young;
        let first = if young { self.config.miss_window_young } else { self.config.miss_window };
        first.max(1).saturating_mul(1 << site.miss_backoff.min(15))
    }

    fn exit_window(&self, site: &SiteState) -> u32 {
        if site.counts_exits {
            self.config.exit_window.max(1).saturating_mul(1 << site.exit_backoff.min(15))
        } else {
            0
        }
    }

    pub(super) fn retry_at(&self, site: &SiteState, now: u64) -> u64 {
        self.retry_after(site.retry_backoff, now)
    }

    fn retry_after(&self, backoff: u8, now: u64) -> u64 {
        let wait = u64::from(self.config.retry_ms) * u64::from(self.costs.cycles_per_ms);
        now.saturating_add((wait << backoff.min(20)).max(1))
    }

    pub(super) fn retpoline(&mut self, site: &mut SiteState, reason: Reason, now: u64) -> Action {
        (site.phase, site.reason, site.since) = (Phase::Retpolined, reason, now);
        (site.targets, site.counts_exits, site.had_tree, site.trial) = (0, false, false, Trial::NONE);
        site.due = self.retry_at(site, now);
        site.retry_backoff = (site.retry_backoff + 1).min(self.config.max_retry_backoff);
        Action::Retpoline(reason)
    }

    fn missed(&mut self, site: &mut SiteState, misses: u32, now: u64) -> Action {
        if site.trial.is_running() {
            return Action::CountMisses { window: UNWATCHED };
        }
        let lost = cycles(misses, self.costs.retpoline.saturating_sub(self.costs.direct));
        if self.matters(site, lost, now)
            && let Some(action) = self.learn(site, Cause::Misses, now)
        {
            return action;
        }
        site.since = now;
        Action::CountMisses { window: self.miss_window(site) }
    }

    fn exited(&mut self, site: &mut SiteState, exits: u32, now: u64) -> Action {
        if site.trial.is_running() {
            return Action::CountExits { window: UNWATCHED };
        }
        let lost = cycles(exits, self.costs.exit + 2 * self.costs.node);
        if self.matters(site, lost, now)
            && let Some(action) = self.learn(site, Cause::Exits, now)
        {
            return action;
        }
        Action::CountExits { window: self.exit_window(site) }
    }

    /// Whether `lost` cycles are a relevant part of the time since the window began.
    fn matters(&self, site: &SiteState, lost: u64, now: u64) -> bool {
        lost.saturating_mul(u64::from(self.config.relearn_share)) > now.saturating_sub(site.since)
    }

    /// Whether the tree in place was there for so short a time that to learn it was too dear.
    pub(super) fn was_short_lived(&self, site: &SiteState, now: u64) -> bool {
        let price = self.price_of_learning() + 2 * u64::from(self.costs.link);
        price.saturating_mul(u64::from(self.config.merge_share)) > now.saturating_sub(site.promoted)
    }

    fn settled(&mut self, site: &mut SiteState, now: u64) -> Action {
        if site.trial.is_running() {
            return self.tree_timed(site, now);
        }
        if self.link_pays(site, now) && self.may_link_it(site, now) {
            site.phase = Phase::Linked;
            return Action::Link;
        }
        let last = self.config.settle_calls.saturating_mul(SETTLE_GROWTH.pow(SETTLE_WINDOWS));
        if site.window >= last {
            return Action::StopCounting;
        }
        site.window = site.window.saturating_mul(SETTLE_GROWTH);
        Action::CountSettle { calls: site.window }
    }

    /// A process that has run for a time is expected to run that long again. Calls that come as fast as
    /// those of the last window for that time must save what the link costs.
    fn link_pays(&self, site: &SiteState, now: u64) -> bool {
        let elapsed = now.saturating_sub(site.since).max(1);
        let ahead = self.budget.age(now).max(elapsed);
        let saved = cycles(site.window, self.costs.gate);
        u128::from(saved) * u128::from(ahead) > u128::from(self.costs.link) * u128::from(elapsed)
    }

    fn may_link_it(&mut self, site: &SiteState, now: u64) -> bool {
        if site.promotions > 1 { self.may_link(now) } else { self.may_link_first(now) }
    }

    /// Whether the budget allows one more link, which is paid for.
    pub fn may_link(&mut self, now: u64) -> bool {
        let price = u64::from(self.costs.link);
        let may = self.budget.may_patch(now, &self.config, &self.costs)
            && self.budget.spend(price, now, &self.config, &self.costs);
        if may {
            self.budget.patch();
        }
        may
    }

    fn due(&mut self, site: &mut SiteState, now: u64) -> Action {
        match self.learn(site, Cause::Due, now) {
            Some(action) => action,
            None => {
                site.due = self.retry_at(site, now);
                Action::None
            }
        }
    }
}

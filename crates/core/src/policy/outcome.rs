//! The verdict on a full window: longer, a tree, the tree that was there, or the retpoline.

use super::Policy;
use super::judge::{Choice, FEW, Terms};
use super::reason::Reason;
use super::site::{Action, Cause, Current, SiteState};
use super::trial::Trial;
use crate::trace::{ONE, Predictability, Trace};

/// A longer window is worth its cost while more than 1/this of the calls is expected to be new.
const NEW_TARGETS: u32 = 50;
/// After so many mergers in a row, newcomers no longer get less weight: what stays away is forgotten slowly.
const MERGES_MAX: u8 = 7;

impl Policy {
    #[inline(never)]
    pub(super) fn window_full(
        &mut self,
        site: &mut SiteState,
        trace: &Trace<'_>,
        current: Option<Current<'_>>,
        now: u64,
        reach: &dyn Fn(u64) -> bool,
    ) -> Action {
        self.scratch.histogram.observe(trace);
        site.has_threads = self.scratch.histogram.has_threads();
        let max = usize::from(self.config.max_targets);
        self.candidates.gather(&self.scratch.histogram, max, reach);
        let order = match self.order_is_beside_the_point(site) {
            Some(order) => order,
            None => trusted(site, self.scratch.predictor.replay(&self.scratch.histogram)),
        };
        let choice = self.choose(order.randomness());
        if let Some(action) = self.extend(site, trace.len() as u32, &choice, order, now) {
            return action;
        }
        let action = match current {
            Some(tree) if site.had_tree => self.compare(site, &tree, choice, order, now, reach),
            _ => self.adopt(site, choice, order, now),
        };
        // Not from within those: here the stack is flatter.
        action.unwrap_or_else(|| self.reject(site, order, now))
    }

    /// For a new site with a few targets, when the same tree wins in a random and in a repeating order: what
    /// is certain without a replay, which takes most of the time of judging.
    #[inline(never)]
    fn order_is_beside_the_point(&mut self, site: &SiteState) -> Option<Predictability> {
        if site.had_tree || self.scratch.histogram.distinct() > FEW {
            return None;
        }
        let (blind, known) = (self.choose(ONE), self.choose(0));
        let same = blind.is_same_tree(known);
        let histogram = &self.scratch.histogram;
        let (_, hottest) = histogram.ranked(0)?;
        let share = (hottest << 16) / histogram.calls().max(1);
        let order = Predictability { accuracy: share, baseline: share };
        (same && blind.size() > 0 && self.beats(blind.cost, self.costs.retpoline)).then_some(order)
    }

    /// The cheapest tree for the window at hand.
    pub(super) fn choose(&mut self, randomness: u32) -> Choice {
        self.candidates.choose(&Terms {
            costs: &self.costs,
            config: &self.config,
            randomness,
            keeps_flags: self.keeps_flags,
        })
    }

    /// Goes on with the window when that may change the outcome.
    #[inline(never)]
    fn extend(
        &mut self,
        site: &SiteState,
        window: u32,
        choice: &Choice,
        order: Predictability,
        now: u64,
    ) -> Option<Action> {
        let longer = window.saturating_mul(4).min(self.window_max());
        if longer <= window || !(self.many_new() || self.order_matters(site, choice, order)) {
            return None;
        }
        let price = self.learning_price(longer - window, longer);
        let affordable = self.budget.spend(price, now, &self.config, &self.costs);
        affordable.then_some(Action::ContinueLearning { window: longer })
    }

    fn many_new(&self) -> bool {
        self.candidates.unseen > ONE / NEW_TARGETS
    }

    /// A site with a tree learns again because of its misses; a better idea of its order is worth a longer
    /// window only when the tree is to go.
    fn order_matters(&mut self, site: &SiteState, choice: &Choice, order: Predictability) -> bool {
        (choice.size() == 0 || !site.had_tree) && self.order_decides(choice, order)
    }

    /// Whether another tree would be better by the margin if the order of targets were known.
    fn order_decides(&mut self, choice: &Choice, order: Predictability) -> bool {
        if choice.size() == self.candidates.len() || order.randomness() == 0 {
            return false;
        }
        let known = Terms { costs: &self.costs, config: &self.config, randomness: 0, keeps_flags: self.keeps_flags };
        let same = self.candidates.reprice(choice, &known);
        let best = self.choose(0);
        self.beats(best.cost, same.cost)
    }

    /// Decides for a site without a tree; `None` for no tree.
    fn adopt(&mut self, site: &mut SiteState, choice: Choice, order: Predictability, now: u64) -> Option<Action> {
        if choice.size() == 0 || !self.beats(choice.cost, self.costs.retpoline) {
            return None;
        }
        Some(self.promote(site, choice, order, now))
    }

    /// No tree is worth having, as far as can be told from the trace.
    #[inline(never)]
    fn reject(&mut self, site: &mut SiteState, order: Predictability, now: u64) -> Action {
        let reason = self.why_not(order);
        if reason == Reason::Unpredictable
            && self.config.trials
            && let Some(action) = self.try_out(site, order, now)
        {
            return action;
        }
        self.retpoline(site, reason, now)
    }

    /// Whether cost `a` is below cost `b` by the margin.
    fn beats(&self, a: u32, b: u32) -> bool {
        u64::from(a) * u64::from(100 + self.config.margin) < u64::from(b) * 100
    }

    fn why_not(&mut self, order: Predictability) -> Reason {
        let foreseen = self.choose(0);
        if self.candidates.unreachable >= ONE / 2 {
            Reason::OutOfRange
        } else if order.randomness() > 0 && foreseen.size() > 0 && self.beats(foreseen.cost, self.costs.retpoline) {
            Reason::Unpredictable
        } else if self.candidates.unreachable >= ONE / 8 {
            Reason::OutOfRange
        } else if self.candidates.covered(self.candidates.len()) < ONE / 2 {
            Reason::Megamorphic
        } else {
            Reason::NoGain
        }
    }

    /// Decides for a site with a tree; `None` for no tree any more.
    #[inline(never)]
    fn compare(
        &mut self,
        site: &mut SiteState,
        tree: &Current<'_>,
        choice: Choice,
        order: Predictability,
        now: u64,
        reach: &dyn Fn(u64) -> bool,
    ) -> Option<Action> {
        self.standing.adopt(tree, &self.scratch.histogram, self.candidates.unseen);
        let terms = Terms {
            costs: &self.costs,
            config: &self.config,
            randomness: order.randomness(),
            keeps_flags: self.keeps_flags,
        };
        let standing = self.standing.price(self.standing.len(), tree.chain, &terms);
        if !self.beats(choice.cost, standing.cost) {
            self.back_off(site);
            // Once may have been a mixture of two phases.
            site.uncounted = site.has_threads && (site.uncounted || site.miss_backoff > 1);
            let reason = if site.miss_backoff > 2 { Reason::BackingOff } else { Reason::Promoted };
            return Some(self.resume(site, now, reason));
        }
        if choice.size() == 0 {
            return None;
        }
        self.calm_down(site);
        let choice = if self.was_short_lived(site, now) {
            site.merges = (site.merges + 1).min(MERGES_MAX);
            self.merged(site.merges, choice, order, reach)
        } else {
            site.merges = 0;
            choice
        };
        Some(self.promote(site, choice, order, now))
    }

    fn back_off(&self, site: &mut SiteState) {
        match site.cause {
            Cause::Misses | Cause::Calls => site.miss_backoff = self.doubled(site.miss_backoff),
            Cause::Exits => site.exit_backoff = self.doubled(site.exit_backoff),
            Cause::Due => site.retry_backoff = (site.retry_backoff + 1).min(self.config.max_retry_backoff),
        }
    }

    fn calm_down(&self, site: &mut SiteState) {
        site.miss_backoff /= 2;
        site.exit_backoff /= 2;
        site.retry_backoff /= 2;
    }

    /// Merges the chosen targets with the standing tree's, unless that costs too much.
    #[inline(never)]
    fn merged(&mut self, merges: u8, choice: Choice, order: Predictability, reach: &dyn Fn(u64) -> bool) -> Choice {
        let max = usize::from(self.config.max_targets);
        self.standing.merge(&self.candidates, choice.size(), u32::from(merges) + 1, max, reach);
        let terms = Terms {
            costs: &self.costs,
            config: &self.config,
            randomness: order.randomness(),
            keeps_flags: self.keeps_flags,
        };
        let chain = self.standing.best_chain_by_weight(&self.scratch.histogram, &terms);
        let merged = self.standing.price(self.standing.len(), chain, &terms);
        if !self.beats(merged.cost, self.costs.retpoline) {
            return choice;
        }
        core::mem::swap(&mut self.standing, &mut self.candidates);
        merged
    }

    fn promote(&mut self, site: &mut SiteState, choice: Choice, order: Predictability, now: u64) -> Action {
        self.plan_for(site, choice, order);
        Action::Promote(self.in_place(site, Reason::Promoted, now))
    }

    /// Leaves the chosen tree in [`Policy::plan`].
    #[inline(never)]
    pub(super) fn plan_for(&mut self, site: &mut SiteState, choice: Choice, order: Predictability) {
        let plan = &mut self.plan;
        plan.len = choice.size();
        self.candidates.write(&choice, &mut plan.targets);
        plan.chain = choice.chain();
        let terms = Terms { costs: &self.costs, config: &self.config, randomness: 0, keeps_flags: self.keeps_flags };
        plan.count_exits = !site.has_threads && self.candidates.counts_exits(&choice, &terms);
        plan.covered = self.candidates.covered(choice.size());
        plan.accuracy = order.accuracy;
        plan.tree_cost = choice.cost;
        plan.retpoline_cost = self.costs.retpoline;
        self.replaced = Some((site.targets, site.counts_exits));
        site.targets = choice.size() as u8;
        site.uncounted = false;
        site.counts_exits = plan.count_exits;
        site.promotions = site.promotions.saturating_add(1);
    }
}

/// What a trace says of a site whose tree won a trial: its order is known to be better than it looks.
fn trusted(site: &SiteState, seen: Predictability) -> Predictability {
    if site.trial != Trial::WON {
        return seen;
    }
    let mistakes = (ONE - seen.accuracy) / 8;
    Predictability { accuracy: ONE - mistakes, ..seen }
}

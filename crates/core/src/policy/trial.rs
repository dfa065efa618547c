//! Trials: when order cannot be told from the trace, time decides.
//!
//! A trace of 2,048 calls shows the order of a short loop. A loop of several thousand calls looks random in
//! it, though a branch predictor learns it well: an interpreter at work. So before a site is given up as
//! unpredictable, the tree that would be worth having is put in place, left alone until predictors have
//! learnt what they can, and then tree and retpoline take turns, each for the same number of calls, and the
//! clock says which is faster. The turns follow each other closely, so both see the same program. The tree
//! must win nearly all of them by more than a few cycles per call, and by no more than it can possibly save:
//! where a program waits or does much else between calls, differences are mostly noise. There the retpoline
//! stays, and little is lost.

use super::Policy;
use super::costs::cycles;
use super::reason::Reason;
use super::site::{Action, Counters, Phase, SiteState};
use crate::trace::Predictability;

/// Calls through the tree before it is timed.
const TRAINING: u32 = 16_384;
/// Calls in a turn.
const TURN: u32 = 1024;
/// Pairs of turns.
const PAIRS: u8 = 4;
/// Pairs that the tree must win; all of them where several threads take part in both turns, and in counting
/// them.
const WINS: u8 = 3;
/// The tree wins by saving at least 1/this of what the retpoline costs over a direct call.
const GAIN: u64 = 6;
/// More than this many retpolines per call cannot be saved: such a difference is noise, and no win.
const PLAUSIBLE: u64 = 2;
/// For counters that shall not run out during a trial.
pub(super) const UNWATCHED: u32 = 1 << 30;

/// Where a site's trial stands: the stage in the low half (0 none, 1 training, 2 the first pair of turns …),
/// the pairs that the tree has won in the high half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Trial(u8);

impl Trial {
    /// No trial.
    pub const NONE: Trial = Trial(0);
    /// The tree in place won its trial.
    pub const WON: Trial = Trial(0xff);
    const TRAINING: Trial = Trial(1);
    const FIRST_PAIR: Trial = Trial(2);

    pub fn is_running(self) -> bool {
        self != Trial::NONE && self != Trial::WON
    }

    fn is_over(self) -> bool {
        self.0 & 0x0f >= Trial::FIRST_PAIR.0 + PAIRS
    }

    fn wins(self) -> u8 {
        self.0 >> 4
    }

    fn after_pair(self, won: bool) -> Trial {
        Trial(self.0 + 1 + (u8::from(won) << 4))
    }
}

impl Policy {
    /// Starts a trial of the tree that would be best if order were known, when the budget allows.
    pub(super) fn try_out(&mut self, site: &mut SiteState, order: Predictability, now: u64) -> Option<Action> {
        let choice = self.choose(0);
        // Mispredicting twice a call is about as bad as it gets.
        let price = cycles(TRAINING + u32::from(PAIRS) * TURN, 2 * self.costs.mispredict);
        if choice.size() == 0 || !self.budget.spend(price, now, &self.config, &self.costs) {
            return None;
        }
        self.plan_for(site, choice, order);
        site.trial = Trial::TRAINING;
        Some(Action::Promote(self.turn(site, TRAINING, now)))
    }

    /// Puts the tree in place for `calls` calls.
    fn turn(&self, site: &mut SiteState, calls: u32, now: u64) -> Counters {
        (site.phase, site.reason, site.since, site.due) = (Phase::Promoted, Reason::Learning, now, 0);
        Counters { settle: calls, misses: UNWATCHED, exits: if site.counts_exits { UNWATCHED } else { 0 } }
    }

    /// The tree had its turn.
    pub(super) fn tree_timed(&mut self, site: &mut SiteState, now: u64) -> Action {
        let took = now.saturating_sub(site.since);
        site.since = now;
        if site.trial == Trial::TRAINING {
            site.trial = Trial::FIRST_PAIR;
            return Action::CountSettle { calls: TURN };
        }
        site.window = u32::try_from(took).unwrap_or(u32::MAX);
        site.phase = Phase::Cold;
        Action::CountCold { calls: TURN }
    }

    /// The retpoline had its turn.
    pub(super) fn retpoline_timed(&mut self, site: &mut SiteState, now: u64) -> Action {
        let took = now.saturating_sub(site.since);
        site.trial = site.trial.after_pair(self.is_win(u64::from(site.window), took));
        if !site.trial.is_over() {
            return Action::Resume(self.turn(site, TURN, now));
        }
        let wins = if site.has_threads { PAIRS } else { WINS };
        if site.trial.wins() >= wins {
            site.trial = Trial::WON;
            return self.resume(site, now, Reason::Promoted);
        }
        self.retpoline(site, Reason::Unpredictable, now)
    }

    /// Whether the tree, whose turn took `tree` cycles, beat the retpoline in a way that can be believed.
    fn is_win(&self, tree: u64, retpoline: u64) -> bool {
        let least = cycles(TURN, self.costs.retpoline.saturating_sub(self.costs.direct)) / GAIN;
        let most = cycles(TURN, self.costs.retpoline) * PLAUSIBLE;
        (least..most).contains(&retpoline.saturating_sub(tree))
    }
}

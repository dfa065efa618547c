//! A site whose targets are known from an earlier run: it gets its tree without being learned.

use super::Policy;
use super::reason::Reason;
use super::site::{Action, SiteState};
use crate::trace::ONE;
use crate::tree::{MAX_TARGETS, Target};

impl Policy {
    /// Leaves a tree for `targets`, in this order, in [`Policy::plan`]. If it is wrong its misses say so, as
    /// with any tree that has become wrong.
    #[inline(never)]
    pub(super) fn known(&mut self, site: &mut SiteState, targets: &[Target], chain: usize, now: u64) -> Action {
        let count = targets.len().min(usize::from(self.config.max_targets)).min(MAX_TARGETS);
        if count == 0 {
            return Action::None;
        }
        let plan = &mut self.plan;
        for (to, from) in plan.targets.iter_mut().zip(targets).take(count) {
            *to = *from;
        }
        plan.len = count;
        plan.chain = chain.min(count);
        plan.count_exits = plan.chain > 0 && plan.chain < count;
        plan.covered = targets.iter().take(count).fold(0, |sum: u32, target| sum.saturating_add(target.share)).min(ONE);
        (plan.accuracy, plan.tree_cost, plan.retpoline_cost) = (0, 0, 0);
        self.replaced = Some((site.targets, site.counts_exits));
        site.targets = count as u8;
        (site.counts_exits, site.uncounted) = (plan.count_exits, false);
        site.promotions = site.promotions.saturating_add(1);
        Action::Promote(self.in_place(site, Reason::Promoted, now))
    }
}

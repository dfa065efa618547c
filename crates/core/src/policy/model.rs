//! The price of a tree.
//!
//! ```text
//! price = hits · direct
//!       + Σ compares on the way · (compare | node)
//!       + mispredicts · mispredict
//!       + misses · retpoline
//! ```
//!
//! Mispredicts are counted branch by branch, in the tree as it will be built. Without any history, a branch
//! that is taken with probability `q` is mispredicted with probability `min(q, 1-q)`. In a chain these add up
//! to one mispredict per call at most; in a search tree every level can add half a mispredict, which is why
//! random streams over many targets are better left to the retpoline. And when the hottest target takes less
//! than half of the calls, comparing with it first makes each of its calls a mispredict; comparing with it
//! last makes it what a blind predictor expects, and only the others are mispredicted. Of those mistakes the
//! part `randomness` remains when history is known: none in a repeating order, all in a random one.

use super::costs::{Config, Costs};
use crate::bounded::{after, at as element, first};
use crate::trace::ONE;
use crate::tree::Target;
use crate::tree::shape::{Fork, Node, Walk};

/// A tree to be priced, and the calls it is priced for.
#[derive(Clone, Copy)]
pub(super) struct Priced<'a> {
    /// The targets; their shares shape the search tree.
    pub targets: &'a [Target],
    /// Share of calls that go to each of them (1/65536).
    pub seen: &'a [u32],
    /// Positions in `targets` of those behind the chain, by ascending address.
    pub order: &'a [u8],
    /// How many of them form the chain.
    pub chain: usize,
    /// Compare with the first target after the rest of the chain.
    pub hottest_last: bool,
    /// Which part of the mistakes of a branch predictor without history remains (1/65536).
    pub randomness: u32,
    /// Whether the tree is to keep flags.
    pub keeps_flags: bool,
}

/// Compares and mispredicts of an average call, each in 1/65536.
#[derive(Default)]
struct Effort {
    compares: u64,
    nodes: u64,
    mispredicts: u64,
}

impl Effort {
    fn branch(&mut self, taken: u64, arriving: u64) {
        self.mispredicts += taken.min(arriving.saturating_sub(taken));
    }
}

impl Priced<'_> {
    /// Modelled cost of a call (1/16 cycle).
    pub fn price(&self, costs: &Costs, config: &Config) -> u32 {
        let whole = u64::from(ONE);
        let hits = self.seen.iter().map(|&s| u64::from(s)).sum::<u64>().min(whole);
        let misses = whole - hits;
        let mut effort = Effort::default();
        let leaving = self.walk_chain(&mut effort);
        self.walk_search(misses, &mut effort);
        let exits = if self.counts_exits(config) { leaving } else { 0 };
        let mistakes = (effort.mispredicts * u64::from(self.randomness)) >> 16;
        let sum = hits * u64::from(costs.direct)
            + misses * u64::from(costs.retpoline)
            + effort.compares * u64::from(costs.of_compare(self.keeps_flags))
            + effort.nodes * u64::from(costs.of_node(self.keeps_flags))
            + exits * u64::from(costs.exit)
            + mistakes * u64::from(costs.mispredict);
        (sum >> 16).min(u64::from(u32::MAX)) as u32
    }

    /// Whether so few calls are expected to leave the chain that counting them tells something.
    pub fn counts_exits(&self, config: &Config) -> bool {
        let chain = self.chain.min(self.seen.len());
        let tail: u32 = after(self.seen, chain).iter().sum();
        chain < self.targets.len() && tail <= config.exit_share
    }

    /// The share of calls that leaves the chain.
    fn walk_chain(&self, effort: &mut Effort) -> u64 {
        let mut left = u64::from(ONE);
        let chain = first(self.seen, self.chain);
        let last = usize::from(self.hottest_last);
        for &seen in after(chain, last).iter().chain(first(chain, last)) {
            effort.compares += left;
            effort.branch(u64::from(seen), left);
            left = left.saturating_sub(u64::from(seen));
        }
        left
    }

    #[inline(never)]
    fn walk_search(&self, misses: u64, effort: &mut Effort) {
        let at = |i: usize| usize::from(element(self.order, i));
        let gaps = self.order.len() as u64 + 1;
        // Misses are taken to fall into all gaps between targets alike.
        let arriving = |from: usize, to: usize| {
            let hits: u64 = (from..to).map(|i| u64::from(element(self.seen, at(i)))).sum();
            hits + misses * (to - from + 1) as u64 / gaps.max(1)
        };
        for Node { root, from, to, fork, .. } in Walk::new(self.order.len(), |i| element(self.targets, at(i)).share) {
            let (own, here) = (u64::from(element(self.seen, at(root))), arriving(from, to));
            effort.nodes += here;
            effort.branch(own, here);
            if matches!(fork, Fork::AboveFirst | Fork::BelowFirst) {
                effort.branch(arriving(from, root), here.saturating_sub(own));
            }
        }
    }
}

//! What a tree is to hold.

use crate::bounded::first;
use crate::tree::{MAX_TARGETS, Target};

/// The outcome of judging a window: the tree to build, and the figures that speak for it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub(super) targets: [Target; MAX_TARGETS],
    pub(super) len: usize,
    pub(super) chain: usize,
    pub(super) count_exits: bool,
    pub(super) covered: u32,
    pub(super) accuracy: u32,
    pub(super) tree_cost: u32,
    pub(super) retpoline_cost: u32,
}

impl Plan {
    /// Of nothing.
    #[must_use]
    pub const fn new() -> Plan {
        Plan {
            targets: [Target { address: 0, share: 0 }; MAX_TARGETS],
            len: 0,
            chain: 0,
            count_exits: false,
            covered: 0,
            accuracy: 0,
            tree_cost: 0,
            retpoline_cost: 0,
        }
    }

    /// The targets in the order of comparing: by descending share, except that a chain for a random order may
    /// end with the hottest.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        first(&self.targets, self.len)
    }

    /// How many of them form the chain: 0 to 4, or all of up to 8.
    #[must_use]
    pub fn chain(&self) -> usize {
        self.chain
    }

    /// Whether exits from the chain are to be counted.
    #[must_use]
    pub fn count_exits(&self) -> bool {
        self.count_exits
    }

    /// Share of calls that the targets cover, in 1/65536.
    #[must_use]
    pub fn covered(&self) -> u32 {
        self.covered
    }

    /// Share of calls whose target a branch predictor foresees at least, in 1/65536: that of the hottest
    /// target where a closer look would not have changed the outcome.
    #[must_use]
    pub fn accuracy(&self) -> u32 {
        self.accuracy
    }

    /// Modelled cost of a call through the tree (1/16 cycle).
    #[must_use]
    pub fn tree_cost(&self) -> u32 {
        self.tree_cost
    }

    /// Modelled cost of a call through the retpoline (1/16 cycle).
    #[must_use]
    pub fn retpoline_cost(&self) -> u32 {
        self.retpoline_cost
    }
}

impl Default for Plan {
    fn default() -> Plan {
        Plan::new()
    }
}

//! From a histogram to the cheapest tree.
//!
//! Pricing all combinations of targets and chain lengths would cost more than they differ by. Two families
//! are enough: the chain of the hottest one to four alone (which wins when order is random, as every further
//! branch may mispredict), and everything in chain and search tree, for a few sizes. When order is random, a
//! third form is tried: a chain of up to eight that ends with the hottest.
//!
//! The slow path may have as little as 1 KiB of stack for all of judging. So lists live in the policy's own
//! memory, and functions that call each other are kept apart (`inline(never)`): inlined into one, their
//! variables would all take room at the deepest point.

use super::costs::{Config, Costs};
use super::model::Priced;
use super::site::Current;
use crate::bounded::{after, at, first, first_mut, put, swap};
use crate::trace::{Histogram, ONE};
use crate::tree::shape::{sort, sort_by_address};
use crate::tree::{MAX_TARGETS, Target};

/// Longest chain. A foreseen compare that is not taken costs half a cycle, and processors that keep their
/// branch history by taken branches do not see it at all; a node of the search tree costs two to three times
/// as much. So chains win far beyond the four targets of an inlined cache.
pub const CHAIN_MAX: usize = 24;
/// Targets that are few enough for their order not to matter.
pub(super) const FEW: usize = 4;

/// Longest chain that ends with the hottest target.
const ROTATED_MAX: usize = 8;

/// Sizes at which the search tree is tried besides "all".
const SIZES: [usize; 4] = [8, 16, 32, 64];

/// Targets to choose from, by descending share.
#[derive(Debug)]
pub(super) struct Candidates {
    targets: [Target; MAX_TARGETS],
    /// Share of each in the window at hand (1/65536). Differs from the target's own share in merged lists.
    seen: [u32; MAX_TARGETS],
    len: usize,
    /// Positions by ascending address; and those of them that are behind the chain of the tree being priced.
    sorted: [u8; MAX_TARGETS],
    searched: [u8; MAX_TARGETS],
    /// Expected share of calls to targets that were never seen (1/65536).
    pub unseen: u32,
    /// Share of calls to targets that no tree may jump to (1/65536).
    pub unreachable: u32,
}

/// A tree out of [`Candidates`]: the first `size`, of which `chain` form the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    size: u8,
    chain: u8,
    /// Compare with the hottest target after the rest of the chain.
    hottest_last: bool,
    /// Modelled cost of a call (1/16 cycle).
    pub cost: u32,
}

impl Choice {
    /// Small enough for a register: the slow path has little stack.
    fn new(size: usize, chain: usize, hottest_last: bool, cost: u32) -> Choice {
        Choice { size: size as u8, chain: chain as u8, hottest_last, cost }
    }

    pub fn size(self) -> usize {
        usize::from(self.size)
    }

    pub fn chain(self) -> usize {
        usize::from(self.chain)
    }

    /// Whether it is the same tree, at whatever cost.
    pub fn is_same_tree(self, other: Choice) -> bool {
        Choice { cost: 0, ..self } == Choice { cost: 0, ..other }
    }

    /// The cheaper of two; the first if they cost the same.
    fn or(self, other: Choice) -> Choice {
        if other.cost < self.cost { other } else { self }
    }
}

/// What choosing depends on.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a> {
    pub costs: &'a Costs,
    pub config: &'a Config,
    /// See [`Priced::randomness`].
    pub randomness: u32,
    /// See [`Priced::keeps_flags`].
    pub keeps_flags: bool,
}

impl Candidates {
    pub const fn new() -> Candidates {
        Candidates {
            targets: [Target { address: 0, share: 0 }; MAX_TARGETS],
            seen: [0; MAX_TARGETS],
            len: 0,
            sorted: [0; MAX_TARGETS],
            searched: [0; MAX_TARGETS],
            unseen: 0,
            unreachable: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Takes the reachable targets of `histogram`, `max` at most.
    ///
    /// Shares are scaled down to leave room for targets not seen yet (Good and Turing's estimate): a set
    /// would otherwise seem to cover the very window it was taken from better than it covers the next.
    #[inline(never)]
    pub fn gather(&mut self, histogram: &Histogram, max: usize, reach: &dyn Fn(u64) -> bool) {
        let calls = histogram.calls().max(1);
        self.unseen = (histogram.singletons() << 16) / calls;
        (self.len, self.unreachable) = (0, 0);
        for rank in 0..histogram.distinct() {
            let Some((address, count)) = histogram.ranked(rank) else { break };
            if self.len == max.min(MAX_TARGETS) {
                break;
            }
            let share = self.share(count, calls);
            if reach(address) {
                self.push(Target { address, share }, share);
            } else {
                self.unreachable += share;
            }
        }
        self.sort();
    }

    fn sort(&mut self) {
        sort_by_address(first(&self.targets, self.len), &mut self.sorted);
    }

    fn share(&self, count: u32, calls: u32) -> u32 {
        let known = u64::from(ONE.saturating_sub(self.unseen));
        (u64::from(count) * known / u64::from(calls.max(1))) as u32
    }

    fn push(&mut self, target: Target, seen: u32) {
        if self.len < MAX_TARGETS {
            put(&mut self.targets, self.len, target);
            put(&mut self.seen, self.len, seen);
            self.len += 1;
        }
    }

    /// Takes exactly the targets of `tree`, with the shares they have in `histogram` besides their own.
    pub fn adopt(&mut self, tree: &Current<'_>, histogram: &Histogram, unseen: u32) {
        (self.len, self.unseen, self.unreachable) = (0, unseen, 0);
        for &target in tree.targets.iter().take(MAX_TARGETS) {
            let seen = self.share(histogram.count(target.address), histogram.calls());
            self.push(target, seen);
        }
        self.sort();
    }

    /// Mixes the first `size` of `fresh` into the list, with 1/`parts` of the weight, and drops what then
    /// weighs less than 1/1024.
    #[inline(never)]
    pub fn merge(&mut self, fresh: &Candidates, size: usize, parts: u32, max: usize, reach: &dyn Fn(u64) -> bool) {
        for target in first_mut(&mut self.targets, self.len) {
            target.share -= target.share / parts.max(1);
        }
        for (&target, &seen) in first(&fresh.targets, size).iter().zip(&fresh.seen) {
            let share = target.share / parts.max(1);
            match first_mut(&mut self.targets, self.len).iter_mut().find(|t| t.address == target.address) {
                Some(known) => known.share += share,
                None => self.push(Target { share, ..target }, seen),
            }
        }
        self.prune(max, reach);
    }

    fn prune(&mut self, max: usize, reach: &dyn Fn(u64) -> bool) {
        let (targets, order) = (&self.targets, first_mut(&mut self.sorted, self.len));
        for (i, slot) in order.iter_mut().enumerate() {
            *slot = i as u8;
        }
        sort(order, |&a, &b| at(targets, usize::from(a)).share > at(targets, usize::from(b)).share);
        self.arrange();
        let keep = |t: &Target| t.share >= ONE / 1024 && reach(t.address);
        let mut kept = 0;
        for i in 0..self.len {
            if kept < max && keep(&at(&self.targets, i)) {
                swap(&mut self.targets, kept, i);
                swap(&mut self.seen, kept, i);
                kept += 1;
            }
        }
        self.len = kept;
        self.sort();
    }

    /// Puts the element at `sorted[i]` at position `i`, in place, by following cycles.
    fn arrange(&mut self) {
        for i in 0..self.len {
            // Where that element has been moved to by the swaps so far.
            let mut from = usize::from(at(&self.sorted, i));
            while from < i {
                from = usize::from(at(&self.sorted, from));
            }
            swap(&mut self.targets, i, from);
            swap(&mut self.seen, i, from);
        }
    }

    /// What is to be priced for the tree of the first `size` with a chain of `chain`.
    fn priced(&mut self, size: usize, chain: usize, terms: &Terms<'_>) -> Priced<'_> {
        let mut searched = 0;
        for &position in first(&self.sorted, self.len) {
            if (chain..size).contains(&usize::from(position)) {
                put(&mut self.searched, searched, position);
                searched += 1;
            }
        }
        Priced {
            targets: first(&self.targets, size),
            seen: first(&self.seen, size),
            order: first(&self.searched, searched),
            chain,
            hottest_last: false,
            randomness: terms.randomness,
            keeps_flags: terms.keeps_flags,
        }
    }

    /// The tree of the first `size` with a chain of `chain`.
    #[inline(never)]
    pub fn price(&mut self, size: usize, chain: usize, terms: &Terms<'_>) -> Choice {
        let size = size.min(self.len);
        let chain = chain.min(size);
        let cost = self.priced(size, chain, terms).price(terms.costs, terms.config);
        Choice::new(size, chain, false, cost)
    }

    /// The chain of the first `size` that ends with the hottest.
    #[inline(never)]
    fn price_rotated(&mut self, size: usize, terms: &Terms<'_>) -> Choice {
        let priced = Priced { hottest_last: true, ..self.priced(size, size, terms) };
        let cost = priced.price(terms.costs, terms.config);
        Choice::new(size, size, true, cost)
    }

    /// Price again under other terms.
    pub fn reprice(&mut self, choice: &Choice, terms: &Terms<'_>) -> Choice {
        if choice.hottest_last {
            self.price_rotated(choice.size(), terms)
        } else {
            self.price(choice.size(), choice.chain(), terms)
        }
    }

    /// Writes the targets of `choice` to `list`, in the order of comparing.
    pub fn write(&self, choice: &Choice, list: &mut [Target; MAX_TARGETS]) {
        let chosen = first(&self.targets, choice.size());
        let last = usize::from(choice.hottest_last);
        for (slot, target) in list.iter_mut().zip(after(chosen, last).iter().chain(first(chosen, last))) {
            *slot = *target;
        }
    }

    /// Whether the tree of `choice` counts exits from its chain.
    pub fn counts_exits(&mut self, choice: &Choice, terms: &Terms<'_>) -> bool {
        self.priced(choice.size(), choice.chain(), terms).counts_exits(terms.config)
    }

    /// Share of the window's calls that go to the first `size` (1/65536).
    pub fn covered(&self, size: usize) -> u32 {
        first(&self.seen, size.min(self.len)).iter().sum::<u32>().min(ONE)
    }

    /// The cheapest tree, or size 0 when leaving the retpoline alone is cheaper.
    #[inline(never)]
    pub fn choose(&mut self, terms: &Terms<'_>) -> Choice {
        let mut best = Choice::new(0, 0, false, terms.costs.retpoline);
        for size in 1..=self.len.min(CHAIN_MAX) {
            best = best.or(self.price(size, size, terms));
        }
        if self.len > 1 {
            let all = self.best_chain(self.len, terms);
            best = best.or(all);
            let len = self.len;
            for size in SIZES.into_iter().filter(|&s| s < len) {
                best = best.or(self.price(size, all.chain(), terms));
            }
        }
        if terms.randomness > ONE / 8 {
            for size in 3..=self.len.min(ROTATED_MAX) {
                best = best.or(self.price_rotated(size, terms));
            }
        }
        best
    }

    /// The cheapest chain length for a tree of the first `size`.
    fn best_chain(&mut self, size: usize, terms: &Terms<'_>) -> Choice {
        let mut best = self.price(size, 0, terms);
        for chain in 1..=size.min(CHAIN_MAX) {
            best = best.or(self.price(size, chain, terms));
        }
        best
    }

    /// The cheapest chain length for all, were calls distributed as the targets' own shares say, in an order
    /// that can be foreseen.
    #[inline(never)]
    pub fn best_chain_by_weight(&mut self, histogram: &Histogram, terms: &Terms<'_>) -> usize {
        for (seen, target) in self.seen.iter_mut().zip(&self.targets) {
            *seen = target.share;
        }
        let chain = self.best_chain(self.len, &Terms { randomness: 0, ..*terms }).chain();
        for i in 0..self.len {
            let share = self.share(histogram.count(at(&self.targets, i).address), histogram.calls());
            put(&mut self.seen, i, share);
        }
        chain
    }
}

//! How a search tree over sorted targets branches.
//!
//! A node compares with one target and has three ways out: equal, above, below. The root of a range is the
//! target at which the weights on both sides balance best, so hot targets end up near the top. Weights may
//! be extreme (a geometric distribution would make a list out of a tree), so depth is bounded too: with `d`
//! levels left, neither side may get more than `2^(d-1) - 1` targets. That keeps the pending ranges of a walk
//! in a handful of bytes: a walk needs no recursion and next to no stack.

use super::{MAX_TARGETS, Target};
use crate::bounded::{at, first_mut, put};

/// Most levels of a search tree. `2^LEVELS - 1` targets fit, which leaves a perfectly balanced tree of
/// [`MAX_TARGETS`] two levels of slack for weights.
pub const LEVELS: usize = 9;

const _: () = assert!(MAX_TARGETS < 1 << (LEVELS - 1));

/// The ways on from a node that does not match.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fork {
    /// Nothing below: the walk's next node, if any, is the most recently postponed side.
    Leaf,
    /// One side only, which comes next.
    One,
    /// Both sides; the one above comes next, the one below is postponed.
    AboveFirst,
    /// Both sides; the one below comes next, the one above is postponed.
    BelowFirst,
}

/// A node as the walk meets it: in the order in which code is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node {
    /// Position of its target in the sorted order.
    pub root: usize,
    /// First position of the range that the node searches.
    pub from: usize,
    /// Position after that range.
    pub to: usize,
    /// Nodes above it.
    pub depth: usize,
    /// The ways on.
    pub fork: Fork,
}

/// Walks the search tree over `n` sorted targets, given their weights: a node, then its heavier side, then
/// the other.
pub struct Walk<W> {
    weight: W,
    pending: [(u8, u8, u8); LEVELS],
    postponed: usize,
    next: Option<(u8, u8, u8)>,
}

impl<W: Fn(usize) -> u32> Walk<W> {
    /// A walk over positions `0..n`, where position `i` weighs `weight(i)`. `n` is cut to [`MAX_TARGETS`].
    pub fn new(n: usize, weight: W) -> Walk<W> {
        let n = n.min(MAX_TARGETS) as u8;
        let next = (n > 0).then_some((0, n, 0));
        Walk { weight, pending: [(0, 0, 0); LEVELS], postponed: 0, next }
    }

    fn postpone(&mut self, range: (u8, u8, u8)) {
        // At most one side is postponed per level, so there is always room.
        put(&mut self.pending, self.postponed, range);
        self.postponed += 1;
    }

    fn resume(&mut self) -> Option<(u8, u8, u8)> {
        self.postponed = self.postponed.checked_sub(1)?;
        Some(at(&self.pending, self.postponed))
    }

    fn weigh(&self, from: usize, to: usize) -> u64 {
        (from..to).map(|i| u64::from((self.weight)(i))).sum()
    }

    fn step(&mut self, range: (u8, u8, u8)) -> Node {
        let (from, to, depth) = (usize::from(range.0), usize::from(range.1), usize::from(range.2));
        let root = split(&self.weight, from, to, LEVELS - depth);
        let below = (range.0, root as u8, range.2 + 1);
        let above = (root as u8 + 1, range.1, range.2 + 1);
        let fork = match (from < root, root + 1 < to) {
            (false, false) => {
                self.next = self.resume();
                Fork::Leaf
            }
            (true, false) => {
                self.next = Some(below);
                Fork::One
            }
            (false, true) => {
                self.next = Some(above);
                Fork::One
            }
            (true, true) if self.weigh(from, root) > self.weigh(root + 1, to) => {
                self.postpone(above);
                self.next = Some(below);
                Fork::BelowFirst
            }
            (true, true) => {
                self.postpone(below);
                self.next = Some(above);
                Fork::AboveFirst
            }
        };
        Node { root, from, to, depth, fork }
    }
}

impl<W: Fn(usize) -> u32> Iterator for Walk<W> {
    type Item = Node;

    fn next(&mut self) -> Option<Node> {
        let range = self.next.take()?;
        Some(self.step(range))
    }
}

/// Where to split `from..to` so that the heavier side is as light as possible, with `levels` left.
fn split(weight: &impl Fn(usize) -> u32, from: usize, to: usize, levels: usize) -> usize {
    let side = (1usize << (levels - 1)) - 1;
    let first = from.max(to.saturating_sub(side + 1));
    let last = (to - 1).min(from + side);
    let total: u64 = (from..to).map(|i| u64::from(weight(i))).sum();
    let mut below: u64 = (from..first).map(|i| u64::from(weight(i))).sum();
    let (mut best, mut best_heavier, mut best_skew) = (first, u64::MAX, usize::MAX);
    for i in first..=last {
        let own = u64::from(weight(i));
        // `total` was summed by an earlier call of `weight`, which may answer differently each time.
        let heavier = below.max(total.saturating_sub(below + own));
        let skew = (i - from).abs_diff(to - 1 - i);
        if (heavier, skew) < (best_heavier, best_skew) {
            (best, best_heavier, best_skew) = (i, heavier, skew);
        }
        below += own;
    }
    best
}

/// Positions of `targets`, ordered by ascending address, in the first `targets.len()` bytes of the result.
#[must_use]
pub fn by_address(targets: &[Target]) -> [u8; MAX_TARGETS] {
    let mut order = [0u8; MAX_TARGETS];
    sort_by_address(targets, &mut order);
    order
}

/// [`by_address`] in place.
pub(crate) fn sort_by_address(targets: &[Target], order: &mut [u8; MAX_TARGETS]) {
    let order = first_mut(order, targets.len());
    for (i, slot) in order.iter_mut().enumerate() {
        *slot = i as u8;
    }
    sort(order, |&a, &b| at(targets, usize::from(a)).address < at(targets, usize::from(b)).address);
}

/// Shellsort: in place, no recursion, a few bytes of stack. The standard sorts use far more of it than the
/// slow path has.
pub(crate) fn sort<T: Copy>(items: &mut [T], less: impl Fn(&T, &T) -> bool) {
    for gap in [57, 23, 10, 4, 1] {
        for i in gap..items.len() {
            let Some(&item) = items.get(i) else { break };
            let mut j = i;
            while let Some(&before) = j.checked_sub(gap).and_then(|before| items.get(before)) {
                if !less(&item, &before) {
                    break;
                }
                put(items, j, before);
                j -= gap;
            }
            put(items, j, item);
        }
    }
}

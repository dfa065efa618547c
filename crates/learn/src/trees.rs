//! Trees that stay for ever, so that an equal one is found again and used again.

use relpoline_core::policy::{Current, Reason};
use relpoline_core::tree::{Target, TreeSpec};

/// No tree.
pub const NONE: u32 = u32::MAX;

/// A list that only grows, and never moves.
pub trait List<T> {
    /// All there is.
    fn as_slice(&self) -> &[T];

    /// The same, to change.
    fn as_mut_slice(&mut self) -> &mut [T];

    /// Appends `values` in a row and returns the first one's index; `None` when there is no room for them.
    fn extend(&mut self, values: &[T]) -> Option<usize>;
}

/// A tree that was built.
#[derive(Clone, Copy, Debug)]
pub struct Tree<C> {
    /// Where its code lies.
    pub code: C,
    /// What it does, as a number.
    pub fingerprint: u64,
    /// The site's tree before it.
    pub older: u32,
    /// Its targets: the first of them in the list, and how many.
    pub first_target: u32,
    /// See `first_target`.
    pub targets: u16,
    /// How many of them are compared one after the other.
    pub chain: u16,
}

/// All trees, and their targets with the shares that they had.
#[derive(Debug)]
pub struct Trees<L, T> {
    /// Trees.
    pub trees: L,
    /// Targets.
    pub targets: T,
}

impl<L, T> Trees<L, T> {
    /// Trees in those lists.
    pub const fn new(trees: L, targets: T) -> Trees<L, T> {
        Trees { trees, targets }
    }

    /// Tree number `n`.
    #[must_use]
    pub fn get<C>(&self, n: u32) -> Option<&Tree<C>>
    where
        L: List<Tree<C>>,
    {
        self.trees.as_slice().get(n as usize)
    }

    /// What tree number `n` is for the policy.
    #[must_use]
    pub fn standing<C>(&self, n: u32) -> Option<Current<'_>>
    where
        L: List<Tree<C>>,
        T: List<Target>,
    {
        let tree = self.get(n)?;
        let first = tree.first_target as usize;
        let targets = self.targets.as_slice().get(first..first + usize::from(tree.targets))?;
        Some(Current { targets, chain: usize::from(tree.chain) })
    }

    /// Of the trees of a site, of which `newest` is the last, the one that does the same. Its targets' shares
    /// become those of `targets`.
    pub fn find<C>(&mut self, newest: u32, fingerprint: u64, targets: &[Target]) -> Option<u32>
    where
        L: List<Tree<C>>,
        T: List<Target>,
    {
        let mut at = newest;
        while let Some(tree) = self.trees.as_slice().get(at as usize) {
            if tree.fingerprint != fingerprint {
                at = tree.older;
                continue;
            }
            let first = tree.first_target as usize;
            let old = self.targets.as_mut_slice().get_mut(first..first + usize::from(tree.targets));
            if let Some(old) = old.filter(|old| old.len() == targets.len()) {
                old.copy_from_slice(targets);
            }
            return Some(at);
        }
        None
    }

    /// Adds a site's tree, after `newest`, which `build` makes. It makes it from a copy of the targets that
    /// nobody changes: the policy's plan is everybody's, and should this thread stand still until its lock is
    /// broken, another one's plan must not get between a compare and its jump.
    ///
    /// # Errors
    /// As `build`, and when a list is full.
    pub fn add<C: Copy>(
        &mut self,
        newest: u32,
        fingerprint: u64,
        spec: &TreeSpec<'_>,
        build: impl FnOnce(&TreeSpec<'_>) -> Result<C, Reason>,
    ) -> Result<u32, Reason>
    where
        L: List<Tree<C>>,
        T: List<Target>,
    {
        let first = self.targets.extend(spec.targets).ok_or(Reason::ArenaFull)?;
        let targets = self.targets.as_slice().get(first..first + spec.targets.len()).unwrap_or_default();
        let code = build(&TreeSpec { targets, ..*spec })?;
        let tree = Tree {
            code,
            fingerprint,
            older: newest,
            first_target: first as u32,
            targets: spec.targets.len() as u16,
            chain: spec.chain as u16,
        };
        self.trees.extend(&[tree]).map(|at| at as u32).ok_or(Reason::ArenaFull)
    }
}

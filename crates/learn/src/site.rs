//! The seam: what the learner has done to a site, and cannot do itself.

use crate::memory::Memory;
use relpoline_core::policy::{Counters as Start, Current, Plan, Reason};
use relpoline_text::arena::Counters;

/// Where a site's calls go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// All of them are counted down, and take the slow way.
    Counting,
    /// They are recorded, and take the slow way.
    Recording,
    /// They go to the tree in place, and are counted down.
    Settling,
    /// They go to the tree in place.
    Head,
    /// They take the slow way: a retpoline, or a jump through the register.
    Thunk,
}

/// What came of undoing a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unlinked {
    /// The site's text leads to its gate.
    Done,
    /// It leads to its tree, and will go on to.
    Stuck,
    /// It leads to its tree. It is not for this thread to change that, or not now.
    Later,
}

/// A site, in the hands of who holds the caller's lock.
///
/// *Where* its stubs and trees lie, and which word or byte leads there, is the implementor's affair; so are
/// statistics of what was changed. While [`Memory::stuck`] is set, everything is to be published behind the
/// tree that the text names.
pub trait Site {
    /// A tree that was built, and perhaps is not in place yet.
    type Tree;

    /// What is remembered of it.
    fn memory(&self) -> &Memory;

    /// The same, to change.
    fn memory_mut(&mut self) -> &mut Memory;

    /// What its generated code counts.
    fn counters(&self) -> &Counters;

    /// Whether code of the site can jump to `target`.
    fn reaches(&self, target: u64) -> bool;

    /// Whether flags are live at it.
    fn keeps_flags(&self) -> bool {
        false
    }

    /// The tree in place, or the one from before it began to learn.
    fn standing(&self) -> Option<Current<'_>>;

    /// Makes whatever [`To::Recording`] needs.
    ///
    /// # Errors
    /// Why it cannot learn.
    fn prepare_to_record(&mut self) -> Result<(), Reason> {
        Ok(())
    }

    /// A tree for `plan`: an equal one from before, or a new one.
    ///
    /// # Errors
    /// Why there is none.
    fn build(&mut self, plan: &Plan) -> Result<Self::Tree, Reason>;

    /// Whether `tree` goes in place at once. Else the site does with it what it likes, and calls
    /// [`Learner::put_in_place`](crate::Learner::put_in_place) or [`Learner::refuse`](crate::Learner::refuse)
    /// in the end.
    fn admits(&mut self, _tree: &Self::Tree, _start: Start, _now: u64) -> bool {
        true
    }

    /// Lets `tree` be the one in place. Nothing leads there before [`Site::lead`].
    fn adopt(&mut self, tree: Self::Tree);

    /// Lets its calls go another way.
    fn lead(&mut self, to: To);

    /// Lets what its trees miss be counted, or go straight where it went without a tree. Asked of a site that
    /// is not stuck, before it is led to its tree. Sites that cannot do without counting go on.
    fn count_misses(&mut self, _counted: bool) {}

    /// Makes the way to the tree in place as short as it gets, and sets [`Memory::linked`] if that is to be
    /// undone by [`Site::unlink`]. Text must not name a tree that was built behind another one, and does not
    /// leave by the miss gate: nothing can be put behind it.
    ///
    /// # Errors
    /// Why the tree stays behind the gate.
    fn link(&mut self) -> Result<(), Reason> {
        self.lead(To::Head);
        Ok(())
    }

    /// Undoes that. Asked while [`Memory::linked`] is set.
    fn unlink(&mut self) -> Unlinked {
        Unlinked::Done
    }
}

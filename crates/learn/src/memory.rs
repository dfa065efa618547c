//! What is remembered of a site.

use relpoline_core::policy::{Phase, SiteState};

const NO_RING: u16 = u16::MAX;

/// What the learner remembers of a site. Plain, so that it can lie in a table of sites; only who holds the
/// caller's lock may change it.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// What the policy remembers.
    pub state: SiteState,
    /// Calls that the learning window shall have.
    pub window: u32,
    /// What the countdown of misses, or of all calls where there is no tree, began with.
    pub misses: u32,
    /// What the countdown of exits began with.
    pub exits: u32,
    /// Calls seen while no tree was in place: counted, or recorded.
    pub seen: u64,
    /// Misses counted so far, the running countdown left out.
    pub missed: u64,
    /// Times that it went back to learning from a tree.
    pub relearned: u32,
    ring: u16,
    /// Its text names its tree's head, and is to name the gate again before anything else is published.
    pub linked: bool,
    /// That cannot be undone: all that is published from now on goes behind that tree, to its miss gate.
    pub stuck: bool,
}

impl Memory {
    /// A site that was never called.
    #[must_use]
    pub const fn new() -> Memory {
        Memory {
            state: SiteState::new(),
            window: 0,
            misses: 0,
            exits: 0,
            seen: 0,
            missed: 0,
            relearned: 0,
            ring: NO_RING,
            linked: false,
            stuck: false,
        }
    }

    /// The ring that it records into.
    #[must_use]
    pub fn ring(&self) -> Option<u16> {
        (self.ring != NO_RING).then_some(self.ring)
    }

    /// Lets it record into `ring`.
    pub(crate) fn borrow(&mut self, ring: u16) {
        self.ring = ring;
    }

    /// Takes the ring away, which the caller gives back. The cursor has to leave it first.
    pub fn take_ring(&mut self) -> Option<u16> {
        let ring = self.ring();
        self.ring = NO_RING;
        ring
    }

    /// Whether nothing would ever come of it: it learns without a ring, or leads to a tree that it is not to
    /// have. Threads that were overtaken leave such sites.
    #[must_use]
    pub fn is_astray(&self) -> bool {
        let has_no_ring = self.state.phase() == Phase::Learning && self.ring().is_none();
        let linked_still = self.linked && !self.stuck && !self.state.has_tree() && self.state.phase() != Phase::Barred;
        has_no_ring || linked_still
    }

    /// Adds a countdown of misses that has ended to the account that it belongs to.
    pub fn count_ended(&mut self) {
        let account = match self.state.phase() {
            Phase::Cold | Phase::Learning | Phase::Retpolined => &mut self.seen,
            // One that is barred and counts was given its tree.
            Phase::Promoted | Phase::Linked | Phase::Barred => &mut self.missed,
        };
        *account += u64::from(self.misses);
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

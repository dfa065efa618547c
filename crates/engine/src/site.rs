//! What the engine remembers of a site, and of the trees it was given.

use relpoline_core::arch::Reg;
use relpoline_core::policy::SiteState;
use relpoline_stats::Kind;
use relpoline_text::arena::Counters;
use relpoline_text::cells::Cell;
use relpoline_text::frames::Frame;
use relpoline_text::gate::Gate;

/// No index: "none" in the fields below.
pub const NONE: u32 = u32::MAX;

/// A site that was re-pointed to its gate.
#[derive(Clone, Copy)]
pub struct Site {
    /// Address of the instruction.
    pub address: u64,
    /// Address of its displacement.
    pub field: u64,
    /// The program's thunk.
    pub thunk_at: u64,
    /// What the gate begins with when it is the thunk: the first bytes of the copy in its cell. The program's
    /// own thunk may be shaped otherwise, or be unmapped.
    pub thunk: [u8; 8],
    /// The copy of that thunk in its arena, to which its gate and its recording stub lead: the program's own
    /// goes with its library, but a gate may be another site's one day.
    pub way: u64,
    /// The next site of its object; or, when that is forgotten, the next one whose gate can be used again.
    pub next: u32,
    /// Address of its [`Counters`].
    pub counters: u64,
    /// Its gate.
    pub gate: Gate,
    /// What the policy remembers.
    pub state: SiteState,
    /// The tree in place, or the one from before learning again: an index of [`Tree`]s.
    pub tree: u32,
    /// Its last tree that was built: the head of the list through [`Tree::older`].
    pub newest_tree: u32,
    /// Its board, an index of [`crate::board::Board`]s.
    pub board: u32,
    /// The cell of its recording stub.
    pub recording: u32,
    /// Its record in the statistics.
    pub record: u32,
    /// Calls in the current learning window.
    pub window: u32,
    /// The countdowns that are running, as they were started.
    pub misses: u32,
    /// See `misses`.
    pub exits: u32,
    /// Times it went back to learning.
    pub relearned: u32,
    /// Times its gate was re-pointed.
    pub patches: u32,
    /// Calls seen while learning.
    pub calls_seen: u64,
    /// Misses counted so far, the running window left out.
    pub missed: u64,
    /// Trees that were built for it, its board left out.
    pub built: u16,
    /// The object it lies in.
    pub object: u16,
    /// The ring it records into, or `u16::MAX`.
    pub ring: u16,
    /// Its arena.
    pub arena: u8,
    /// The register that holds the target.
    pub reg: Reg,
    /// What lies on the stack when it is left.
    pub frame: Frame,
    /// What its instruction is.
    pub kind: Kind,
    /// The head that its displacement names cannot be undone any more: everything happens at the miss gate.
    pub stuck: bool,
    /// Its displacement names something else than its gate: a head of its tree, or
    pub linked: bool,
    /// … its column's copy of the thunk.
    pub alone: bool,
    /// Where the call went that ended its first window; 0 before that.
    pub sample: u64,
    /// The head that it is linked to, an index of [`crate::head::Head`]s, if it is one that others are linked
    /// to as well.
    pub head: u32,
    /// Its object was unmapped.
    pub gone: bool,
}

/// No ring.
pub const NO_RING: u16 = u16::MAX;

impl Site {
    /// What its generated code counts.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        // SAFETY: in the counters of its arena, which are never unmapped.
        unsafe { &*(self.counters as *const Counters) }
    }
}

/// A tree that was built. Trees stay for ever, so that an equal one can be used again. A board passes for
/// one.
#[derive(Clone, Copy)]
pub struct Tree {
    /// What it does, as a number.
    pub fingerprint: u64,
    /// The cell of its head.
    pub head: Cell,
    /// The cell of its settling stub.
    pub settling: Cell,
    /// The site's tree before it.
    pub older: u32,
    /// Its targets: the first of them in the engine's table, and how many.
    pub first_target: u32,
    /// See `first_target`.
    pub targets: u16,
    /// Length of its chain.
    pub chain: u16,
    /// The cell of the head that its site is linked to, if that is not shared: the tree is written twice
    /// then.
    pub linked: u32,
    /// The cell behind which that one goes on.
    pub linked_body: u32,
    /// It counts exits.
    pub counts_exits: bool,
    /// Calls to none of its targets leave by the site's miss gate; else straight for the counting stub.
    pub by_miss_gate: bool,
    /// It is a [board](crate::board): what is said here of its targets, and these, change.
    pub is_board: bool,
}

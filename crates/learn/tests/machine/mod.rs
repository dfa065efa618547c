//! A site on a machine of the simplest kind, for the real learner: where calls go are words, stubs are a few
//! lines.
//!
//! Counting and recording load, change and store, as generated code does, so threads that are late undo what
//! others did. All that threads share are the atomics of [`relpoline_text::sync`], each access to which is a
//! step of the model.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use relpoline_core::policy::{Current, Plan, Reason};
use relpoline_core::trace::entry;
use relpoline_core::tree::Target;
use relpoline_learn::rings::{RING_BYTES, Rings};
use relpoline_learn::{Memory, Site, To, Unlinked};
use relpoline_text::arena::Counters;
use relpoline_text::stub::WINDOW_BYTES;
use relpoline_text::sync::{AtomicU32, AtomicU64};
use std::sync::{Mutex, MutexGuard};

/// Where a word leads.
const COUNTING: u32 = 0;
const RECORDING: u32 = 1;
const THUNK: u32 = 2;
/// From here on, two for each tree: its head, and its settling stub.
const TREES: u32 = 4;

/// What becomes of writes to the text.
pub const ALLOWED: u32 = 0;
/// See [`ALLOWED`].
pub const REFUSED: u32 = 1;
/// Another thread's affair, just now.
pub const OVERTAKEN: u32 = 2;

struct Tree {
    targets: Vec<Target>,
    chain: usize,
    /// What it misses is counted at once, and does not go by the miss gate.
    is_behind: bool,
}

/// A site and its code.
pub struct Machine {
    pub counters: Counters,
    gate: AtomicU32,
    miss_gate: AtomicU32,
    /// What the site's own displacement names: 0 for the gate, else a way.
    text: AtomicU32,
    /// What becomes of writes to it.
    pub pokes: AtomicU32,
    /// Between how many threads callers seem to take turns.
    pub threads: AtomicU32,
    memory: Mutex<Memory>,
    trees: Mutex<Vec<Tree>>,
    standing: Mutex<Option<u32>>,
    /// Only these are called; a tree for others would be built from what nobody recorded.
    called: std::ops::Range<u64>,
}

/// One who holds the lock has the site in hand.
pub struct Hand<'a> {
    machine: &'a Machine,
    memory: MutexGuard<'a, Memory>,
    /// A copy, since the policy looks at it by reference.
    standing: Option<(Vec<Target>, usize)>,
}

impl Machine {
    /// A site that counts so many `calls`, where targets in that range are `called`.
    pub fn new(rings: &Rings<1>, called: std::ops::Range<u64>, calls: u32) -> Machine {
        let machine = Machine {
            counters: Counters {
                cursor: AtomicU64::new(0),
                calls: AtomicU64::new(0),
                misses: AtomicU32::new(0),
                exits: AtomicU32::new(0),
                settle: AtomicU32::new(0),
                rounds: AtomicU32::new(0),
            },
            gate: AtomicU32::new(THUNK),
            miss_gate: AtomicU32::new(COUNTING),
            text: AtomicU32::new(0),
            pokes: AtomicU32::new(ALLOWED),
            threads: AtomicU32::new(1),
            memory: Mutex::new(Memory::new()),
            trees: Mutex::default(),
            standing: Mutex::default(),
            called,
        };
        relpoline_learn::open(&mut machine.hand(), rings.nobodys(), calls);
        machine
    }

    /// In the hands of who holds the learner's lock.
    pub fn hand(&self) -> Hand<'_> {
        let mut hand = Hand { machine: self, memory: self.memory.lock().expect("no panic"), standing: None };
        hand.look();
        hand
    }

    /// What is remembered of it.
    pub fn memory(&self) -> Memory {
        *self.memory.lock().expect("no panic")
    }

    /// Whether what its trees miss is counted.
    #[allow(dead_code, reason = "the model does not ask")]
    pub fn counts_misses(&self) -> bool {
        self.miss_gate.load(Relaxed) != THUNK
    }

    /// A call: whether the slow path is to be entered, and whether a tree knew the target.
    pub fn call(&self, target: u64) -> (bool, bool) {
        let mut way = match self.text.load(Acquire) {
            0 => self.gate.load(Acquire),
            linked => linked,
        };
        let mut slow = false;
        // Each tree leaves for the miss gate, or, if it was made to be behind another one, for the counting
        // stub.
        for _ in 0..4 {
            match way {
                COUNTING => return (slow | count(&self.counters.misses), false),
                RECORDING => return (slow | self.record(target), false),
                THUNK => return (slow, false),
                _ => {}
            }
            slow |= way % 2 == 1 && count(&self.counters.settle);
            let trees = self.trees.lock().expect("no panic");
            let tree = &trees[((way - TREES) / 2) as usize];
            if tree.targets.iter().any(|known| known.address == target) {
                return (slow, true);
            }
            let is_behind = tree.is_behind;
            drop(trees);
            way = if is_behind { COUNTING } else { self.miss_gate.load(Acquire) };
        }
        panic!("a call goes round and round");
    }

    /// The recording stub.
    fn record(&self, target: u64) -> bool {
        let cursor = self.counters.cursor.load(Relaxed);
        let thread = (cursor / 8 % u64::from(self.threads.load(Relaxed))) as u16;
        // SAFETY: cursors point into rings, which are there as long as the test is.
        unsafe { &*(cursor as *const core::sync::atomic::AtomicU64) }.store(entry(target, thread), Relaxed);
        let ring = cursor & !(RING_BYTES as u64 - 1);
        let next = ring | (cursor + 8) & (RING_BYTES as u64 - 1);
        self.counters.cursor.store(next, Relaxed);
        next & (WINDOW_BYTES - 1) == 0
    }
}

/// `dec` in memory, without a lock.
fn count(counter: &AtomicU32) -> bool {
    let left = counter.load(Relaxed).wrapping_sub(1);
    counter.store(left, Relaxed);
    left.cast_signed() <= 0
}

impl Hand<'_> {
    fn look(&mut self) {
        let standing = *self.machine.standing.lock().expect("no panic");
        let trees = self.machine.trees.lock().expect("no panic");
        let tree = standing.map(|tree| &trees[tree as usize]);
        self.standing = tree.map(|tree| (tree.targets.clone(), tree.chain));
    }

    /// The way to the tree in place; where that would lead round, to the counting stub.
    fn to_tree(&self, settling: u32) -> u32 {
        let Some(tree) = *self.machine.standing.lock().expect("no panic") else { return COUNTING };
        let is_behind = self.machine.trees.lock().expect("no panic")[tree as usize].is_behind;
        if self.memory.stuck && !is_behind { COUNTING } else { TREES + 2 * tree + settling }
    }

    fn poke(&self, to: u32) -> Unlinked {
        match self.machine.pokes.load(Relaxed) {
            ALLOWED => {
                self.machine.text.store(to, Release);
                Unlinked::Done
            }
            REFUSED => Unlinked::Stuck,
            _ => Unlinked::Later,
        }
    }
}

impl Site for Hand<'_> {
    type Tree = u32;

    fn memory(&self) -> &Memory {
        &self.memory
    }

    fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    fn counters(&self) -> &Counters {
        &self.machine.counters
    }

    fn reaches(&self, target: u64) -> bool {
        target != 0
    }

    fn standing(&self) -> Option<Current<'_>> {
        self.standing.as_ref().map(|(targets, chain)| Current { targets, chain: *chain })
    }

    fn build(&mut self, plan: &Plan) -> Result<u32, Reason> {
        let targets = plan.targets().to_vec();
        assert!(targets.iter().all(|t| self.machine.called.contains(&t.address)), "never called: {targets:?}");
        let mut trees = self.machine.trees.lock().expect("no panic");
        trees.push(Tree { targets, chain: plan.chain(), is_behind: self.memory.stuck });
        Ok(trees.len() as u32 - 1)
    }

    fn adopt(&mut self, tree: u32) {
        *self.machine.standing.lock().expect("no panic") = Some(tree);
        self.look();
    }

    fn lead(&mut self, to: To) {
        let way = match to {
            To::Counting => COUNTING,
            To::Recording => RECORDING,
            To::Settling => self.to_tree(1),
            To::Head => self.to_tree(0),
            To::Thunk => THUNK,
        };
        let word = if self.memory.stuck { &self.machine.miss_gate } else { &self.machine.gate };
        word.store(way, Release);
    }

    fn count_misses(&mut self, counted: bool) {
        self.machine.miss_gate.store(if counted { COUNTING } else { THUNK }, Release);
    }

    fn link(&mut self) -> Result<(), Reason> {
        self.lead(To::Head);
        let tree = *self.machine.standing.lock().expect("no panic");
        let is_behind = tree.is_none_or(|tree| self.machine.trees.lock().expect("no panic")[tree as usize].is_behind);
        if self.memory.linked || is_behind || self.poke(self.to_tree(0)) != Unlinked::Done {
            return Err(Reason::Promoted);
        }
        self.memory.linked = true;
        Ok(())
    }

    fn unlink(&mut self) -> Unlinked {
        let how = self.poke(0);
        if how == Unlinked::Done {
            self.machine.miss_gate.store(COUNTING, Release);
        }
        how
    }
}

/// Memory for rings that is never given back.
pub fn ring_memory() -> u64 {
    let layout = std::alloc::Layout::from_size_align(Rings::<1>::BYTES, 4096).expect("a layout");
    // SAFETY: the layout is not empty.
    unsafe { std::alloc::alloc_zeroed(layout) as u64 }
}

//! A gate, its stubs, and where it is led.

use super::{lock, rings, try_lock};
use crate::runtime::Shared;
use relpoline_core::arch::Reg;
use relpoline_core::arch::x86_64::encode::{Code, CodeError, Cond};
use relpoline_core::policy::{Config, Current, Phase, Plan, Reason};
use relpoline_core::tree::{self, CELL, Target, TreeSpec};
use relpoline_learn::{Memory, To};
use relpoline_patch::grace::sync_cores;
use relpoline_patch::reclaim;
use relpoline_patch::space::Block;
use relpoline_patch::word::gate_word;
use relpoline_text::arena::Counters;
use relpoline_text::stub::{self, Recording};
use std::mem::offset_of;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a site's stubs: one cell counts and leads to the learner, one records.
const STUBS: usize = 2 * CELL;
const RECORDING: u64 = CELL as u64;
/// Where in the first cell the way to the learner begins.
const LEARN: u64 = 32;

/// The register that holds the target ([`crate::jit::asm::ADDR`]), and the one that tells the learner who
/// asks.
const TARGET: Reg = match Reg::new(10) {
    Some(reg) => reg,
    None => unreachable!(),
};

/// A tree in code memory. To be dropped a grace period after its gate led to it.
struct Tree {
    shared: Arc<Shared>,
    block: Block,
    fingerprint: u64,
    /// Where it begins, and where it begins while calls are counted down.
    head: u64,
    settling: u64,
    /// Its targets, with the shares they had.
    targets: Vec<Target>,
    /// How many of them are compared one after the other.
    chain: usize,
}

impl Drop for Tree {
    fn drop(&mut self) {
        // SAFETY: unreachable for a grace period, says its owner.
        unsafe { self.shared.space.give_back(self.block) };
    }
}

/// What changes of a site.
struct State {
    memory: Memory,
    /// The tree that is in place, or was before it began to learn.
    tree: Option<Tree>,
}

/// A tail call with a computed index, in one generation of a program's code.
pub struct Site {
    shared: Arc<Shared>,
    /// Its gate, in code memory.
    gate: usize,
    stubs: Block,
    counters: &'static Counters,
    /// Whether calls through its trees are counted.
    counted: bool,
    state: Mutex<State>,
}

/// What a site is and why, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    /// Where it is in its life.
    pub phase: Phase,
    /// Why.
    pub reason: Reason,
    /// Entries in its tree and their shares in 1/65536, if a tree is in place.
    pub targets: Vec<(u64, u32)>,
    /// Trees so far, up to 255.
    pub promotions: u8,
    /// Calls through its trees, where they are counted.
    pub direct: Option<u64>,
}

impl Site {
    /// Leads the gate at `gate` of code memory, which nobody runs yet, to a counting stub. `None` when there
    /// is no room: the gate then keeps leading to the retpoline.
    pub fn open(shared: &Arc<Shared>, gate: usize, counted: bool) -> Option<Arc<Site>> {
        let counters = shared.near.take()?;
        // SAFETY: the site gives them back before it lets go of the runtime that they belong to.
        let counters: &'static Counters = unsafe { &*std::ptr::from_ref(counters) };
        let Some(stubs) = shared.space.take(STUBS) else {
            shared.near.give_back(counters);
            return None;
        };
        let state = Mutex::new(State { memory: Memory::new(), tree: None });
        let site = Arc::new(Site { shared: shared.clone(), gate, stubs, counters, counted, state });
        site.write_stubs().ok()?;
        counters.calls.store(0, Relaxed);
        relpoline_learn::open(&mut Hand::on(&site), rings::nobodys(), Config::DEFAULT.cold_calls);
        // Who misses the list only misses second chances.
        if let Some(mut learning) = try_lock() {
            learning.sites.retain(|other| other.strong_count() > 0);
            learning.sites.push(Arc::downgrade(&site));
        }
        Some(site)
    }

    fn write_stubs(self: &Arc<Site>) -> Result<(), CodeError> {
        let (mut bytes, at) = ([0xcc; STUBS], self.counting());
        let (counting, recording) = bytes.split_at_mut(CELL);
        let (count, learn) = counting.split_at_mut(LEARN as usize);
        let mut code = Code::new(count, at);
        code.dec_u32(self.counter(offset_of!(Counters, misses)));
        code.jcc(Cond::Le, at + LEARN);
        code.jmp(self.shared.stubs.jump);
        code.finish()?;
        let mut code = Code::new(learn, at + LEARN);
        code.mov_imm64(Reg::R11, Arc::as_ptr(self) as u64);
        code.jmp(self.shared.stubs.learn);
        code.finish()?;
        let to = Recording {
            reg: TARGET,
            counters: self.counter(0),
            thunk_at: self.shared.stubs.jump,
            slow_at: at + LEARN,
            keeps_flags: false,
        };
        stub::emit_recording(recording, at + RECORDING, &to)?;
        // SAFETY: the block was taken for this, and no gate leads there yet.
        unsafe { self.shared.space.memory().write(self.stubs.offset, &bytes) };
        Ok(())
    }

    /// Its runtime.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What changes of it. Never held for long.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its countdowns.
    pub fn counters(&self) -> &Counters {
        self.counters
    }

    /// What can be said about it.
    pub fn known(&self) -> Known {
        let state = self.state();
        let policy = state.memory.state;
        let tree = state.tree.as_ref().filter(|_| policy.has_tree());
        Known {
            phase: policy.phase(),
            reason: policy.reason(),
            targets: tree.map_or_else(Vec::new, |tree| tree.targets.iter().map(|t| (t.address, t.share)).collect()),
            promotions: policy.promotions(),
            direct: self.counted.then(|| self.counters.calls.load(Relaxed)),
        }
    }

    fn counter(&self, offset: usize) -> u64 {
        std::ptr::from_ref(self.counters) as u64 + offset as u64
    }

    fn counting(&self) -> u64 {
        self.shared.space.memory().address(self.stubs.offset)
    }

    fn lead_to(&self, to: u64) {
        let memory = self.shared.space.memory();
        let word = gate_word(memory.address(self.gate), to).expect("code memory is smaller than a jump's reach");
        // SAFETY: wherever a gate leads, the call is right; what it led to lives until the runs end that are
        // there.
        unsafe { memory.replace_word(self.gate, word) };
    }

    /// Where calls continue that no target matched. The broken variant that the tests must catch believes
    /// that there are none: its trees survive the programs they were made for.
    fn miss(&self, plan: &Plan) -> u64 {
        let hottest = plan.targets().first().filter(|_| cfg!(relpoline_broken = "tail-call-tree"));
        hottest.map_or_else(|| self.counting(), |target| target.address)
    }

    /// Writes a tree: its head, the stub that counts it down, its body.
    fn emit(&self, spec: &TreeSpec<'_>, fingerprint: u64) -> Result<Tree, Reason> {
        let space = &self.shared.space;
        let mut bytes = vec![0; 2 * CELL + tree::body_size(spec)];
        let block = space.take(bytes.len()).ok_or(Reason::ArenaFull)?;
        let head = space.memory().address(block.offset);
        let (settling, body) = (head + CELL as u64, head + 2 * CELL as u64);
        // From here on it gives its block back by itself.
        let tree = Tree {
            shared: self.shared.clone(),
            block,
            fingerprint,
            head,
            settling,
            targets: spec.targets.to_vec(),
            chain: spec.chain,
        };
        let (first, rest) = bytes.split_at_mut(CELL);
        let (second, rest) = rest.split_at_mut(CELL);
        tree::emit(spec, first, head, rest, body).map_err(|_| Reason::OutOfRange)?;
        stub::emit_settling(second, settling, self.counter(0), self.counting() + LEARN, head, false)
            .map_err(|_| Reason::OutOfRange)?;
        // SAFETY: the block was just taken, and no gate leads there yet.
        unsafe { space.memory().write(block.offset, &bytes) };
        // The bytes may have been another tree's: no core may have old ones in its pipeline.
        sync_cores();
        Ok(tree)
    }
}

/// A site, in the hands of who holds the learner's lock, or has just made it.
pub struct Hand<'a> {
    site: &'a Site,
    state: MutexGuard<'a, State>,
}

impl<'a> Hand<'a> {
    /// One on `site`.
    pub fn on(site: &'a Site) -> Hand<'a> {
        Hand { site, state: site.state() }
    }
}

impl relpoline_learn::Site for Hand<'_> {
    /// It is in place when it is built.
    type Tree = ();

    fn memory(&self) -> &Memory {
        &self.state.memory
    }

    fn memory_mut(&mut self) -> &mut Memory {
        &mut self.state.memory
    }

    fn counters(&self) -> &Counters {
        self.site.counters
    }

    /// All programs of a runtime are in its code memory; anything else is a stale record.
    fn reaches(&self, target: u64) -> bool {
        let memory = self.site.shared.space.memory();
        (memory.address(0)..memory.address(memory.len())).contains(&target)
    }

    fn standing(&self) -> Option<Current<'_>> {
        self.state.tree.as_ref().map(|tree| Current { targets: &tree.targets, chain: tree.chain })
    }

    /// An equal tree is kept.
    fn build(&mut self, plan: &Plan) -> Result<(), Reason> {
        let site = self.site;
        let exits = plan.count_exits().then(|| (site.counter(offset_of!(Counters, exits)), site.counting() + LEARN));
        let spec = TreeSpec {
            reg: TARGET,
            targets: plan.targets(),
            chain: plan.chain(),
            miss: site.miss(plan),
            hits_counter: site.counted.then(|| site.counter(offset_of!(Counters, calls))),
            exits,
            keeps_flags: false,
        };
        let fingerprint = tree::fingerprint(&spec) ^ u64::from(exits.is_some());
        if let Some(tree) = self.state.tree.as_mut().filter(|tree| tree.fingerprint == fingerprint) {
            tree.targets = plan.targets().to_vec();
            return Ok(());
        }
        let tree = site.emit(&spec, fingerprint)?;
        if let Some(old) = self.state.tree.replace(tree) {
            reclaim::retire(Box::new(old));
        }
        Ok(())
    }

    fn adopt(&mut self, (): ()) {}

    fn lead(&mut self, to: To) {
        let site = self.site;
        let tree = |way: fn(&Tree) -> u64| self.state.tree.as_ref().map_or(site.counting(), way);
        site.lead_to(match to {
            To::Counting => site.counting(),
            To::Recording => site.counting() + RECORDING,
            To::Settling => tree(|tree| tree.settling),
            To::Head => tree(|tree| tree.head),
            To::Thunk => site.shared.stubs.jump,
        });
        // A site that is left alone keeps no tree.
        if to == To::Thunk
            && let Some(tree) = self.state.tree.take()
        {
            reclaim::retire(Box::new(tree));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // The code that led here is gone for a grace period.
        // SAFETY: so nobody is in the stubs.
        unsafe { self.shared.space.give_back(self.stubs) };
        self.shared.near.give_back(self.counters);
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        // In a forked child somebody may hold the lock who does not exist there.
        if let Some(ring) = state.memory.take_ring().filter(|_| !self.shared.space.is_inherited()) {
            lock().learner.rings.give_back(ring);
        }
    }
}

//! A gate, its stubs, and where it is led.

use super::rings::{self, Ring};
use super::{Learner, learner, try_learner};
use crate::reclaim;
use crate::runtime::Shared;
use crate::space::Block;
use relpoline_core::arch::Reg;
use relpoline_core::arch::x86_64::encode::{Code, CodeError, Cond, gate_word};
use relpoline_core::policy::{self, Phase, Plan, Reason, SiteState};
use relpoline_core::tree::{self, CELL, Target, TreeSpec};
use relpoline_text::arena::Counters;
use relpoline_text::grace::sync_cores;
use relpoline_text::stub::{self, Recording};
use std::mem::offset_of;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A countdown that does not end within the life of a process.
pub const NEVER: u32 = i32::MAX.cast_unsigned();

/// Bytes of a site's stubs: one cell counts and leads to the learner, one records.
const STUBS: usize = 2 * CELL;
const RECORDING: u64 = CELL as u64;
/// Where in the first cell the way to the learner begins.
const LEARN: u64 = 32;

/// The register that holds the target ([`crate::jit::asm::ADDR`]), and the one that tells the learner who asks.
const TARGET: Reg = match Reg::new(10) {
    Some(reg) => reg,
    None => unreachable!(),
};

/// A tree in code memory. To be dropped a grace period after its gate led to it.
pub struct Tree {
    shared: Arc<Shared>,
    block: Block,
    fingerprint: u64,
    /// Where it begins, and where it begins while calls are counted down.
    head: u64,
    settling: u64,
    /// Its targets, with the shares they had.
    pub targets: Vec<Target>,
    /// How many of them are compared one after the other.
    pub chain: usize,
}

impl Drop for Tree {
    fn drop(&mut self) {
        // SAFETY: unreachable for a grace period, says its owner.
        unsafe { self.shared.space.give_back(self.block) };
    }
}

/// What changes of a site.
pub struct State {
    /// The policy's memory of it.
    pub policy: SiteState,
    /// The tree that is in place, or was before it began to learn.
    pub tree: Option<Tree>,
    /// Where it records, while it does.
    pub ring: Option<&'static Ring>,
    /// Calls to record.
    pub window: u32,
    /// What the countdowns of misses and exits began with.
    pub misses: u32,
    /// See `misses`.
    pub exits: u32,
    /// Misses counted so far.
    pub missed: u64,
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
    /// Leads the gate at `gate` of code memory, which nobody runs yet, to a counting stub. `None` when there is no
    /// room: the gate then keeps leading to the retpoline.
    pub fn open(shared: &Arc<Shared>, gate: usize, counted: bool) -> Option<Arc<Site>> {
        let counters = shared.near.take()?;
        // SAFETY: the site gives them back before it lets go of the runtime that they belong to.
        let counters: &'static Counters = unsafe { &*std::ptr::from_ref(counters) };
        let Some(stubs) = shared.space.take(STUBS) else {
            shared.near.give_back(counters);
            return None;
        };
        let state =
            State { policy: SiteState::new(), tree: None, ring: None, window: 0, misses: 0, exits: 0, missed: 0 };
        let site = Arc::new(Site { shared: shared.clone(), gate, stubs, counters, counted, state: Mutex::new(state) });
        site.write_stubs().ok()?;
        for counter in [&counters.misses, &counters.exits, &counters.settle] {
            counter.store(NEVER, Relaxed);
        }
        counters.calls.store(0, Relaxed);
        counters.cursor.store(rings::idle().address(), Relaxed);
        let mut state = site.state();
        site.count_misses(&mut state, policy::Config::DEFAULT.cold_calls);
        site.lead_to(site.counting());
        drop(state);
        // Who misses the list only misses second chances.
        if let Some(mut learner) = try_learner() {
            learner.sites.retain(|other| other.strong_count() > 0);
            learner.sites.push(Arc::downgrade(&site));
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
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its countdowns.
    pub fn counters(&self) -> &Counters {
        self.counters
    }

    /// What can be said about it.
    pub fn known(&self) -> Known {
        let state = self.state();
        let tree = state.tree.as_ref().filter(|_| state.policy.has_tree());
        Known {
            phase: state.policy.phase(),
            reason: state.policy.reason(),
            targets: tree.map_or_else(Vec::new, |tree| tree.targets.iter().map(|t| (t.address, t.share)).collect()),
            promotions: state.policy.promotions(),
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
        // SAFETY: wherever a gate leads, the call is right; what it led to lives until the runs end that are there.
        unsafe { memory.replace_word(self.gate, word) };
    }

    /// Lets calls that miss count `misses` down.
    pub fn count_misses(&self, state: &mut State, misses: u32) {
        state.misses = misses;
        self.counters.misses.store(misses, Relaxed);
    }

    /// Lets all calls count down.
    pub fn lead_to_counting(&self) {
        self.lead_to(self.counting());
    }

    /// Leaves the site to its retpoline, for good or until it is due.
    pub fn lead_to_retpoline(&self, state: &mut State) {
        self.lead_to(self.shared.stubs.jump);
        if let Some(tree) = state.tree.take() {
            reclaim::retire(Box::new(tree));
        }
    }

    /// Lets calls be recorded in `ring`.
    pub fn lead_to_recording(&self, state: &mut State, ring: &'static Ring) {
        self.counters.cursor.store(ring.address(), Relaxed);
        self.counters.misses.store(NEVER, Relaxed);
        state.ring = Some(ring);
        self.lead_to(self.counting() + RECORDING);
    }

    /// Puts the tree in place, with its countdowns.
    pub fn lead_to_tree(&self, state: &mut State, start: policy::Counters) {
        let running = |n: u32| if n == 0 { NEVER } else { n };
        self.count_misses(state, running(start.misses));
        state.exits = running(start.exits);
        self.counters.exits.store(state.exits, Relaxed);
        self.counters.settle.store(running(start.settle), Relaxed);
        match &state.tree {
            Some(tree) if start.settle == 0 => self.lead_to(tree.head),
            Some(tree) => self.lead_to(tree.settling),
            None => self.lead_to(self.counting()),
        }
    }

    /// Lets calls go to the tree uncounted.
    pub fn lead_to_head(&self, state: &State) {
        if let Some(tree) = &state.tree {
            self.lead_to(tree.head);
        }
    }

    /// Gives the site a tree for `plan`; it keeps an equal one.
    pub fn build(&self, state: &mut State, plan: &Plan) -> Result<(), Reason> {
        let exits = plan.count_exits().then(|| (self.counter(offset_of!(Counters, exits)), self.counting() + LEARN));
        let spec = TreeSpec {
            reg: TARGET,
            targets: plan.targets(),
            chain: plan.chain(),
            miss: self.miss(plan),
            hits_counter: self.counted.then(|| self.counter(offset_of!(Counters, calls))),
            exits,
            keeps_flags: false,
        };
        let fingerprint = tree::fingerprint(&spec) ^ u64::from(exits.is_some());
        if let Some(tree) = state.tree.as_mut().filter(|tree| tree.fingerprint == fingerprint) {
            tree.targets = plan.targets().to_vec();
            return Ok(());
        }
        let tree = self.emit(&spec, fingerprint)?;
        if let Some(old) = state.tree.replace(tree) {
            reclaim::retire(Box::new(old));
        }
        Ok(())
    }

    /// Where calls continue that no target matched. The broken variant that the tests must catch believes that there
    /// are none: its trees survive the programs they were made for.
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

    /// Ends recording.
    pub fn stop_recording(&self, state: &mut State, learner: &mut Learner) {
        if let Some(ring) = state.ring.take() {
            self.counters.cursor.store(rings::idle().address(), Relaxed);
            learner.rings.give_back(ring);
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
        if let Some(ring) = state.ring.take().filter(|_| !self.shared.space.is_inherited()) {
            learner().rings.give_back(ring);
        }
    }
}

//! What the lock protects, and the phases of an update.

use super::ArrayCore;
use crate::code::{Body, Code, Core, MapRef};
use crate::jit::{CompileError, SiteAt};
use crate::program::Program;
use crate::runtime::Shared;
use relpoline_patch::bypass::{Change, PHASES, Phase, Poke, Site, Wait};
use relpoline_patch::grace::sync_cores;
use relpoline_patch::reclaim;
use relpoline_patch::word::{jump_word, nop_word};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Weak};

/// What an array's slots lead to, for variable indexes and the interpreter; one per generation.
pub struct Table {
    /// Codes are kept by the programs in the slots, and a grace period longer.
    pub slots: Box<[AtomicPtr<Code>]>,
}

impl Table {
    pub(super) fn new(entries: usize) -> Arc<Table> {
        Arc::new(Table { slots: (0..entries).map(|_| AtomicPtr::default()).collect() })
    }

    pub(super) fn set(&self, index: u32, code: *mut Code) {
        self.slots[index as usize].store(code, Ordering::Release);
    }
}

/// A registered patch site.
pub(super) struct SiteRef {
    code: *const Code,
    /// Offsets in code memory.
    bypass: usize,
    target: usize,
    /// Address where execution goes on without a program.
    out: u64,
    state: Site,
}

/// What the lock protects of one array.
pub(super) struct State {
    pub(super) slots: Vec<Option<Arc<Core>>>,
    pub(super) table: Arc<Table>,
    pub(super) sites: HashMap<u32, Vec<SiteRef>>,
}

impl State {
    pub(super) fn new(entries: u32) -> State {
        State { slots: vec![None; entries as usize], table: Table::new(entries as usize), sites: HashMap::new() }
    }
}

/// All arrays of a runtime, and the programs that refer to them.
#[derive(Default)]
pub struct Links {
    pub(super) arrays: HashMap<u64, State>,
    pub(super) users: HashMap<u32, Weak<Core>>,
    /// An update is between two of its phases: sites must not be added or replaced.
    pub updating: bool,
}

// SAFETY: the raw pointers to codes are compared, and never followed.
unsafe impl Send for Links {}

fn poke_site(shared: &Shared, site: &mut SiteRef, poke: Poke) {
    let memory = shared.space.memory();
    let word = |offset: usize, to: Option<u64>| {
        // Code memory is far smaller than a jump's reach.
        to.map_or(nop_word(), |to| jump_word(memory.address(offset), to).expect("within one memory"))
    };
    let bypass = |open: bool| (!open).then_some(site.out);
    let (offset, old, new) = match poke {
        Poke::Target(to) => (site.target, site.state.target, to),
        Poke::Bypass(open) => (site.bypass, bypass(site.state.open), bypass(open)),
    };
    // SAFETY: both words are right for a thread that fetches them, by the protocol.
    let found = unsafe { memory.replace_word(offset, word(offset, new)) };
    let expected = word(offset, old);
    assert_eq!(found, expected, "patch site at {:#x} was {found:016x}, not {expected:016x}", memory.address(offset));
    site.state = site.state.after(poke);
}

impl Links {
    /// Compiles and publishes a new program.
    pub fn add_program(&mut self, body: &Arc<Body>) -> Result<Arc<Core>, CompileError> {
        if body.shared.space.is_inherited() {
            return Err(CompileError::Inherited);
        }
        let tables = body.maps.iter().map(|map| self.table_of(map)).collect();
        let code = Code::place(body, tables)?;
        self.register(&code, |state, index| state.slots[index as usize].as_ref().map(|core| core.entry()));
        sync_cores();
        let core = Arc::new(Core::new(code));
        if body.arrays().next().is_some() {
            self.users.retain(|_, user| user.strong_count() > 0);
            self.users.insert(body.id, Arc::downgrade(&core));
        }
        Ok(core)
    }

    /// Entries and names of the programs in an array's slots.
    pub fn entries_of(&self, array: &ArrayCore) -> Vec<(u64, Arc<str>)> {
        let slots = self.arrays.get(&array.id).map_or(&[][..], |state| &state.slots[..]);
        slots.iter().flatten().map(|core| (core.entry(), core.body.name.clone())).collect()
    }

    fn table_of(&self, map: &MapRef) -> Option<Arc<Table>> {
        let MapRef::Array(array) = map else {
            return None;
        };
        self.arrays.get(&array.id).map(|state| state.table.clone())
    }

    /// Registers the sites of `code`, which nobody runs yet, and links them to what `entry` says is in their
    /// slots.
    pub(super) fn register(&mut self, code: &Arc<Code>, entry: impl Fn(&State, u32) -> Option<u64>) {
        let shared = code.body.shared.clone();
        for at in &code.sites {
            let MapRef::Array(array) = &code.body.maps[at.map as usize] else {
                continue;
            };
            let Some(state) = self.arrays.get_mut(&array.id) else {
                continue;
            };
            let program = entry(state, at.index);
            let mut site = fresh(code, at);
            if program.is_none() {
                poke_site(&shared, &mut site, Poke::Bypass(false));
            } else {
                poke_site(&shared, &mut site, Poke::Target(program));
            }
            state.sites.entry(at.index).or_default().push(site);
        }
    }

    /// Forgets the sites of `code`, which is about to be retired.
    pub fn forget(&mut self, code: &Arc<Code>) {
        for array in code.body.arrays() {
            if let Some(state) = self.arrays.get_mut(&array.id) {
                for sites in state.sites.values_mut() {
                    sites.retain(|site| site.code != Arc::as_ptr(code));
                }
            }
        }
    }

    /// Puts programs into slots, and returns what has to be done to the sites, and the programs that left
    /// their slots.
    fn plan(&mut self, array: &ArrayCore, changes: &[(u32, Option<&Program>)]) -> (Vec<Planned>, Vec<Arc<Core>>) {
        let Some(state) = self.arrays.get_mut(&array.id) else {
            return (Vec::new(), Vec::new());
        };
        // The last of several changes of one slot counts.
        let last: BTreeMap<u32, Option<&Program>> = changes.iter().copied().collect();
        let mut planned = Vec::new();
        let mut removed = Vec::new();
        for (index, program) in last {
            let new = program.map(|p| p.core.clone());
            let old = std::mem::replace(&mut state.slots[index as usize], new.clone());
            let change = Change::between(old.as_ref().map(|c| c.entry()), new.as_ref().map(|c| c.entry()));
            planned.push((index, change, new.map_or(std::ptr::null_mut(), |c| c.code_ptr())));
            removed.extend(old);
        }
        (planned, removed)
    }

    /// Empties an array that nobody can fill again: bypasses are closed, and what jumps to the programs
    /// stays, unreachable, so there is nothing to wait for.
    pub(super) fn close(&mut self, id: u64) -> Vec<Option<Arc<Core>>> {
        let Some(state) = self.arrays.get_mut(&id) else {
            return Vec::new();
        };
        for (index, slot) in state.slots.iter().enumerate() {
            let Some(core) = slot.as_ref().filter(|core| !core.body.shared.space.is_inherited()) else { continue };
            state.table.set(index as u32, std::ptr::null_mut());
            for site in state.sites.get_mut(&(index as u32)).into_iter().flatten() {
                poke_site(&core.body.shared, site, Poke::Bypass(false));
            }
        }
        sync_cores();
        state.slots.iter_mut().map(Option::take).collect()
    }
}

/// A slot, how it changes, and the code that it leads to then.
type Planned = (u32, Change, *mut Code);

/// Goes through the phases of one update, and returns the programs that left their slots. The lock is free
/// while it waits.
pub(super) fn update(array: &Arc<ArrayCore>, changes: &[(u32, Option<&Program>)]) -> Vec<Arc<Core>> {
    let shared = &array.shared;
    let _updating = shared.begin_update();
    let (planned, removed) = shared.links().plan(array, changes);
    for phase in PHASES {
        let mut links = shared.links();
        let wait = links.arrays.get_mut(&array.id).map_or(Wait::No, |state| state.go_through(shared, phase, &planned));
        // The broken variant that the tests must catch: whoever wants the lock in a run waits for that run's
        // own end.
        let kept = cfg!(relpoline_broken = "waits-with-lock").then_some(links);
        match wait {
            Wait::No => {}
            Wait::Sync => sync_cores(),
            Wait::Grace => reclaim::wait(),
        }
        drop(kept);
    }
    removed
}

fn fresh(code: &Arc<Code>, at: &SiteAt) -> SiteRef {
    SiteRef {
        code: Arc::as_ptr(code),
        bypass: code.block.offset + at.bypass,
        target: code.block.offset + at.target,
        out: code.entry + at.out as u64,
        state: Site { open: true, target: None },
    }
}

impl State {
    /// One phase of all planned changes; the wait that has to follow.
    fn go_through(&mut self, shared: &Shared, phase: Phase, planned: &[Planned]) -> Wait {
        let mut wait = Wait::No;
        for &(index, change, code) in planned {
            if let Some(poke) = change.poke(phase) {
                for site in self.sites.get_mut(&index).into_iter().flatten() {
                    poke_site(shared, site, poke);
                }
            }
            // The table is one store; it changes when the slot's sites begin to lead elsewhere.
            let switches = matches!(change.poke(phase), Some(Poke::Target(Some(_)) | Poke::Bypass(false)));
            if switches {
                self.table.set(index, code);
            }
            wait = wait.and(change.wait(phase));
        }
        // In the broken variant the tests need not wait for a thread that comes by at the wrong nanosecond.
        if cfg!(relpoline_broken = "tail-call-order") {
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
        wait
    }
}

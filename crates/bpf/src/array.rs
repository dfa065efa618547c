//! Program arrays: slots of programs, the direct jumps that lead there, and how both change under way.
//!
//! All slots, tables and patch sites of a runtime are behind one lock ([`Links`]); running programs never take
//! it. What they see is code, whose sites change by [`relpoline_core::tailcall`]'s protocol, and for variable
//! indexes a table of pointers to [`Code`].
//!
//! A site *registers* here under the lock, gets its state from the slot as it is then, and only after that its
//! program is published: no update can miss it.
//!
//! # Swaps
//! [`Transaction`] makes any number of slots change so that each run sees all of them old or all new. It
//! compiles every program that can take part in such a run once more, into a new generation: those that refer
//! to a changed array, those in the slots of these arrays, and so on. The new generation's code leads to
//! itself only. Then each program's current code is replaced. A run chose its code when it began, so it stays
//! in one generation; a grace period later the old one is freed.

use crate::jit::{CompileError, SiteAt};
use crate::map::{MapError, MapKind, MapSpec};
use crate::program::{Body, Code, Core, Program};
use crate::reclaim;
use crate::runtime::{Runtime, Shared};
use relpoline_core::tailcall::{Change, PHASES, Phase, Poke, Site, Wait, jump_word, nop_word};
use relpoline_text::grace::sync_cores;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// Most slots of an array.
pub const MOST_ENTRIES: u32 = 1 << 16;
/// What the upper half of an array's handle is; no map's handle or address looks like it.
const HANDLE: u64 = 0xb9f0_7072 << 32;

/// Why an array could not be changed. Nothing was changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UpdateError {
    /// The array has no such slot.
    #[error("slot {0} is beyond the program array's end")]
    NoSlot(u32),
    /// The program belongs to another runtime.
    #[error("the program belongs to another runtime")]
    OtherRuntime,
    /// A helper wanted to change an array: it would wait for its own run to end.
    #[error("program arrays cannot be changed from within a run")]
    InsideRun,
    /// There is no room for the new generation of code.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// What an array's slots lead to, for variable indexes and the interpreter; one per generation.
pub struct Table {
    /// Codes are kept by the programs in the slots, and a grace period longer.
    pub slots: Box<[AtomicPtr<Code>]>,
}

impl Table {
    fn new(entries: usize) -> Arc<Table> {
        Arc::new(Table { slots: (0..entries).map(|_| AtomicPtr::default()).collect() })
    }

    fn set(&self, index: u32, code: *mut Code) {
        self.slots[index as usize].store(code, Ordering::Release);
    }
}

/// A registered patch site.
struct SiteRef {
    code: *const Code,
    /// Offsets in code memory.
    bypass: usize,
    target: usize,
    /// Address where execution goes on without a program.
    out: u64,
    state: Site,
}

/// What the lock protects of one array.
struct State {
    slots: Vec<Option<Arc<Core>>>,
    table: Arc<Table>,
    sites: HashMap<u32, Vec<SiteRef>>,
}

impl State {
    fn new(entries: u32) -> State {
        State { slots: vec![None; entries as usize], table: Table::new(entries as usize), sites: HashMap::new() }
    }
}

/// All arrays of a runtime, and the programs that refer to them.
#[derive(Default)]
pub struct Links {
    arrays: HashMap<u64, State>,
    users: HashMap<u32, Weak<Core>>,
}

// SAFETY: the raw pointers to codes are compared, and never followed.
unsafe impl Send for Links {}

/// An array's identity.
pub struct ArrayCore {
    shared: Arc<Shared>,
    id: u64,
    pub(crate) entries: u32,
    name: String,
}

impl ArrayCore {
    /// What programs know it by.
    pub fn handle(&self) -> u64 {
        HANDLE | (self.id & 0xffff_ffff)
    }
}

impl Drop for ArrayCore {
    fn drop(&mut self) {
        let state = self.shared.links().arrays.remove(&self.id);
        // Outside the lock: dropping programs takes it.
        drop(state);
    }
}

/// The host's share in an array; the last one empties it.
struct User(Arc<ArrayCore>);

impl Drop for User {
    fn drop(&mut self) {
        let programs = self.0.shared.links().close(self.0.id);
        drop(programs);
        reclaim::reap();
    }
}

/// A program array, from the host's side. Clones are the same array. When the last clone and the last
/// [`Program`] handle loaded with it are gone, its slots are emptied.
#[derive(Clone)]
pub struct ProgArray(Arc<User>);

impl std::fmt::Debug for ProgArray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProgArray").field("name", &self.core().name).field("entries", &self.entries()).finish()
    }
}

impl ProgArray {
    /// An array of `entries` empty slots.
    ///
    /// # Errors
    /// [`MapError::BadSize`] for none, or more than 65536.
    pub fn new(runtime: &Runtime, name: &str, entries: u32) -> Result<ProgArray, MapError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if entries == 0 || entries > MOST_ENTRIES {
            return Err(MapError::BadSize);
        }
        let shared = runtime.shared().clone();
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        shared.links().arrays.insert(id, State::new(entries));
        Ok(ProgArray(Arc::new(User(Arc::new(ArrayCore { shared, id, entries, name: name.into() })))))
    }

    pub(crate) fn from_spec(runtime: &Runtime, spec: &MapSpec) -> Result<ProgArray, MapError> {
        if spec.kind != MapKind::ProgArray {
            return Err(MapError::Unsupported);
        }
        ProgArray::new(runtime, &spec.name, spec.max_entries)
    }

    pub(crate) fn core(&self) -> &Arc<ArrayCore> {
        &self.0.0
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.core().shared
    }

    /// Slots.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.core().entries
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core().name
    }

    /// Puts a program into slot `index`, or empties it. Runs that go on meanwhile see the old or the new.
    ///
    /// Inserting and replacing do not wait; removing waits for one grace period.
    ///
    /// # Errors
    /// See [`UpdateError`].
    pub fn update(&self, index: u32, program: Option<&Program>) -> Result<(), UpdateError> {
        self.update_all(&[(index, program)])
    }

    /// As [`ProgArray::update`] for many slots, with one grace period for all of them. A run that goes on may
    /// see some slots old and some new; if it must not, use [`ProgArray::swap`].
    ///
    /// # Errors
    /// See [`UpdateError`].
    pub fn update_all(&self, changes: &[(u32, Option<&Program>)]) -> Result<(), UpdateError> {
        self.check(changes)?;
        let removed = self.shared().links().update(self.core(), changes);
        drop(removed);
        reclaim::reap();
        Ok(())
    }

    /// Changes slots so that each run sees all of them old, or all of them new.
    ///
    /// # Errors
    /// See [`UpdateError`].
    pub fn swap<'a>(&self, changes: impl IntoIterator<Item = (u32, Option<&'a Program>)>) -> Result<(), UpdateError> {
        let mut transaction = Transaction::new();
        for (index, program) in changes {
            transaction.set(self, index, program)?;
        }
        transaction.commit()
    }

    fn check(&self, changes: &[(u32, Option<&Program>)]) -> Result<(), UpdateError> {
        for (index, program) in changes {
            if *index >= self.entries() {
                return Err(UpdateError::NoSlot(*index));
            }
            if program.is_some_and(|p| !Arc::ptr_eq(p.shared(), self.shared())) {
                return Err(UpdateError::OtherRuntime);
            }
        }
        if reclaim::is_inside() { Err(UpdateError::InsideRun) } else { Ok(()) }
    }

    /// Names of the programs in the slots.
    #[must_use]
    pub fn programs(&self) -> Vec<Option<Arc<str>>> {
        let links = self.shared().links();
        let slots = links.arrays.get(&self.core().id).map_or(&[][..], |state| &state.slots[..]);
        slots.iter().map(|slot| slot.as_ref().map(|core| core.body.name.clone())).collect()
    }
}

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

    fn table_of(&self, map: &crate::program::MapRef) -> Option<Arc<Table>> {
        let crate::program::MapRef::Array(array) = map else {
            return None;
        };
        self.arrays.get(&array.id).map(|state| state.table.clone())
    }

    /// Registers the sites of `code`, which nobody runs yet, and links them to what `entry` says is in their
    /// slots.
    fn register(&mut self, code: &Arc<Code>, entry: impl Fn(&State, u32) -> Option<u64>) {
        let shared = code.body.shared.clone();
        for at in &code.sites {
            let crate::program::MapRef::Array(array) = &code.body.maps[at.map as usize] else {
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

    /// Goes through the phases of one update, and returns the programs that left their slots.
    fn update(&mut self, array: &Arc<ArrayCore>, changes: &[(u32, Option<&Program>)]) -> Vec<Arc<Core>> {
        let Some(state) = self.arrays.get_mut(&array.id) else {
            return Vec::new();
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
        for phase in PHASES {
            state.go_through(&array.shared, phase, &planned);
        }
        removed
    }

    /// Empties an array that nobody can fill again: bypasses are closed, and what jumps to the programs stays,
    /// unreachable, so there is nothing to wait for.
    fn close(&mut self, id: u64) -> Vec<Option<Arc<Core>>> {
        let Some(state) = self.arrays.get_mut(&id) else {
            return Vec::new();
        };
        for (index, slot) in state.slots.iter().enumerate() {
            let Some(core) = slot else { continue };
            state.table.set(index as u32, std::ptr::null_mut());
            for site in state.sites.get_mut(&(index as u32)).into_iter().flatten() {
                poke_site(&core.body.shared, site, Poke::Bypass(false));
            }
        }
        sync_cores();
        state.slots.iter_mut().map(Option::take).collect()
    }
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
    /// One phase of all planned changes, and the wait behind it.
    fn go_through(&mut self, shared: &Shared, phase: Phase, planned: &[(u32, Change, *mut Code)]) {
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
        match wait {
            Wait::No => {}
            Wait::Sync => sync_cores(),
            Wait::Grace => reclaim::wait(),
        }
    }
}

/// Changes of any slots of any arrays of one runtime, made at once for every run.
#[derive(Debug, Default)]
pub struct Transaction {
    changes: Vec<(ProgArray, u32, Option<Program>)>,
}

impl Transaction {
    /// No changes yet.
    #[must_use]
    pub fn new() -> Transaction {
        Transaction::default()
    }

    /// Adds a change.
    ///
    /// # Errors
    /// [`UpdateError::NoSlot`], or [`UpdateError::OtherRuntime`] if array, program and earlier arrays do not
    /// belong together.
    pub fn set(&mut self, array: &ProgArray, index: u32, program: Option<&Program>) -> Result<(), UpdateError> {
        array.check(&[(index, program)])?;
        if self.changes.first().is_some_and(|(first, ..)| !Arc::ptr_eq(first.shared(), array.shared())) {
            return Err(UpdateError::OtherRuntime);
        }
        self.changes.push((array.clone(), index, program.cloned()));
        Ok(())
    }

    /// Makes the changes. Runs that began before see none of them, runs that begin afterwards all.
    ///
    /// # Errors
    /// [`UpdateError::InsideRun`] or [`UpdateError::Compile`].
    pub fn commit(self) -> Result<(), UpdateError> {
        let Some((first, ..)) = self.changes.first() else {
            return Ok(());
        };
        if reclaim::is_inside() {
            return Err(UpdateError::InsideRun);
        }
        // What it holds on to may be the last of a program, whose end takes the lock.
        let mut component = Component::default();
        let outcome = first.shared().links().swap(&self.changes, &mut component);
        let (old_codes, old_cores) = outcome?;
        // All at once: one grace period for the whole generation.
        reclaim::retire(Box::new(old_codes));
        drop((old_cores, component));
        reclaim::reap();
        Ok(())
    }
}

/// What a swap touches.
#[derive(Default)]
struct Component {
    arrays: HashMap<u64, Arc<ArrayCore>>,
    programs: HashMap<u32, Arc<Core>>,
    /// All programs that refer to any array.
    users: Vec<Arc<Core>>,
}

type Replaced = (Vec<Arc<Code>>, Vec<Arc<Core>>);

impl Links {
    fn swap(
        &mut self,
        changes: &[(ProgArray, u32, Option<Program>)],
        component: &mut Component,
    ) -> Result<Replaced, UpdateError> {
        let mut new_slots: HashMap<u64, Vec<Option<Arc<Core>>>> = HashMap::new();
        for (array, index, program) in changes {
            let id = array.core().id;
            let slots = new_slots.entry(id).or_insert_with(|| self.arrays[&id].slots.clone());
            slots[*index as usize] = program.as_ref().map(|p| p.core.clone());
        }
        self.gather(changes, &new_slots, component);
        for id in component.arrays.keys() {
            new_slots.entry(*id).or_insert_with(|| self.arrays[id].slots.clone());
        }
        let tables: HashMap<u64, Arc<Table>> =
            component.arrays.iter().map(|(id, array)| (*id, Table::new(array.entries as usize))).collect();
        let codes = place_all(component, &tables)?;
        Ok(self.publish(component, new_slots, tables, codes))
    }

    /// The arrays and programs that a run through one of the changed arrays can come to.
    fn gather(
        &self,
        changes: &[(ProgArray, u32, Option<Program>)],
        new_slots: &HashMap<u64, Vec<Option<Arc<Core>>>>,
        component: &mut Component,
    ) {
        let mut work: Vec<Arc<ArrayCore>> = changes.iter().map(|(array, ..)| array.core().clone()).collect();
        component.users = self.users.values().filter_map(Weak::upgrade).collect();
        let mut seen = HashSet::new();
        while let Some(array) = work.pop() {
            if !seen.insert(array.id) {
                continue;
            }
            let slots = new_slots.get(&array.id).or_else(|| self.arrays.get(&array.id).map(|s| &s.slots));
            let inside = slots.into_iter().flatten().flatten();
            let referring = component.users.iter().filter(|user| user.body.arrays().any(|a| a.id == array.id));
            for core in inside.chain(referring) {
                work.extend(core.body.arrays().cloned());
                component.programs.insert(core.body.id, core.clone());
            }
            // Arrays that hold one of these programs lead here as well.
            component.arrays.insert(array.id, array);
            work.extend(self.holding(component));
        }
    }

    /// Arrays, known by the programs that refer to them, in whose slots is a program of the component.
    fn holding(&self, component: &Component) -> Vec<Arc<ArrayCore>> {
        let holds = |array: &&Arc<ArrayCore>| {
            let slots = self.arrays.get(&array.id).map_or(&[][..], |state| &state.slots[..]);
            slots.iter().flatten().any(|core| component.programs.contains_key(&core.body.id))
        };
        component.users.iter().flat_map(|user| user.body.arrays()).filter(holds).cloned().collect()
    }

    fn publish(
        &mut self,
        component: &Component,
        mut new_slots: HashMap<u64, Vec<Option<Arc<Core>>>>,
        tables: HashMap<u64, Arc<Table>>,
        codes: HashMap<u32, Arc<Code>>,
    ) -> Replaced {
        let mut old_cores = Vec::new();
        for (id, table) in tables {
            let Some(state) = self.arrays.get_mut(&id) else {
                continue;
            };
            let slots = new_slots.remove(&id).unwrap_or_default();
            for (index, core) in slots.iter().enumerate() {
                if let Some(core) = core {
                    let code = Arc::as_ptr(&codes[&core.body.id]).cast_mut();
                    table.set(index as u32, code);
                }
            }
            old_cores.extend(std::mem::replace(&mut state.slots, slots).into_iter().flatten());
            state.table = table;
            // Sites of the old generation are never changed again: it goes on as it was.
            state.sites.clear();
        }
        for code in codes.values() {
            self.register(code, |state, index| {
                state.slots[index as usize].as_ref().map(|core| codes[&core.body.id].entry)
            });
        }
        self.refresh_unused(&codes);
        sync_cores();
        let old_codes = codes.into_iter().map(|(id, code)| component.programs[&id].publish(code)).collect();
        old_cores.extend(component.programs.values().cloned());
        (old_codes, old_cores)
    }
}

impl Links {
    /// Arrays that no program refers to are in no component, but their tables must not keep old code either.
    fn refresh_unused(&self, codes: &HashMap<u32, Arc<Code>>) {
        for state in self.arrays.values() {
            for (index, core) in state.slots.iter().enumerate() {
                if let Some(code) = core.as_ref().and_then(|core| codes.get(&core.body.id)) {
                    state.table.set(index as u32, Arc::as_ptr(code).cast_mut());
                }
            }
        }
    }
}

fn place_all(
    component: &Component,
    tables: &HashMap<u64, Arc<Table>>,
) -> Result<HashMap<u32, Arc<Code>>, CompileError> {
    let place = |core: &Arc<Core>| {
        let tables = core.body.maps.iter().map(|map| match map {
            crate::program::MapRef::Array(array) => tables.get(&array.id).cloned(),
            crate::program::MapRef::Map(_) => None,
        });
        Code::place(&core.body, tables.collect())
    };
    component.programs.iter().map(|(id, core)| Ok((*id, place(core)?))).collect()
}

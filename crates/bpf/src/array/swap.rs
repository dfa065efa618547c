//! Swaps: many slots at once, for every run.
//!
//! [`Transaction`] makes any number of slots change so that each run sees all of them old or all new. It
//! compiles every program that can take part in such a run once more, into a new generation: those that refer
//! to a changed array, those in the slots of these arrays, and so on. The new generation's code leads to
//! itself only. Then each program's current code is replaced. A run chose its code when it began, so it stays
//! in one generation; a grace period later the old one is freed.

use super::links::{Links, Table};
use super::{ArrayCore, ProgArray, UpdateError};
use crate::code::{Code, Core, MapRef};
use crate::jit::CompileError;
use crate::program::Program;
use relpoline_patch::grace::sync_cores;
use relpoline_patch::reclaim;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

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
        let outcome = first.shared().links_at_rest().swap(&self.changes, &mut component);
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
            MapRef::Array(array) => tables.get(&array.id).cloned(),
            MapRef::Map(_) => None,
        });
        Code::place(&core.body, tables.collect())
    };
    component.programs.iter().map(|(id, core)| Ok((*id, place(core)?))).collect()
}

//! Program arrays: slots of programs, the direct jumps that lead there, and how both change under way.
//!
//! All slots, tables and patch sites of a runtime are behind one lock ([`Links`]); running programs never
//! take it. What they see is code, whose sites change by [`relpoline_patch::bypass`]'s protocol, and for
//! variable indexes a table of pointers to [`Code`].
//!
//! A site *registers* here under the lock, gets its state from the slot as it is then, and only after that
//! its program is published: no update can miss it.
//!
//! | part | module |
//! |---|---|
//! | slots, tables and patch sites behind the lock; updates in place | [`links`] |
//! | changes that each run sees all of, or none | [`swap`] |

mod links;
mod swap;

use crate::jit::CompileError;
use crate::map::{MapError, MapKind, MapSpec};
use crate::program::Program;
use crate::runtime::{Runtime, Shared};
use relpoline_patch::reclaim;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use links::{Links, Table};
pub use swap::Transaction;

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

/// An array's identity.
pub struct ArrayCore {
    shared: Arc<Shared>,
    id: u64,
    pub(crate) entries: u32,
    name: String,
}

impl ArrayCore {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

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
        shared.links().arrays.insert(id, links::State::new(entries));
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
        let removed = links::update(self.core(), changes);
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
        if self.shared().space.is_inherited() {
            return Err(CompileError::Inherited.into());
        }
        if reclaim::is_inside() { Err(UpdateError::InsideRun) } else { Ok(()) }
    }

    /// Whether the program is in one of the slots.
    #[must_use]
    pub fn contains(&self, program: &Program) -> bool {
        let links = self.shared().links();
        let slots = links.arrays.get(&self.core().id).map_or(&[][..], |state| &state.slots[..]);
        slots.iter().flatten().any(|core| Arc::ptr_eq(core, &program.core))
    }

    /// Names of the programs in the slots.
    #[must_use]
    pub fn programs(&self) -> Vec<Option<Arc<str>>> {
        let links = self.shared().links();
        let slots = links.arrays.get(&self.core().id).map_or(&[][..], |state| &state.slots[..]);
        slots.iter().map(|slot| slot.as_ref().map(|core| core.body.name.clone())).collect()
    }
}

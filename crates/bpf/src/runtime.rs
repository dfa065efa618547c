//! A runtime: the programs, maps and helpers that belong together.
//!
//! Programs of one runtime may touch each other's maps (a value's address is as good in one program as in
//! another); runtimes are separate from each other.
//!
//! # Fork
//! A forked child can run the programs it inherited, with the slots that arrays had at the fork: by the
//! interpreter, whatever was asked for, since compiled code stays shared with the parent, who goes on
//! changing it. It cannot load programs or change arrays of an inherited runtime, and is told so. A child
//! that wants to makes a runtime of its own, which waits for nothing of its parent's, whatever the parent's
//! threads were doing (`fork`). What it inherited does: a map that another thread was changing at the fork
//! stays locked in the child, as any `Mutex` does.

use crate::array::Links;
use crate::branches::IndirectBranches;
use crate::helper::{Deliver, Helpers, Printk};
use crate::jit::Stubs;
use crate::learn::near::Near;
use crate::map::{MapBody, MapOwner};
use crate::redirect::Redirect;
use crate::region::Regions;
use relpoline_patch::memory::MemoryError;
use relpoline_patch::space::Space;
use std::collections::HashMap;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

/// Most maps of one runtime at a time.
pub const MAPS: usize = 4096;
/// What the upper half of a map's handle is; no address looks like it.
const HANDLE: u64 = 0xb9f0_6d61 << 32;

/// Maps by handle. Looked up inside read sections.
pub struct Table {
    slots: Box<[AtomicPtr<MapBody>]>,
}

impl Table {
    fn new() -> Table {
        Table { slots: (0..MAPS).map(|_| AtomicPtr::default()).collect() }
    }

    /// Publishes a map; `None` when there is no room.
    pub fn add(&self, body: &MapBody) -> Option<u64> {
        let body = std::ptr::from_ref(body).cast_mut();
        let null = std::ptr::null_mut();
        let free =
            |slot: &AtomicPtr<MapBody>| slot.compare_exchange(null, body, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        self.slots.iter().position(free).map(|at| HANDLE | at as u64)
    }

    fn slot(&self, handle: u64) -> Option<&AtomicPtr<MapBody>> {
        (handle & !0xffff_ffff == HANDLE).then(|| self.slots.get((handle & 0xffff_ffff) as usize))?
    }

    /// Takes a map out.
    pub fn remove(&self, handle: u64) {
        if let Some(slot) = self.slot(handle) {
            slot.store(std::ptr::null_mut(), Ordering::Release);
        }
    }

    /// The map of `handle`.
    ///
    /// # Safety
    /// The caller must be in a read section that lasts as long as the result is used.
    pub unsafe fn get(&self, handle: u64) -> Option<&MapBody> {
        // SAFETY: maps are freed a grace period after they were taken out.
        unsafe { self.slot(handle)?.load(Ordering::Acquire).as_ref() }
    }

    /// The map in the `n`th slot.
    ///
    /// # Safety
    /// As for [`Table::get`].
    pub unsafe fn nth(&self, n: u64) -> Option<&MapBody> {
        // SAFETY: passed on to the caller.
        unsafe { self.get(HANDLE | n) }
    }
}

/// What everything in a runtime refers to.
pub struct Shared {
    /// Distinguishes runtimes.
    pub id: u64,
    /// Code memory.
    pub space: Space,
    /// Exits and slow paths of compiled code.
    pub stubs: Stubs,
    /// How its indirect branches are made.
    pub branches: IndirectBranches,
    /// Counters of learning tail calls.
    pub near: Near,
    /// Memory of maps.
    pub regions: Regions,
    /// Maps by handle.
    pub maps: Table,
    /// Helpers by number.
    pub helpers: Helpers,
    /// Where printed lines go.
    pub printk: Box<Printk>,
    /// Who takes packets that are redirected.
    pub deliver: Option<Box<Deliver>>,
    /// Program arrays, their slots and patch sites.
    links: Mutex<Links>,
    /// An update of arrays has come to its end.
    updated: Condvar,
    names: Mutex<HashMap<u32, Arc<str>>>,
    /// Maps that are one for all objects, by name, for as long as somebody has them.
    pins: Mutex<HashMap<String, Weak<MapOwner>>>,
    next_program: AtomicU32,
}

impl Shared {
    /// A number for a program called `name`.
    pub fn name_program(&self, name: &Arc<str>) -> u32 {
        let id = self.next_program.fetch_add(1, Ordering::Relaxed);
        self.names().insert(id, name.clone());
        id
    }

    fn names(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Arc<str>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps that are one for all objects.
    pub fn pins(&self) -> std::sync::MutexGuard<'_, HashMap<String, Weak<MapOwner>>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a program's number.
    pub fn forget_program(&self, id: u32) {
        self.names().remove(&id);
    }

    /// The name of program `id`.
    pub fn program_name(&self, id: u32) -> Arc<str> {
        self.names().get(&id).cloned().unwrap_or_else(|| "?".into())
    }

    /// The lock on arrays and sites. Nobody who has it waits for runs to end: helpers may take it.
    pub fn links(&self) -> std::sync::MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Shared::links`], while no update is under way. Not from within a run, for whose end an update may
    /// be waiting.
    pub fn links_at_rest(&self) -> std::sync::MutexGuard<'_, Links> {
        let mut links = self.links();
        while links.updating {
            links = self.updated.wait(links).unwrap_or_else(PoisonError::into_inner);
        }
        links
    }

    /// Begins an update, when no other is under way. It waits for runs without the lock.
    pub fn begin_update(&self) -> Updating<'_> {
        self.links_at_rest().updating = true;
        Updating(self)
    }
}

/// An update that is under way; its end lets others begin.
pub struct Updating<'a>(&'a Shared);

impl Drop for Updating<'_> {
    fn drop(&mut self) {
        self.0.links().updating = false;
        self.0.updated.notify_all();
    }
}

/// See the module's text. Clones are the same runtime.
#[derive(Clone)]
pub struct Runtime(Arc<Shared>);

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("id", &self.0.id).field("code_bytes", &self.code_bytes()).finish()
    }
}

/// Why a runtime could not be made.
#[derive(Debug, thiserror::Error)]
#[error("no memory for code: {0}")]
pub struct RuntimeError(MemoryError);

impl From<MemoryError> for RuntimeError {
    fn from(error: MemoryError) -> Self {
        RuntimeError(error)
    }
}

/// A runtime in the making.
#[derive(Default)]
pub struct RuntimeBuilder {
    helpers: Helpers,
    printk: Option<Box<Printk>>,
    deliver: Option<Box<Deliver>>,
    branches: IndirectBranches,
}

impl std::fmt::Debug for RuntimeBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuntimeBuilder").finish_non_exhaustive()
    }
}

impl RuntimeBuilder {
    /// Adds a helper by number, or replaces a built-in one. Number 12, the tail call, cannot be replaced.
    #[must_use]
    pub fn helper(
        mut self,
        number: u32,
        function: impl Fn(&mut crate::HelperCall<'_>) -> Result<u64, crate::TrapKind> + Send + Sync + 'static,
    ) -> Self {
        self.helpers.add(number, Box::new(function));
        self
    }

    /// Where `bpf_trace_printk` lines go, instead of nowhere.
    #[must_use]
    pub fn printk(mut self, print: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.printk = Some(Box::new(print));
        self
    }

    /// Who takes packets that programs redirect: when a run over a [`crate::PacketBuffer`] ends so, and when
    /// a program sends a copy (`bpf_clone_redirect`), within its run. Without one, copies for device 1 are
    /// lost, and there is no other.
    #[must_use]
    pub fn deliver(mut self, deliver: impl Fn(&Redirect, &[u8]) + Send + Sync + 'static) -> Self {
        self.deliver = Some(Box::new(deliver));
        self
    }

    /// What its generated code does where no direct jump can lead. See [`IndirectBranches`].
    #[must_use]
    pub fn indirect_branches(mut self, branches: IndirectBranches) -> Self {
        self.branches = branches;
        self
    }

    /// The runtime.
    ///
    /// # Errors
    /// When there is no memory for code.
    pub fn build(self) -> Result<Runtime, RuntimeError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        /// Address space; pages are populated as they are used.
        const CODE_BYTES: usize = 64 << 20;
        crate::fork::prepare();
        // Near the helpers, which are called directly then.
        let space = Space::create_near(CODE_BYTES, crate::helper::call as *const () as u64)?;
        let near = Near::to(space.memory().address(0), space.memory().address(space.memory().len()));
        let stubs = Stubs::emit(&space, self.branches).ok_or(MemoryError::Map)?;
        Ok(Runtime(Arc::new(Shared {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            space,
            stubs,
            near,
            branches: self.branches,
            regions: Regions::new(),
            maps: Table::new(),
            helpers: self.helpers,
            printk: self.printk.unwrap_or_else(|| Box::new(|_| ())),
            deliver: self.deliver,
            links: Mutex::default(),
            updated: Condvar::new(),
            names: Mutex::default(),
            pins: Mutex::default(),
            next_program: AtomicU32::new(0),
        })))
    }
}

impl Runtime {
    /// A runtime with the built-in helpers.
    ///
    /// # Errors
    /// When there is no memory for code.
    pub fn new() -> Result<Runtime, RuntimeError> {
        Runtime::builder().build()
    }

    /// To add helpers first.
    #[must_use]
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// Bytes of code memory in use.
    #[must_use]
    pub fn code_bytes(&self) -> usize {
        self.0.space.used()
    }

    /// Waits until every run that is going on in the process has ended, and frees what was waiting for that.
    /// Returns at once when called from a helper.
    pub fn quiesce(&self) {
        if !relpoline_patch::reclaim::is_inside() {
            relpoline_patch::reclaim::wait();
            relpoline_patch::reclaim::reap();
        }
    }
}

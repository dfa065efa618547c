//! What a program consists of: its body, its code, and which code is current.
//!
//! [`crate::program`] has the table of who owns what.

use crate::array::{ArrayCore, Table};
use crate::check::{Checked, function_at};
use crate::constant::{Lookup, TailCall};
use crate::hits;
use crate::jit::{CompileError, GateAt, Placed, SiteAt, compile};
use crate::learn;
use crate::map::MapOwner;
use crate::packet::ContextKind;
use crate::program::Options;
use crate::proof::Proof;
use crate::runtime::Shared;
use relpoline_patch::reclaim;
use relpoline_patch::space::Block;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

/// What a body keeps of them.
pub enum MapRef {
    /// A map with values.
    Map(Arc<MapOwner>),
    /// A program array.
    Array(Arc<ArrayCore>),
}

impl MapRef {
    /// What a program knows it by.
    pub fn handle(&self) -> u64 {
        match self {
            MapRef::Map(map) => map.handle,
            MapRef::Array(array) => array.handle(),
        }
    }

    /// The address `offset` bytes into its values.
    pub fn value_address(&self, offset: u32) -> Option<u64> {
        match self {
            MapRef::Map(map) => {
                let region = map.body().region();
                (u64::from(offset) < region.len).then(|| region.start + u64::from(offset))
            }
            MapRef::Array(_) => None,
        }
    }

    /// The map with values that it is.
    pub fn body(&self) -> Option<&crate::map::MapBody> {
        if let MapRef::Map(map) = self { Some(map.body()) } else { None }
    }

    /// Slots of a program array; 0 for other maps.
    pub fn entries(&self) -> u32 {
        if let MapRef::Array(array) = self { array.entries } else { 0 }
    }
}

/// See the module's table.
pub struct Body {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Arc<str>,
    pub(crate) section: String,
    pub(crate) id: u32,
    pub(crate) checked: Checked,
    pub(crate) tails: BTreeMap<u32, TailCall>,
    pub(crate) lookups: BTreeMap<u32, Lookup>,
    pub(crate) maps: Vec<MapRef>,
    pub(crate) options: Options,
    /// What its runs must have, which its beginning checks.
    pub(crate) context: Option<ContextKind>,
    pub(crate) proof: Proof,
    /// Where its starts are counted.
    pub(crate) hits: Option<usize>,
    pub(crate) hits_before: u64,
}

impl Body {
    /// What a call of the function at `target` takes from the budget.
    pub fn call_cost(&self, target: u32) -> i64 {
        let function = &self.checked.functions[function_at(&self.checked.functions, target)];
        i64::from(function.end - function.start)
    }

    /// What a call by register takes from the budget: as much as the longest function that it may call.
    pub fn reference_cost(&self) -> i64 {
        self.checked.taken.iter().map(|target| self.call_cost(*target)).max().unwrap_or(1)
    }

    /// The arrays it can tail-call through.
    pub fn arrays(&self) -> impl Iterator<Item = &Arc<ArrayCore>> {
        self.maps.iter().filter_map(|map| if let MapRef::Array(array) = map { Some(array) } else { None })
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.shared.forget_program(self.id);
        if let Some(place) = self.hits {
            hits::give_back(place);
        }
    }
}

/// See the module's table. The entry comes first: compiled tail calls through a table load it from there.
#[repr(C)]
pub struct Code {
    /// Address where runs and tail calls begin.
    pub entry: u64,
    pub(crate) body: Arc<Body>,
    /// Slot tables of the program's arrays, by map number.
    pub(crate) tables: Vec<Option<Arc<Table>>>,
    pub(crate) block: Block,
    pub(crate) sites: Vec<SiteAt>,
    /// Tail calls with computed indexes, and what is known about them.
    pub(crate) gates: Vec<(GateAt, Option<Arc<learn::Site>>)>,
    /// Address where the host comes in.
    pub(crate) way_in: u64,
    pub(crate) offsets: Vec<u32>,
    /// Bytes of code.
    pub(crate) len: usize,
}

impl Code {
    /// Compiles `body` against `tables` and writes it to its place, all patch sites as nops. To be linked
    /// before anybody runs it.
    pub fn place(body: &Arc<Body>, tables: Vec<Option<Arc<Table>>>) -> Result<Arc<Code>, CompileError> {
        let shared = &body.shared;
        let addresses: Vec<u64> = tables.iter().map(|t| t.as_ref().map_or(0, |t| t.slots.as_ptr() as u64)).collect();
        let Placed { block, bytes, sites, gates, way_in, offsets } =
            compile(body, &addresses, &shared.space, &shared.stubs)?;
        // SAFETY: the block was just taken, so nobody executes it.
        unsafe { shared.space.memory().write(block.offset, &bytes) };
        let entry = shared.space.memory().address(block.offset);
        let site = |at: GateAt| (at, learn::Site::open(shared, block.offset + at.at, body.options.count));
        Ok(Arc::new(Code {
            entry,
            body: body.clone(),
            tables,
            block,
            sites,
            gates: gates.into_iter().map(site).collect(),
            way_in: entry + way_in as u64,
            offsets,
            len: bytes.len(),
        }))
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: codes are dropped a grace period after they were unpublished, or never were.
        unsafe { self.body.shared.space.give_back(self.block) };
    }
}

/// See the module's table.
pub struct Core {
    pub(crate) body: Arc<Body>,
    /// Owns one count of the `Arc`.
    code: AtomicPtr<Code>,
}

impl Core {
    /// A core whose current code is `code`.
    pub fn new(code: Arc<Code>) -> Core {
        Core { body: code.body.clone(), code: AtomicPtr::new(Arc::into_raw(code).cast_mut()) }
    }

    /// The current code, for the table of a variable index and for runs.
    pub fn code_ptr(&self) -> *mut Code {
        self.code.load(Ordering::Acquire)
    }

    /// Address of its current entry, under the links' lock.
    pub fn entry(&self) -> u64 {
        // SAFETY: a core owns its current code, and codes are replaced under the lock only.
        unsafe { &*self.code_ptr() }.entry
    }

    /// Publishes `code`, and returns what was current before, which is to be retired.
    pub fn publish(&self, code: Arc<Code>) -> Arc<Code> {
        let old = self.code.swap(Arc::into_raw(code).cast_mut(), Ordering::AcqRel);
        // SAFETY: it came from `Arc::into_raw`, and the core's count goes to the result.
        unsafe { Arc::from_raw(old) }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // SAFETY: as in `publish`; nobody can publish any more.
        let code = unsafe { Arc::from_raw(*self.code.get_mut()) };
        self.body.shared.links().forget(&code);
        reclaim::retire(Box::new(code));
    }
}

//! Maps: memory that programs share with each other and with the host.
//!
//! A program knows a map by a *handle*, a number with a tag, not by an address; helpers look handles up in the
//! runtime's table, so no number a program makes up is ever followed. What a lookup returns is the address of
//! the value itself, in one block of memory per map that stays where it is for the map's life: a value that is
//! deleted while a program holds its address may come to belong to another key, as in the kernel, but never to
//! somebody else.
//!
//! | kind | module | |
//! |---|---|---|
//! | array, per-CPU array | [`values`] | values by index |
//! | hash, LRU hash, each also per CPU | `hash` | an index of keys to preallocated values |
//! | ring buffer | `ring` | records from programs to the host |
//! | program array | [`crate::array`] | tail calls |

mod hash;
mod ring;
pub mod values;

use crate::region::Region;
use crate::runtime::Shared;
use crate::slot;
use hash::Hash;
use ring::Ring;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use values::Values;

/// Kinds of maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapKind {
    /// Values by 32-bit index; all exist from the start, as zeros.
    Array,
    /// An array with one value per index and slot: see [`crate::slots`].
    PerCpuArray,
    /// Values by key.
    Hash,
    /// A hash that drops entries not used for long instead of refusing new ones.
    LruHash,
    /// A hash with one value per key and slot: see [`crate::slots`].
    PerCpuHash,
    /// As `PerCpuHash`, with the rule of `LruHash`.
    LruPerCpuHash,
    /// Programs by index, for tail calls.
    ProgArray,
    /// Records from programs to the host.
    RingBuf,
}

/// What a map is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapSpec {
    /// Name, for messages.
    pub name: String,
    /// Kind.
    pub kind: MapKind,
    /// Bytes of a key. 4 for arrays, 0 for ring buffers.
    pub key_size: u32,
    /// Bytes of a value. 4 for program arrays, 0 for ring buffers.
    pub value_size: u32,
    /// Most entries; for ring buffers bytes, a power of two.
    pub max_entries: u32,
    /// Whether programs may only read it: `BPF_F_RDONLY_PROG`, which `.rodata` has too. What would change it fails.
    pub read_only: bool,
}

/// Why a map cannot be made, or an operation on it failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MapError {
    /// Sizes that make no sense for the kind, more than 1 GiB, or a hash of more than 2²⁴ entries.
    #[error("key, value or entry sizes that a map of this kind cannot have")]
    BadSize,
    /// The runtime has as many maps as it can have.
    #[error("the runtime has too many maps")]
    TooMany,
    /// The key or value given has another size than the map's.
    #[error("key or value of the wrong size")]
    WrongSize,
    /// No entry of this key, or an index out of range.
    #[error("no such entry")]
    NotFound,
    /// The entry exists and was to be created, or does not and was to exist.
    #[error("the entry exists already")]
    Exists,
    /// There is no memory for it.
    #[error("there is no memory for it")]
    NoMemory,
    /// Programs may only read it, or nobody may write it any more.
    #[error("the map is read-only")]
    ReadOnly,
    /// More threads use per-CPU maps than there are slots.
    #[error("more threads use per-CPU maps than there are slots ({})", crate::slot::count())]
    NoSlot,
    /// All entries are taken.
    #[error("the map is full")]
    Full,
    /// Not something that this kind of map does.
    #[error("a map of this kind cannot do that")]
    Unsupported,
}

impl MapError {
    /// The negative error number that helpers return to programs (`errno.h`).
    #[must_use]
    pub fn errno(self) -> u64 {
        let number: i64 = match self {
            MapError::ReadOnly => 1,
            MapError::NotFound => 2,
            MapError::NoMemory => 12,
            MapError::Full | MapError::TooMany | MapError::NoSlot => 7,
            MapError::Exists => 17,
            MapError::WrongSize | MapError::BadSize | MapError::Unsupported => 22,
        };
        (-number).cast_unsigned()
    }
}

/// Whether an update may create or replace (the values of `BPF_ANY`, `BPF_NOEXIST`, `BPF_EXIST`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Both.
    Any,
    /// Create only.
    Create,
    /// Replace only.
    Replace,
}

impl Mode {
    /// From a helper's flags; `None` for others than the three.
    #[must_use]
    pub fn from_flags(flags: u64) -> Option<Mode> {
        match flags {
            0 => Some(Mode::Any),
            1 => Some(Mode::Create),
            2 => Some(Mode::Replace),
            _ => None,
        }
    }
}

enum Kind {
    Array,
    Hash(Hash),
    Ring(Ring),
}

/// A map's substance, freed a grace period after its last owner has gone.
pub struct MapBody {
    pub(crate) spec: MapSpec,
    pub(crate) values: Values,
    kind: Kind,
    frozen: AtomicBool,
}

/// Longest key of a hash: as much as fits on a program's stack, as in the kernel.
const MOST_KEY: u32 = 512;
/// Most entries of a hash.
const MOST_KEYS: u32 = 1 << 24;

fn is_per_cpu(kind: MapKind) -> bool {
    matches!(kind, MapKind::PerCpuArray | MapKind::PerCpuHash | MapKind::LruPerCpuHash)
}

impl MapBody {
    fn new(spec: &MapSpec) -> Result<MapBody, MapError> {
        let (kind, copies, count) = match spec.kind {
            MapKind::Array if spec.key_size == 4 => (Kind::Array, 1, spec.max_entries),
            MapKind::PerCpuArray if spec.key_size == 4 => (Kind::Array, slot::count(), spec.max_entries),
            // Checked before the index is made, which takes memory for each entry.
            MapKind::Hash | MapKind::LruHash | MapKind::PerCpuHash | MapKind::LruPerCpuHash
                if spec.key_size > 0 && (1..=MOST_KEYS).contains(&spec.max_entries) =>
            {
                if spec.key_size > MOST_KEY {
                    return Err(MapError::BadSize);
                }
                let evicts = matches!(spec.kind, MapKind::LruHash | MapKind::LruPerCpuHash);
                let index = Hash::new(spec.max_entries, evicts).ok_or(MapError::NoMemory)?;
                let copies = if is_per_cpu(spec.kind) { slot::count() } else { 1 };
                (Kind::Hash(index), copies, spec.max_entries)
            }
            MapKind::RingBuf if spec.max_entries.is_power_of_two() && spec.max_entries >= 64 => {
                (Kind::Ring(Ring::new(spec.max_entries)), 1, 1)
            }
            _ => return Err(MapError::BadSize),
        };
        let value_size = if spec.kind == MapKind::RingBuf { spec.max_entries } else { spec.value_size };
        if count == 0 || value_size == 0 {
            return Err(MapError::BadSize);
        }
        let values = Values::new(value_size as usize, count as usize, copies).ok_or(MapError::BadSize)?;
        Ok(MapBody { spec: spec.clone(), values, kind, frozen: AtomicBool::new(false) })
    }

    fn index(&self, key: &[u8]) -> Result<usize, MapError> {
        if key.len() != self.spec.key_size as usize {
            return Err(MapError::WrongSize);
        }
        match &self.kind {
            Kind::Array => {
                let index = u32::from_le_bytes(key.try_into().map_err(|_| MapError::WrongSize)?);
                if index < self.spec.max_entries { Ok(index as usize) } else { Err(MapError::NotFound) }
            }
            Kind::Hash(hash) => hash.find(key).ok_or(MapError::NotFound),
            Kind::Ring(_) => Err(MapError::Unsupported),
        }
    }

    /// Which copy of the values is the calling thread's.
    fn copy(&self) -> Result<usize, MapError> {
        if is_per_cpu(self.spec.kind) { slot::mine().ok_or(MapError::NoSlot) } else { Ok(0) }
    }

    /// Address of the value of `key`, in the calling thread's slot.
    pub(crate) fn lookup(&self, key: &[u8]) -> Result<u64, MapError> {
        let index = self.index(key)?;
        Ok(self.values.address(index, self.copy()?))
    }

    /// Sets the value of `key`, in the calling thread's slot; in the others a new entry is zero.
    pub(crate) fn update(&self, key: &[u8], value: &[u8], mode: Mode) -> Result<(), MapError> {
        if value.len() != self.spec.value_size as usize {
            return Err(MapError::WrongSize);
        }
        match &self.kind {
            Kind::Hash(hash) if key.len() == self.spec.key_size as usize => {
                let copy = self.copy()?;
                hash.insert(key, mode, |index, fresh| {
                    if fresh && is_per_cpu(self.spec.kind) {
                        self.values.clear(index);
                    }
                    self.values.store(index, copy, value);
                })
            }
            Kind::Array if mode == Mode::Create => Err(MapError::Exists),
            _ => {
                let index = self.index(key)?;
                self.values.store(index, self.copy()?, value);
                Ok(())
            }
        }
    }

    /// Deletes the entry of `key`; arrays cannot.
    pub(crate) fn delete(&self, key: &[u8]) -> Result<(), MapError> {
        match &self.kind {
            Kind::Hash(hash) if key.len() == self.spec.key_size as usize => hash.remove(key),
            Kind::Hash(_) => Err(MapError::WrongSize),
            _ => Err(MapError::Unsupported),
        }
    }

    /// The map, if the host may change it.
    fn thawed(&self) -> Result<&MapBody, MapError> {
        if self.frozen.load(Ordering::Acquire) { Err(MapError::ReadOnly) } else { Ok(self) }
    }

    /// The map, if programs may change it.
    pub(crate) fn writable(&self) -> Result<&MapBody, MapError> {
        // The broken variant that the tests must catch: helpers write what programs must not.
        let refused = self.spec.read_only && !cfg!(relpoline_broken = "read-only-is-written");
        if refused { Err(MapError::ReadOnly) } else { Ok(self) }
    }

    /// The ring buffer, if it is one.
    pub(crate) fn ring(&self) -> Option<&Ring> {
        if let Kind::Ring(ring) = &self.kind { Some(ring) } else { None }
    }

    /// Address of the first value and bytes of all of them.
    pub(crate) fn region(&self) -> Region {
        Region { start: self.values.address(0, 0), len: self.values.bytes() as u64, writable: !self.spec.read_only }
    }
}

/// What keeps a map alive; unpublishes it when the last owner goes.
pub struct MapOwner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) handle: u64,
    body: Option<Box<MapBody>>,
}

impl MapOwner {
    pub(crate) fn body(&self) -> &MapBody {
        self.body.as_deref().expect("only taken by drop")
    }
}

impl Drop for MapOwner {
    fn drop(&mut self) {
        self.shared.maps.remove(self.handle);
        if let Some(body) = self.body.take() {
            self.shared.regions.remove(body.region().start);
            crate::reclaim::retire(body);
        }
    }
}

/// A map, from the host's side. Clones are the same map.
#[derive(Clone)]
pub struct Map(pub(crate) Arc<MapOwner>);

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Map").field(&self.0.body().spec).finish()
    }
}

impl Map {
    /// A new map of `spec` in a runtime. Program arrays are made by [`crate::ProgArray::new`].
    ///
    /// # Errors
    /// [`MapError::BadSize`], [`MapError::TooMany`], or [`MapError::Unsupported`] for a program array.
    pub fn new(runtime: &crate::Runtime, spec: &MapSpec) -> Result<Map, MapError> {
        if spec.kind == MapKind::ProgArray {
            return Err(MapError::Unsupported);
        }
        let shared = runtime.shared().clone();
        let body = Box::new(MapBody::new(spec)?);
        let handle = shared.maps.add(&body).ok_or(MapError::TooMany)?;
        shared.regions.add(body.region());
        Ok(Map(Arc::new(MapOwner { shared, handle, body: Some(body) })))
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &MapSpec {
        &self.0.body().spec
    }

    /// The value of `key`; of a per-CPU map, those of all [slots](crate::slots) one after the other.
    ///
    /// # Errors
    /// [`MapError::NotFound`] or [`MapError::WrongSize`].
    pub fn get(&self, key: &[u8]) -> Result<Vec<u8>, MapError> {
        let body = self.0.body();
        let index = body.index(key)?;
        Ok(body.values.load(index))
    }

    /// Sets the value of `key`; of a per-CPU map, that of the calling thread's [slot](crate::slots).
    ///
    /// # Errors
    /// Any [`MapError`] but `BadSize` and `TooMany`.
    pub fn set(&self, key: &[u8], value: &[u8], mode: Mode) -> Result<(), MapError> {
        self.0.body().thawed()?.update(key, value, mode)
    }

    /// From now on the host cannot change it either (`BPF_MAP_FREEZE`). Programs can, unless it is read-only for them.
    /// `.rodata` of an object is frozen when the object is loaded.
    pub fn freeze(&self) {
        self.0.body().frozen.store(true, Ordering::Release);
    }

    /// Deletes the entry of `key`.
    ///
    /// # Errors
    /// [`MapError::NotFound`], or [`MapError::Unsupported`] for arrays.
    pub fn delete(&self, key: &[u8]) -> Result<(), MapError> {
        self.0.body().thawed()?.delete(key)
    }

    /// The keys of a hash, in no order.
    #[must_use]
    pub fn keys(&self) -> Vec<Vec<u8>> {
        if let Kind::Hash(hash) = &self.0.body().kind { hash.keys() } else { Vec::new() }
    }

    /// Gives the submitted records of a ring buffer to `each`, oldest first, and returns how many there were.
    /// Other maps have none.
    pub fn consume(&self, each: impl FnMut(&[u8])) -> usize {
        let body = self.0.body();
        body.ring().map_or(0, |ring| ring.consume(&body.values, each))
    }
}

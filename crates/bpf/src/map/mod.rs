//! Maps: memory that programs share with each other and with the host.
//!
//! A program knows a map by a *handle*, a number with a tag, not by an address; helpers look handles up in
//! the runtime's table, so no number a program makes up is ever followed. What a lookup returns is the
//! address of the value itself, in one block of memory per map that stays where it is for the map's life: a
//! value that is deleted while a program holds its address may come to belong to another key, as in the
//! kernel, but never to somebody else.
//!
//! | kind | module | |
//! |---|---|---|
//! | array, per-CPU array | [`values`] | values by index |
//! | hash, LRU hash, each also per CPU | `hash` | an index of keys to preallocated values |
//! | device map, CPU map, socket map | `hash` | where packets are redirected to; of programs, read only |
//! | trie of prefixes | `lpm` | the longest prefix of a key |
//! | queue, stack | `line` | values in the order in which they were pushed |
//! | Bloom filter | `bloom` | whether a value was perhaps pushed |
//! | array or hash of maps | `hash` | handles of maps |
//! | ring buffer | `ring` | records from programs to the host |
//! | event array | `events` | records from programs to the host |
//! | program array | [`crate::array`] | tail calls |

mod bloom;
mod events;
mod hash;
mod line;
mod lpm;
mod ring;
pub mod values;

use crate::proof::Memory;
use crate::region::Region;
use crate::runtime::Shared;
use crate::slot;
use bloom::Bloom;
use events::Events;
use hash::Hash;
use line::Line;
use lpm::Lpm;
use ring::Ring;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// Records from programs to the host, in the manner of performance events.
    PerfEventArray,
    /// Devices by index, for redirected packets. A value is `struct bpf_devmap_val`, or only the device's
    /// number.
    DevMap,
    /// Devices by any 32-bit key.
    DevMapHash,
    /// Queues of CPUs by the CPU's number, for redirected packets. A value is `struct bpf_cpumap_val`, or
    /// only the length.
    CpuMap,
    /// Sockets by index, for redirected packets; what the host's numbers mean is up to the host.
    XskMap,
    /// Values by prefix: a lookup finds that of the longest prefix.
    LpmTrie,
    /// Values, first in, first out.
    Queue,
    /// Values, last in, first out.
    Stack,
    /// Whether a value was perhaps pushed.
    BloomFilter,
    /// Maps by index.
    ArrayOfMaps,
    /// Maps by key.
    HashOfMaps,
}

impl MapKind {
    /// Whether entries have a 32-bit index below the map's size, and exist only once they are set.
    fn is_sparse(self) -> bool {
        matches!(self, MapKind::DevMap | MapKind::CpuMap | MapKind::XskMap | MapKind::ArrayOfMaps)
    }

    /// Whether packets can be redirected through it.
    pub(crate) fn redirects(self) -> bool {
        matches!(self, MapKind::DevMap | MapKind::DevMapHash | MapKind::CpuMap | MapKind::XskMap)
    }

    /// Whether its values are maps.
    #[must_use]
    pub fn holds_maps(self) -> bool {
        matches!(self, MapKind::ArrayOfMaps | MapKind::HashOfMaps)
    }
}

/// What a map is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapSpec {
    /// Name, for messages.
    pub name: String,
    /// Kind.
    pub kind: MapKind,
    /// Bytes of a key. 4 for arrays, 0 for ring buffers, queues, stacks and Bloom filters.
    pub key_size: u32,
    /// Bytes of a value. 4 for program arrays and arrays of maps, 0 for ring buffers.
    pub value_size: u32,
    /// Most entries; for ring buffers bytes, a power of two; for event arrays any number.
    pub max_entries: u32,
    /// Whether programs may only read it: `BPF_F_RDONLY_PROG`, which `.rodata` has too. What would change it
    /// fails.
    pub read_only: bool,
    /// Of a Bloom filter, hashes of a value: 1 to 15, or 0 for as many as usual (`map_extra`). 0 for other
    /// maps.
    pub hashes: u32,
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
    /// No entry of this key.
    #[error("no such entry")]
    NotFound,
    /// The index is beyond the array's end.
    #[error("the index is beyond the array's end")]
    BeyondEnd,
    /// The key is not one: a prefix longer than its bits.
    #[error("the key is not a prefix")]
    BadKey,
    /// The map that an entry is to be is not of the kind and sizes that the outer map wants.
    #[error("a map of another kind or sizes than the outer map's")]
    OtherInner,
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
    /// All entries of a trie are taken.
    #[error("the trie is full")]
    NoSpace,
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
            MapError::Full | MapError::TooMany | MapError::NoSlot | MapError::BeyondEnd => 7,
            MapError::Exists => 17,
            MapError::NoSpace => 28,
            MapError::WrongSize
            | MapError::BadSize
            | MapError::Unsupported
            | MapError::BadKey
            | MapError::OtherInner => 22,
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
    /// From a helper's flags; `None` for others than the three. `BPF_F_LOCK` is for values with spin locks,
    /// which there are not here.
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
    Lpm(Lpm),
    Line(Line),
    Bloom(Bloom),
    Ring(Ring),
    Events(Events),
}

/// A map's substance, freed a grace period after its last owner has gone.
pub struct MapBody {
    pub(crate) spec: MapSpec,
    pub(crate) values: Values,
    kind: Kind,
    frozen: AtomicBool,
    /// What an outer map's entries are to be like, and the maps that they are, by the number of the value.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    like: Option<MapSpec>,
    maps: HashMap<usize, Map>,
}

/// Longest key of a hash: as much as fits on a program's stack, as in the kernel.
pub const MOST_KEY: u32 = 512;
/// Most entries of a hash.
const MOST_KEYS: u32 = 1 << 24;

/// Where the values of an array are.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The first.
    pub start: u64,
    /// How many.
    pub entries: u32,
    /// Bytes from one to the next.
    pub stride: u64,
    /// Bytes from those of one slot to those of the next, if slots have their own.
    pub apart: Option<u64>,
}

fn is_per_cpu(kind: MapKind) -> bool {
    matches!(kind, MapKind::PerCpuArray | MapKind::PerCpuHash | MapKind::LruPerCpuHash)
}

impl MapBody {
    fn new(spec: &MapSpec) -> Result<MapBody, MapError> {
        use MapKind as K;
        let MapSpec { kind, key_size, value_size, max_entries, hashes, .. } = *spec;
        let copies = if is_per_cpu(kind) { slot::count() } else { 1 };
        let hash = |evicts| Hash::new(max_entries, key_size, evicts).map(Kind::Hash).ok_or(MapError::NoMemory);
        // Checked before an index is made, which takes memory for each entry.
        let keys = (1..=MOST_KEYS).contains(&max_entries) && (1..=MOST_KEY).contains(&key_size);
        // As much as the values of other maps may take.
        let lined = (1..=1 << 30).contains(&(u64::from(max_entries) * u64::from(value_size)));
        if hashes != 0 && kind != K::BloomFilter {
            return Err(MapError::BadSize);
        }
        let (index, size, count) = match kind {
            K::Array | K::PerCpuArray if key_size == 4 => (Kind::Array, value_size, max_entries),
            K::Hash | K::PerCpuHash if keys => (hash(false)?, value_size, max_entries),
            K::LruHash | K::LruPerCpuHash if keys => (hash(true)?, value_size, max_entries),
            K::DevMap | K::DevMapHash | K::CpuMap if keys && key_size == 4 && matches!(value_size, 4 | 8) => {
                (hash(false)?, value_size, max_entries)
            }
            K::XskMap if keys && (key_size, value_size) == (4, 4) => (hash(false)?, 4, max_entries),
            K::ArrayOfMaps if keys && (key_size, value_size) == (4, 4) => (hash(false)?, 8, max_entries),
            K::HashOfMaps if keys && value_size == 4 => (hash(false)?, 8, max_entries),
            K::LpmTrie if keys && (5..=4 + lpm::MOST_BYTES).contains(&key_size) => {
                let lpm = Lpm::new(max_entries, key_size - 4).ok_or(MapError::NoMemory)?;
                (Kind::Lpm(lpm), value_size, max_entries)
            }
            // What programs do not reach lies elsewhere.
            K::Queue | K::Stack if key_size == 0 && lined => {
                (Kind::Line(Line::new(max_entries, kind == K::Stack)), 8, 1)
            }
            K::BloomFilter if key_size == 0 && lined && hashes <= bloom::MOST_HASHES => {
                let hashes = if hashes == 0 { bloom::HASHES } else { hashes };
                (Kind::Bloom(Bloom::new(max_entries, hashes).ok_or(MapError::NoMemory)?), 8, 1)
            }
            K::PerfEventArray if key_size == 4 && value_size == 4 => (Kind::Events(Events::default()), 8, 1),
            K::RingBuf if max_entries.is_power_of_two() && (64..=1 << 29).contains(&max_entries) => {
                (Kind::Ring(Ring::new(max_entries)), 2 * max_entries, 1)
            }
            _ => return Err(MapError::BadSize),
        };
        if count == 0 || size == 0 {
            return Err(MapError::BadSize);
        }
        let values = Values::new(size as usize, count as usize, copies).ok_or(MapError::BadSize)?;
        let (frozen, inner) = (AtomicBool::new(false), Mutex::default());
        Ok(MapBody { spec: spec.clone(), values, kind: index, frozen, inner })
    }

    /// That `key` has the right size, and is an index of the map where keys are such.
    fn accepts(&self, key: &[u8]) -> Result<(), MapError> {
        if key.len() != self.spec.key_size as usize {
            return Err(MapError::WrongSize);
        }
        let indexed = self.spec.kind.is_sparse() || matches!(self.kind, Kind::Array);
        match key.try_into().map(u32::from_le_bytes) {
            Ok(index) if indexed && index >= self.spec.max_entries => Err(MapError::BeyondEnd),
            _ => Ok(()),
        }
    }

    pub(crate) fn index(&self, key: &[u8]) -> Result<usize, MapError> {
        self.accepts(key)?;
        match &self.kind {
            Kind::Array => Ok(u32::from_le_bytes(key.try_into().map_err(|_| MapError::WrongSize)?) as usize),
            Kind::Hash(hash) => hash.find(key).ok_or(MapError::NotFound),
            Kind::Lpm(lpm) => lpm.find(key).ok_or(MapError::NotFound),
            _ => Err(MapError::Unsupported),
        }
    }

    /// Which copy of the values is the calling thread's.
    fn copy(&self) -> Result<usize, MapError> {
        if is_per_cpu(self.spec.kind) { slot::mine().ok_or(MapError::NoSlot) } else { Ok(0) }
    }

    /// What a lookup of `key` gives a program: the address of the value, in the calling thread's slot; or a
    /// map's handle.
    pub(crate) fn lookup(&self, key: &[u8]) -> Result<u64, MapError> {
        let index = self.index(key)?;
        if self.spec.kind.holds_maps() {
            return Ok(self.values.first_word(index));
        }
        Ok(self.values.address(index, self.copy()?))
    }

    /// As [`MapBody::lookup`], for a key that has the size that keys here have, by a run that may know its
    /// thread's slot.
    #[inline]
    pub(crate) fn look_up_by(&self, key: &[u8], slot: &mut u32) -> Result<u64, MapError> {
        let index = match &self.kind {
            Kind::Hash(hash) => hash.find(key).ok_or(MapError::NotFound)?,
            Kind::Lpm(lpm) => lpm.find(key).ok_or(MapError::NotFound)?,
            _ => self.index(key)?,
        };
        if self.spec.kind.holds_maps() {
            return Ok(self.values.first_word(index));
        }
        let copy = match *slot {
            _ if !is_per_cpu(self.spec.kind) => 0,
            slot::UNKNOWN => {
                let mine = slot::mine().ok_or(MapError::NoSlot)?;
                *slot = slot::known();
                mine
            }
            known => known as usize,
        };
        Ok(self.values.address(index, copy))
    }

    /// Address of the value of `key` in slot `slot`.
    pub(crate) fn lookup_in(&self, key: &[u8], slot: usize) -> Result<u64, MapError> {
        if !is_per_cpu(self.spec.kind) {
            return Err(MapError::Unsupported);
        }
        let index = self.index(key)?;
        if slot < slot::count() { Ok(self.values.address(index, slot)) } else { Err(MapError::NotFound) }
    }

    /// What compiled code needs to look something up without us: only arrays are so simple.
    pub(crate) fn layout(&self) -> Option<Layout> {
        matches!(self.kind, Kind::Array).then(|| {
            let (stride, apart) = self.values.distances();
            let apart = is_per_cpu(self.spec.kind).then_some(apart);
            Layout { start: self.values.address(0, 0), entries: self.spec.max_entries, stride, apart }
        })
    }

    /// Sets the value of `key`, in the calling thread's slot; in the others a new entry is zero.
    pub(crate) fn update(&self, key: &[u8], value: &[u8], mode: Mode) -> Result<(), MapError> {
        if self.spec.kind.holds_maps() {
            return Err(MapError::Unsupported);
        }
        if value.len() != self.spec.value_size as usize {
            return Err(MapError::WrongSize);
        }
        self.accepts(key)?;
        let copy = self.copy()?;
        let store = |index, fresh| {
            if fresh && is_per_cpu(self.spec.kind) {
                self.values.clear(index);
            }
            self.values.store(index, copy, value);
        };
        match &self.kind {
            Kind::Hash(hash) => hash.insert(key, mode, store),
            Kind::Lpm(lpm) => lpm.insert(key, mode, store),
            Kind::Array if mode == Mode::Create => Err(MapError::Exists),
            Kind::Array => {
                store(self.index(key)?, false);
                Ok(())
            }
            Kind::Bloom(bloom) if mode == Mode::Any => {
                bloom.push(value);
                Ok(())
            }
            Kind::Line(line) if mode != Mode::Create => line.push(value.to_vec(), mode == Mode::Replace),
            _ => Err(MapError::Unsupported),
        }
    }

    /// Makes `map` the entry of `key`.
    fn put_map(&self, key: &[u8], map: &Map, mode: Mode) -> Result<(), MapError> {
        let (true, Kind::Hash(hash)) = (self.spec.kind.holds_maps(), &self.kind) else {
            return Err(MapError::Unsupported);
        };
        self.accepts(key)?;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // The broken variant that the tests must catch: what an outer map holds can be anything.
        let any = cfg!(relpoline_broken = "holds-anything");
        if map.spec().kind.holds_maps() || !any && inner.like.as_ref().is_some_and(|like| !alike(like, map.spec())) {
            return Err(MapError::OtherInner);
        }
        hash.insert(key, mode, |index, _| {
            self.values.store(index, 0, &map.handle().to_le_bytes());
            inner.maps.insert(index, map.clone());
        })
    }

    /// Deletes the entry of `key`; arrays cannot.
    pub(crate) fn delete(&self, key: &[u8]) -> Result<(), MapError> {
        match &self.kind {
            Kind::Hash(hash) => {
                self.accepts(key)?;
                if !self.spec.kind.holds_maps() {
                    return hash.remove(key, |_| ());
                }
                // As in `put_map`; dropping a map takes locks, so it comes after this one.
                let mut number = 0;
                let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                hash.remove(key, |index| number = index)?;
                let gone = inner.maps.remove(&number);
                drop((inner, gone));
                Ok(())
            }
            Kind::Lpm(lpm) => self.accepts(key).and_then(|()| lpm.remove(key)),
            _ => Err(MapError::Unsupported),
        }
    }

    /// The next entry of a walk that `at` stands for, 0 at its beginning: its key, the address of its value,
    /// and where the walk goes on.
    pub(crate) fn next(&self, at: u64) -> Result<Option<(Vec<u8>, u64, u64)>, MapError> {
        let (at, copy) = (usize::try_from(at).map_err(|_| MapError::NotFound)?, self.copy()?);
        Ok(match &self.kind {
            Kind::Array if at < self.spec.max_entries as usize => {
                Some(((at as u32).to_le_bytes().into(), self.values.address(at, copy), at as u64 + 1))
            }
            Kind::Array => None,
            Kind::Hash(hash) if !self.spec.kind.holds_maps() => {
                let next = hash.next(at);
                next.map(|(index, key)| (key, self.values.address(index, copy), index as u64 + 1))
            }
            _ => return Err(MapError::Unsupported),
        })
    }

    /// The map, if the host may change it.
    fn thawed(&self) -> Result<&MapBody, MapError> {
        if self.frozen.load(Ordering::Acquire) { Err(MapError::ReadOnly) } else { Ok(self) }
    }

    /// The map, if programs may change it.
    pub(crate) fn writable(&self) -> Result<&MapBody, MapError> {
        // The broken variant that the tests must catch: helpers write what programs must not.
        let refused = self.spec.read_only && !cfg!(relpoline_broken = "read-only-is-written");
        match self.spec.kind {
            _ if refused => Err(MapError::ReadOnly),
            kind if kind.redirects() || kind.holds_maps() => Err(MapError::Unsupported),
            _ => Ok(self),
        }
    }

    /// The ring buffer, if it is one.
    pub(crate) fn ring(&self) -> Option<&Ring> {
        if let Kind::Ring(ring) = &self.kind { Some(ring) } else { None }
    }

    /// The queue or stack, if it is one.
    pub(crate) fn line(&self) -> Option<&Line> {
        if let Kind::Line(line) = &self.kind { Some(line) } else { None }
    }

    /// The Bloom filter, if it is one.
    pub(crate) fn bloom(&self) -> Option<&Bloom> {
        if let Kind::Bloom(bloom) = &self.kind { Some(bloom) } else { None }
    }

    /// The event array, if it is one.
    pub(crate) fn events(&self) -> Option<&Events> {
        if let Kind::Events(events) = &self.kind { Some(events) } else { None }
    }

    /// The number of the value of `key` where packets are redirected by it, and its first 32 bits.
    pub(crate) fn target(&self, key: u32) -> Result<u32, MapError> {
        Ok(self.values.first_word(self.index(&key.to_le_bytes())?) as u32)
    }

    /// What a proof may rely on.
    pub(crate) fn memory(&self) -> Memory {
        use MapKind as K;
        let has_values = matches!(
            self.spec.kind,
            K::Array | K::PerCpuArray | K::Hash | K::LruHash | K::PerCpuHash | K::LruPerCpuHash | K::LpmTrie
        );
        let Region { len, writable, .. } = self.region();
        let is_ring = self.spec.kind == K::RingBuf;
        Memory { value: has_values.then_some(self.spec.value_size.into()), is_ring, len, writable }
    }

    /// Address of the first value and bytes of all of them, as far as programs can touch them.
    pub(crate) fn region(&self) -> Region {
        let visible = matches!(self.kind, Kind::Array | Kind::Hash(_) | Kind::Lpm(_) | Kind::Ring(_));
        let len = if visible && !self.spec.kind.holds_maps() { self.values.bytes() as u64 } else { 0 };
        // Devices, CPUs and sockets are the host's to set.
        let writable = !self.spec.read_only && !self.spec.kind.redirects();
        Region { start: self.values.address(0, 0), len, writable }
    }
}

/// Whether `map` can be an entry where entries are to be like `like`: as the kernel, whatever its number of
/// entries is.
fn alike(like: &MapSpec, map: &MapSpec) -> bool {
    let of = |spec: &MapSpec| (spec.kind, spec.key_size, spec.value_size, spec.read_only);
    of(like) == of(map)
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
            relpoline_patch::reclaim::retire(body);
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

    /// What programs and [`crate::Redirect`] know it by.
    #[must_use]
    pub fn handle(&self) -> u64 {
        self.0.handle
    }

    /// What the entries of a map of maps are to be like. [`Map::put`] refuses others from then on.
    pub fn set_inner(&self, like: MapSpec) {
        self.0.body().inner.lock().unwrap_or_else(PoisonError::into_inner).like = Some(like);
    }

    /// Makes `map` the entry of `key` in a map of maps.
    ///
    /// # Errors
    /// [`MapError::OtherInner`]; [`MapError::Unsupported`] for other maps and maps of other runtimes; those
    /// of [`Map::set`].
    pub fn put(&self, key: &[u8], map: &Map, mode: Mode) -> Result<(), MapError> {
        if !Arc::ptr_eq(&self.0.shared, &map.0.shared) {
            return Err(MapError::Unsupported);
        }
        self.0.body().thawed()?.put_map(key, map, mode)
    }

    /// The entry of `key` in a map of maps.
    #[must_use]
    pub fn entry(&self, key: &[u8]) -> Option<Map> {
        let body = self.0.body();
        let index = body.index(key).ok()?;
        body.inner.lock().unwrap_or_else(PoisonError::into_inner).maps.get(&index).cloned()
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &MapSpec {
        &self.0.body().spec
    }

    /// The value of `key`; of a per-CPU map, those of all [slots](crate::slots) one after the other.
    ///
    /// # Errors
    /// [`MapError::NotFound`], [`MapError::WrongSize`], [`MapError::BeyondEnd`]; [`MapError::Unsupported`]
    /// for maps of maps ([`Map::entry`]) and others that have no values by key.
    pub fn get(&self, key: &[u8]) -> Result<Vec<u8>, MapError> {
        let body = self.0.body();
        if body.spec.kind.holds_maps() {
            return Err(MapError::Unsupported);
        }
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

    /// From now on the host cannot change it either (`BPF_MAP_FREEZE`). Programs can, unless it is read-only
    /// for them. `.rodata` of an object is frozen when the object is loaded.
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

    /// The keys that there are, in no order. Of an array, all indexes.
    #[must_use]
    pub fn keys(&self) -> Vec<Vec<u8>> {
        let body = self.0.body();
        match &body.kind {
            Kind::Hash(hash) => hash.keys(),
            Kind::Lpm(lpm) => lpm.entries().keys(),
            Kind::Array => (0..body.spec.max_entries).map(|index| index.to_le_bytes().into()).collect(),
            _ => Vec::new(),
        }
    }

    /// Adds a value to a queue, a stack or a Bloom filter.
    ///
    /// # Errors
    /// [`MapError::Full`], [`MapError::WrongSize`], or [`MapError::Unsupported`] for other maps.
    pub fn push(&self, value: &[u8]) -> Result<(), MapError> {
        let body = self.0.body().thawed()?;
        if body.line().is_none() && body.bloom().is_none() {
            return Err(MapError::Unsupported);
        }
        body.update(&[], value, Mode::Any)
    }

    /// Takes the next value out of a queue or stack. Other maps have none.
    pub fn pop(&self) -> Option<Vec<u8>> {
        self.0.body().line()?.next(true)
    }

    /// The values of a queue or stack, in the order in which they were pushed. Other maps have none.
    #[must_use]
    pub fn queued(&self) -> Vec<Vec<u8>> {
        self.0.body().line().map(Line::all).unwrap_or_default()
    }

    /// Gives the submitted records of a ring buffer, or those of an event array, to `each`, oldest first, and
    /// returns how many there were. Other maps have none.
    pub fn consume(&self, each: impl FnMut(&[u8])) -> usize {
        let body = self.0.body();
        match &body.kind {
            Kind::Ring(ring) => ring.consume(&body.values, each),
            Kind::Events(events) => events.consume(each),
            _ => 0,
        }
    }

    /// Records that an event array had no room for. (Programs are told when a ring buffer has none.)
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.body().events().map_or(0, Events::lost)
    }
}

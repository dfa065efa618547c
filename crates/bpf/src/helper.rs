//! Helpers: the functions of the runtime that programs call by number.
//!
//! Numbers and semantics of the built-in ones are the kernel's (bpf-helpers(7)). A helper gets its five
//! arguments as plain numbers and checks every address it is given: [`HelperCall::read`] and
//! [`HelperCall::write`] refuse, as a trap, what the program itself could not touch.

use crate::map::{MapBody, MapError, Mode};
use crate::run::Run;
use crate::trap::TrapKind;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The number of the tail call, which is compiled, not called.
pub const TAIL_CALL: u32 = 12;

/// A helper.
pub type Helper = dyn Fn(&mut HelperCall<'_>) -> Result<u64, TrapKind> + Send + Sync;
/// Takes printed lines.
pub type Printk = dyn Fn(&str) + Send + Sync;

/// One call of a helper.
pub struct HelperCall<'a> {
    /// r1 to r5.
    pub args: [u64; 5],
    run: &'a mut Run,
}

impl std::fmt::Debug for HelperCall<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HelperCall").field("args", &self.args).finish_non_exhaustive()
    }
}

/// What a call costs of the budget, beside what it copies: about what the cheapest one takes.
const CALL: i64 = 16;
/// Bytes that are copied for one instruction of the budget.
const BYTES: u64 = 8;

/// Copies bytes that programs in other threads may be changing. `None` when there is no memory for them.
fn copy_from(at: *const u8, len: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).ok()?;
    // SAFETY: the caller checked the range; volatile, since what is there may change at any time.
    bytes.extend((0..len).map(|i| unsafe { at.add(i).read_volatile() }));
    Some(bytes)
}

impl<'a> HelperCall<'a> {
    /// Copies `len` bytes from the program's memory, and takes what that costs from the run's budget.
    ///
    /// # Errors
    /// [`TrapKind::OutOfBounds`], [`TrapKind::Budget`], or [`TrapKind::NoMemory`].
    pub fn read(&self, address: u64, len: u64) -> Result<Vec<u8>, TrapKind> {
        let at = self.run.bytes(address, len)?;
        self.charge_bytes(len)?;
        copy_from(at, len as usize).ok_or(TrapKind::NoMemory)
    }

    /// Copies `bytes` to the program's memory, and takes what that costs from the run's budget.
    ///
    /// # Errors
    /// [`TrapKind::OutOfBounds`] or [`TrapKind::Budget`].
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), TrapKind> {
        let at = self.run.bytes_mut(address, bytes.len() as u64)?;
        self.charge_bytes(bytes.len() as u64)?;
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: the range was just checked.
            unsafe { at.add(i).write_volatile(*byte) };
        }
        Ok(())
    }

    /// The run's packet: address and bytes. The input, unless the run was given another.
    #[must_use]
    pub fn packet(&self) -> (u64, u64) {
        (self.run.packet.start, self.run.packet.len)
    }

    /// Takes `instructions` from the run's budget. Helpers that do more than a few hundred instructions' work for one call
    /// say so by this, so that no loop of calls outlasts the budget by far.
    ///
    /// # Errors
    /// [`TrapKind::Budget`], to be passed on.
    pub fn charge(&self, instructions: u64) -> Result<(), TrapKind> {
        self.run.spend(i64::try_from(instructions).unwrap_or(i64::MAX))
    }

    fn charge_bytes(&self, bytes: u64) -> Result<(), TrapKind> {
        // The broken variant that the tests must catch: what helpers copy costs nothing.
        if cfg!(relpoline_broken = "helpers-are-free") { Ok(()) } else { self.charge(bytes / BYTES) }
    }

    fn map(&self, handle: u64) -> Result<&'a MapBody, TrapKind> {
        // SAFETY: helpers run inside their run's read section, and so does whoever uses the result.
        unsafe { (*self.run.shared).maps.get(handle) }.ok_or(TrapKind::NotAMap { value: handle })
    }

    fn key(&self, map: &MapBody) -> Result<Vec<u8>, TrapKind> {
        self.read(self.args[1], map.spec.key_size.into())
    }
}

/// The helpers of a runtime, in a dense table that compiled code indexes.
pub struct Helpers {
    table: Vec<Box<Helper>>,
    by_number: HashMap<u32, u32>,
}

impl Default for Helpers {
    fn default() -> Self {
        let mut helpers = Helpers { table: Vec::new(), by_number: HashMap::new() };
        for (number, helper) in BUILT_IN {
            helpers.add(*number, Box::new(helper));
        }
        helpers
    }
}

impl Helpers {
    /// Adds or replaces a helper.
    pub fn add(&mut self, number: u32, helper: Box<Helper>) {
        self.by_number.insert(number, self.table.len() as u32);
        self.table.push(helper);
    }

    /// The place of helper `number` in the table.
    pub fn index(&self, number: u32) -> Option<u32> {
        self.by_number.get(&number).copied()
    }
}

/// Calls the helper at place `run.helper` of the table; for compiled code and interpreter. On failure the run
/// has the reason, and the result means nothing.
pub extern "C" fn call(r1: u64, r2: u64, r3: u64, r4: u64, r5: u64, run: *mut Run) -> u64 {
    // SAFETY: both callers pass their own run, which nobody else uses meanwhile.
    let run = unsafe { &mut *run };
    // SAFETY: the runtime outlives its runs.
    let helper = unsafe { &(&(*run.shared).helpers.table)[run.helper as usize] };
    let mut call = HelperCall { args: [r1, r2, r3, r4, r5], run };
    if !cfg!(relpoline_broken = "helpers-are-free") && !call.run.charge(CALL) {
        return 0;
    }
    // Unwinding must not reach compiled code, which has no tables for it.
    match catch_unwind(AssertUnwindSafe(|| helper(&mut call))) {
        Ok(Ok(value)) => value,
        Ok(Err(kind)) => u64::from(call.run.fail(kind)),
        Err(payload) => {
            // What was thrown is somebody's, and may throw again when it is dropped.
            std::mem::forget(payload);
            u64::from(call.run.fail(TrapKind::Panicked))
        }
    }
}

type BuiltIn = fn(&mut HelperCall<'_>) -> Result<u64, TrapKind>;

const BUILT_IN: &[(u32, BuiltIn)] = &[
    (1, map_lookup),
    (2, map_update),
    (3, map_delete),
    (5, ktime),
    (6, trace_printk),
    (7, random),
    (8, cpu),
    (9, store_bytes),
    (26, load_bytes),
    (125, ktime),
    (130, ring_output),
    (131, ring_reserve),
    (132, |c| ring_finish(c, true)),
    (133, |c| ring_finish(c, false)),
    (189, load_bytes),
    (190, store_bytes),
];

/// Minus EFAULT, for ranges outside the packet.
const BAD_RANGE: u64 = (-14i64).cast_unsigned();
/// Minus EINVAL.
const INVALID: u64 = (-22i64).cast_unsigned();
/// Minus EAGAIN, for a full ring buffer.
const AGAIN: u64 = (-11i64).cast_unsigned();

fn map_lookup(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let map = c.map(c.args[0])?;
    let key = c.key(map)?;
    match map.lookup(&key) {
        Err(MapError::NoSlot) => Err(TrapKind::NoSlot),
        found => Ok(found.unwrap_or(0)),
    }
}

fn map_update(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let map = c.map(c.args[0])?;
    let key = c.key(map)?;
    let value = c.read(c.args[2], map.spec.value_size.into())?;
    let Some(mode) = Mode::from_flags(c.args[3]) else {
        return Ok(INVALID);
    };
    Ok(map.writable().and_then(|map| map.update(&key, &value, mode)).map_or_else(|e| e.errno(), |()| 0))
}

fn map_delete(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let map = c.map(c.args[0])?;
    let key = c.key(map)?;
    Ok(map.writable().and_then(|map| map.delete(&key)).map_or_else(|e| e.errno(), |()| 0))
}

/// Nanoseconds since boot.
fn ktime(_: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Ok(now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned())
}

/// 32 bits by xorshift64*, one state per thread. Not for secrets, like the kernel's.
fn random(_: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    use std::cell::Cell;
    use std::hash::{BuildHasher, RandomState};
    thread_local!(static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0) | 1));
    let mut x = STATE.get();
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    STATE.set(x);
    Ok(x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32)
}

fn cpu(_: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    crate::slot::mine().map(|slot| slot as u64).ok_or(TrapKind::NoSlot)
}

/// `(ctx, offset, to, len)`: copies out of the packet.
fn load_bytes(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let [_, offset, to, len, _] = c.args;
    let (offset, len) = (offset & 0xffff_ffff, len & 0xffff_ffff);
    let (packet, bytes) = c.packet();
    if len == 0 || offset.checked_add(len).is_none_or(|end| end > bytes) {
        return Ok(BAD_RANGE);
    }
    let copy = c.read(packet + offset, len)?;
    c.write(to, &copy).map(|()| 0)
}

/// `(ctx, offset, from, len, flags)`: copies into the packet.
fn store_bytes(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let [_, offset, from, len, _] = c.args;
    let (offset, len) = (offset & 0xffff_ffff, len & 0xffff_ffff);
    let (packet, bytes) = c.packet();
    if len == 0 || offset.checked_add(len).is_none_or(|end| end > bytes) {
        return Ok(BAD_RANGE);
    }
    let copy = c.read(from, len)?;
    c.write(packet + offset, &copy).map(|()| 0)
}

fn ring_output(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let map = c.map(c.args[0])?;
    let ring = map.ring().ok_or(TrapKind::NotAMap { value: c.args[0] })?;
    let bytes = c.read(c.args[1], c.args[2])?;
    let Some(offset) = ring.reserve(bytes.len()) else {
        return Ok(AGAIN);
    };
    let at = map.values.address(0, 0) + offset as u64;
    c.write(at, &bytes)?;
    ring.finish(offset, true);
    Ok(0)
}

fn ring_reserve(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let map = c.map(c.args[0])?;
    let ring = map.ring().ok_or(TrapKind::NotAMap { value: c.args[0] })?;
    let len = usize::try_from(c.args[1]).map_err(|_| TrapKind::Refused)?;
    Ok(ring.reserve(len).map_or(0, |offset| map.values.address(0, 0) + offset as u64))
}

/// `(record, flags)`: the ring is found by the record's address.
fn ring_finish(c: &mut HelperCall<'_>, submit: bool) -> Result<u64, TrapKind> {
    let record = c.args[0];
    // SAFETY: the runtime outlives its runs, and helpers run inside a read section.
    let shared = unsafe { &*c.run.shared };
    // SAFETY: as above.
    let rings = (0..crate::runtime::MAPS as u64).filter_map(|i| unsafe { shared.maps.nth(i) });
    for map in rings.filter(|m| m.ring().is_some() && m.region().allows(record, 1, false)) {
        let offset = (record - map.region().start) as usize;
        if map.ring().is_some_and(|ring| ring.finish(offset, submit)) {
            return Ok(0);
        }
    }
    Err(TrapKind::Refused)
}

/// `(format, len, …)`: `%d %i %u %x %p %s %c %%` with `l` modifiers, three arguments, as the kernel does.
fn trace_printk(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let format = c.read(c.args[0], c.args[1])?;
    let line = crate::printk::format(c, &format)?;
    // SAFETY: the runtime outlives its runs.
    (unsafe { &*c.run.shared }.printk)(&line);
    Ok(line.len() as u64)
}

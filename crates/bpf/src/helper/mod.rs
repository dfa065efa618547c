//! Helpers: the functions of the runtime that programs call by number.
//!
//! Numbers and semantics of the built-in ones are the kernel's (bpf-helpers(7)). A helper gets its five
//! arguments as plain numbers and checks every address it is given: [`HelperCall::read`] and
//! [`HelperCall::write`] refuse, as a trap, what the program itself could not touch. What the kernel's
//! verifier would have refused is a trap too; what its helpers refuse while they run is the same negative
//! error number here.
//!
//! | module | helpers |
//! |---|---|
//! | `maps` | look-ups and updates, queues and stacks |
//! | `ring` | records for the host: ring buffers, events |
//! | `bytes`, `checksum` | bytes of packets, and their sums |
//! | `adjust`, `skb` | packets that grow and shrink; what only socket buffers have |
//! | `redirect`, `tunnel` | where packets go, and inside what |
//! | `environment` | questions that the host answers, by a helper of its own |
//! | `text`, `format` | printing, and numbers from text |
//! | `clock` | time, chance, and which slot this is |

mod adjust;
mod bytes;
mod checksum;
mod clock;
mod environment;
mod errno;
mod format;
mod maps;
mod redirect;
mod ring;
mod skb;
mod text;
mod tunnel;

use crate::callback;
use crate::frame::Frame;
use crate::map::{MOST_KEY, MapBody, MapError};
use crate::packet::ContextKind;
use crate::proof::{Call, Returns};
use crate::redirect::Redirect;
use crate::run::Run;
use crate::trap::TrapKind;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The number of the tail call, which is compiled, not called.
pub const TAIL_CALL: u32 = 12;

/// The number of a map's look-up, which compiled code knows of.
pub const LOOKUP: u32 = 1;

/// What libbpf has called where a type or a function of the kernel is not there, and the program ought not to
/// come.
pub const UNRESOLVED: u32 = 0xbad_2310;

/// The number of the helper that reads packets for `ld_abs` and `ld_ind`.
pub const LOAD_PACKET: u32 = 0xffff_0002;

/// The place in the table of the helper that [`Run::callee`] numbers.
pub const BY_REGISTER: u32 = u32::MAX;

/// A helper.
pub type Helper = dyn Fn(&mut HelperCall<'_>) -> Result<u64, TrapKind> + Send + Sync;
/// Takes printed lines.
pub type Printk = dyn Fn(&str) + Send + Sync;
/// Takes redirected packets.
pub type Deliver = dyn Fn(&Redirect, &[u8]) + Send + Sync;

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

/// Copies a key, by words where it has such; as volatile as [`copy_from`].
///
/// # Safety
/// There must be `len` bytes at both.
unsafe fn copy_key(from: *const u8, to: *mut u8, len: usize) {
    let mut done = 0;
    // SAFETY: within `len` bytes, says the caller; the alignment of what is read as words is looked at, of
    // what is written as words none is asked.
    unsafe {
        if from.addr().is_multiple_of(4) {
            while done + 4 <= len {
                to.add(done).cast::<u32>().write_unaligned(from.add(done).cast::<u32>().read_volatile());
                done += 4;
            }
        }
        while done < len {
            to.add(done).write(from.add(done).read_volatile());
            done += 1;
        }
    }
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

    /// Takes `instructions` from the run's budget. Helpers that do more than a few hundred instructions' work
    /// for one call say so by this, so that no loop of calls outlasts the budget by far.
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

    /// What the run's context is, if it has one of the kernel's.
    #[must_use]
    pub fn context(&self) -> Option<ContextKind> {
        self.run.frame.map(|frame| frame.kind)
    }

    /// The packet's frame where the context is of kind `kind`. The verifier lets no other program call what
    /// needs it.
    fn frame(&self, kind: ContextKind) -> Result<Frame, TrapKind> {
        self.run.frame.filter(|frame| frame.kind == kind).ok_or(TrapKind::WrongContext)
    }

    /// A field of the context.
    fn field(&self, frame: &Frame, offset: usize) -> Result<u32, TrapKind> {
        let bytes = self.read(frame.context + offset as u64, 4)?;
        Ok(bytes.try_into().map_or(0, u32::from_le_bytes))
    }

    fn set_field(&mut self, frame: &Frame, offset: usize, value: u32) -> Result<(), TrapKind> {
        self.write(frame.context + offset as u64, &value.to_le_bytes())
    }

    /// `len` bytes of the packet from `offset` on; `None` where there are not so many.
    fn packet_at(&self, offset: u64, len: u64) -> Option<u64> {
        let (packet, bytes) = self.packet();
        (offset.checked_add(len)? <= bytes).then_some(packet + offset)
    }

    fn key(&self, map: &MapBody) -> Result<Vec<u8>, TrapKind> {
        self.read(self.args[1], map.spec.key_size.into())
    }

    /// As [`HelperCall::key`], for `use_it`, without a vector: keys of maps that are looked up have a most.
    fn with_key<T>(&self, map: &MapBody, use_it: impl FnOnce(&[u8]) -> T) -> Result<T, TrapKind> {
        let len = map.spec.key_size as usize;
        if len > MOST_KEY as usize {
            return Ok(use_it(&self.key(map)?));
        }
        let at = self.run.bytes(self.args[1], len as u64)?;
        self.charge_bytes(len as u64)?;
        let mut room = [MaybeUninit::<u64>::uninit(); MOST_KEY as usize / 8];
        // SAFETY: the range was checked, and `room` has as many bytes, all of which are written before they
        // are read.
        Ok(use_it(unsafe {
            let to = room.as_mut_ptr().cast::<u8>();
            copy_key(at, to, len);
            std::slice::from_raw_parts(to, len)
        }))
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

    /// What a proof may rely on of a call of helper `number`. One of the host's may write what it is given,
    /// and has no means to move the packet.
    pub fn call(&self, number: u32) -> Call {
        let built_in = number == TAIL_CALL || self.is_built_in(number);
        let returns = match number {
            1 | 195 if built_in => Returns::Value,
            131 if built_in => Returns::Record,
            _ => Returns::Anything,
        };
        let writes = !built_in || !HARMLESS.contains(&number);
        let moves_packet = built_in && !HARMLESS.contains(&number) && !IN_PLACE.contains(&number);
        Call { writes, moves_packet, returns }
    }

    /// Whether helper `number` is ours, not one of the host's.
    pub fn is_built_in(&self, number: u32) -> bool {
        self.index(number).is_some_and(|index| (index as usize) < BUILT_IN.len())
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
    let helpers = unsafe { &(*run.shared).helpers };
    if run.helper == BY_REGISTER {
        let number = u32::try_from(run.callee).ok();
        let Some(index) = number.and_then(|number| helpers.index(number)) else {
            return u64::from(run.fail(TrapKind::NotAFunction { value: run.callee }));
        };
        run.helper = index;
    }
    let helper = &helpers.table[run.helper as usize];
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

/// The look-up of a map, for compiled code: what [`call`] does where it is ours, on a shorter way. It runs
/// nobody else's code, and cannot unwind.
pub extern "C" fn look_up(r1: u64, r2: u64, r3: u64, r4: u64, r5: u64, run: *mut Run) -> u64 {
    // SAFETY: compiled code passes its own run, which nobody else uses meanwhile.
    let run = unsafe { &mut *run };
    let mut call = HelperCall { args: [r1, r2, r3, r4, r5], run };
    if !cfg!(relpoline_broken = "helpers-are-free") && !call.run.charge(CALL) {
        return 0;
    }
    match maps::lookup(&mut call) {
        Ok(value) => value,
        Err(kind) => u64::from(call.run.fail(kind)),
    }
}

/// As [`look_up`], in a map that is known when the program is compiled, for a key in the frame of the
/// program's function. What it takes from the budget was taken.
pub extern "C" fn look_up_known(map: *const MapBody, key: *const u8, _: u64, _: u64, _: u64, run: *mut Run) -> u64 {
    // SAFETY: compiled code passes its own run, which nobody else uses meanwhile; a map of its program, which
    // keeps it; and a key of the map's size within its function's frame, which other threads cannot write.
    let (map, run, key) = unsafe {
        let map = &*map;
        (map, &mut *run, std::slice::from_raw_parts(key, map.spec.key_size as usize))
    };
    match map.look_up_by(key, &mut run.slot) {
        Ok(value) => value,
        Err(MapError::NoSlot) => u64::from(run.fail(TrapKind::NoSlot)),
        Err(_) => 0,
    }
}

/// What a look-up takes from the budget.
pub fn cost_of_look_up(key_size: u32) -> i64 {
    if cfg!(relpoline_broken = "helpers-are-free") { 0 } else { CALL + i64::from(key_size) / BYTES as i64 }
}

type BuiltIn = fn(&mut HelperCall<'_>) -> Result<u64, TrapKind>;

/// Helpers that write nothing the program can reach by its stack, and leave the packet where it is.
const HARMLESS: [u32; 21] =
    [1, 2, 3, 5, 6, 7, 8, TAIL_CALL, 23, 28, 51, 87, 118, 125, 130, 131, 132, 133, 160, 195, LOAD_PACKET];
/// Those that leave the packet where it is, but may write what they are given.
const IN_PLACE: [u32; 28] = [
    9, 10, 11, 20, 21, 24, 25, 26, 34, 40, 41, 42, 48, 68, 69, 84, 85, 86, 88, 89, 105, 106, 163, 165, 182, 188, 189,
    190,
];

/// Built-in helpers by number (`enum bpf_func_id`).
const BUILT_IN: &[(u32, BuiltIn)] = &[
    (1, maps::lookup),
    (2, maps::update),
    (3, maps::delete),
    (5, clock::monotonic),
    (6, text::trace_printk),
    (7, clock::random),
    (8, clock::slot),
    (9, bytes::skb_store),
    (10, checksum::replace_l3),
    (11, checksum::replace_l4),
    (13, redirect::clone_to_device),
    (17, zero),
    (18, skb::vlan_push),
    (19, skb::vlan_pop),
    (20, tunnel::key),
    (21, tunnel::set_key),
    (23, redirect::to_device),
    (24, zero),
    (25, ring::perf_event),
    (26, bytes::skb_load),
    (28, checksum::diff),
    (31, skb::change_proto),
    (32, skb::change_type),
    (34, skb::hash),
    (38, skb::change_tail),
    (39, skb::pull),
    (40, checksum::update),
    (41, skb::forget_hash),
    (42, zero),
    (43, skb::change_head),
    (44, adjust::head),
    (48, skb::set_hash),
    (50, skb::adjust_room),
    (51, redirect::by_map),
    (54, adjust::meta),
    (65, adjust::tail),
    (68, bytes::skb_load_relative),
    (69, environment::no_route),
    (84, environment::no_socket),
    (85, environment::no_socket),
    (86, zero),
    (87, maps::push),
    (88, |c| maps::next(c, true)),
    (89, |c| maps::next(c, false)),
    (97, skb::mark_congested),
    (99, environment::no_socket),
    (105, |c| text::parse(c, true)),
    (106, |c| text::parse(c, false)),
    (118, clock::jiffies),
    (125, clock::boot),
    (130, ring::output),
    (131, ring::reserve),
    (132, |c| ring::finish(c, true)),
    (133, |c| ring::finish(c, false)),
    (134, ring::query),
    (152, redirect::to_neighbour),
    (155, redirect::to_peer),
    (160, clock::monotonic),
    (163, environment::check_mtu),
    (165, text::snprintf),
    (177, text::trace_vprintk),
    (182, text::compare),
    (188, bytes::length),
    (189, bytes::xdp_load),
    (190, bytes::xdp_store),
    (195, maps::lookup_in_slot),
    (LOAD_PACKET, bytes::classic),
    (UNRESOLVED, |_| Err(TrapKind::Unresolved)),
    (callback::NEXT, maps::walk),
];

/// For questions whose answer is always zero here: control groups' classes, routing realms, memory nodes.
fn zero(_: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    Ok(0)
}

// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Between the C shim and the engine. The declarations on the other side are in `shim/relpoline.h`.
//!
//! Every function here but `relpoline_engine_furnish` is called under the shim's lock.

use core::mem::MaybeUninit;
use core::ptr::{addr_of_mut, slice_from_raw_parts, slice_from_raw_parts_mut};

use crate::engine::{Engine, Places};
use crate::layout;
use crate::machine::{Machine, Poke, Text};
use crate::report::{FIGURES, Line, Word};
use crate::site::Site;
use crate::table::Table;
use crate::windows;

unsafe extern "C" {
    fn relpoline_clock() -> u64;
    fn relpoline_drain(take: extern "C" fn(*mut u8, u32, u64), with: *mut u8) -> u32;
    fn relpoline_cold_calls(site: u32) -> u32;
    fn relpoline_misses(tree: u32) -> u32;
    fn relpoline_calls(tree: u32) -> u64;
    fn relpoline_write(at: u64, bytes: *const u8, len: u64);
    fn relpoline_poke(batch: *mut Poke, count: u64);
    fn relpoline_is_entry(address: u64) -> bool;
    fn relpoline_function(address: u64, start: *mut u64, end: *mut u64) -> bool;
    fn relpoline_is_barred(start: u64) -> bool;
}

/// The kernel that this is linked into.
#[derive(Debug)]
pub struct Kernel;

/// What `relpoline_drain` is given to carry.
struct Carried<'a>(&'a mut dyn FnMut(u32, u64));

extern "C" fn carry(with: *mut u8, cpu: u32, record: u64) {
    // SAFETY: what `Kernel::drain` passed, while it waits.
    let carried = unsafe { &mut *with.cast::<Carried<'_>>() };
    (carried.0)(cpu, record);
}

impl Machine for Kernel {
    fn now(&self) -> u64 {
        // SAFETY: reads the clock.
        unsafe { relpoline_clock() }
    }

    fn drain(&mut self, take: &mut dyn FnMut(u32, u64)) -> u32 {
        let mut carried = Carried(take);
        // SAFETY: `carry` is called back during the call only.
        unsafe { relpoline_drain(carry, (&raw mut carried).cast()) }
    }

    fn cold_calls(&self, site: usize) -> u32 {
        // SAFETY: the shim checks the number.
        unsafe { relpoline_cold_calls(site as u32) }
    }

    fn misses(&self, tree: usize) -> u32 {
        // SAFETY: the shim checks the number.
        unsafe { relpoline_misses(tree as u32) }
    }

    fn calls(&self, tree: usize) -> u64 {
        // SAFETY: the shim checks the number.
        unsafe { relpoline_calls(tree as u32) }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        // SAFETY: the engine writes stubs and slots of the module's text that nobody is led to.
        unsafe { relpoline_write(at, bytes.as_ptr(), bytes.len() as u64) }
    }

    fn poke(&mut self, batch: &mut [Poke]) {
        // SAFETY: sites whose text is mapped; the shim looks at the old bytes first.
        unsafe { relpoline_poke(batch.as_mut_ptr(), batch.len() as u64) }
    }

    fn is_entry(&self, address: u64) -> bool {
        // SAFETY: any address may be asked about.
        unsafe { relpoline_is_entry(address) }
    }

    fn function(&self, address: u64) -> Option<(u64, u64)> {
        let (mut start, mut end) = (0, 0);
        // SAFETY: any address may be asked about; both places are ours.
        unsafe { relpoline_function(address, &raw mut start, &raw mut end) }.then_some((start, end))
    }

    fn is_barred(&self, start: u64) -> bool {
        // SAFETY: any address may be asked about.
        unsafe { relpoline_is_barred(start) }
    }

    fn text(&self, start: u64, end: u64) -> &'static [u8] {
        // SAFETY: the shim names text that is mapped for as long as the engine looks at it.
        unsafe { &*slice_from_raw_parts(start as *const u8, end.saturating_sub(start) as usize) }
    }
}

static mut ENGINE: Engine<Kernel> = Engine::new(Kernel);

fn engine() -> &'static mut Engine<Kernel> {
    // SAFETY: every caller holds the shim's lock, or is alone as yet.
    unsafe { &mut *addr_of_mut!(ENGINE) }
}

/// Bytes of memory that the engine wants for its sites (`which` = 0) and its windows (1).
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_engine_memory(which: u32) -> u64 {
    if which == 0 { (layout::SITES * size_of::<Site>()) as u64 } else { (windows::MEMORY * size_of::<u64>()) as u64 }
}

/// Gives the engine its places and memory, once, before all else.
///
/// # Safety
/// The memory must be of the size that [`relpoline_engine_memory`] asked for, zeroed, aligned to 16 bytes,
/// and stay until the module has gone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_engine_furnish(places: &Places, sites: *mut u8, records: *mut u8, khz: u32) {
    // SAFETY: see above.
    let (sites, records) = unsafe {
        let sites = &mut *slice_from_raw_parts_mut(sites.cast::<MaybeUninit<Site>>(), layout::SITES);
        (sites, &mut *slice_from_raw_parts_mut(records.cast::<u64>(), windows::MEMORY))
    };
    engine().furnish(*places, Table::new(sites), records, khz);
}

/// See [`Engine::text_comes`].
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_engine_text_comes(text: &Text) -> u64 {
    engine().text_comes(text) as u64
}

/// See [`Engine::text_goes`].
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_engine_text_goes(owner: u64, start: u64, end: u64) {
    engine().text_goes(owner, start, end);
}

/// See [`Engine::tick`].
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_engine_tick() -> u32 {
    engine().tick()
}

/// See [`Engine::enable`].
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_engine_enable() {
    engine().enable();
}

/// See [`Engine::disable`].
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_engine_disable() -> bool {
    engine().disable()
}

/// See [`Engine::relearn`].
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_engine_relearn() {
    engine().relearn();
}

/// See [`Engine::count`].
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_engine_count(on: bool) {
    engine().count(on);
}

/// See [`Engine::wants_grace`].
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_engine_wants_grace() -> bool {
    engine().wants_grace()
}

/// See [`Engine::grace_begins`] and [`Engine::grace_ended`].
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_engine_grace(ended: bool) {
    if ended {
        engine().grace_ended();
    } else {
        engine().grace_begins();
    }
}

/// Sets knob number `knob`; false if there is no such knob.
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_engine_set(knob: u32, value: u32) -> bool {
    engine().set(knob, value)
}

/// Name and value of knob number `knob`; false if there is no such knob.
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_engine_knob(knob: u32, name: &mut Word, value: &mut u32) -> bool {
    let Some((text, now)) = engine().knob(knob) else { return false };
    (*name, *value) = (text.into(), now);
    true
}

/// The line of site `id`: 1, or 0 when that site is gone, or -1 behind the last.
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_engine_line(id: u64, line: &mut Line) -> i32 {
    if id >= engine().sites().len() as u64 {
        return -1;
    }
    match engine().line(id as usize) {
        Some(found) => {
            *line = found;
            1
        }
        None => 0,
    }
}

/// Calls `each` with every figure.
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_engine_figures(each: extern "C" fn(*mut u8, Word, u64), with: *mut u8) {
    let figures: [_; FIGURES] = engine().figures();
    for (name, value) in figures {
        each(with, name.into(), value);
    }
}

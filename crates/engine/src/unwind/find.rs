//! `_dl_find_object`: which object an address belongs to, as unwinders ask since glibc 2.35.
//!
//! libc's function of that name is a jump through a pointer that the loader keeps (`_rtld_global_ro`): it is
//! read from that jump, and led here. So everybody is reached, whichever way it looks the function up,
//! programs in other namespaces too; and it is one aligned word, which can be changed under running threads,
//! and put back. Where the function looks otherwise, nothing is changed, and such unwinders see what they saw
//! before there was this: an address that nobody knows.

use super::covered_at;
use crate::sandbox;
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use rustix::mm::MprotectFlags;

/// `struct dl_find_object` (dlfcn.h).
#[repr(C)]
pub struct Found {
    flags: u64,
    start: u64,
    end: u64,
    link_map: *mut c_void,
    eh_frame: u64,
    reserved: [u64; 7],
}

type Find = unsafe extern "C" fn(*mut c_void, *mut Found) -> c_int;

/// The loader's own function.
static LOADERS: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());
/// Where the loader keeps the pointer to it.
static SLOT: AtomicU64 = AtomicU64::new(0);
/// What arenas are said to be part of: the engine, or libc where the loader does not know the engine.
static LINK_MAP: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

/// What the pointer leads to instead.
///
/// # Safety
/// As for `_dl_find_object`.
pub unsafe extern "C" fn find_object(pc: *mut c_void, found: *mut Found) -> c_int {
    if let Some((range, header)) = covered_at(pc as u64) {
        // SAFETY: the caller's structure.
        unsafe {
            *found = Found {
                flags: 0,
                start: range.start,
                end: range.end,
                link_map: LINK_MAP.load(Ordering::Relaxed),
                eh_frame: header,
                reserved: [0; 7],
            };
        }
        return 0;
    }
    // SAFETY: passed on. The pointer was there before the loader's led here.
    unsafe { (core::mem::transmute::<*mut c_void, Find>(LOADERS.load(Ordering::Acquire)))(pc, found) }
}

/// The slot that the function with these first bytes at `at` jumps through:
/// `mov slot_base(%rip),%rax; jmp *offset(%rax)`.
fn slot(at: u64, code: &[u8; 17]) -> Option<(u64, i32)> {
    let code: &[u8] = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(code);
    let number = |at: usize| Some(i32::from_le_bytes(*code.get(at..)?.first_chunk()?));
    let is_it = code.starts_with(&[0x48, 0x8b, 0x05]) && code.get(7..9) == Some(&[0xff, 0xa0]);
    let begun = at + (17 - code.len()) as u64;
    is_it.then_some(())?;
    Some(((begun + 7).wrapping_add_signed(number(3)?.into()), number(9)?))
}

/// Finds the slot; `None` where libc has no such function, or another one.
fn find_slot(function: u64) -> Option<u64> {
    if function == 0 {
        return None;
    }
    // SAFETY: the function's first bytes: its shortest known form has 13, in a section aligned to 16.
    let (base, offset) = slot(function, unsafe { &*(function as *const [u8; 17]) })?;
    // SAFETY: a slot of libc's global offset table, which is relocated.
    let structure = unsafe { *(base as *const u64) };
    let slot = structure.wrapping_add_signed(offset.into());
    slot.is_multiple_of(8).then_some(slot)
}

/// Finds where the loader keeps its pointer: libc's function lies at `function`, or nowhere when that is 0.
pub fn prepare(function: u64) {
    if SLOT.load(Ordering::Acquire) == 0 {
        SLOT.store(find_slot(function).unwrap_or(u64::MAX), Ordering::Release);
    }
}

/// Leads the loader's pointer here.
pub fn listen() {
    if !sandbox::may_call() {
        return;
    }
    let slot = SLOT.load(Ordering::Acquire);
    if slot == u64::MAX || slot == 0 {
        return;
    }
    // SAFETY: the loader's word, aligned.
    let pointer = unsafe { &*(slot as *const AtomicPtr<c_void>) };
    let own = find_object as *mut c_void;
    let before = pointer.load(Ordering::Acquire);
    if before.is_null() || before == own {
        return;
    }
    LOADERS.store(before, Ordering::Release);
    name_link_map(before);
    let _ = store(slot, pointer, own);
}

/// Arenas belong to the object that this code belongs to, or, where the loader does not know it, to its own.
fn name_link_map(loaders: *mut c_void) {
    // SAFETY: what the loader's pointer held is its function.
    let ask = unsafe { core::mem::transmute::<*mut c_void, Find>(loaders) };
    for place in [find_object as *mut c_void, loaders] {
        let mut found =
            Found { flags: 0, start: 0, end: 0, link_map: core::ptr::null_mut(), eh_frame: 0, reserved: [0; 7] };
        // SAFETY: an address, and room for the answer.
        if unsafe { ask(place, &raw mut found) } == 0 {
            LINK_MAP.store(found.link_map, Ordering::Release);
            return;
        }
    }
}

/// Stores one word in a page that the loader has made read-only. Threads may be reading it.
fn store(slot: u64, pointer: &AtomicPtr<c_void>, to: *mut c_void) -> Option<()> {
    let page = (slot & !0xfff) as *mut c_void;
    let (read, write) = (MprotectFlags::READ, MprotectFlags::READ | MprotectFlags::WRITE);
    // SAFETY: the page holds data of the loader's alone, which stays readable all along; programs run with it
    // read-only.
    unsafe {
        rustix::mm::mprotect(page, 4096, write).ok()?;
        pointer.store(to, Ordering::Release);
        rustix::mm::mprotect(page, 4096, read).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_is_read_from_libcs_jump() {
        let mut code = [0; 17];
        code[..13].copy_from_slice(&[0x48, 0x8b, 0x05, 0xc1, 0x2f, 0x08, 0, 0xff, 0xa0, 0x60, 0x03, 0, 0]);
        assert_eq!(slot(0x14_fed0, &code), Some((0x1d_2e98, 0x360)));
        let mut marked = [0xf3, 0x0f, 0x1e, 0xfa, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        marked[4..].copy_from_slice(&code[..13]);
        assert_eq!(slot(0x14_fecc, &marked), Some((0x1d_2e98, 0x360)));
        code[7] = 0xfe;
        assert_eq!(slot(0x14_fed0, &code), None);
    }
}

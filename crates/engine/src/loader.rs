//! Learning of libraries that come and go.
//!
//! The loader calls an empty function, whose address it publishes for debuggers (`r_brk` in `struct r_debug`,
//! link.h), whenever its list of objects is about to change and when it has changed. Its first instruction
//! is turned into a jump to `entry` while the process has one thread. So the engine hears of a library
//! after it is mapped and before it is relocated or any of its code runs, and of an unmapping before it
//! happens, on the thread that holds the loader's lock. Nothing about `dlopen` changes for its callers: not
//! even its return address, by which the loader finds the caller's search path.
//!
//! The list itself is read from the same structure. Each namespace (dlmopen(3)) has a structure of its own,
//! and since glibc 2.35 they are listed; the function is the same for all. Older loaders tell nobody of other
//! namespaces, which stay as they are there. `dl_iterate_phdr` is not asked: a program may have its own,
//! which answers what it likes.

use crate::control;
use crate::object::{self, Link};
use core::sync::atomic::{AtomicU64, Ordering};
use relpoline_core::arch::encode::rel32;
use relpoline_stats::control::{HOOK_BYTES, hook, room_in_empty_function};
use relpoline_text::poke::{Idle, PokeError};

/// What is going on, from `r_state`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Objects are about to be mapped.
    Adding,
    /// Objects are about to be unmapped.
    Removing,
    /// The list is complete and true.
    Done,
}

/// `struct r_debug`, and from version 2 on `struct r_debug_extended`.
#[repr(C)]
struct Debug {
    version: i32,
    map: *const LinkMap,
    brk: u64,
    state: i32,
    ldbase: u64,
    /// The next namespace's. Only there from version 2 on.
    next: *const Debug,
}

/// `struct link_map`, as far as it is public.
#[repr(C)]
struct LinkMap {
    base: u64,
    name: u64,
    dynamic: u64,
    next: *const LinkMap,
}

/// Namespaces that are looked at; glibc has 16.
const NAMESPACES: usize = 64;
/// Objects of a namespace that are looked at.
const OBJECTS: usize = 1 << 16;

static DEBUG: AtomicU64 = AtomicU64::new(0);

/// Why the loader cannot be listened to. Libraries that are loaded later then stay as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HookError {
    /// No `r_debug`, or the function does not look as expected.
    Unfamiliar,
    /// Writing was refused.
    Poke(PokeError),
}

/// Finds the loader's list. False when there is none.
pub fn find() -> bool {
    object::loader_debug().map(attend).is_some()
}

/// Puts the hook in. To be called while the process has one thread, and the loader's list was found.
///
/// # Errors
/// Nothing was changed then.
pub fn listen(text: &Idle) -> Result<(), HookError> {
    let debug = DEBUG.load(Ordering::Acquire);
    if debug == 0 {
        return Err(HookError::Unfamiliar);
    }
    // SAFETY: the executable's DT_DEBUG names the loader's structure, which lives as long as the process.
    let brk = unsafe { (*(debug as *const Debug)).brk };
    // SAFETY: `brk` is the address of a function in the loader's text, aligned and padded to 16 bytes.
    let code = unsafe { *(brk as *const [u8; 12]) };
    let at = brk + room_in_empty_function(&code).ok_or(HookError::Unfamiliar)?;
    let rel = rel32(at + HOOK_BYTES as u64, entry as *const () as u64).ok_or(HookError::Unfamiliar)?.to_le_bytes();
    let jump = [0xe9, rel[0], rel[1], rel[2], rel[3]];
    text.write(at, &jump).map_err(HookError::Poke)?;
    let mut own = [0; HOOK_BYTES];
    own.copy_from_slice(&code[(at - brk) as usize..][..HOOK_BYTES]);
    control::note_hook(hook::NOTICE, at, own, jump);
    Ok(())
}

/// Takes the loader's state from the structure at `debug`.
pub fn attend(debug: u64) {
    DEBUG.store(debug, Ordering::Release);
}

/// The structures of all namespaces, the program's own first.
fn namespaces() -> impl Iterator<Item = *const Debug> {
    let first = DEBUG.load(Ordering::Acquire) as *const Debug;
    let next = |&debug: &*const Debug| {
        // SAFETY: `first` was set before the hook was. Structures are only ever added to the list, complete,
        // and the version says whether there is one.
        let next = unsafe {
            if (&raw const (*debug).version).read_volatile() < 2 {
                return None;
            }
            (&raw const (*debug).next).read_volatile()
        };
        (!next.is_null()).then_some(next)
    };
    core::iter::successors((!first.is_null()).then_some(first), next).take(NAMESPACES)
}

/// Calls `visit` for every object that the loader has mapped, in whichever namespace, the executable first.
/// The caller sees to it that the list does not change meanwhile: it has the loader's lock, or is the only
/// thread.
pub fn each(visit: &mut dyn FnMut(&Link)) {
    let mut is_executable = true;
    for debug in namespaces() {
        // SAFETY: as above; entries stay while the list does not change.
        let first = unsafe { (&raw const (*debug).map).read_volatile() };
        // SAFETY: as for the first entry.
        let next = |&map: &*const LinkMap| Some(unsafe { (*map).next }).filter(|next| !next.is_null());
        for map in core::iter::successors((!first.is_null()).then_some(first), next).take(OBJECTS) {
            // SAFETY: an entry of the list.
            let LinkMap { base, name, dynamic, .. } = unsafe { &*map };
            visit(&Link { base: *base, dynamic: *dynamic, name: *name, is_executable });
            is_executable = false;
        }
    }
}

/// What the loader says is going on, in whichever namespace.
fn change() -> Change {
    // SAFETY: as above; the loader changes states only under the lock that this thread holds.
    let states = namespaces().map(|debug| unsafe { (&raw const (*debug).state).read_volatile() });
    match states.max() {
        Some(1) => Change::Adding,
        Some(2) => Change::Removing,
        _ => Change::Done,
    }
}

extern "C" fn changed() {
    crate::engine::loader_changed(change());
}

/// Where the loader's empty function jumps. It is a function that the loader's authors know to be empty, so
/// every register is kept, as a compiler that knows it too might expect.
///
/// # Safety
/// To be jumped to by that function alone.
#[unsafe(naked)]
#[cfg_attr(feature = "preload", unsafe(export_name = "relpoline_loader_entry"))]
pub unsafe extern "C" fn entry() {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "push rbp", ".cfi_adjust_cfa_offset 8", ".cfi_rel_offset rbp, 0",
        "mov rbp, rsp", ".cfi_def_cfa_register rbp",
        "push rax", "push rcx", "push rdx", "push rsi", "push rdi",
        "push r8", "push r9", "push r10", "push r11",
        "and rsp, -16", "sub rsp, 256",
        "movups [rsp], xmm0", "movups [rsp+16], xmm1", "movups [rsp+32], xmm2", "movups [rsp+48], xmm3",
        "movups [rsp+64], xmm4", "movups [rsp+80], xmm5", "movups [rsp+96], xmm6", "movups [rsp+112], xmm7",
        "movups [rsp+128], xmm8", "movups [rsp+144], xmm9", "movups [rsp+160], xmm10", "movups [rsp+176], xmm11",
        "movups [rsp+192], xmm12", "movups [rsp+208], xmm13", "movups [rsp+224], xmm14", "movups [rsp+240], xmm15",
        "call {changed}",
        "movups xmm0, [rsp]", "movups xmm1, [rsp+16]", "movups xmm2, [rsp+32]", "movups xmm3, [rsp+48]",
        "movups xmm4, [rsp+64]", "movups xmm5, [rsp+80]", "movups xmm6, [rsp+96]", "movups xmm7, [rsp+112]",
        "movups xmm8, [rsp+128]", "movups xmm9, [rsp+144]", "movups xmm10, [rsp+160]", "movups xmm11, [rsp+176]",
        "movups xmm12, [rsp+192]", "movups xmm13, [rsp+208]", "movups xmm14, [rsp+224]", "movups xmm15, [rsp+240]",
        "lea rsp, [rbp-72]",
        "pop r11", "pop r10", "pop r9", "pop r8", "pop rdi", "pop rsi", "pop rdx", "pop rcx", "pop rax",
        "pop rbp", ".cfi_def_cfa rsp, 8", ".cfi_restore rbp",
        "ret",
        ".cfi_endproc",
        changed = sym changed,
    )
}

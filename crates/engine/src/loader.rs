//! Learning of libraries that come and go.
//!
//! The loader calls an empty function, whose address it publishes for debuggers (`r_brk` in `struct r_debug`,
//! link.h), whenever its list of objects is about to change and when it has changed. Its first instruction
//! is turned into a jump to `entry` while the process has one thread. So the engine hears of a library
//! after it is mapped and before it is relocated or any of its code runs, and of an unmapping before it
//! happens, on the thread that holds the loader's lock. Nothing about `dlopen` changes for its callers: not
//! even its return address, by which the loader finds the caller's search path.

use crate::control;
use crate::object;
use core::sync::atomic::{AtomicU64, Ordering};
use relpoline_core::arch::encode::rel32;
use relpoline_stats::control::{HOOK_BYTES, room_in_empty_function};
use relpoline_text::poke::{self, PokeError};

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

/// `struct r_debug` as far as it is used.
#[repr(C)]
struct Debug {
    version: i32,
    map: *const u8,
    brk: u64,
    state: i32,
}

static DEBUG: AtomicU64 = AtomicU64::new(0);

/// Why the loader cannot be listened to. Libraries that are loaded later then stay as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HookError {
    /// No `r_debug`, or the function does not look as expected.
    Unfamiliar,
    /// Writing was refused.
    Poke(PokeError),
}

/// Puts the hook in. To be called while the process has one thread.
///
/// # Errors
/// Nothing was changed then.
pub fn listen() -> Result<(), HookError> {
    let debug = object::loader_debug().ok_or(HookError::Unfamiliar)?;
    // SAFETY: the executable's DT_DEBUG names the loader's structure, which lives as long as the process.
    let brk = unsafe { (*(debug as *const Debug)).brk };
    // SAFETY: `brk` is the address of a function in the loader's text, aligned and padded to 16 bytes.
    let code = unsafe { *(brk as *const [u8; 12]) };
    let at = brk + room_in_empty_function(&code).ok_or(HookError::Unfamiliar)?;
    let rel = rel32(at + HOOK_BYTES as u64, entry as *const () as u64).ok_or(HookError::Unfamiliar)?.to_le_bytes();
    attend(debug);
    let jump = [0xe9, rel[0], rel[1], rel[2], rel[3]];
    poke::poke_idle(at, &jump).map_err(HookError::Poke)?;
    let mut own = [0; HOOK_BYTES];
    own.copy_from_slice(&code[(at - brk) as usize..][..HOOK_BYTES]);
    control::note_hook(at, own, jump);
    Ok(())
}

/// Takes the loader's state from the structure at `debug`.
pub fn attend(debug: u64) {
    DEBUG.store(debug, Ordering::Release);
}

/// What the loader says is going on.
fn change() -> Change {
    let debug = DEBUG.load(Ordering::Acquire) as *const Debug;
    debug_assert!(!debug.is_null());
    // SAFETY: set before the hook was; the loader changes `state` only under the lock that this thread holds.
    match unsafe { (&raw const (*debug).state).read_volatile() } {
        1 => Change::Adding,
        2 => Change::Removing,
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
        "push rbp", "mov rbp, rsp",
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
        "pop rbp", "ret",
        changed = sym changed,
    )
}

//! Learning of libraries that come and go.
//!
//! The loader calls an empty function, whose address it publishes for debuggers (`r_brk` in `struct r_debug`,
//! link.h), whenever its list of objects is about to change and when it has changed. Its first instruction
//! is turned into a jump to `entry` while the process has one thread. So the engine hears of a library
//! after it is mapped and before it is relocated or any of its code runs, and of an unmapping before it
//! happens, on the thread that holds the loader's lock. Nothing about `dlopen` changes for its callers: not
//! even its return address, by which the loader finds the caller's search path.

use crate::object;
use core::sync::atomic::{AtomicU64, Ordering};
use relpoline_core::arch::encode::rel32;
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

/// Whether `code` begins with `ret` and goes on with bytes that are never executed: padding.
fn is_empty_function(code: &[u8; 8]) -> bool {
    let padding = matches!(
        code[1..5],
        [0x66, 0x66, 0x2e, 0x0f]
            | [0x66, 0x2e, 0x0f, 0x1f]
            | [0x0f, 0x1f, _, _]
            | [0x66, 0x0f, 0x1f, _]
            | [0x66, 0x90, _, _]
            | [0x90, 0x90, 0x90, 0x90]
            | [0xcc, 0xcc, 0xcc, 0xcc]
    );
    code[0] == 0xc3 && padding
}

/// Puts the hook in. To be called while the process has one thread.
///
/// # Errors
/// Nothing was changed then.
pub fn listen() -> Result<(), HookError> {
    let debug = object::loader_debug().ok_or(HookError::Unfamiliar)?;
    // SAFETY: the executable's DT_DEBUG names the loader's structure, which lives as long as the process.
    let brk = unsafe { (*(debug as *const Debug)).brk };
    // An IBT-enabled loader has an endbr64 in front.
    // SAFETY: `brk` is the address of a function in the loader's text, aligned and padded to 16 bytes.
    let skip = if unsafe { *(brk as *const [u8; 4]) } == [0xf3, 0x0f, 0x1e, 0xfa] { 4 } else { 0 };
    let at = brk + skip;
    // SAFETY: as above.
    let code = unsafe { *(at as *const [u8; 8]) };
    let rel = rel32(at + 5, entry as *const () as u64).filter(|_| is_empty_function(&code));
    let rel = rel.ok_or(HookError::Unfamiliar)?.to_le_bytes();
    DEBUG.store(debug, Ordering::Release);
    poke::poke_idle(at, &[0xe9, rel[0], rel[1], rel[2], rel[3]]).map_err(HookError::Poke)
}

/// What the loader says is going on.
fn change() -> Change {
    let debug = DEBUG.load(Ordering::Acquire) as *const Debug;
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
#[unsafe(naked)]
unsafe extern "C" fn entry() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lone_ret_is_taken_for_an_empty_function() {
        assert!(is_empty_function(&[0xc3, 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0]));
        assert!(!is_empty_function(&[0xc3, 0x48, 0x8d, 0x05, 0, 0, 0, 0]));
        assert!(!is_empty_function(&[0xcc, 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0]));
    }
}

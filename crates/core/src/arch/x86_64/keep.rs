//! Pieces of code that change no flag and do not move the stack pointer.
//!
//! A jump to a thunk may be a computed goto, and whether its labels read the flags cannot be found out in
//! general. What stands between such a jump and its label therefore consists of `mov`, `lea`, `movabs`,
//! `bswap`, `movzbl`, `jmp` and `jrcxz`, none of which touches a flag (Intel SDM vol. 2, "Flags Affected:
//! none"; `jrcxz` looks at rcx alone).
//!
//! All of it works in rcx, because `jrcxz` does. What rcx held is kept at -8(%rsp): the thunk's own call
//! writes its return address there, so nothing of the program's can live in that word at any jump to a thunk
//! that begins with a call. When the target itself travels in rcx, it moves to rax for so long, and rax is
//! kept in that word.
//!
//! The rest of the red zone may hold data, and the stack pointer stays where the function's own unwind rules
//! have it.

use super::Reg;
use super::encode::{Code, ShortLabel};

/// Countdowns begin at this at most: [`count_down`] takes a larger number for one that is over.
pub const LONGEST: u32 = 1 << 24;

/// Frees rcx. Returns the register that holds the target from now on.
pub fn save(code: &mut Code<'_>, reg: Reg) -> Reg {
    if reg == Reg::RCX {
        code.store_below_stack(Reg::RAX);
        code.mov(Reg::RAX, Reg::RCX);
        return Reg::RAX;
    }
    code.store_below_stack(Reg::RCX);
    reg
}

/// Puts every register back as it was before [`save`] for the same `reg`.
pub fn restore(code: &mut Code<'_>, reg: Reg) {
    if reg == Reg::RCX {
        code.mov(Reg::RCX, Reg::RAX);
        code.load_below_stack(Reg::RAX);
    } else {
        code.load_below_stack(Reg::RCX);
    }
}

/// Sets rcx to `key - address`, exactly, modulo 2^64. `known` is the address whose distance from `key` rcx
/// holds already.
pub fn distance(code: &mut Code<'_>, key: Reg, known: Option<u64>, address: u64) {
    let narrow = |value: u64| i32::try_from(value.cast_signed()).ok();
    let less = 0u64.wrapping_sub(address);
    if let Some(offset) = narrow(less) {
        code.lea(Reg::RCX, key, offset);
    } else if let Some(offset) = known.and_then(|known| narrow(known.wrapping_sub(address))) {
        code.lea(Reg::RCX, Reg::RCX, offset);
    } else {
        code.mov_imm64(Reg::RCX, less);
        code.add_to_rcx(key);
    }
}

/// Jumps when rcx holds 0 to 2^56: behind [`distance`], when the key lies above the address. Addresses of
/// user space have at most 57 bits, so for them this is exact. What rcx held is lost.
pub fn jump_if_above(code: &mut Code<'_>) -> ShortLabel {
    code.top_byte_of_rcx();
    code.jrcxz_forward()
}

/// Counts the 32-bit `counter` down, and jumps unless it has come to zero or below. What rcx held is lost.
///
/// A counter may be counted by several threads, and what one of them has counted may be lost to another: as
/// with a `decl`.
pub fn count_down(code: &mut Code<'_>, counter: u64) -> ShortLabel {
    code.load_u32(Reg::RCX, counter);
    code.decrement_ecx();
    code.store_u32(counter, Reg::RCX);
    // Zero is over too: only from 1 on does one less have a top byte of 0.
    code.decrement_ecx();
    code.top_byte_of_ecx();
    code.jrcxz_forward()
}

/// Adds one to the 64-bit `counter`. What rcx held is lost.
pub fn count_up(code: &mut Code<'_>, counter: u64) {
    code.load_u64(Reg::RCX, counter);
    code.increment_rcx();
    code.store_u64(counter, Reg::RCX);
}

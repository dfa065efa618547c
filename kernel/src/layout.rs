// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The shape of the module's own text. The numbers are those of `shim/layout.h`, which the assembler reads; a
//! test compares the two.

/// Most sites of the kernel and its modules together.
pub const SITES: usize = 32768;
/// Bytes of a counting stub: `incl` of this processor's counter, and a jump to the thunk.
pub const COLD_STUB: u64 = 32;
/// Offset, in a counting stub, of that jump.
pub const COLD_JUMP: u64 = 17;

/// Recording stubs per register. Each has its number in its code and never changes.
pub const RECORDERS_PER_REGISTER: usize = 64;
/// Recording stubs: registers by hardware number, rsp's unused.
pub const RECORDERS: usize = 16 * RECORDERS_PER_REGISTER;
/// Bytes of a recording stub: `push $number; jmp record_reg; int3 …`.
pub const RECORDER: u64 = 16;

/// Tree slots.
pub const TREES: usize = 1024;
/// Bytes of a tree slot: the tree (64), its miss stub (32), its counting entry (32).
pub const TREE: u64 = 128;
/// Offset of the miss stub.
pub const MISS: u64 = 64;
/// Offset, in the slot, of the miss stub's jump to the thunk.
pub const MISS_JUMP: u64 = MISS + 17;
/// Offset of the entry that counts calls before it goes on to the tree.
pub const COUNTED: u64 = 96;

/// Records that a processor's ring holds.
pub const RING: usize = 4096;
/// Most windows that are being filled at once.
pub const WINDOWS: usize = 128;
/// Most targets of a tree: as many as one 64-byte cell holds.
pub const TARGETS: usize = 4;

/// The number of the recording stub `n` for the register with hardware number `reg`.
#[must_use]
pub const fn recorder(reg: u8, n: usize) -> usize {
    reg as usize * RECORDERS_PER_REGISTER + n
}

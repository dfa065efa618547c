//! The machine code of a branch tree: `if target == T1 jump T1, … else jump miss`.
//!
//! A tree has two parts, because arena cells are small. The *head* fills one 64-byte cell and holds the
//! hottest targets; the *body* is a run of whole cells elsewhere and holds the rest.
//!
//! ```text
//! head:   incq  hits(%rip)            only while exact counting is on
//!         cmp   C1(%rip), %reg        or cmp $imm32, %reg when every target is a sign-extended imm32
//!         je    T1
//!         cmp   C2(%rip), %reg
//!         je    T2
//!         jmp   body                  or miss, when nothing is left
//!         int3 …
//! C1, C2: .quad T1, T2                the last 16 bytes of the cell
//!
//! body:   cmp   C3(%rip), %reg        the rest of the chain
//!         je    T3
//!         decl  exits(%rip)           only when exits from the chain are watched
//!         jle   exit_slow
//!         cmp   C7(%rip), %reg        the search tree: three ways with one compare
//!         je    T7
//!         ja    right                 (or jb left: the heavier side falls through)
//!         …
//!         jmp   miss                  at every leaf
//!         int3
//! C3 …:   .quad T3, …                 the pool of constants, 8-byte aligned, after the code
//! ```
//!
//! Only flags are clobbered; no register, no stack. At calls they are dead by the ABI. At jumps they may be
//! live: trees for those ([`TreeSpec::keeps_flags`]) consist of instructions that change none, see
//! [`crate::arch::keep`]:
//!
//! ```text
//! head:   mov    %rcx, -8(%rsp)       the word that the thunk itself writes
//!         movabs $-T1, %rcx           or lea -T1(%reg), %rcx when -T1 is a sign-extended imm32
//!         lea    (%rcx,%reg), %rcx    reg - T1, exactly
//!         jrcxz  h1
//!         lea    T1-T2(%rcx), %rcx    reg - T2
//!         jrcxz  h2
//!         jmp    body                 or mov -8(%rsp), %rcx; jmp miss
//! h1:     mov    -8(%rsp), %rcx
//!         jmp    T1
//! h2:     …
//!
//! body:   …                           the rest of the chain, in groups, with their hits behind them
//!         mov    exits(%rip), %ecx    only when exits are watched: one less, is it over?
//!         …
//!         lea    …, %rcx              a node of the search tree: reg - T7
//!         jrcxz  h7
//!         bswap  %rcx                 its top byte is 0 if reg lies above T7
//!         movzbl %cl, %ecx
//!         jrcxz  above
//!         jmp    below
//! h7:     …
//! above:  …
//! ```
//!
//! Each target is read from the list once, so the compared constant and the displacement behind it cannot
//! disagree even if the list changes meanwhile: whatever the list says, the code is of the form "if it equals
//! T, jump to T". Every unconditional jump is followed by `int3`.
//!
//! [`board`] writes another kind of tree, whose targets can be exchanged. [`shape`] decides how the search
//! tree branches; [`emit()`] writes it down. The cost model of [`crate::policy`] walks the same shape, so
//! what is priced is what is built.

pub mod board;
mod emit;
mod keeping;
pub mod shape;

pub use emit::{body_size, emit, fingerprint};

use crate::arch::x86_64::Reg;

/// Size of an arena cell, of a tree's head, and the granule of its body, in bytes.
pub const CELL: usize = 64;

/// Most targets one tree can hold.
pub const MAX_TARGETS: usize = 96;

/// A call target and how often it is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Target {
    /// Address of the target.
    pub address: u64,
    /// Its share of the site's calls, in 1/65536.
    pub share: u32,
}

/// What a tree should look like.
#[derive(Clone, Copy, Debug)]
pub struct TreeSpec<'a> {
    /// The register that holds the call's target.
    pub reg: Reg,
    /// The targets, in the order of comparing: usually by descending share. At most [`MAX_TARGETS`].
    pub targets: &'a [Target],
    /// How many of the first targets are compared one after the other; the rest becomes a search tree.
    /// Larger values than there are targets mean "all".
    pub chain: usize,
    /// Where calls to anything else continue.
    pub miss: u64,
    /// Address of a 64-bit counter of all calls, or `None` for no counting.
    pub hits_counter: Option<u64>,
    /// Watch for exits from the chain into the search tree: address of a 32-bit countdown and of the code
    /// that takes over (with the target still in `reg`) when it drops to zero or below. No effect on a
    /// tree whose chain holds everything.
    pub exits: Option<(u64, u64)>,
    /// Change no flag: for jumps to a thunk that begins with a call, since -8(%rsp) is written. `reg` is not
    /// rsp.
    pub keeps_flags: bool,
}

/// What [`emit()`] wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Emitted {
    /// Bytes of the head in use; always one [`CELL`].
    pub head: usize,
    /// Bytes of the body in use, a multiple of [`CELL`]; 0 when the head holds everything.
    pub body: usize,
}

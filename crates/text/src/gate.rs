//! The cell of a site, and what its words may hold.
//!
//! ```text
//! + 0  gate word     jmp <learn | tree | counting stub>; int3 ×3     or the thunk's first 8 bytes
//! + 8  thunk's rest  so that a thunk's first 8 bytes in the gate word make the gate a whole thunk
//! +24  miss gate     jmp <counting stub>: where the site's trees lead when no target matched
//! +32  counting stub decl misses(%rip); jle slow; last: jmp <the program's thunk>
//! +46  slow entry    push %rbp; call <slow path of the register>; pop %rbp; jmp last
//! +60  site          its number, by which the slow path knows whom to judge
//! ```
//!
//! A jump may be a computed goto, at whose labels flags and the red zone are live. Its counting stub changes
//! no flag, which takes more room, so that it has a cell of its own; +32 holds the slow entry, which steps
//! over the red zone for the call.
//!
//! What the slow entry pushes is the beginning of the slow path's frame, which unwinders that follow frame
//! pointers take for a function that the site has called. All others go by [`DEPTHS`] ([`crate::frames`]).
//!
//! A site that is left alone in a crowd is linked to its column's copy of the thunk ([`write_thunk`]), which
//! it shares with others: a thousand gates that are thunks would share the caches instead.
//!
//! The gate word and the miss gate are the only bytes that ever change, each by one aligned 8-byte store.
//! In the *thunk* state the gate word is `call +7; pause; …`: of its 8 bytes only the call is ever
//! executed architecturally, so switching between it and a jump is as clean as switching between two jumps,
//! and a site that is left alone costs what its own thunk costs.

use crate::arena::{Arena, Counters};
#[cfg(not(relpoline_broken = "gate-not-aligned"))]
use crate::broken;
use crate::cells::{CELL, Cell};
use crate::frames::{Depths, Frame, Shape, depths};
use crate::stub;
use core::mem::offset_of;
#[cfg(not(relpoline_broken = "gate-not-aligned"))]
use core::sync::atomic::Ordering;
use relpoline_core::arch::Reg;
use relpoline_core::arch::encode::{Code, CodeError, INT3, gate_target, gate_word};

/// The first byte of a call, with which thunks begin that push.
const CALL: u8 = 0xe8;

/// The longest thunk.
const THUNK_MAX: usize = 23;
/// Word index of the miss gate.
const MISS_WORD: usize = 3;
const STUB: usize = 32;
const SLOW: usize = 46;
/// Where the slow entry of a jump lies.
const SLOW_OF_JUMP: usize = 32;
/// Where the counting stub goes on, as the slow entry does: its last jump.
const ON: usize = 40;
/// Offset of the site's number.
const NUMBER: usize = 60;

/// How far behind the slow path's return address the site's number lies.
#[must_use]
pub const fn number_behind(keeps_flags: bool) -> u8 {
    if keeps_flags { (NUMBER - SLOW_OF_JUMP - 12) as u8 } else { (NUMBER - SLOW - 7) as u8 }
}

/// The number of the site, or whatever else, for which the gate in `cell` was made. Any number when there is
/// none.
#[must_use]
pub fn number_in(arena: &Arena, cell: Cell) -> u32 {
    // SAFETY: the cell's last word, in memory that is never unmapped. It is written before anybody knows the
    // gate.
    unsafe { ((arena.address(cell) + (SHIFT + NUMBER) as u64) as *const u32).read_unaligned() }
}

/// Where the gate lies in its cell. In the broken variant that the tests must catch its word crosses two
/// cache lines.
const SHIFT: usize = if cfg!(relpoline_broken = "gate-not-aligned") { 61 } else { 0 };

/// How deep the stack is in the cell of a call's gate: behind the thunk's inner call, and in the slow entry.
pub const DEPTHS: Depths = depths(&[(5, 1), (24, 0), (48, 1), (55, 0)]);
/// The same for a thunk that is a plain jump.
pub const PLAIN_DEPTHS: Depths = depths(&[(48, 1), (55, 0)]);
/// The same for a jump's gate.
pub const JUMP_DEPTHS: Depths = depths(&[(5, 1), (24, 0), (34, 1), (39, stub::WORDS_OVER), (49, 1), (51, 0)]);

/// A site's cell. Cheap to copy: everything else about it is in the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gate {
    /// The cell.
    pub cell: Cell,
    /// The cell of a counting stub that does not fit there.
    counting: Option<Cell>,
}

/// What a gate cell is made of.
pub struct GateSpec<'a> {
    /// The site's number, which the slow path is told, or whatever it is to be told.
    pub site: u32,
    /// Address of its [`Counters`].
    pub counters: u64,
    /// The bytes of the program's thunk, at most 23.
    pub thunk: &'a [u8],
    /// Address of the program's thunk.
    pub thunk_at: u64,
    /// Address of the slow path for the thunk's register, in the same arena.
    pub slow_at: u64,
    /// A fresh cell for a counting stub that keeps flags; `None` where flags are dead.
    pub counting: Option<Cell>,
    /// What lies on the stack where the site leads to its gate. Its row is known to the arena.
    pub frame: Frame,
}

/// Fills a fresh cell with a thunk that calls and tail jumps are led to.
///
/// # Errors
/// When the thunk is too large.
pub fn write_thunk(arena: &Arena, cell: Cell, thunk: &[u8]) -> Result<(), CodeError> {
    let mut bytes = [INT3; CELL];
    bytes
        .get_mut(..thunk.len())
        .filter(|room| room.len() < MISS_WORD * 8)
        .ok_or(CodeError::Overflow)?
        .copy_from_slice(thunk);
    // SAFETY: the caller took the cell and has not published it.
    unsafe { arena.write(cell, 0, &bytes) };
    arena.describe(cell, 1, shape_of(thunk, false), Frame::NONE);
    Ok(())
}

/// How the cell of a gate unwinds.
fn shape_of(thunk: &[u8], keeps_flags: bool) -> Shape {
    match thunk.first() {
        _ if keeps_flags => Shape::JumpGate,
        Some(&CALL) => Shape::Gate,
        _ => Shape::PlainGate,
    }
}

impl Gate {
    /// Fills a fresh cell: the gate leads to the counting stub.
    ///
    /// # Errors
    /// When the thunk is too far away or too large.
    pub fn build(arena: &Arena, cell: Cell, spec: &GateSpec<'_>) -> Result<Gate, CodeError> {
        let at = arena.address(cell) + SHIFT as u64;
        let mut bytes = [INT3; CELL];
        if spec.thunk.len() >= MISS_WORD * 8 {
            return Err(CodeError::Overflow);
        }
        bytes[..spec.thunk.len()].copy_from_slice(spec.thunk);
        let gate = Gate { cell, counting: spec.counting };
        let stub = gate.counting(arena);
        let first = gate_word(at, stub).ok_or(CodeError::OutOfReach)?;
        bytes[..8].copy_from_slice(&first.to_le_bytes());
        let miss = gate_word(at + 24, stub).ok_or(CodeError::OutOfReach)?;
        bytes[24..32].copy_from_slice(&miss.to_le_bytes());

        let slow = gate.slow_offset();
        match spec.counting {
            None => {
                let mut code = Code::new(&mut bytes[STUB..SLOW], stub);
                code.dec_u32(spec.counters + offset_of!(Counters, misses) as u64);
                code.bytes(&[0x7e, (SLOW - ON) as u8]); // jle slow
                code.jmp(spec.thunk_at);
                code.finish()?;
            }
            Some(cell) => {
                // SAFETY: the caller took the cell and has not published it.
                let buf = unsafe { arena.fresh(cell, 1) };
                stub::emit_counting(buf, stub, spec.counters, at + slow as u64, spec.thunk_at)?;
            }
        }
        let mut code = Code::new(&mut bytes[slow..NUMBER], at + slow as u64);
        code.push_long(Reg::RBP);
        if spec.counting.is_some() {
            let further = stub::stepped_over() - 8;
            code.move_stack(-further);
            code.call(spec.slow_at);
            code.move_stack(further);
            code.pop_long(Reg::RBP);
            code.jmp(spec.thunk_at);
        } else {
            code.call(spec.slow_at);
            code.pop_long(Reg::RBP);
            code.bytes(&[0xeb, (ON as i8 - (SLOW + 11) as i8).cast_unsigned()]); // jmp last
        }
        code.finish()?;
        bytes[NUMBER..].copy_from_slice(&spec.site.to_le_bytes());
        // SAFETY: the caller took the cell and has not published it.
        unsafe { arena.write(cell, SHIFT, &bytes) };
        arena.describe(cell, 1, shape_of(spec.thunk, spec.counting.is_some()), spec.frame);
        if let Some(counting) = spec.counting {
            arena.describe(counting, 1, Shape::Flat, spec.frame);
        }
        Ok(gate)
    }

    /// Where the site's displacement points while it is not linked.
    #[must_use]
    pub fn address(self, arena: &Arena) -> u64 {
        arena.address(self.cell) + SHIFT as u64
    }

    /// The thunk that it can be, which was copied into its cell behind the `first` bytes.
    #[must_use]
    pub fn thunk(self, arena: &Arena, first: [u8; 8]) -> [u8; THUNK_MAX] {
        // SAFETY: bytes of the cell that never change.
        let mut bytes = unsafe { (self.address(arena) as *const [u8; THUNK_MAX]).read_volatile() };
        bytes[..8].copy_from_slice(&first);
        bytes
    }

    /// Where the site's trees lead when no target matched.
    #[must_use]
    pub fn miss_address(self, arena: &Arena) -> u64 {
        self.address(arena) + (MISS_WORD * 8) as u64
    }

    /// The counting stub.
    #[must_use]
    pub fn counting(self, arena: &Arena) -> u64 {
        match self.counting {
            None => self.address(arena) + STUB as u64,
            Some(cell) => arena.address(cell),
        }
    }

    /// The slow entry, which tells the engine that a countdown or a window of this site ended.
    #[must_use]
    pub fn slow(self, arena: &Arena) -> u64 {
        self.address(arena) + self.slow_offset() as u64
    }

    fn slow_offset(self) -> usize {
        if self.counting.is_some() { SLOW_OF_JUMP } else { SLOW }
    }

    /// Publishes `target` (a tree, a recording stub, the counting stub). False when it is out of reach.
    pub fn point_to(self, arena: &Arena, target: u64) -> bool {
        match gate_word(self.address(arena), target) {
            Some(word) => {
                self.store(arena, 0, word);
                true
            }
            None => false,
        }
    }

    /// Makes the gate the thunk itself. `thunk` are its bytes, of which the first 8 are stored.
    pub fn point_to_thunk(self, arena: &Arena, thunk: &[u8]) {
        let mut first = [INT3; 8];
        for (to, from) in first.iter_mut().zip(thunk) {
            *to = *from;
        }
        self.store(arena, 0, u64::from_le_bytes(first));
    }

    /// Re-points what the site's trees do with calls to none of their targets.
    pub fn point_misses_to(self, arena: &Arena, target: u64) -> bool {
        match gate_word(self.miss_address(arena), target) {
            Some(word) => {
                self.store(arena, MISS_WORD, word);
                true
            }
            None => false,
        }
    }

    /// Where the gate leads now; `None` in the thunk state.
    #[must_use]
    pub fn target(self, arena: &Arena) -> Option<u64> {
        gate_target(self.address(arena), self.load(arena))
    }

    #[cfg(not(relpoline_broken = "gate-not-aligned"))]
    fn load(self, arena: &Arena) -> u64 {
        arena.word(self.cell, 0).load(Ordering::Acquire)
    }

    #[cfg(relpoline_broken = "gate-not-aligned")]
    fn load(self, arena: &Arena) -> u64 {
        // SAFETY: within the two cells of a shifted gate.
        unsafe { (self.address(arena) as *const u64).read_unaligned() }
    }

    #[cfg(not(relpoline_broken = "gate-not-aligned"))]
    fn store(self, arena: &Arena, index: usize, word: u64) {
        let to = arena.word(self.cell, index);
        // The broken variant that the tests must catch: the word changes in two halves.
        if broken!("two-byte-patch") {
            let old = to.load(Ordering::Acquire);
            to.store((old & !0xffff_0000) | (word & 0xffff_0000), Ordering::Release);
            for _ in 0..64 {
                core::hint::spin_loop();
            }
        }
        to.store(word, Ordering::Release);
    }

    /// The broken variant that the tests must catch: one store, but to a word that crosses two cache lines.
    #[cfg(relpoline_broken = "gate-not-aligned")]
    fn store(self, arena: &Arena, index: usize, word: u64) {
        // SAFETY: within the two cells of a shifted gate.
        unsafe {
            let to = core::ptr::from_ref(arena.word(self.cell, 0)).cast::<u8>().add(SHIFT + index * 8);
            core::arch::asm!("mov [{}], {}", in(reg) to, in(reg) word, options(nostack, preserves_flags));
        }
    }
}

//! Code that counts and learns: the slow path of a register, and the recording and settling stubs of a site.
//!
//! At calls all of it runs between a caller and its callee, where every register but the flags is live. A
//! jump may be a computed goto: there the flags are live too, and so is the red zone, the 128 bytes below the
//! stack pointer, but for the word at -8(%rsp), which the program's own thunk writes. So what runs at jumps
//! comes in a form of its own (`keeps_flags`): counting is done without flags and without a stack, and what
//! needs a stack steps over the red zone first. Stubs are written once and never change.
//!
//! Where the stack pointer stands, for whoever unwinds: counting and settling stubs never move it; of the
//! others it is said for each instruction in [`RECORDING_DEPTHS`], [`KEEPING_DEPTHS`], and for slow paths in
//! [`crate::frames`].

use crate::arena::Counters;
use crate::broken;
use crate::cells::CELL;
use crate::frames::{Depths, depths, depths_of_second};
use crate::gate::number_behind;
use core::mem::offset_of;
use relpoline_core::arch::Reg;
use relpoline_core::arch::encode::{Code, CodeError, Cond};
use relpoline_core::arch::keep;

/// Cells of a slow path.
pub const SLOW_CELLS: usize = 7;

/// Bytes of a slow path, all of which are alike.
pub const SLOW_BYTES: usize = SLOW_CELLS * CELL;
/// Behind how many bytes of a slow path rbp is its frame pointer.
pub const SLOW_FRAMED: usize = 8;
/// Behind how many bytes it is the program's again.
pub const SLOW_UNFRAMED: usize = 387;

/// log2 of the bytes of a recording ring: its cursor wraps in 16 bits.
pub const RING_BITS: u32 = 16;

/// Bytes of records after which the slow path is entered: 256 records. The model's executions are short.
pub const WINDOW_BYTES: u64 = if cfg!(relpoline_model) { 64 } else { 2048 };

/// What the slow path calls: the number that the gate was given, the target of the call that got here, and
/// the word that was on top of the stack: at a call its return address.
pub type SlowHandler = unsafe extern "C" fn(number: u32, target: u64, top: u64);

const XMM_BYTES: u32 = 256;
/// Caller-saved registers in the order in which they are pushed.
const SAVED: [u8; 9] = [0, 1, 2, 6, 7, 8, 9, 10, 11];

/// `movups` between xmm registers and the stack's top: opcode 0x11 stores, 0x10 loads.
fn move_vectors(code: &mut Code<'_>, opcode: u8) {
    for i in 0..16u32 {
        if i >= 8 {
            code.bytes(&[0x44]);
        }
        let modrm = (i as u8 & 7) << 3 | 0x84;
        code.bytes(&[0x0f, opcode, modrm, 0x24]);
        code.bytes(&(i * 16).to_le_bytes());
    }
}

/// `mov %reg, %rsi` in four bytes, where rbp's value was saved at `(%rbp)`.
fn target_to_rsi(code: &mut Code<'_>, reg: Reg) {
    match reg.number() {
        5 => code.bytes(&[0x48, 0x8b, 0x75, 0x00]),
        _ => code.bytes(&[0x48 | (u8::from(reg.is_extended()) << 2), 0x89, 0xc6 | (reg.low3() << 3), 0x90]),
    }
}

/// Calls the address in rax through a retpoline, since the handler may be farther than a direct call
/// reaches and an indirect one would be unprotected.
fn call_rax_protected(code: &mut Code<'_>) {
    code.bytes(&[0xe8, 3, 0, 0, 0]); // call over
    code.bytes(&[0xeb, 19, 0xcc]); // back: jmp restore; int3
    code.bytes(&[0xe8, 7, 0, 0, 0]); // over: call set
    code.bytes(&[0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9]); // capture: pause; lfence; jmp capture
    code.bytes(&[0x48, 0x89, 0x04, 0x24, 0xc3]); // set: mov %rax,(%rsp); ret
    code.bytes(&[0xcc]);
}

/// How far the stack pointer moves to leave the red zone alone.
const RED_ZONE: i32 = 128;
/// The same in words.
pub const WORDS_OVER: u8 = (RED_ZONE / 8) as u8;

/// The slow path for sites whose target travels in `reg`: called by a gate's slow entry, behind which the
/// site's number lies, it saves everything, calls `handler`, restores everything and returns. Its frame
/// pointer points at the program's rbp, which the slow entry has pushed: right above the return address at
/// calls, and above the red zone at jumps.
///
/// Vector registers are saved by their lower 128 bits: the handler is compiled without AVX, whose absence
/// leaves the upper bits alone. It needs 368 bytes of stack besides the handler's own, and 120 more at jumps.
///
/// # Errors
/// When `buf` is smaller than [`SLOW_CELLS`] cells.
pub fn emit_slow(
    buf: &mut [u8],
    at: u64,
    reg: Reg,
    handler: SlowHandler,
    keeps_flags: bool,
) -> Result<usize, CodeError> {
    // From the return address to the frame.
    let above = if keeps_flags { stepped_over() } else { 8 };
    let mut code = Code::new(buf, at);
    code.bytes(&[0x48, 0x8d, 0xac, 0x24]); // lea above(%rsp),%rbp
    code.bytes(&above.to_le_bytes());
    debug_assert_eq!(code.len(), SLOW_FRAMED);
    code.push_flags();
    code.clear_direction();
    for n in SAVED {
        push_pop(&mut code, 0x50, n);
    }
    code.bytes(&[0x48, 0x83, 0xe4, 0xf0]); // and $-16,%rsp
    code.bytes(&[0x48, 0x81, 0xec]); // sub $256,%rsp
    code.bytes(&XMM_BYTES.to_le_bytes());
    move_vectors(&mut code, 0x11);
    target_to_rsi(&mut code, reg);
    code.bytes(&[0x48, 0x8b, 0xbd]); // mov -above(%rbp),%rdi
    code.bytes(&(-above).to_le_bytes());
    code.bytes(&[0x8b, 0x7f, number_behind(keeps_flags)]); // mov number_behind(%rdi),%edi
    code.bytes(&[0x48, 0x8b, 0x55, 0x08]); // mov 8(%rbp),%rdx
    code.mov_imm64(Reg::RAX, handler as usize as u64);
    call_rax_protected(&mut code);
    // The broken variant that the tests must catch: vector registers are not given back.
    move_vectors(&mut code, if broken!("vectors-clobbered") { 0x11 } else { 0x10 });
    code.bytes(&[0x48, 0x8d, 0xa5]); // lea of what was pushed last(%rbp),%rsp
    code.bytes(&(-above - 8 - 8 * SAVED.len() as i32).to_le_bytes());
    for n in SAVED.into_iter().rev() {
        push_pop(&mut code, 0x58, n);
    }
    code.pop_flags();
    code.bytes(&[0x48, 0x8b, 0x6d, 0x00]); // mov (%rbp),%rbp
    debug_assert_eq!(code.len(), SLOW_UNFRAMED);
    code.bytes(&[0xc3, 0xcc]);
    code.align(CELL);
    code.finish()
}

/// `RED_ZONE`. In the broken variant that the tests must catch only the word is left alone that a thunk would
/// write.
pub fn stepped_over() -> i32 {
    if broken!("red-zone-trodden") { 8 } else { RED_ZONE }
}

fn push_pop(code: &mut Code<'_>, opcode: u8, n: u8) {
    if n >= 8 {
        code.bytes(&[0x41]);
    }
    code.bytes(&[opcode | (n & 7)]);
}

/// Two registers that are not `reg`, without a REX prefix.
fn scratch(reg: Reg) -> (Reg, Reg) {
    match reg {
        Reg::RAX => (Reg::RCX, Reg::RDX),
        Reg::RCX => (Reg::RAX, Reg::RDX),
        _ => (Reg::RAX, Reg::RCX),
    }
}

/// Where a site's recording stub sends its calls.
pub struct Recording {
    /// The register that holds the target.
    pub reg: Reg,
    /// Address of the site's [`Counters`], whose cursor points into a ring of 2^[`RING_BITS`] bytes,
    /// aligned to its size.
    pub counters: u64,
    /// The program's thunk.
    pub thunk_at: u64,
    /// The site's slow entry.
    pub slow_at: u64,
    /// Whether flags and red zone are live.
    pub keeps_flags: bool,
}

/// Cells of a recording stub.
#[must_use]
pub const fn recording_cells(keeps_flags: bool) -> u32 {
    if keeps_flags { 2 } else { 1 }
}

/// How deep the stack is in a recording stub.
pub const RECORDING_DEPTHS: Depths = depths(&[(2, 1), (4, 2), (44, 1), (46, 0)]);

/// What happens to the stack in one that keeps flags: the red zone is stepped over, flags and two registers
/// are pushed, and the same backwards, on two ways out.
const KEEPING: [(usize, u8); 11] = {
    let over = WORDS_OVER;
    let (begins, ends) = ([(5, over), (7, over + 1), (9, over + 2), (11, over + 3)], [(51, over + 2), (53, over + 1)]);
    let [a, b, c, d] = begins;
    let [e, f] = ends;
    [a, b, c, d, e, f, (57, over), (65, 0), (71, over + 1), (73, over), (81, 0)]
};
/// How deep it is in the two cells of such a stub.
pub const KEEPING_DEPTHS: [Depths; 2] = [depths(&KEEPING), depths_of_second(&KEEPING)];

/// The recording stub of a site, [`recording_cells`] long: appends `target | stack bits << 48` at the cursor
/// and goes on as the thunk, or through the slow path after every [`WINDOW_BYTES`].
///
/// The cursor wraps within its ring by 16-bit arithmetic, so however threads race for it, nothing is
/// written elsewhere. Bits 20 to 35 of the stack pointer tell threads apart without touching memory.
///
/// # Errors
/// When `buf` is too small, or something is out of reach.
pub fn emit_recording(buf: &mut [u8], at: u64, to: &Recording) -> Result<usize, CodeError> {
    let mut code = Code::new(buf, at);
    if to.keeps_flags {
        code.move_stack(-stepped_over());
        code.push_flags();
    }
    record(&mut code, to);
    if to.keeps_flags {
        let full = code.je_short_forward();
        back_to_the_site(&mut code, to.thunk_at);
        code.bind_short(full);
        back_to_the_site(&mut code, to.slow_at);
    } else {
        code.jcc(Cond::E, to.slow_at);
        code.jmp(to.thunk_at);
    }
    code.align(CELL);
    code.finish()
}

/// Gives flags and stack back and goes on at `to`.
fn back_to_the_site(code: &mut Code<'_>, to: u64) {
    code.pop_flags();
    code.move_stack(stepped_over());
    code.jmp(to);
}

/// Appends a record and leaves "equal" when that filled a window. Changes nothing else but flags.
fn record(code: &mut Code<'_>, to: &Recording) {
    let (ring, tag) = scratch(to.reg);
    let cursor = to.counters + offset_of!(Counters, cursor) as u64;
    code.push_long(ring);
    code.push_long(tag);
    code.bytes(&[0x48, 0x89, 0xe0 | tag.low3()]); // mov %rsp,%tag
    code.bytes(&[0x48, 0xc1, 0xe8 | tag.low3(), 20]); // shr $20,%tag
    code.load_u64(ring, cursor);
    // mov %reg,(%ring)
    code.bytes(&[0x48 | (u8::from(to.reg.is_extended()) << 2), 0x89, (to.reg.low3() << 3) | ring.low3()]);
    code.bytes(&[0x66, 0x89, 0x40 | (tag.low3() << 3) | ring.low3(), 6]); // mov %tag16,6(%ring)
    code.bytes(&[0x66, 0x83, 0xc0 | ring.low3(), 8]); // add $8,%ring16
    code.store_u64(cursor, ring);
    code.bytes(&[0xf7, 0xc0 | ring.low3()]); // test $(WINDOW_BYTES - 1),%ring32
    code.bytes(&(WINDOW_BYTES as u32 - 1).to_le_bytes());
    code.pop_long(tag);
    code.pop_long(ring);
}

/// The counting stub of a site at which flags are live, one cell: counts calls down, then asks what comes of
/// it. Sites at which they are dead have theirs in the cell of their gate.
///
/// # Errors
/// When `buf` is smaller than a cell, or something is out of reach.
pub fn emit_counting(buf: &mut [u8], at: u64, counters: u64, slow_at: u64, thunk_at: u64) -> Result<usize, CodeError> {
    let mut code = Code::new(buf, at);
    count_keeping_flags(&mut code, counters + offset_of!(Counters, misses) as u64, slow_at, thunk_at);
    code.align(CELL);
    code.finish()
}

/// The settling stub of a tree, one cell: counts calls through the gate down, then asks for the site to be
/// linked to `head`.
///
/// # Errors
/// When `buf` is smaller than a cell, or something is out of reach.
pub fn emit_settling(
    buf: &mut [u8],
    at: u64,
    counters: u64,
    slow_at: u64,
    head: u64,
    keeps_flags: bool,
) -> Result<usize, CodeError> {
    let mut code = Code::new(buf, at);
    let counter = counters + offset_of!(Counters, settle) as u64;
    if keeps_flags {
        count_keeping_flags(&mut code, counter, slow_at, head);
    } else {
        code.dec_u32(counter);
        code.jcc(Cond::Le, slow_at);
        code.jmp(head);
    }
    code.align(CELL);
    code.finish()
}

/// Counts down and goes on at `onward`, or at `slow_at` when that is over. No flag changes, and the stack
/// pointer stays.
fn count_keeping_flags(code: &mut Code<'_>, counter: u64, slow_at: u64, onward: u64) {
    // The broken variant that the tests must catch: counting is thought to be as harmless as at calls.
    if broken!("flags-in-stub") {
        code.dec_u32(counter);
        code.jcc(Cond::Le, slow_at);
        return code.jmp(onward);
    }
    // Whichever register holds the target, rcx comes back before anybody looks at it.
    keep::save(code, Reg::RAX);
    let goes_on = keep::count_down(code, counter);
    keep::restore(code, Reg::RAX);
    code.jmp(slow_at);
    code.bind_short(goes_on);
    keep::restore(code, Reg::RAX);
    code.jmp(onward);
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn nothing(_number: u32, _target: u64, _top: u64) {}

    #[test]
    fn slow_paths_change_their_frame_where_their_unwind_data_says_so() {
        for (reg, keeps_flags) in (0..30).map(|n| (n / 2, n % 2 == 0)) {
            let Some(reg) = Reg::new(reg).filter(|reg| reg.number() != 4) else { continue };
            let mut buf = [0; SLOW_BYTES];
            assert!(emit_slow(&mut buf, 0x1000, reg, nothing, keeps_flags).is_ok_and(|len| len <= SLOW_BYTES));
            assert_eq!(buf[..4], [0x48, 0x8d, 0xac, 0x24], "lea above(%rsp),%rbp");
            let end = &buf[SLOW_UNFRAMED - 4..SLOW_UNFRAMED + 2];
            assert_eq!(end, [0x48, 0x8b, 0x6d, 0x00, 0xc3, 0xcc], "mov (%rbp),%rbp; ret");
        }
    }
}

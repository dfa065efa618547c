//! The code that all programs of a runtime share: the way in, the ways out, and the ways into Rust.

use super::access::{ALIGNED, WRITE};
use super::asm::{ADDR, AND, Asm, RAX, RBP, RCX, RDX, RUN, Reg, TAILS, TMP, XOR};
use crate::op::{Size, Width};
use crate::run::Run;
use crate::space::Space;
use crate::trap::TrapKind;
use std::mem::offset_of;

const RBX: Reg = 3;
const RSP: Reg = 4;
const RSI: Reg = 6;
const RDI: Reg = 7;
const R8: Reg = 8;
/// What the host's convention preserves.
const PRESERVED: [Reg; 6] = [RBX, RBP, 12, 13, 14, 15];

/// The way in: `(input, len, run, entry) -> r0`.
pub type Enter = unsafe extern "C" fn(u64, u64, *mut Run, u64) -> u64;

/// Addresses of the shared code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stubs {
    /// See [`Enter`].
    enter: u64,
    /// Checks the access to ADDR described by TMP; does not return when it is refused.
    pub check: u64,
    /// Calls the helper named in the run; does not return when it failed.
    pub helper: u64,
    /// Ends the run: the budget is used up.
    pub budget: u64,
    /// Ends the run: a tail call lost its target.
    pub lost_target: u64,
}

extern "C" fn slow_check(address: u64, how: u64, run: *mut Run) {
    // SAFETY: compiled code passes its own run, which nobody else uses meanwhile.
    let run = unsafe { &mut *run };
    let how = how as u32;
    let size = [Size::B, Size::H, Size::W, Size::D][(how & 3) as usize];
    run.check(address, size, how & WRITE != 0, how & ALIGNED != 0);
}

extern "C" fn fail_budget(run: *mut Run) {
    // SAFETY: as above.
    unsafe { &mut *run }.fail(TrapKind::Budget);
}

extern "C" fn fail_lost(run: *mut Run) {
    // SAFETY: as above.
    unsafe { &mut *run }.fail(TrapKind::LostTarget);
}

/// Calls into Rust with the stack aligned as its convention wants it, whatever it was before.
fn call_rust(asm: &mut Asm, function: u64) {
    asm.mov(Width::W64, ADDR, RSP);
    asm.binary_imm(Width::W64, AND, RSP, -16);
    // Twice, so that it stays aligned.
    asm.push(ADDR);
    asm.push(ADDR);
    asm.mov_imm(ADDR, function);
    // call *ADDR
    asm.raw(&[0x41, 0xff, 0xd2]);
    asm.load(RSP, RSP, 0);
}

impl Stubs {
    /// Writes them to fresh code memory; `None` when there is no room.
    pub fn emit(space: &Space) -> Option<Stubs> {
        let mut asm = Asm::default();
        let leave = asm.label();
        let enter = enter(&mut asm, leave);
        let check = check(&mut asm, leave);
        let helper = helper(&mut asm, leave);
        let budget = fail(&mut asm, fail_budget, leave);
        let lost_target = fail(&mut asm, fail_lost, leave);
        let block = space.take(asm.at())?;
        let base = space.memory().address(block.offset);
        let code = asm.finish(base)?;
        // SAFETY: fresh memory, nobody knows it yet.
        unsafe { space.memory().write(block.offset, &code) };
        let at = |offset: usize| base + offset as u64;
        Some(Stubs {
            enter: at(enter),
            check: at(check),
            helper: at(helper),
            budget: at(budget),
            lost_target: at(lost_target),
        })
    }

    /// Runs the code at `entry`.
    ///
    /// # Safety
    /// `entry` must be that of a program of this runtime, kept alive by a read section, and `run` describe
    /// memory that is valid while it runs.
    #[inline]
    pub unsafe fn enter(&self, input: u64, len: u64, run: &mut Run, entry: u64) -> u64 {
        // SAFETY: `enter` is code of this signature, written by `emit`.
        let enter: Enter = unsafe { std::mem::transmute(self.enter as *const ()) };
        // SAFETY: passed on to the caller.
        unsafe { enter(input, len, run, entry) }
    }
}

/// Saves what the host wants preserved, sets up registers, calls; `leave` is the way back from anywhere.
fn enter(asm: &mut Asm, leave: super::Label) -> usize {
    let begin = asm.at();
    for r in PRESERVED {
        asm.push(r);
    }
    asm.mov(Width::W64, RUN, RDX);
    asm.mov(Width::W64, TMP, RCX);
    asm.store(RUN, offset_of!(Run, native_stack) as i32, RSP);
    asm.load(RBP, RUN, offset_of!(Run, stack_end) as i32);
    // Programs must not see what the host left in registers; TAILS begins at zero.
    for r in [RAX, RDX, RCX, R8, RBX, TAILS, 13, 14, 15] {
        asm.binary(Width::W32, XOR, r, r);
    }
    // call *TMP
    asm.raw(&[0x41, 0xff, 0xd3]);
    let out = asm.label();
    asm.place(out);
    for r in PRESERVED.into_iter().rev() {
        asm.pop(r);
    }
    asm.ret();
    asm.place(leave);
    asm.load(RSP, RUN, offset_of!(Run, native_stack) as i32);
    asm.jmp(out);
    begin
}

/// Leaves the run if it failed.
fn leave_if_failed(asm: &mut Asm, leave: super::Label) {
    const NOT_EQUAL: u8 = 5;
    // cmp dword [RUN + failed], 0
    asm.rm(&[], false, false, &[0x83], 7, RUN, offset_of!(Run, failed) as i32);
    asm.raw(&[0]);
    asm.jcc(NOT_EQUAL, leave);
}

fn check(asm: &mut Asm, leave: super::Label) -> usize {
    const LIVE: [Reg; 7] = [RAX, RDI, RSI, RDX, RCX, R8, RUN];
    let begin = asm.at();
    for r in LIVE {
        asm.push(r);
    }
    asm.mov(Width::W64, RDI, ADDR);
    asm.mov(Width::W64, RSI, TMP);
    asm.mov(Width::W64, RDX, RUN);
    call_rust(asm, slow_check as *const () as u64);
    for r in LIVE.into_iter().rev() {
        asm.pop(r);
    }
    leave_if_failed(asm, leave);
    asm.ret();
    begin
}

fn helper(asm: &mut Asm, leave: super::Label) -> usize {
    let begin = asm.at();
    asm.push(RUN);
    call_rust(asm, crate::helper::call as *const () as u64);
    asm.pop(RUN);
    leave_if_failed(asm, leave);
    for r in [RDI, RSI, RDX, RCX, R8] {
        asm.binary(Width::W32, XOR, r, r);
    }
    asm.ret();
    begin
}

fn fail(asm: &mut Asm, function: extern "C" fn(*mut Run), leave: super::Label) -> usize {
    let begin = asm.at();
    asm.mov(Width::W64, RDI, RUN);
    asm.push(RUN);
    call_rust(asm, function as *const () as u64);
    asm.pop(RUN);
    asm.jmp(leave);
    begin
}

//! The code that all programs of a runtime share: the way in, the ways out, and the ways into Rust.

use super::access::{ALIGNED, WRITE};
use super::asm::{ADDR, AND, Asm, Label, RAX, RBP, RCX, RDX, RUN, Reg, TAILS, TMP, XOR};
use crate::branches::IndirectBranches;
use crate::op::{Size, Width};
use crate::run::Run;
use crate::trap::TrapKind;
use relpoline_patch::space::Space;
use std::mem::offset_of;

const RBX: Reg = 3;
const RSP: Reg = 4;
const RSI: Reg = 6;
const RDI: Reg = 7;
const R8: Reg = 8;
/// What the host's convention preserves.
const PRESERVED: [Reg; 6] = [RBX, RBP, 12, 13, 14, 15];

/// The way in: `(input, len, run) -> r0`. Each program has its own, so that it reaches its program by a
/// direct call.
pub type Enter = unsafe extern "C" fn(u64, u64, *mut Run) -> u64;

/// Addresses of the shared code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stubs {
    /// Gives the host its registers back and returns: the end of each way in.
    leave: u64,
    /// Jumps to ADDR, which some tail call with a computed index did not find in its tree.
    pub jump: u64,
    /// Tells the learner about the tail call described by TMP, and goes on to ADDR.
    pub learn: u64,
    /// Checks the access to ADDR described by TMP; does not return when it is refused.
    pub check: u64,
    /// Calls the helper named in the run; does not return when it failed.
    pub helper: u64,
    /// Looks something up in a map; does not return when that failed.
    pub look_up: u64,
    /// The same in the map whose body is in r1's register.
    pub look_up_known: u64,
    /// Ends the run: the budget is used up.
    pub budget: u64,
    /// Ends the run: calls by register are nested too deep.
    pub nested: u64,
    /// Ends the run: it has no context of the kind that a program needs.
    pub wrong_context: u64,
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

extern "C" fn fail_nested(run: *mut Run) {
    // SAFETY: as above.
    unsafe { &mut *run }.fail(TrapKind::NestedCalls);
}

extern "C" fn fail_context(run: *mut Run) {
    // SAFETY: as above.
    unsafe { &mut *run }.fail(TrapKind::WrongContext);
}

extern "C" fn fail_lost(run: *mut Run) {
    // SAFETY: as above.
    unsafe { &mut *run }.fail(TrapKind::LostTarget);
}

/// Calls into Rust with the stack aligned as its convention wants it, whatever it was before: directly where
/// its code is within reach, else through a jump to ADDR.
fn call_rust(asm: &mut Asm, function: u64, ways: Ways) {
    asm.mov(Width::W64, ADDR, RSP);
    asm.binary_imm(Width::W64, AND, RSP, -16);
    // Twice, so that it stays aligned.
    asm.push(ADDR);
    asm.push(ADDR);
    if ways.reaches(function) {
        asm.call_outside(function);
    } else {
        asm.mov_imm(ADDR, function);
        asm.call(ways.jump);
    }
    asm.load(RSP, RSP, 0);
}

impl Stubs {
    /// Writes them to fresh code memory; `None` when there is no room.
    pub fn emit(space: &Space, branches: IndirectBranches) -> Option<Stubs> {
        let mut asm = Asm::default();
        let jump = jump(&mut asm, branches);
        let fail_out = asm.label();
        let leave = leave(&mut asm, fail_out);
        let memory = space.memory();
        let ways = Ways { fail_out, jump, code: (memory.address(0), memory.address(memory.len())) };
        let check = check(&mut asm, ways);
        let helper = helper(&mut asm, crate::helper::call as *const () as u64, ways);
        let look_up = self::helper(&mut asm, crate::helper::look_up as *const () as u64, ways);
        let look_up_known = self::helper(&mut asm, crate::helper::look_up_known as *const () as u64, ways);
        let learn = learn(&mut asm, ways);
        let budget = fail(&mut asm, fail_budget, ways);
        let nested = fail(&mut asm, fail_nested, ways);
        let wrong_context = fail(&mut asm, fail_context, ways);
        let lost_target = fail(&mut asm, fail_lost, ways);
        let jump = asm.offset(jump);
        let block = space.take(asm.at())?;
        let base = space.memory().address(block.offset);
        let code = asm.finish(base)?;
        // SAFETY: fresh memory, nobody knows it yet.
        unsafe { space.memory().write(block.offset, &code) };
        let at = |offset: usize| base + offset as u64;
        Some(Stubs {
            leave: at(leave),
            jump: at(jump),
            learn: at(learn),
            check: at(check),
            helper: at(helper),
            look_up: at(look_up),
            look_up_known: at(look_up_known),
            budget: at(budget),
            nested: at(nested),
            wrong_context: at(wrong_context),
            lost_target: at(lost_target),
        })
    }

    /// Writes the way into the program whose entry is `program`: saves what the host wants preserved, sets up
    /// registers, calls.
    pub fn way_in(&self, asm: &mut Asm, program: Label) {
        for r in PRESERVED {
            asm.push(r);
        }
        asm.mov(Width::W64, RUN, RDX);
        asm.store(RUN, offset_of!(Run, native_stack) as i32, RSP);
        asm.load(RBP, RUN, offset_of!(Run, stack_end) as i32);
        // Programs must not see what the host left in registers; TAILS begins at zero.
        for r in [RAX, RDX, RCX, R8, RBX, TAILS, 13, 14, 15] {
            asm.binary(Width::W32, XOR, r, r);
        }
        asm.call(program);
        asm.jmp_outside(self.leave);
    }
}

/// Runs the program whose way in is at `way_in`.
///
/// # Safety
/// It must be a [`Stubs::way_in`] of a program that is kept alive by a read section, and `run` describe
/// memory that is valid while it runs.
#[inline]
pub unsafe fn enter(way_in: u64, input: u64, len: u64, run: &mut Run) -> u64 {
    // SAFETY: code of this signature, says the caller.
    let enter: Enter = unsafe { std::mem::transmute(way_in as *const ()) };
    // SAFETY: passed on to the caller.
    unsafe { enter(input, len, run) }
}

/// Where the shared code goes on.
#[derive(Clone, Copy)]
struct Ways {
    /// The end of a run that failed.
    fail_out: Label,
    /// A jump to ADDR.
    jump: Label,
    /// From where to where the code memory is.
    code: (u64, u64),
}

impl Ways {
    /// Whether all code can call `function` directly.
    fn reaches(self, function: u64) -> bool {
        let near = |from| relpoline_core::arch::x86_64::encode::rel32(from, function).is_some();
        near(self.code.0) && near(self.code.1)
    }
}

/// `jmp *ADDR`, in the way that the runtime wants.
fn jump(asm: &mut Asm, branches: IndirectBranches) -> Label {
    let begin = asm.label();
    asm.place(begin);
    if branches == IndirectBranches::Plain {
        // jmp *ADDR; int3
        asm.raw(&[0x41, 0xff, 0xe2, 0xcc]);
        return begin;
    }
    let (set, capture) = (asm.label(), asm.label());
    asm.call(set);
    asm.place(capture);
    // pause; lfence
    asm.raw(&[0xf3, 0x90, 0x0f, 0xae, 0xe8]);
    asm.jmp(capture);
    asm.place(set);
    asm.store(RSP, 0, ADDR);
    asm.ret();
    begin
}

/// The end of every run; `fail_out` is the way there from anywhere.
fn leave(asm: &mut Asm, fail_out: Label) -> usize {
    asm.place(fail_out);
    asm.load(RSP, RUN, offset_of!(Run, native_stack) as i32);
    let begin = asm.at();
    for r in PRESERVED.into_iter().rev() {
        asm.pop(r);
    }
    asm.ret();
    begin
}

/// Leaves the run if it failed.
fn leave_if_failed(asm: &mut Asm, ways: Ways) {
    const NOT_EQUAL: u8 = 5;
    // cmp dword [RUN + failed], 0
    asm.rm(&[], false, false, &[0x83], 7, RUN, offset_of!(Run, failed) as i32);
    asm.raw(&[0]);
    asm.jcc(NOT_EQUAL, ways.fail_out);
}

/// What programs may hold in registers that Rust does not preserve, and the run.
const LIVE: [Reg; 7] = [RAX, RDI, RSI, RDX, RCX, R8, RUN];

fn check(asm: &mut Asm, ways: Ways) -> usize {
    let begin = asm.at();
    for r in LIVE {
        asm.push(r);
    }
    asm.mov(Width::W64, RDI, ADDR);
    asm.mov(Width::W64, RSI, TMP);
    asm.mov(Width::W64, RDX, RUN);
    call_rust(asm, slow_check as *const () as u64, ways);
    for r in LIVE.into_iter().rev() {
        asm.pop(r);
    }
    leave_if_failed(asm, ways);
    asm.ret();
    begin
}

/// Between a tail call and its target: everything is live, the target in ADDR included.
fn learn(asm: &mut Asm, ways: Ways) -> usize {
    let begin = asm.at();
    for r in LIVE.into_iter().chain([ADDR]) {
        asm.push(r);
    }
    asm.mov(Width::W64, RDI, TMP);
    call_rust(asm, crate::learn::slow as *const () as u64, ways);
    asm.pop(ADDR);
    for r in LIVE.into_iter().rev() {
        asm.pop(r);
    }
    asm.jmp(ways.jump);
    begin
}

fn helper(asm: &mut Asm, function: u64, ways: Ways) -> usize {
    let begin = asm.at();
    asm.push(RUN);
    call_rust(asm, function, ways);
    asm.pop(RUN);
    leave_if_failed(asm, ways);
    for r in [RDI, RSI, RDX, RCX, R8] {
        asm.binary(Width::W32, XOR, r, r);
    }
    asm.ret();
    begin
}

fn fail(asm: &mut Asm, function: extern "C" fn(*mut Run), ways: Ways) -> usize {
    let begin = asm.at();
    asm.mov(Width::W64, RDI, RUN);
    asm.push(RUN);
    call_rust(asm, function as *const () as u64, ways);
    asm.pop(RUN);
    asm.jmp(ways.fail_out);
    begin
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, FlowControl};

    /// Indirect branches in the stubs of a fresh runtime.
    fn indirect(branches: IndirectBranches) -> usize {
        let space = Space::create(1 << 16).unwrap();
        Stubs::emit(&space, branches).unwrap();
        let start = space.memory().address(0);
        // SAFETY: the first block is what was emitted, and readable.
        let code = unsafe { std::slice::from_raw_parts(start as *const u8, space.used()) };
        let mut count = 0;
        for instruction in &mut Decoder::with_ip(64, code, start, DecoderOptions::NONE) {
            let flow = instruction.flow_control();
            count += usize::from(matches!(flow, FlowControl::IndirectBranch | FlowControl::IndirectCall));
        }
        count
    }

    #[test]
    fn indirect_branches_only_where_they_are_wanted() {
        assert_eq!(indirect(IndirectBranches::Promoted), 0);
        assert_eq!(indirect(IndirectBranches::Retpoline), 0);
        assert_eq!(indirect(IndirectBranches::Plain), 1);
    }
}

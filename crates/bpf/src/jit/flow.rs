//! Jumps, calls, and where functions begin and end.

use super::Compiler;
use super::asm::{ADD, ADDR, CMP, RAX, RBP, RUN, SUB, TMP, reg};
use crate::check::{FRAME, MAX_BY_REGISTER, function_at};
use crate::op::{Cond, Operand, R, Size, Width};
use crate::run::{FUNCTION, Run};
use std::mem::offset_of;

/// Condition code: sign, that is, the budget went below zero.
const SIGN: u8 = 8;
/// Condition codes of comparisons.
const BELOW: u8 = 2;
const NOT_EQUAL: u8 = 5;

fn condition(cond: Cond) -> u8 {
    match cond {
        Cond::Eq => 0x4,
        Cond::Ne | Cond::Set => 0x5,
        Cond::Gt => 0x7,
        Cond::Ge => 0x3,
        Cond::Lt => 0x2,
        Cond::Le => 0x6,
        Cond::Sgt => 0xf,
        Cond::Sge => 0xd,
        Cond::Slt => 0xc,
        Cond::Sle => 0xe,
    }
}

impl Compiler<'_> {
    /// Registers among r6 to r9 that the current function saves.
    pub(super) fn saved(&self) -> impl DoubleEndedIterator<Item = super::asm::Reg> + use<> {
        let saves = self.saves;
        (0..4u8).filter(move |bit| saves & 1 << bit != 0).filter_map(|bit| R::new(6 + bit)).map(reg)
    }

    /// The beginning, which functions of the program that call the first one leave out: what it relies on.
    pub(super) fn begin(&mut self) {
        self.asm.place(self.beginning);
        let Some(kind) = self.body.context else { return };
        let context = reg(R::R1);
        self.asm.load(context, RUN, (offset_of!(Run, contexts) + 8 * kind as usize) as i32);
        let there = self.asm.label();
        self.asm.rr(Width::W64, &[0x85], context, context);
        self.asm.jcc(NOT_EQUAL, there);
        self.note_instruction();
        self.asm.jmp_outside(self.stubs.wrong_context);
        self.asm.place(there);
    }

    pub(super) fn prologue(&mut self, number: usize) {
        let entry = self.entries[number];
        self.asm.place(entry);
        if number == 0
            && let Some(place) = self.body.hits
        {
            self.asm.load(ADDR, RUN, offset_of!(Run, hits) as i32);
            // inc qword [ADDR + 8 * place]
            self.asm.rm(&[], true, false, &[0xff], 0, ADDR, 8 * place as i32);
        }
        for r in self.saved() {
            self.asm.push(r);
        }
    }

    pub(super) fn restore_saved(&mut self) {
        for r in self.saved().rev() {
            self.asm.pop(r);
        }
    }

    pub(super) fn exit(&mut self) {
        self.restore_saved();
        self.asm.ret();
    }

    /// Takes `cost` from the budget, and ends the run when it is used up.
    fn charge(&mut self, cost: i64) {
        if self.body.options.budget.is_some() {
            self.charge_anyhow(cost);
        }
    }

    /// As [`Compiler::charge`], of a program without a budget, too, which may run within another's.
    pub(super) fn charge_anyhow(&mut self, cost: i64) {
        let go_on = self.asm.label();
        self.asm.rm(&[], true, false, &[0x81], 5, RUN, offset_of!(Run, budget) as i32);
        self.asm.raw(&i32::try_from(cost).unwrap_or(i32::MAX).to_le_bytes());
        self.asm.jcc(SIGN ^ 1, go_on);
        self.note_instruction();
        self.asm.jmp_outside(self.stubs.budget);
        self.asm.place(go_on);
    }

    /// What a jump to `target` costs: the instructions it repeats.
    fn cost(&self, target: u32) -> Option<i64> {
        (target <= self.slot).then(|| i64::from(self.slot - target) + 1)
    }

    pub(super) fn jump(&mut self, target: u32) {
        if let Some(cost) = self.cost(target) {
            self.charge(cost);
        }
        self.asm.jmp(self.labels[target as usize]);
    }

    pub(super) fn branch(&mut self, width: Width, cond: Cond, dst: R, src: Operand, target: u32) {
        match (cond, src) {
            (Cond::Set, Operand::Reg(src)) => self.asm.rr(width, &[0x85], reg(src), reg(dst)),
            (Cond::Set, Operand::Imm(imm)) => {
                self.asm.rr(width, &[0xf7], 0, reg(dst));
                self.asm.raw(&imm.to_le_bytes());
            }
            (_, Operand::Reg(src)) => self.asm.binary(width, CMP, reg(dst), reg(src)),
            (_, Operand::Imm(imm)) => self.asm.binary_imm(width, CMP, reg(dst), imm),
        }
        let label = self.labels[target as usize];
        match self.cost(target) {
            Some(cost) if self.body.options.budget.is_some() => {
                let past = self.asm.label();
                self.asm.jcc(condition(cond) ^ 1, past);
                self.charge(cost);
                self.asm.jmp(label);
                self.asm.place(past);
            }
            _ => self.asm.jcc(condition(cond), label),
        }
    }

    /// r1 to r5 and the run are where the host's convention wants them.
    pub(super) fn call_helper(&mut self, number: u32) {
        let index = self.body.shared.helpers.index(number).unwrap_or(u32::MAX);
        self.asm.store_imm32(RUN, offset_of!(Run, helper) as i32, index);
        self.note_instruction();
        self.asm.call_outside(self.stubs.helper);
    }

    /// Asks a helper for bytes of the packet, and returns zero from the function when there are none.
    pub(super) fn load_packet(&mut self, size: Size, index: Option<R>, offset: i32) {
        let at = reg(R::R2);
        match index {
            Some(index) => {
                self.asm.mov(Width::W64, at, reg(index));
                self.asm.binary_imm(Width::W64, ADD, at, offset);
            }
            None => self.asm.mov_imm(at, crate::semantics::immediate(offset)),
        }
        self.asm.mov_imm(reg(R::R3), size.bytes() as u64);
        self.call_helper(crate::helper::LOAD_PACKET);
        let there = self.asm.label();
        self.asm.rr(Width::W64, &[0x85], RAX, RAX);
        self.asm.jcc(SIGN ^ 1, there);
        self.asm.mov_imm(RAX, 0);
        self.exit();
        self.asm.place(there);
    }

    /// Counts the run's patience down, and jumps when there is none left.
    pub(super) fn may_goto(&mut self, target: u32) {
        let past = self.asm.label();
        self.asm.rm(&[], true, false, &[0x83], 5, RUN, offset_of!(Run, patience) as i32);
        self.asm.raw(&[1]);
        self.asm.jcc(SIGN ^ 1, past);
        self.jump(target);
        self.asm.place(past);
    }

    /// Compares the register with each function that it may name; what is none of them is a helper's number.
    /// So there is no indirect branch.
    pub(super) fn call_register(&mut self, r: R) {
        self.charge(self.body.reference_cost());
        let done = self.asm.label();
        for target in self.body.checked.taken.clone() {
            let other = self.asm.label();
            self.asm.mov_imm(TMP, FUNCTION | u64::from(target));
            self.asm.binary(Width::W64, CMP, reg(r), TMP);
            self.asm.jcc(NOT_EQUAL, other);
            let nested = offset_of!(Run, nested) as i32;
            let fits = self.asm.label();
            self.asm.rm(&[], false, false, &[0x83], 7, RUN, nested);
            // The broken variant is the interpreter's, too.
            let most =
                if cfg!(relpoline_broken = "calls-nest-for-ever") { i8::MAX as u8 } else { MAX_BY_REGISTER as u8 };
            self.asm.raw(&[most]);
            self.asm.jcc(BELOW, fits);
            self.note_instruction();
            self.asm.jmp_outside(self.stubs.nested);
            self.asm.place(fits);
            self.asm.rm(&[], false, false, &[0xff], 0, RUN, nested);
            self.enter(target);
            self.asm.rm(&[], false, false, &[0xff], 1, RUN, nested);
            self.asm.jmp(done);
            self.asm.place(other);
        }
        self.asm.store(RUN, offset_of!(Run, callee) as i32, reg(r));
        self.asm.store_imm32(RUN, offset_of!(Run, helper) as i32, crate::helper::BY_REGISTER);
        self.note_instruction();
        self.asm.call_outside(self.stubs.helper);
        self.asm.place(done);
    }

    pub(super) fn call_local(&mut self, target: u32) {
        self.charge(self.body.call_cost(target));
        self.enter(target);
    }

    /// Calls the function at `target`, with a frame of its own.
    fn enter(&mut self, target: u32) {
        let callee = function_at(&self.body.checked.functions, target);
        self.asm.binary_imm(Width::W64, SUB, RBP, FRAME as i32);
        let entry = self.entries[callee];
        self.asm.call(entry);
        self.asm.binary_imm(Width::W64, ADD, RBP, FRAME as i32);
    }
}

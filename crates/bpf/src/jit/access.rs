//! Memory accesses, their bounds checks, and atomics.
//!
//! The fast way compares the address with the first window of the run ([`crate::run::Window`]): a `lea`, a
//! subtraction, a comparison and a jump that is not taken. The slow way, behind the function's code, tries
//! the second window, and then asks [`crate::run::Run::check`], which moves that window or ends the run.
//!
//! Accesses through r10 were checked when the program was loaded, and others are proved to need no check
//! ([`crate::proof`]).

use super::Compiler;
use super::asm::{ADDR, AND, Binary, Label, OR, RAX, RCX, RDX, RUN, Reg, SUB, TMP, XOR, reg};
use crate::op::{Atomic, Operand, R, Size, Width};
use crate::proof::Field;
use crate::run::{Run, Window};
use std::mem::{offset_of, size_of};

/// Condition codes of jumps.
const BELOW: u8 = 2;
const ABOVE_EQUAL: u8 = 3;
const NOT_EQUAL: u8 = 5;

/// Bits of the second argument of the slow check beside the size's logarithm.
pub const WRITE: u32 = 1 << 8;
/// See [`WRITE`].
pub const ALIGNED: u32 = 1 << 9;

/// A slow way to be emitted behind the code.
pub struct Slow {
    slot: u32,
    base: Reg,
    offset: i16,
    how: u32,
    /// Where it begins, and where it leads back to.
    enter: Label,
    back: Label,
}

fn window(number: usize) -> i32 {
    (offset_of!(Run, windows) + number * size_of::<Window>()) as i32
}

fn limit(number: usize, how: u32) -> i32 {
    window(number) + offset_of!(Window, limit) as i32 + 8 * (how & 3) as i32
}

impl Compiler<'_> {
    /// Checks an access to `[base + offset]`. Clobbers TMP and, on the slow way, ADDR.
    pub(super) fn check(&mut self, base: R, offset: i16, size: Size, how: u32) {
        let atomic = how & ALIGNED != 0;
        let proved = self.body.proof.why(self.slot).is_some();
        if self.body.options.checks.are_off() || proved || (base == R::FP && !atomic) {
            return;
        }
        let how = how | size as u32;
        let first = usize::from(how & WRITE != 0);
        let slow =
            Slow { slot: self.slot, base: reg(base), offset, how, enter: self.asm.label(), back: self.asm.label() };
        self.asm.lea(TMP, slow.base, offset.into());
        if atomic {
            // test TMP, size - 1
            self.asm.rr(Width::W32, &[0xf7], 0, TMP);
            self.asm.raw(&(size.bytes() as u32 - 1).to_le_bytes());
            self.asm.jcc(NOT_EQUAL, slow.enter);
        }
        self.asm.binary_mem(SUB, TMP, RUN, window(first));
        self.asm.binary_mem(super::asm::CMP, TMP, RUN, limit(first, how));
        self.asm.jcc(ABOVE_EQUAL, slow.enter);
        self.asm.place(slow.back);
        self.slow.push(slow);
    }

    /// The slow ways of all accesses.
    pub(super) fn slow_paths(&mut self) {
        for slow in std::mem::take(&mut self.slow) {
            self.slot = slow.slot;
            self.asm.place(slow.enter);
            self.asm.lea(ADDR, slow.base, slow.offset.into());
            if slow.how & ALIGNED == 0 {
                let second = usize::from(slow.how & WRITE != 0) + 2;
                self.asm.mov(Width::W64, TMP, ADDR);
                self.asm.binary_mem(SUB, TMP, RUN, window(second));
                self.asm.binary_mem(super::asm::CMP, TMP, RUN, limit(second, slow.how));
                self.asm.jcc(BELOW, slow.back);
            }
            self.note_instruction();
            self.asm.mov_imm(TMP, slow.how.into());
            self.asm.call_outside(self.stubs.check);
            self.asm.jmp(slow.back);
        }
    }

    pub(super) fn load(&mut self, size: Size, signed: bool, dst: R, src: R, offset: i16) {
        if let Some(field) = self.body.proof.field(self.slot) {
            let place = match field {
                Field::Data => offset_of!(Run, data),
                Field::End => offset_of!(Run, data_end),
            };
            return self.asm.load(reg(dst), RUN, place as i32);
        }
        self.check(src, offset, size, 0);
        let (dst, base, disp) = (reg(dst), reg(src), offset.into());
        let (wide, opcode): (bool, &[u8]) = match (size, signed) {
            (Size::B, false) => (false, &[0x0f, 0xb6]),
            (Size::H, false) => (false, &[0x0f, 0xb7]),
            (Size::W, false) => (false, &[0x8b]),
            (Size::D, _) => (true, &[0x8b]),
            (Size::B, true) => (true, &[0x0f, 0xbe]),
            (Size::H, true) => (true, &[0x0f, 0xbf]),
            (Size::W, true) => (true, &[0x63]),
        };
        self.asm.rm(&[], wide, false, opcode, dst, base, disp);
    }

    pub(super) fn store(&mut self, size: Size, dst: R, offset: i16, src: Operand) {
        self.check(dst, offset, size, WRITE);
        let (base, disp) = (reg(dst), offset.into());
        let prefix: &[u8] = if size == Size::H { &[0x66] } else { &[] };
        let wide = size == Size::D;
        match src {
            Operand::Reg(src) => {
                let opcode = if size == Size::B { 0x88 } else { 0x89 };
                self.asm.rm(prefix, wide, size == Size::B, &[opcode], reg(src), base, disp);
            }
            Operand::Imm(imm) => {
                let opcode = if size == Size::B { 0xc6 } else { 0xc7 };
                self.asm.rm(prefix, wide, false, &[opcode], 0, base, disp);
                self.asm.raw(&imm.to_le_bytes()[..size.bytes().min(4)]);
            }
        }
    }

    pub(super) fn atomic(&mut self, size: Size, op: Atomic, dst: R, offset: i16, src: R) {
        self.check(dst, offset, size, WRITE | ALIGNED);
        self.asm.lea(ADDR, reg(dst), offset.into());
        let src = reg(src);
        match op {
            Atomic::Add { fetch: false } => self.locked(size, &[0x01], src),
            Atomic::Or { fetch: false } => self.locked(size, &[0x09], src),
            Atomic::And { fetch: false } => self.locked(size, &[0x21], src),
            Atomic::Xor { fetch: false } => self.locked(size, &[0x31], src),
            Atomic::Add { fetch: true } => self.locked(size, &[0x0f, 0xc1], src),
            Atomic::Xchg => self.locked(size, &[0x87], src),
            Atomic::Cmpxchg => {
                self.locked(size, &[0x0f, 0xb1], src);
                if size == Size::W {
                    // Success leaves rax alone, upper half included.
                    self.asm.mov(Width::W32, RAX, RAX);
                }
            }
            Atomic::Or { fetch: true } => self.fetch(size, OR, src),
            Atomic::And { fetch: true } => self.fetch(size, AND, src),
            Atomic::Xor { fetch: true } => self.fetch(size, XOR, src),
        }
    }

    /// `lock op [ADDR], src`.
    fn locked(&mut self, size: Size, opcode: &[u8], src: Reg) {
        self.asm.rm(&[0xf0], size == Size::D, false, opcode, src, ADDR, 0);
    }

    /// The operations that the machine cannot do and fetch at once: a loop around compare-and-exchange.
    fn fetch(&mut self, size: Size, op: Binary, src: Reg) {
        let width = if size == Size::D { Width::W64 } else { Width::W32 };
        let new = [RCX, RDX].into_iter().find(|r| *r != src).unwrap_or(RCX);
        let operand = if src == RAX { TMP } else { src };
        self.asm.push(new);
        self.asm.mov(Width::W64, TMP, RAX);
        self.asm.rm(&[], size == Size::D, false, &[0x8b], RAX, ADDR, 0);
        let again = self.asm.label();
        self.asm.place(again);
        self.asm.mov(width, new, RAX);
        self.asm.binary(width, op, new, operand);
        self.locked(size, &[0x0f, 0xb1], new);
        self.asm.jcc(NOT_EQUAL, again);
        self.asm.mov(width, ADDR, RAX);
        self.asm.mov(Width::W64, RAX, TMP);
        self.asm.pop(new);
        self.asm.mov(width, src, ADDR);
    }
}

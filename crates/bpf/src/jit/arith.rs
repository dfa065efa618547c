//! Arithmetic. Results of 32-bit operations are zero-extended by the machine itself.

use super::Compiler;
use super::asm::{self, ADD, AND, CMP, OR, RAX, RCX, RDX, Reg, SUB, TMP, XOR, reg};
use crate::op::{Alu, Operand, Order, Size, Width};

/// Condition codes of jumps.
const EQUAL: u8 = 4;

impl Compiler<'_> {
    pub(super) fn alu(&mut self, width: Width, op: Alu, dst: Reg, src: Operand) {
        match op {
            Alu::Add => self.binary(width, ADD, dst, src),
            Alu::Sub => self.binary(width, SUB, dst, src),
            Alu::Or => self.binary(width, OR, dst, src),
            Alu::And => self.binary(width, AND, dst, src),
            Alu::Xor => self.binary(width, XOR, dst, src),
            Alu::Mov => self.mov_operand(width, dst, src),
            Alu::Mul => self.multiply(width, dst, src),
            Alu::Lsh => self.shift(width, 4, dst, src),
            Alu::Rsh => self.shift(width, 5, dst, src),
            Alu::Arsh => self.shift(width, 7, dst, src),
            Alu::Div | Alu::Sdiv | Alu::Mod | Alu::Smod => self.divide(width, op, dst, src),
        }
    }

    fn binary(&mut self, width: Width, op: asm::Binary, dst: Reg, src: Operand) {
        match src {
            Operand::Reg(src) => self.asm.binary(width, op, dst, reg(src)),
            Operand::Imm(imm) => self.asm.binary_imm(width, op, dst, imm),
        }
    }

    fn multiply(&mut self, width: Width, dst: Reg, src: Operand) {
        match src {
            Operand::Reg(src) => self.asm.rr(width, &[0x0f, 0xaf], dst, reg(src)),
            Operand::Imm(imm) => {
                self.asm.rr(width, &[0x69], dst, dst);
                self.asm.raw(&imm.to_le_bytes());
            }
        }
    }

    /// Shifts take their count from cl, which holds r4, and mask it as eBPF does.
    fn shift(&mut self, width: Width, digit: u8, dst: Reg, src: Operand) {
        let src = match src {
            Operand::Imm(imm) => {
                let mask = if width == Width::W64 { 63 } else { 31 };
                self.asm.rr(width, &[0xc1], digit, dst);
                self.asm.raw(&[imm as u8 & mask]);
                if imm as u8 & mask == 0 && width == Width::W32 {
                    // A count of zero need not clear the upper half.
                    self.asm.mov(Width::W32, dst, dst);
                }
                return;
            }
            Operand::Reg(src) => reg(src),
        };
        match (src == RCX, dst == RCX) {
            (true, _) => self.asm.rr(width, &[0xd3], digit, dst),
            (false, true) => {
                self.asm.mov(Width::W64, TMP, RCX);
                self.asm.mov(Width::W32, RCX, src);
                self.asm.rr(width, &[0xd3], digit, TMP);
                self.asm.mov(Width::W64, RCX, TMP);
            }
            (false, false) => {
                self.asm.mov(Width::W64, TMP, RCX);
                self.asm.mov(Width::W32, RCX, src);
                self.asm.rr(width, &[0xd3], digit, dst);
                self.asm.mov(Width::W64, RCX, TMP);
            }
        }
        if width == Width::W32 {
            let result = dst;
            self.asm.mov(Width::W32, result, result);
        }
    }

    /// The machine traps on division by zero and on the one quotient that overflows; eBPF defines both. So
    /// divisors 0 and (signed) −1 are handled apart.
    fn divide(&mut self, width: Width, op: Alu, dst: Reg, src: Operand) {
        let signed = matches!(op, Alu::Sdiv | Alu::Smod);
        let quotient = matches!(op, Alu::Div | Alu::Sdiv);
        match src {
            Operand::Imm(0) => return self.divided_by_zero(width, quotient, dst),
            Operand::Imm(-1) if signed => return self.divided_by_minus_one(width, quotient, dst),
            Operand::Imm(_) => {
                self.mov_operand(width, TMP, src);
                return self.divide_by_tmp(width, signed, quotient, dst);
            }
            Operand::Reg(_) => self.mov_operand(width, TMP, src),
        }
        let (zero, minus_one, done) = (self.asm.label(), self.asm.label(), self.asm.label());
        self.asm.rr(width, &[0x85], TMP, TMP);
        self.asm.jcc(EQUAL, zero);
        if signed {
            self.asm.binary_imm(width, CMP, TMP, -1);
            self.asm.jcc(EQUAL, minus_one);
        }
        self.divide_by_tmp(width, signed, quotient, dst);
        self.asm.jmp(done);
        self.asm.place(minus_one);
        if signed {
            self.divided_by_minus_one(width, quotient, dst);
            self.asm.jmp(done);
        }
        self.asm.place(zero);
        self.divided_by_zero(width, quotient, dst);
        self.asm.place(done);
    }

    fn divided_by_zero(&mut self, width: Width, quotient: bool, dst: Reg) {
        if quotient {
            self.asm.binary(Width::W32, XOR, dst, dst);
        } else if width == Width::W32 {
            self.asm.mov(Width::W32, dst, dst);
        }
    }

    fn divided_by_minus_one(&mut self, width: Width, quotient: bool, dst: Reg) {
        if quotient {
            self.asm.rr(width, &[0xf7], 3, dst);
        } else {
            self.asm.binary(Width::W32, XOR, dst, dst);
        }
    }

    fn divide_by_tmp(&mut self, width: Width, signed: bool, quotient: bool, dst: Reg) {
        for saved in [RAX, RDX] {
            if dst != saved {
                self.asm.push(saved);
            }
        }
        if dst != RAX {
            self.asm.mov(width, RAX, dst);
        }
        if signed {
            // cdq or cqo
            self.asm.raw(if width == Width::W64 { &[0x48, 0x99] } else { &[0x99] });
        } else {
            self.asm.binary(Width::W32, XOR, RDX, RDX);
        }
        self.asm.rr(width, &[0xf7], if signed { 7 } else { 6 }, TMP);
        self.asm.mov(width, TMP, if quotient { RAX } else { RDX });
        for saved in [RDX, RAX] {
            if dst != saved {
                self.asm.pop(saved);
            }
        }
        self.asm.mov(width, dst, TMP);
    }

    pub(super) fn mov_extended(&mut self, width: Width, from: Size, dst: Reg, src: Reg) {
        match from {
            Size::B => {
                // Byte registers 4 to 7 need a REX prefix; going through TMP has one in any case.
                self.asm.mov(Width::W64, TMP, src);
                self.asm.rr(width, &[0x0f, 0xbe], dst, TMP);
            }
            Size::H => self.asm.rr(width, &[0x0f, 0xbf], dst, src),
            Size::W | Size::D => self.asm.rr(Width::W64, &[0x63], dst, src),
        }
    }

    pub(super) fn swap(&mut self, order: Order, bits: u8, dst: Reg) {
        let swaps = order != Order::Little;
        match bits {
            16 => {
                if swaps {
                    // ror dst16, 8
                    self.asm.raw(&[0x66]);
                    self.asm.rr(Width::W32, &[0xc1], 1, dst);
                    self.asm.raw(&[8]);
                }
                self.asm.rr(Width::W32, &[0x0f, 0xb7], dst, dst);
            }
            32 if swaps => self.byte_swap(Width::W32, dst),
            32 => self.asm.mov(Width::W32, dst, dst),
            _ if swaps => self.byte_swap(Width::W64, dst),
            _ => {}
        }
    }

    fn byte_swap(&mut self, width: Width, dst: Reg) {
        let rex = 0x40 | u8::from(width == Width::W64) << 3 | dst >> 3;
        self.asm.raw(&[rex, 0x0f, 0xc8 | dst & 7]);
    }
}

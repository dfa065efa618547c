//! What arithmetic, byte swaps and comparisons mean, as functions of numbers (RFC 9669 section 4).
//!
//! The interpreter computes with these, the analysis of constants folds with them, and the compiler is held
//! against them.

use crate::op::{Alu, Cond, Operand, Order, Size, Width};

/// The value of a second operand that is an immediate.
#[must_use]
pub fn immediate(imm: i32) -> u64 {
    i64::from(imm).cast_unsigned()
}

/// `a op b`.
#[must_use]
pub fn alu(width: Width, op: Alu, a: u64, b: u64) -> u64 {
    match width {
        Width::W64 => alu64(op, a, b),
        Width::W32 => u64::from(alu32(op, a as u32, b as u32)),
    }
}

fn alu64(op: Alu, a: u64, b: u64) -> u64 {
    let (sa, sb) = (a.cast_signed(), b.cast_signed());
    match op {
        Alu::Add => a.wrapping_add(b),
        Alu::Sub => a.wrapping_sub(b),
        Alu::Mul => a.wrapping_mul(b),
        Alu::Div => a.checked_div(b).unwrap_or(0),
        Alu::Sdiv if b == 0 => 0,
        Alu::Sdiv => sa.wrapping_div(sb).cast_unsigned(),
        Alu::Mod => a.checked_rem(b).unwrap_or(a),
        Alu::Smod if b == 0 => a,
        Alu::Smod => sa.wrapping_rem(sb).cast_unsigned(),
        Alu::Or => a | b,
        Alu::And => a & b,
        Alu::Xor => a ^ b,
        Alu::Lsh => a.wrapping_shl(b as u32),
        Alu::Rsh => a.wrapping_shr(b as u32),
        Alu::Arsh => sa.wrapping_shr(b as u32).cast_unsigned(),
        Alu::Mov => b,
    }
}

fn alu32(op: Alu, a: u32, b: u32) -> u32 {
    let (sa, sb) = (a.cast_signed(), b.cast_signed());
    match op {
        Alu::Add => a.wrapping_add(b),
        Alu::Sub => a.wrapping_sub(b),
        Alu::Mul => a.wrapping_mul(b),
        Alu::Div => a.checked_div(b).unwrap_or(0),
        Alu::Sdiv if b == 0 => 0,
        Alu::Sdiv => sa.wrapping_div(sb).cast_unsigned(),
        Alu::Mod => a.checked_rem(b).unwrap_or(a),
        Alu::Smod if b == 0 => a,
        Alu::Smod => sa.wrapping_rem(sb).cast_unsigned(),
        Alu::Or => a | b,
        Alu::And => a & b,
        Alu::Xor => a ^ b,
        Alu::Lsh => a.wrapping_shl(b),
        Alu::Rsh => a.wrapping_shr(b),
        Alu::Arsh => sa.wrapping_shr(b).cast_unsigned(),
        Alu::Mov => b,
    }
}

/// The low part of `value`, sign-extended to `width`.
#[must_use]
pub fn sign_extend(width: Width, from: Size, value: u64) -> u64 {
    let wide = match from {
        Size::B => i64::from(value as i8),
        Size::H => i64::from(value as i16),
        Size::W => i64::from(value as i32),
        Size::D => value.cast_signed(),
    }
    .cast_unsigned();
    truncate(width, wide)
}

/// `value` as far as `width` keeps it.
#[must_use]
pub fn truncate(width: Width, value: u64) -> u64 {
    match width {
        Width::W32 => value & 0xffff_ffff,
        Width::W64 => value,
    }
}

/// The low `bits` (16, 32, 64) in `order`, the rest cleared.
#[must_use]
pub fn swap(order: Order, bits: u8, value: u64) -> u64 {
    let little = order == Order::Little;
    match bits {
        16 if little => value & 0xffff,
        32 if little => value & 0xffff_ffff,
        16 => u64::from((value as u16).swap_bytes()),
        32 => u64::from((value as u32).swap_bytes()),
        _ if little => value,
        _ => value.swap_bytes(),
    }
}

/// Whether `a cond b`.
#[must_use]
pub fn holds(width: Width, cond: Cond, a: u64, b: u64) -> bool {
    let (a, b, sa, sb) = match width {
        Width::W64 => (a, b, a.cast_signed(), b.cast_signed()),
        Width::W32 => {
            let (a, b) = (a as u32, b as u32);
            (a.into(), b.into(), a.cast_signed().into(), b.cast_signed().into())
        }
    };
    match cond {
        Cond::Eq => a == b,
        Cond::Ne => a != b,
        Cond::Set => a & b != 0,
        Cond::Gt => a > b,
        Cond::Ge => a >= b,
        Cond::Lt => a < b,
        Cond::Le => a <= b,
        Cond::Sgt => sa > sb,
        Cond::Sge => sa >= sb,
        Cond::Slt => sa < sb,
        Cond::Sle => sa <= sb,
    }
}

/// The value of an operand, given the registers.
#[must_use]
pub fn value(regs: &[u64; 11], operand: Operand) -> u64 {
    match operand {
        Operand::Reg(r) => regs[r.index()],
        Operand::Imm(imm) => immediate(imm),
    }
}

//! The x86-64 instructions that compiled programs consist of, with eBPF's registers as operands.
//!
//! Operand order is destination first. Jumps are always of the 32-bit form and name [`Label`]s, which are
//! resolved when everything is written; what leaves the buffer (entry stubs) is a [`Asm::call_outside`] with
//! its address fixed when the code's own is known.

use crate::op::{R, Width};

/// A machine register by number.
pub type Reg = u8;

/// r0, which division uses as well.
pub const RAX: Reg = 0;
/// r4, which shifts use as well.
pub const RCX: Reg = 1;
/// r3, which division uses as well.
pub const RDX: Reg = 2;
/// The frame pointer r10.
pub const RBP: Reg = 5;
/// The run ([`crate::run::Run`]).
pub const RUN: Reg = 9;
/// Scratch: addresses.
pub const ADDR: Reg = 10;
/// Scratch.
pub const TMP: Reg = 11;
/// Tail calls so far. Callee-saved in the host's convention and never written but by tail calls, so it is
/// right however programs and functions nest.
pub const TAILS: Reg = 12;

/// Which machine register holds each of r0 to r10. r1 to r5 are the first five arguments of the host's
/// calling convention, and the run is the sixth, so helpers are called without a move; r6 to r9 are registers
/// that callees preserve.
const HOLDS: [Reg; 11] = [RAX, 7, 6, RDX, RCX, 8, 3, 13, 14, 15, RBP];

/// The machine register of `r`.
pub const fn reg(r: R) -> Reg {
    HOLDS[r.index()]
}

/// A place in the code, known or not yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label(usize);

/// Code in the making.
#[derive(Debug, Default)]
pub struct Asm {
    /// The bytes so far.
    pub bytes: Vec<u8>,
    labels: Vec<Option<usize>>,
    /// Displacement fields, and what they shall reach.
    fixups: Vec<(usize, Label)>,
    /// Displacement fields, and the address they shall reach.
    outside: Vec<(usize, u64)>,
}

/// Arithmetic in its `op r/m, r` form, with the digit of its immediate form.
#[derive(Clone, Copy)]
pub struct Binary {
    opcode: u8,
    digit: u8,
}

/// Addition.
pub const ADD: Binary = Binary { opcode: 0x01, digit: 0 };
/// Or.
pub const OR: Binary = Binary { opcode: 0x09, digit: 1 };
/// And.
pub const AND: Binary = Binary { opcode: 0x21, digit: 4 };
/// Subtraction.
pub const SUB: Binary = Binary { opcode: 0x29, digit: 5 };
/// Exclusive or.
pub const XOR: Binary = Binary { opcode: 0x31, digit: 6 };
/// Comparison.
pub const CMP: Binary = Binary { opcode: 0x39, digit: 7 };

impl Asm {
    /// Where the next byte goes.
    pub fn at(&self) -> usize {
        self.bytes.len()
    }

    /// Raw bytes.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn imm32(&mut self, imm: i32) {
        self.raw(&imm.to_le_bytes());
    }

    /// A label to be placed later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Places `label` here.
    pub fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.at());
    }

    /// Where `label` is; 0 if it was never placed.
    pub fn offset(&self, label: Label) -> usize {
        self.labels[label.0].unwrap_or(0)
    }

    fn rex(&mut self, wide: bool, r: Reg, b: Reg, force: bool) {
        let rex = 0x40 | u8::from(wide) << 3 | (r >> 3) << 2 | b >> 3;
        if rex != 0x40 || force {
            self.raw(&[rex]);
        }
    }

    /// `opcode` with two registers; `r` is the ModRM reg field, `b` the r/m field.
    pub fn rr(&mut self, width: Width, opcode: &[u8], r: Reg, b: Reg) {
        self.rex(width == Width::W64, r, b, false);
        self.raw(opcode);
        self.raw(&[0xc0 | (r & 7) << 3 | b & 7]);
    }

    /// ModRM and displacement of `[base + disp]`.
    fn modrm_mem(&mut self, r: Reg, base: Reg, disp: i32) {
        let short = i8::try_from(disp);
        let mode = if short.is_ok() { 0x40 } else { 0x80 };
        self.raw(&[mode | (r & 7) << 3 | base & 7]);
        if base & 7 == 4 {
            self.raw(&[0x24]);
        }
        match short {
            Ok(disp) => self.raw(&disp.to_le_bytes()),
            Err(_) => self.imm32(disp),
        }
    }

    /// `opcode` with a register and memory, after legacy `prefix` bytes. `force` a REX prefix for byte
    /// registers.
    #[expect(clippy::too_many_arguments, reason = "these are the fields of the encoding")]
    pub fn rm(&mut self, prefix: &[u8], wide: bool, force: bool, opcode: &[u8], r: Reg, base: Reg, disp: i32) {
        self.raw(prefix);
        self.rex(wide, r, base, force);
        self.raw(opcode);
        self.modrm_mem(r, base, disp);
    }

    /// `dst op= src`.
    pub fn binary(&mut self, width: Width, op: Binary, dst: Reg, src: Reg) {
        self.rr(width, &[op.opcode], src, dst);
    }

    /// `dst op= imm`, sign-extended.
    pub fn binary_imm(&mut self, width: Width, op: Binary, dst: Reg, imm: i32) {
        match i8::try_from(imm) {
            Ok(short) => {
                self.rr(width, &[0x83], op.digit, dst);
                self.raw(&short.to_le_bytes());
            }
            Err(_) => {
                self.rr(width, &[0x81], op.digit, dst);
                self.imm32(imm);
            }
        }
    }

    /// `dst op= [base + disp]`, 64 bits.
    pub fn binary_mem(&mut self, op: Binary, dst: Reg, base: Reg, disp: i32) {
        self.rm(&[], true, false, &[op.opcode + 2], dst, base, disp);
    }

    /// `dst = src`.
    pub fn mov(&mut self, width: Width, dst: Reg, src: Reg) {
        self.rr(width, &[0x89], src, dst);
    }

    /// `dst = value`, in the shortest form.
    pub fn mov_imm(&mut self, dst: Reg, value: u64) {
        if let Ok(low) = u32::try_from(value) {
            self.rex(false, 0, dst, false);
            self.raw(&[0xb8 | dst & 7]);
            self.raw(&low.to_le_bytes());
        } else if let Ok(signed) = i32::try_from(value.cast_signed()) {
            self.rr(Width::W64, &[0xc7], 0, dst);
            self.imm32(signed);
        } else {
            self.rex(true, 0, dst, false);
            self.raw(&[0xb8 | dst & 7]);
            self.raw(&value.to_le_bytes());
        }
    }

    /// `dst = [base + disp]`, 64 bits.
    pub fn load(&mut self, dst: Reg, base: Reg, disp: i32) {
        self.rm(&[], true, false, &[0x8b], dst, base, disp);
    }

    /// `[base + disp] = src`, 64 bits.
    pub fn store(&mut self, base: Reg, disp: i32, src: Reg) {
        self.rm(&[], true, false, &[0x89], src, base, disp);
    }

    /// `dword [base + disp] = imm`.
    pub fn store_imm32(&mut self, base: Reg, disp: i32, imm: u32) {
        self.rm(&[], false, false, &[0xc7], 0, base, disp);
        self.raw(&imm.to_le_bytes());
    }

    /// `dst = base + disp`.
    pub fn lea(&mut self, dst: Reg, base: Reg, disp: i32) {
        self.rm(&[], true, false, &[0x8d], dst, base, disp);
    }

    /// `push r`.
    pub fn push(&mut self, r: Reg) {
        self.rex(false, 0, r, false);
        self.raw(&[0x50 | r & 7]);
    }

    /// `pop r`.
    pub fn pop(&mut self, r: Reg) {
        self.rex(false, 0, r, false);
        self.raw(&[0x58 | r & 7]);
    }

    /// A jump with opcode `0f cc` to `label`.
    pub fn jcc(&mut self, condition: u8, label: Label) {
        self.raw(&[0x0f, 0x80 | condition]);
        self.fixups.push((self.at(), label));
        self.imm32(0);
    }

    /// `jmp label; int3`.
    pub fn jmp(&mut self, label: Label) {
        self.raw(&[0xe9]);
        self.fixups.push((self.at(), label));
        self.imm32(0);
        self.raw(&[0xcc]);
    }

    /// `call label`.
    pub fn call(&mut self, label: Label) {
        self.raw(&[0xe8]);
        self.fixups.push((self.at(), label));
        self.imm32(0);
    }

    /// `call address`.
    pub fn call_outside(&mut self, address: u64) {
        self.raw(&[0xe8]);
        self.outside.push((self.at(), address));
        self.imm32(0);
    }

    /// `jmp address; int3`.
    pub fn jmp_outside(&mut self, address: u64) {
        self.raw(&[0xe9]);
        self.outside.push((self.at(), address));
        self.imm32(0);
        self.raw(&[0xcc]);
    }

    /// `ret; int3`.
    pub fn ret(&mut self) {
        self.raw(&[0xc3, 0xcc]);
    }

    /// Pads with nops to a multiple of 8.
    pub fn align8(&mut self) {
        /// The recommended forms by length (AMD64 manual, volume 3, `NOP`).
        const NOPS: [&[u8]; 8] = [
            &[],
            &[0x90],
            &[0x66, 0x90],
            &[0x0f, 0x1f, 0x00],
            &[0x0f, 0x1f, 0x40, 0x00],
            &[0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
        ];
        let missing = self.at().wrapping_neg() & 7;
        self.raw(NOPS[missing]);
    }

    /// The finished bytes for code that runs at `address`; `None` when something is out of reach.
    pub fn finish(mut self, address: u64) -> Option<Vec<u8>> {
        let inside: Vec<_> =
            self.fixups.iter().map(|&(field, label)| (field, address + self.offset(label) as u64)).collect();
        for (field, target) in inside.into_iter().chain(std::mem::take(&mut self.outside)) {
            let next = address + field as u64 + 4;
            let rel = relpoline_patch::word::rel32(next, target)?;
            self.bytes[field..field + 4].copy_from_slice(&rel.to_le_bytes());
        }
        Some(self.bytes)
    }
}

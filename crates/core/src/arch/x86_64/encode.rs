//! The instructions that are generated, byte for byte.
//!
//! [`Code`] is a bounded cursor over a buffer that will run at a known address. Writing past its end is not
//! a panic: the cursor remembers the overflow, and [`Code::finish`] reports it, so a caller that sized its
//! cell wrongly gets an error instead of half a tree. A direct branch that does not reach is remembered in
//! the same way.

use super::Reg;

/// Filler after every unconditional jump: straight-line speculation past a direct jump (CVE-2021-26341)
/// must run into a trap.
pub const INT3: u8 = 0xcc;

/// Why generated code could not be finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeError {
    /// The buffer was too small.
    Overflow,
    /// A direct branch or a rip-relative operand is more than 2 GiB away from what it names.
    OutOfReach,
    /// The code cannot be written for this register.
    Register,
}

impl core::fmt::Display for CodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            CodeError::Overflow => "the code does not fit its cell",
            CodeError::OutOfReach => "a branch target is more than 2 GiB away",
            CodeError::Register => "the register cannot hold a target",
        })
    }
}

/// Conditions of the conditional jumps in use, by their opcode nibble (Intel SDM vol. 2, appendix B.1.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cond {
    /// The operands were equal.
    E = 0x4,
    /// Unsigned above.
    A = 0x7,
    /// Unsigned below.
    B = 0x2,
    /// Signed less or equal.
    Le = 0xe,
}

/// The displacement that makes a branch ending at `next` reach `target`, or `None` beyond ±2 GiB.
#[must_use]
pub fn rel32(next: u64, target: u64) -> Option<i32> {
    i32::try_from(target.wrapping_sub(next).cast_signed()).ok()
}

/// The 8-byte word `jmp target; int3; int3; int3` for a gate at `at`, or `None` beyond ±2 GiB.
#[must_use]
pub fn gate_word(at: u64, target: u64) -> Option<u64> {
    let rel = rel32(at.wrapping_add(5), target)?.to_le_bytes();
    Some(u64::from_le_bytes([0xe9, rel[0], rel[1], rel[2], rel[3], INT3, INT3, INT3]))
}

/// Where the gate word `word` at `at` leads, or `None` when it is not a `jmp rel32`.
#[must_use]
pub fn gate_target(at: u64, word: u64) -> Option<u64> {
    let b = word.to_le_bytes();
    (b[0] == 0xe9).then(|| {
        let rel = i32::from_le_bytes([b[1], b[2], b[3], b[4]]);
        at.wrapping_add(5).wrapping_add_signed(i64::from(rel))
    })
}

/// A forward reference inside one [`Code`] buffer, to be bound later.
#[derive(Clone, Copy, Debug)]
#[must_use = "an unbound label leaves a jump to nowhere"]
pub struct Label {
    // Labels wait in lists on small stacks, and code is far smaller than 4 GiB.
    field: u32,
}

/// A forward reference of one byte, to be bound within 127 bytes.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "an unbound label leaves a jump to nowhere"]
pub struct ShortLabel {
    field: u16,
}

/// A bounded cursor over code that will run at a known address.
#[derive(Debug)]
pub struct Code<'a> {
    buf: &'a mut [u8],
    at: u64,
    len: usize,
    /// Nothing is written: only the length counts.
    measures: bool,
    error: Option<CodeError>,
}

impl<'a> Code<'a> {
    /// Code written to `buf` that will run at address `at`.
    pub fn new(buf: &'a mut [u8], at: u64) -> Code<'a> {
        Code { buf, at, len: 0, measures: false, error: None }
    }

    /// Code that is written nowhere, to learn its length: nothing is out of reach of it.
    #[must_use]
    pub fn measuring() -> Code<'static> {
        Code { buf: &mut [], at: 0, len: 0, measures: true, error: None }
    }

    /// Address of the next byte to be written.
    #[must_use]
    pub fn here(&self) -> u64 {
        self.at.wrapping_add(self.len as u64)
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of bytes written.
    ///
    /// # Errors
    /// The first overflow or unreachable branch since [`Code::new`].
    pub fn finish(self) -> Result<usize, CodeError> {
        match self.error {
            None => Ok(self.len),
            Some(e) => Err(e),
        }
    }

    fn fail(&mut self, e: CodeError) {
        self.error.get_or_insert(e);
    }

    /// Appends raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if self.measures {
            self.len += bytes.len();
            return;
        }
        match self.buf.get_mut(self.len..self.len + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.fail(CodeError::Overflow),
        }
    }

    /// Pads with `int3` until the offset is a multiple of `align` (a power of two).
    pub fn align(&mut self, align: usize) {
        while self.error.is_none() && !self.len.is_multiple_of(align) {
            self.bytes(&[INT3]);
        }
    }

    fn rel_to(&mut self, target: u64, trailing: u64) {
        let next = self.here().wrapping_add(4 + trailing);
        match rel32(next, if self.measures { next } else { target }) {
            Some(rel) => self.bytes(&rel.to_le_bytes()),
            None => self.fail(CodeError::OutOfReach),
        }
    }

    /// `jmp target` and one `int3`.
    pub fn jmp(&mut self, target: u64) {
        self.bytes(&[0xe9]);
        self.rel_to(target, 0);
        self.bytes(&[INT3]);
    }

    /// `jcc target`, the six-byte form.
    pub fn jcc(&mut self, cond: Cond, target: u64) {
        self.bytes(&[0x0f, 0x80 | cond as u8]);
        self.rel_to(target, 0);
    }

    /// `jcc label`, the six-byte form, bound later by [`Code::bind`].
    pub fn jcc_forward(&mut self, cond: Cond) -> Label {
        self.bytes(&[0x0f, 0x80 | cond as u8]);
        self.bytes(&[0; 4]);
        self.label(4)
    }

    /// Lets `label` mean the next byte to be written.
    pub fn bind(&mut self, label: Label) {
        self.set_rel32(label, self.len);
    }

    /// `jmp label` and one `int3`, bound later by [`Code::bind`].
    pub fn jmp_forward(&mut self) -> Label {
        self.bytes(&[0xe9]);
        self.bytes(&[0, 0, 0, 0, INT3]);
        self.label(5)
    }

    /// `jmp label` and one `int3`, the form of two bytes, bound later by [`Code::bind_short`].
    pub fn jmp_short_forward(&mut self) -> ShortLabel {
        self.bytes(&[0xeb]);
        self.bytes(&[0, INT3]);
        self.short_label(2)
    }

    /// `jrcxz label`: jumps when rcx is 0, and looks at no flag.
    pub fn jrcxz_forward(&mut self) -> ShortLabel {
        self.bytes(&[0xe3, 0]);
        self.short_label(1)
    }

    /// `je label`, the form of two bytes.
    pub fn je_short_forward(&mut self) -> ShortLabel {
        self.bytes(&[0x74, 0]);
        self.short_label(1)
    }

    /// The field that began `back` bytes ago.
    fn label(&self, back: usize) -> Label {
        Label { field: self.len.saturating_sub(back) as u32 }
    }

    /// Likewise. One that lies too far inside for its number cannot be bound.
    fn short_label(&self, back: usize) -> ShortLabel {
        ShortLabel { field: u16::try_from(self.len.saturating_sub(back)).unwrap_or(u16::MAX) }
    }

    /// Lets `label` mean the next byte to be written, which must be within 127 bytes.
    pub fn bind_short(&mut self, label: ShortLabel) {
        let field = usize::from(label.field);
        match (i8::try_from(self.len.wrapping_sub(field + 1)), self.buf.get_mut(field)) {
            _ if self.error.is_some() => {}
            (Ok(rel), Some(field)) => *field = rel.cast_unsigned(),
            (Ok(_), None) if self.measures => {}
            _ => self.fail(CodeError::OutOfReach),
        }
    }

    /// `cmp imm32, %reg` (sign-extended), seven bytes.
    pub fn cmp_imm32(&mut self, reg: Reg, imm: i32) {
        self.bytes(&[0x48 | u8::from(reg.is_extended()), 0x81, 0xf8 | reg.low3()]);
        self.bytes(&imm.to_le_bytes());
    }

    /// `cmp disp(%rip), %reg` against a constant whose place is bound later by [`Code::bind_constant`].
    pub fn cmp_constant(&mut self, reg: Reg) -> Label {
        self.bytes(&[0x48 | (u8::from(reg.is_extended()) << 2), 0x3b, 0x05 | (reg.low3() << 3)]);
        self.bytes(&[0; 4]);
        self.label(4)
    }

    /// `cmp address(%rip), %reg`, seven bytes, against eight bytes that lie at a known address.
    pub fn cmp_mem(&mut self, reg: Reg, address: u64) {
        self.bytes(&[0x48 | (u8::from(reg.is_extended()) << 2), 0x3b, 0x05 | (reg.low3() << 3)]);
        self.rel_to(address, 0);
    }

    /// Lets the operand `label` mean the constant `value`, which is appended here.
    pub fn bind_constant(&mut self, label: Label, value: u64) {
        self.set_rel32(label, self.len);
        self.bytes(&value.to_le_bytes());
    }

    fn set_rel32(&mut self, label: Label, offset: usize) {
        if self.error.is_some() {
            return;
        }
        // Both ends lie in this buffer, which is far smaller than 2 GiB.
        let rel = (offset as i64 - (i64::from(label.field) + 4)) as i32;
        let at = label.field as usize;
        if let Some(field) = self.buf.get_mut(at..at + 4) {
            field.copy_from_slice(&rel.to_le_bytes());
        }
    }

    /// `decl counter(%rip)`.
    pub fn dec_u32(&mut self, counter: u64) {
        self.bytes(&[0xff, 0x0d]);
        self.rel_to(counter, 0);
    }

    /// `incl counter(%rip)`.
    pub fn inc_u32(&mut self, counter: u64) {
        self.bytes(&[0xff, 0x05]);
        self.rel_to(counter, 0);
    }

    /// `incq counter(%rip)`.
    pub fn inc_u64(&mut self, counter: u64) {
        self.bytes(&[0x48, 0xff, 0x05]);
        self.rel_to(counter, 0);
    }

    /// `call target`.
    pub fn call(&mut self, target: u64) {
        self.bytes(&[0xe8]);
        self.rel_to(target, 0);
    }

    /// `push %reg`.
    pub fn push(&mut self, reg: Reg) {
        if reg.is_extended() {
            self.bytes(&[0x41]);
        }
        self.bytes(&[0x50 | reg.low3()]);
    }

    /// `pop %reg`.
    pub fn pop(&mut self, reg: Reg) {
        if reg.is_extended() {
            self.bytes(&[0x41]);
        }
        self.bytes(&[0x58 | reg.low3()]);
    }

    /// `push %reg` in two bytes, for a register without a REX prefix.
    pub fn push_long(&mut self, reg: Reg) {
        self.bytes(&[0xff, 0xf0 | reg.low3()]);
    }

    /// `pop %reg`, likewise.
    pub fn pop_long(&mut self, reg: Reg) {
        self.bytes(&[0x8f, 0xc0 | reg.low3()]);
    }

    /// `mov address(%rip), %reg`.
    pub fn load_u64(&mut self, reg: Reg, address: u64) {
        self.bytes(&[0x48 | (u8::from(reg.is_extended()) << 2), 0x8b, 0x05 | (reg.low3() << 3)]);
        self.rel_to(address, 0);
    }

    /// `mov %reg, address(%rip)`.
    pub fn store_u64(&mut self, address: u64, reg: Reg) {
        self.bytes(&[0x48 | (u8::from(reg.is_extended()) << 2), 0x89, 0x05 | (reg.low3() << 3)]);
        self.rel_to(address, 0);
    }

    /// `mov address(%rip), %reg`, the lower half of the register: the upper half becomes 0.
    pub fn load_u32(&mut self, reg: Reg, address: u64) {
        self.rex_r(0, reg);
        self.bytes(&[0x8b, 0x05 | (reg.low3() << 3)]);
        self.rel_to(address, 0);
    }

    /// `mov %reg, address(%rip)`, the lower half of the register.
    pub fn store_u32(&mut self, address: u64, reg: Reg) {
        self.rex_r(0, reg);
        self.bytes(&[0x89, 0x05 | (reg.low3() << 3)]);
        self.rel_to(address, 0);
    }

    /// A REX prefix with `base` bits, if one is needed, for `reg` in the register field.
    fn rex_r(&mut self, base: u8, reg: Reg) {
        let rex = base | (u8::from(reg.is_extended()) << 2);
        if rex != 0 {
            self.bytes(&[0x40 | rex]);
        }
    }

    /// `mov %from, %to`.
    pub fn mov(&mut self, to: Reg, from: Reg) {
        let rex = 0x48 | (u8::from(from.is_extended()) << 2) | u8::from(to.is_extended());
        self.bytes(&[rex, 0x89, 0xc0 | (from.low3() << 3) | to.low3()]);
    }

    /// `mov %reg, -8(%rsp)`: the word that a thunk's own call overwrites.
    pub fn store_below_stack(&mut self, reg: Reg) {
        self.rex_r(8, reg);
        self.bytes(&[0x89, 0x44 | (reg.low3() << 3), 0x24, 0xf8]);
    }

    /// `mov -8(%rsp), %reg`.
    pub fn load_below_stack(&mut self, reg: Reg) {
        self.rex_r(8, reg);
        self.bytes(&[0x8b, 0x44 | (reg.low3() << 3), 0x24, 0xf8]);
    }

    /// `lea by(%rsp), %rsp`: moves the stack pointer and changes no flag.
    pub fn move_stack(&mut self, by: i32) {
        match i8::try_from(by) {
            Ok(by) => self.bytes(&[0x48, 0x8d, 0x64, 0x24, by.cast_unsigned()]),
            Err(_) => {
                self.bytes(&[0x48, 0x8d, 0xa4, 0x24]);
                self.bytes(&by.to_le_bytes());
            }
        }
    }

    /// `lea offset(%base), %to`: adds and changes no flag.
    pub fn lea(&mut self, to: Reg, base: Reg, offset: i32) {
        self.rex_r(8 | u8::from(base.is_extended()), to);
        self.bytes(&[0x8d, 0x80 | (to.low3() << 3) | base.low3()]);
        // rsp and r12 as a base take a second byte.
        if base.low3() == 4 {
            self.bytes(&[0x24]);
        }
        self.bytes(&offset.to_le_bytes());
    }

    /// `lea (%rcx, %index), %rcx`. rsp cannot be an index.
    pub fn add_to_rcx(&mut self, index: Reg) {
        if index.number() == 4 {
            return self.fail(CodeError::Register);
        }
        let rex = 0x48 | (u8::from(index.is_extended()) << 1);
        self.bytes(&[rex, 0x8d, 0x0c, (index.low3() << 3) | 1]);
    }

    /// `lea -1(%rcx), %ecx`.
    pub fn decrement_ecx(&mut self) {
        self.bytes(&[0x8d, 0x49, 0xff]);
    }

    /// `lea 1(%rcx), %rcx`.
    pub fn increment_rcx(&mut self) {
        self.bytes(&[0x48, 0x8d, 0x49, 0x01]);
    }

    /// `bswap %ecx; movzbl %cl, %ecx`: what was its highest byte, alone.
    pub fn top_byte_of_ecx(&mut self) {
        self.bytes(&[0x0f, 0xc9, 0x0f, 0xb6, 0xc9]);
    }

    /// `bswap %rcx; movzbl %cl, %ecx`.
    pub fn top_byte_of_rcx(&mut self) {
        self.bytes(&[0x48, 0x0f, 0xc9, 0x0f, 0xb6, 0xc9]);
    }

    /// `pushf` in two bytes.
    pub fn push_flags(&mut self) {
        self.bytes(&[0x48, 0x9c]);
    }

    /// `popf`, likewise.
    pub fn pop_flags(&mut self) {
        self.bytes(&[0x48, 0x9d]);
    }

    /// `cld`: strings go upwards, as every compiled function expects.
    pub fn clear_direction(&mut self) {
        self.bytes(&[0xfc]);
    }

    /// `movabs imm64, %reg`.
    pub fn mov_imm64(&mut self, reg: Reg, imm: u64) {
        self.bytes(&[0x48 | u8::from(reg.is_extended()), 0xb8 | reg.low3()]);
        self.bytes(&imm.to_le_bytes());
    }
}

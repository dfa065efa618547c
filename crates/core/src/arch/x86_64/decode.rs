//! How long an instruction is, where it goes, and what it does to the status flags.
//!
//! Sites are trusted only when they stand on an instruction boundary, and a jump site only when the flags
//! are dead at every label it may go to. Both questions are answered by reading a function from its start,
//! one [`decode`] after the other. So this decoder knows no operand but those that can name code: direct
//! branches, rip-relative operands, and constants wide enough for an address.
//!
//! Every opcode has one [`Attributes`] word (module `tables`): whether a ModRM byte follows, how many
//! immediate bytes, how control goes on, what happens to the flags. The few opcodes whose answer depends
//! on ModRM's `reg` field (`f6`, `ff`, the shifts …) are settled afterwards in [`refine`].
//!
//! Two promises, both held by tests against another decoder (iced-x86):
//! * any bytes are fine: the answer is `None` for what no compiler emits, never a panic;
//! * flags err on one side. [`FlagUse::Overwrites`] is said only when all six are certainly replaced, and
//!   whatever is not known counts as [`FlagUse::Reads`].
//!
//! `66 e8`, `66 e9` and `66 0f 8x` have a 16-bit displacement on AMD and a 32-bit one on Intel. They are
//! read Intel's way; a site is never accepted with that prefix.

mod tables;

use tables::{Attributes, Class, Immediate};

/// No instruction is longer than this many bytes.
pub const MAX_LEN: usize = 15;

/// Where control goes after an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// To the next instruction (system calls and software interrupts included).
    Next,
    /// Always to the next instruction plus `rel`.
    Jump {
        /// Displacement from the end of the instruction.
        rel: i32,
    },
    /// To the next instruction, or that plus `rel`.
    Cond {
        /// Displacement from the end of the instruction.
        rel: i32,
    },
    /// Calls the next instruction plus `rel`.
    Call {
        /// Displacement from the end of the instruction.
        rel: i32,
    },
    /// To an address in a register or in memory.
    IndirectJump,
    /// Calls an address in a register or in memory.
    IndirectCall,
    /// To an address from the stack.
    Return,
    /// Nowhere, or into the system: `ud2`, `hlt`, `int3`, `int1`.
    Trap,
}

/// What an instruction does to CF, PF, AF, ZF, SF and OF.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlagUse {
    /// May read one of them. Also said of everything not known better.
    Reads,
    /// Replaces all six and reads none (a flag left undefined by the manual counts as replaced).
    Overwrites,
    /// Reads none, and may leave some as they were.
    Neither,
}

/// A memory operand relative to the instruction's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RipOperand {
    /// Displacement from the end of the instruction.
    pub disp: i32,
    /// Whether the instruction is `lea`, which takes the address and reads nothing.
    pub is_lea: bool,
}

/// One decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Insn {
    /// Length in bytes, 1 to 15.
    pub len: u8,
    /// Where control goes.
    pub flow: Flow,
    /// What happens to the status flags.
    pub flags: FlagUse,
    /// The rip-relative operand, if there is one.
    pub rip_operand: Option<RipOperand>,
    /// An immediate of four bytes (sign-extended) or eight that is no branch displacement: in code that is
    /// not position-independent it may be an address.
    pub immediate: Option<i64>,
    /// A four-byte displacement that is not rip-relative: likewise.
    pub disp32: Option<i32>,
}

impl Insn {
    /// The address of the next instruction, this one being at `address`.
    #[must_use]
    pub const fn next(&self, address: u64) -> u64 {
        address.wrapping_add(self.len as u64)
    }

    /// Where a direct branch at `address` leads (or may lead), `None` for anything else.
    #[must_use]
    pub const fn branch_target(&self, address: u64) -> Option<u64> {
        match self.flow {
            Flow::Jump { rel } | Flow::Cond { rel } | Flow::Call { rel } => {
                Some(self.next(address).wrapping_add_signed(rel as i64))
            }
            _ => None,
        }
    }

    /// The address that the rip-relative operand of an instruction at `address` names.
    #[must_use]
    pub const fn rip_target(&self, address: u64) -> Option<u64> {
        match self.rip_operand {
            Some(operand) => Some(self.next(address).wrapping_add_signed(operand.disp as i64)),
            None => None,
        }
    }

    /// Whether the next instruction is never reached from this one (a call is taken to return).
    #[must_use]
    pub const fn ends_block(&self) -> bool {
        matches!(self.flow, Flow::Jump { .. } | Flow::IndirectJump | Flow::Return | Flow::Trap)
    }
}

/// Decodes the instruction at the start of `bytes`, in 64-bit mode.
///
/// `None` means: not an instruction that compilers emit, or cut off by the end of `bytes`.
#[must_use]
#[inline]
pub fn decode(bytes: &[u8]) -> Option<Insn> {
    let mut cursor = Cursor { bytes, pos: 0 };
    let (prefixes, first) = prefixes(&mut cursor)?;
    let (map, opcode) = opcode(&mut cursor, prefixes, first)?;
    let attributes = map.attributes(opcode);
    let form = Form { prefixes, map, opcode, attributes };
    operands(&mut cursor, form)
}

/// Bytes being read. Reading past the end is `None`.
struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl Cursor<'_> {
    #[inline]
    fn u8(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.pos)?;
        self.pos += 1;
        Some(byte)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.bytes.get(self.pos..)?.first_chunk()?;
        self.pos += N;
        Some(array)
    }

    #[inline]
    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    fn skip(&mut self, n: usize) -> Option<()> {
        self.pos += n;
        (self.pos <= self.bytes.len()).then_some(())
    }
}

/// The prefixes that change a length, a displacement, or what a repetition writes.
#[derive(Clone, Copy)]
struct Prefixes {
    operand16: bool,
    address32: bool,
    repeat: bool,
    /// The REX byte, or 0. Only one that stands right before the opcode counts.
    rex: u8,
}

impl Prefixes {
    fn wide(self) -> bool {
        self.rex & 8 != 0
    }

    /// Whether a prefix is there that selects another instruction in the `0f` map.
    fn mandatory(self) -> bool {
        self.operand16 || self.repeat
    }
}

/// Reads all prefixes and the first byte after them.
#[inline]
fn prefixes(cursor: &mut Cursor<'_>) -> Option<(Prefixes, u8)> {
    let mut found = Prefixes { operand16: false, address32: false, repeat: false, rex: 0 };
    loop {
        let byte = cursor.u8()?;
        match byte {
            0x40..=0x4f => {
                found.rex = byte;
                continue;
            }
            0x66 => found.operand16 = true,
            0x67 => found.address32 = true,
            0xf2 | 0xf3 => found.repeat = true,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf0 => {}
            _ => return Some((found, byte)),
        }
        found.rex = 0;
    }
}

/// Which table an opcode is looked up in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Map {
    OneByte,
    /// `0f`.
    TwoByte,
    /// `0f 38` and `0f 3a`, legacy; an immediate byte in the second.
    Long {
        immediate: bool,
    },
    /// VEX or EVEX with its map number.
    Vector {
        map: u8,
        evex: bool,
    },
    /// AMD's XOP with its map number.
    Xop {
        map: u8,
    },
}

impl Map {
    #[inline]
    fn attributes(self, opcode: u8) -> Attributes {
        match self {
            Map::OneByte => tables::ONE_BYTE[opcode as usize],
            Map::TwoByte => tables::TWO_BYTE[opcode as usize],
            Map::Long { immediate } => tables::long(opcode, immediate),
            Map::Vector { map, evex } => tables::vector(map, evex, opcode),
            Map::Xop { map } => tables::xop(map),
        }
    }
}

/// Reads escapes and vector prefixes up to the opcode itself.
#[inline]
fn opcode(cursor: &mut Cursor<'_>, prefixes: Prefixes, first: u8) -> Option<(Map, u8)> {
    match first {
        0x0f => match cursor.u8()? {
            0x38 => Some((Map::Long { immediate: false }, cursor.u8()?)),
            0x3a => Some((Map::Long { immediate: true }, cursor.u8()?)),
            second => Some((Map::TwoByte, second)),
        },
        0xc5 => {
            cursor.u8()?;
            Some((Map::Vector { map: 1, evex: false }, cursor.u8()?))
        }
        0xc4 => {
            let [first, _] = cursor.array()?;
            Some((Map::Vector { map: first & 0x1f, evex: false }, cursor.u8()?))
        }
        0x62 => {
            let [first, _, _] = cursor.array()?;
            Some((Map::Vector { map: first & 7, evex: true }, cursor.u8()?))
        }
        // `8f` is `pop r/m` unless its map field says XOP.
        0x8f if prefixes.rex == 0 && cursor.bytes.get(cursor.pos)? & 0x1f >= 8 => {
            let [first, _] = cursor.array()?;
            Some((Map::Xop { map: first & 0x1f }, cursor.u8()?))
        }
        _ => Some((Map::OneByte, first)),
    }
}

/// What is known of an instruction once its opcode is read.
#[derive(Clone, Copy)]
struct Form {
    prefixes: Prefixes,
    map: Map,
    opcode: u8,
    attributes: Attributes,
}

impl Form {
    /// `test`, `not`, `neg`, `mul` … under one opcode.
    fn is_group3(self) -> bool {
        matches!(self.opcode, 0xf6 | 0xf7) && self.map == Map::OneByte
    }

    fn is(self, map: Map, opcode: u8) -> bool {
        self.opcode == opcode && self.map == map
    }
}

/// Reads ModRM, displacement and immediate, and puts the answer together.
#[inline]
fn operands(cursor: &mut Cursor<'_>, form: Form) -> Option<Insn> {
    let mut insn = Insn {
        len: 0,
        flow: Flow::Next,
        flags: form.attributes.flags(),
        rip_operand: None,
        immediate: None,
        disp32: None,
    };
    let mut modrm = 0;
    if form.attributes.has_modrm() {
        modrm = cursor.u8()?;
        // Moves to and from control and debug registers take their ModRM as register-register always.
        let register_only = form.map == Map::TwoByte && matches!(form.opcode, 0x20..=0x23);
        if !register_only && modrm < 0xc0 {
            memory(cursor, modrm, form.is(Map::OneByte, 0x8d), &mut insn)?;
        }
    }
    let value = immediate(cursor, form, modrm, &mut insn)?;
    finish(form, modrm, value, &mut insn)?;
    if cursor.pos > MAX_LEN {
        return None;
    }
    insn.len = cursor.pos as u8;
    Some(insn)
}

/// Reads SIB and displacement of a memory operand.
#[inline]
fn memory(cursor: &mut Cursor<'_>, modrm: u8, is_lea: bool, insn: &mut Insn) -> Option<()> {
    let mode = modrm >> 6;
    let mut base = modrm & 7;
    let has_sib = base == 4;
    if has_sib {
        base = cursor.u8()? & 7;
    }
    match mode {
        0 if base == 5 => {
            let disp = cursor.i32()?;
            if has_sib {
                insn.disp32 = Some(disp);
            } else {
                insn.rip_operand = Some(RipOperand { disp, is_lea });
            }
        }
        0 => {}
        1 => cursor.skip(1)?,
        _ => insn.disp32 = Some(cursor.i32()?),
    }
    Some(())
}

/// Reads the immediate and returns its value, as far as four bytes can hold it.
#[inline]
fn immediate(cursor: &mut Cursor<'_>, form: Form, modrm: u8, insn: &mut Insn) -> Option<i32> {
    let wide = form.prefixes.wide();
    let value = match form.attributes.immediate() {
        // Of f6 and f7 only `test` has one.
        _ if form.is_group3() && modrm & 0x38 > 8 => 0,
        // SSE4a's extrq and insertq, under the opcode of vmread.
        _ if form.is(Map::TwoByte, 0x78) && form.prefixes.mandatory() => {
            cursor.skip(2)?;
            0
        }
        Immediate::None => 0,
        Immediate::Byte => i32::from(cursor.u8()?.cast_signed()),
        Immediate::TwoBytes => i32::from(cursor.array().map(i16::from_le_bytes)?),
        Immediate::Operand | Immediate::Wide if form.prefixes.operand16 && !wide => {
            i32::from(cursor.array().map(i16::from_le_bytes)?)
        }
        Immediate::Wide if wide => {
            let value = i64::from_le_bytes(cursor.array()?);
            insn.immediate = Some(value);
            value as i32
        }
        Immediate::Operand | Immediate::Wide => {
            let value = cursor.i32()?;
            insn.immediate = Some(i64::from(value));
            value
        }
        Immediate::Rel32 => cursor.i32()?,
        rest => {
            cursor.skip(rest.bytes(form.prefixes.address32))?;
            0
        }
    };
    Some(value)
}

/// Settles flow and flags: by the opcode's class, then by ModRM where that decides.
#[inline]
fn finish(form: Form, modrm: u8, value: i32, insn: &mut Insn) -> Option<()> {
    let rel = value;
    match form.attributes.class() {
        Class::Plain => {}
        Class::Invalid => return None,
        Class::Jump => insn.flow = Flow::Jump { rel },
        Class::Cond => insn.flow = Flow::Cond { rel },
        Class::Call => insn.flow = Flow::Call { rel },
        Class::Return => insn.flow = Flow::Return,
        Class::Trap => insn.flow = Flow::Trap,
        Class::String if form.prefixes.repeat => insn.flags = FlagUse::Neither,
        Class::String => {}
        Class::Refined => refine(form, modrm, value, insn)?,
    }
    Some(())
}

/// The opcodes whose meaning is in ModRM's `reg` field.
fn refine(form: Form, modrm: u8, value: i32, insn: &mut Insn) -> Option<()> {
    let reg = modrm >> 3 & 7;
    let is_register = modrm >= 0xc0;
    match form.opcode {
        // add or adc sbb and sub xor cmp
        0x80..=0x83 => insn.flags = if matches!(reg, 2 | 3) { FlagUse::Reads } else { FlagUse::Overwrites },
        // By an immediate that may be 0, by 1, by cl: rol ror rcl rcr shl shr shl sar.
        0xc0 | 0xc1 | 0xd0..=0xd3 => insn.flags = shift_flags(form.opcode, reg, value),
        // fcmovcc reads, fcomi writes: all register forms of these two count as reading.
        0xda | 0xdb if is_register => insn.flags = FlagUse::Reads,
        // test test not neg mul imul div idiv; what the last four leave undefined is not relied on here.
        0xf6 | 0xf7 => insn.flags = if matches!(reg, 0 | 1 | 3) { FlagUse::Overwrites } else { FlagUse::Neither },
        // mov, or xbegin, which goes to its displacement when the transaction aborts.
        0xc7 if modrm == 0xf8 => {
            insn.immediate = None;
            insn.flow = Flow::Cond { rel: value };
            insn.flags = FlagUse::Reads;
        }
        0xff => match reg {
            2 | 3 => insn.flow = Flow::IndirectCall,
            4 | 5 => insn.flow = Flow::IndirectJump,
            7 => return None,
            _ => {}
        },
        _ => {}
    }
    Some(())
}

/// A shift by a count of 0 leaves the flags alone, a rotation touches two of them.
fn shift_flags(opcode: u8, reg: u8, immediate: i32) -> FlagUse {
    let count = match opcode {
        0xc0 | 0xc1 => immediate & 0x1f,
        0xd0 | 0xd1 => 1,
        _ => 0,
    };
    match reg {
        2 | 3 => FlagUse::Reads,
        4..=7 if count != 0 => FlagUse::Overwrites,
        _ => FlagUse::Neither,
    }
}

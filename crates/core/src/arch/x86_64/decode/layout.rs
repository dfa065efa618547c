//! Where the fields of an instruction stand.
//!
//! Everything is looked up, little is branched on: which bytes follow an opcode is hard to predict, and a
//! mispredicted branch costs more than the rest of an instruction's decoding. So the usual case, an opcode
//! of one byte with or without a REX prefix, runs straight through; prefixes and longer opcodes are read by
//! a loop beside it.

use super::{
    MAX_LEN,
    tables::{self, Attributes, Class, Immediate},
};

/// Bytes looked at: an instruction, and one more so that the number is even.
pub(super) const WINDOW: usize = MAX_LEN + 1;

/// The bytes from an instruction's start on.
pub(super) type Window = [u8; WINDOW];

/// The prefixes that change a length or a meaning.
#[derive(Clone, Copy, Default)]
struct Prefixes {
    repeat: bool,
    operand16: bool,
    address32: bool,
    /// The REX byte, or 0. Only one that stands right before the opcode counts.
    rex: u8,
}

impl Prefixes {
    fn is_wide(self) -> bool {
        self.rex & 8 != 0
    }
}

/// An instruction's fields.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// A repeat prefix stands before it.
    pub(super) repeats: bool,
    pub(super) attributes: Attributes,
    pub(super) opcode: u8,
    /// ModRM, 0 where there is none.
    pub(super) modrm: u8,
    /// The immediate goes from here to the end.
    pub(super) immediate_at: u8,
    pub(super) len: u8,
}

/// An opcode and what was before it.
struct Head {
    prefixes: Prefixes,
    attributes: Attributes,
    opcode: u8,
    /// Behind the opcode.
    at: usize,
}

impl Layout {
    /// Reads what starts at the window's start.
    #[inline]
    pub(super) fn read(window: &Window) -> Option<Layout> {
        let head = head(window)?;
        let Head { prefixes, attributes, opcode, at } = head;
        // Without ModRM this is 0, behind which nothing follows. A mask, since half of all instructions have
        // one, in no order that a processor could predict.
        let modrm = window[at % WINDOW] & attributes.has_modrm().wrapping_neg();
        let operand_at = at + usize::from(attributes.has_modrm());
        let at = operand_at + memory_len(window, attributes, modrm, operand_at);
        let len = at + immediate_len(prefixes, attributes, modrm);
        if len > MAX_LEN || attributes.class() == Class::Invalid {
            return None;
        }
        let repeats = prefixes.repeat;
        Some(Layout { repeats, attributes, opcode, modrm, immediate_at: at as u8, len: len as u8 })
    }
}

/// Reads up to the opcode: at once where it has one byte, after no prefix but REX.
#[inline]
fn head(window: &Window) -> Option<Head> {
    let has_rex = window[0] & 0xf0 == 0x40;
    let opcode = window[usize::from(has_rex)];
    let attributes = tables::ONE_BYTE[usize::from(opcode)];
    if attributes.class() == Class::Escape || opcode == 0x8f {
        return long_head(window);
    }
    let rex = if has_rex { window[0] } else { 0 };
    let prefixes = Prefixes { rex, ..Prefixes::default() };
    Some(Head { prefixes, attributes, opcode, at: 1 + usize::from(has_rex) })
}

/// The same with prefixes and escapes.
fn long_head(window: &Window) -> Option<Head> {
    let (prefixes, at) = prefixes(window)?;
    let byte = |offset: usize| window.get(at + offset).copied();
    let short = |opcode| (tables::ONE_BYTE[usize::from(opcode)], opcode, 1);
    let (attributes, opcode, len) = match byte(0)? {
        0x0f => match byte(1)? {
            0x38 => (tables::LONG, byte(2)?, 3),
            0x3a => (tables::LONG_BYTE, byte(2)?, 3),
            second => (tables::TWO_BYTE[usize::from(second)], second, 2),
        },
        0xc5 => (tables::vector(1, false, byte(2)?), byte(2)?, 3),
        0xc4 => (tables::vector(byte(1)? & 0x1f, false, byte(3)?), byte(3)?, 4),
        0x62 => (tables::vector(byte(1)? & 7, true, byte(4)?), byte(4)?, 5),
        // `8f` is `pop r/m` unless its map field says XOP.
        0x8f if prefixes.rex == 0 && byte(1)? & 0x1f >= 8 => (tables::xop(byte(1)? & 0x1f), byte(3)?, 4),
        opcode => short(opcode),
    };
    Some(Head { prefixes, attributes, opcode, at: at + len })
}

/// All prefixes, and the place behind them.
fn prefixes(window: &Window) -> Option<(Prefixes, usize)> {
    let mut found = Prefixes::default();
    for (at, &byte) in window.iter().enumerate() {
        match byte {
            0x40..=0x4f => {
                found.rex = byte;
                continue;
            }
            0x66 => found.operand16 = true,
            0x67 => found.address32 = true,
            0xf2 | 0xf3 => found.repeat = true,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf0 => {}
            _ => return Some((found, at)),
        }
        found.rex = 0;
    }
    None
}

/// Bytes of SIB and displacement, which stand at `at`.
#[inline]
fn memory_len(window: &Window, attributes: Attributes, modrm: u8, at: usize) -> usize {
    // Where memory is never meant, the byte is looked up as if it said so.
    let modrm = if attributes.is_registers_only() { 0xc0 } else { modrm };
    let follows = tables::MODRM[usize::from(modrm)];
    let no_base = (follows & tables::NO_BASE != 0) & (window[at % WINDOW] & 7 == 5);
    usize::from(follows & !tables::NO_BASE) + 4 * usize::from(no_base)
}

/// Bytes of the immediate.
#[inline]
fn immediate_len(prefixes: Prefixes, attributes: Attributes, modrm: u8) -> usize {
    let kind = attributes.immediate();
    // 0, 1 or 2, in a form that lets the compiler see it.
    let column = if prefixes.is_wide() { 2 } else { usize::from(prefixes.operand16) };
    if kind >= Immediate::Offset as usize {
        let is_test = modrm & 0x38 <= 8;
        let is_sse4a = prefixes.operand16 || prefixes.repeat;
        match kind {
            _ if kind == Immediate::Offset as usize => {
                return if prefixes.address32 { 4 } else { 8 };
            }
            _ if kind == Immediate::Sse4a as usize => return if is_sse4a { 2 } else { 0 },
            _ if !is_test => return 0,
            _ => {}
        }
    }
    usize::from(tables::IMMEDIATE_LEN[kind][column])
}

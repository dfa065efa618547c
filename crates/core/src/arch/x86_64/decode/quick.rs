//! The lengths of most instructions, in few steps.
//!
//! Where the next instruction begins is known only when the length of this one is, so what counts is how long
//! the longest chain of steps is that depend on each other. Eight bytes are read as one word and shifted,
//! instead of byte after byte. Opcode and ModRM are looked up side by side, as if there were a ModRM, and
//! what does not count is masked away. What remains for [`super::layout`]: vector prefixes, several prefixes,
//! immediates that depend on a prefix or on ModRM.

use super::layout::Window;
use super::tables::{self, Attributes, Class, Immediate};

/// Bit 0: a ModRM byte follows. Bits 1 to 4: bytes of the immediate. [`WIDE`], [`OTHER`].
type Table = [u8; 256];

/// With REX.W the immediate has four bytes more.
const WIDE: u8 = 1 << 5;
/// It is not one of these.
const OTHER: u8 = 1 << 7;

static ONE_BYTE: Table = table(&tables::ONE_BYTE, true);
static TWO_BYTE: Table = table(&tables::TWO_BYTE, false);

const fn table(of: &[Attributes; 256], is_one_byte: bool) -> Table {
    let mut table = [OTHER; 256];
    let mut opcode = 0;
    while opcode < 256 {
        let attributes = of[opcode];
        let immediate = attributes.immediate();
        let is_known = !matches!(attributes.class(), Class::Escape | Class::Invalid)
            && !attributes.is_registers_only()
            && immediate < Immediate::Offset as usize
            // `pop`, or XOP; the group with no seventh operation; and what begins the longer opcodes.
            && if is_one_byte { opcode != 0x8f && opcode != 0xff } else { opcode != 0x38 && opcode != 0x3a };
        if is_known {
            let wide = if immediate == Immediate::Wide as usize { WIDE } else { 0 };
            table[opcode] = attributes.has_modrm() | tables::IMMEDIATE_LEN[immediate][0] << 1 | wide;
        }
        opcode += 1;
    }
    table
}

/// The length of an instruction of the usual kinds.
#[inline]
pub(super) fn length(window: &Window) -> Option<u8> {
    let (word, _) = window.split_first_chunk()?;
    let word = u64::from_le_bytes(*word);
    let rex = has_rex(word);
    let rest = word >> (8 * rex);
    let found = ONE_BYTE[(rest & 0xff) as usize];
    if found & OTHER != 0 {
        return two_bytes(word);
    }
    let wide = (found & WIDE) >> 3 & (word as u8 & rex << 3) >> 1;
    Some(1 + rex + behind(rest >> 8, found) + wide)
}

/// The same behind `0f`, and at most one prefix that says which operation is meant and nothing about lengths
/// there.
#[inline]
fn two_bytes(word: u64) -> Option<u8> {
    let prefix = u8::from(matches!(word as u8, 0x66 | 0xf2 | 0xf3));
    let word = word >> (8 * prefix);
    let rex = has_rex(word);
    let rest = word >> (8 * rex);
    let found = TWO_BYTE[(rest >> 8 & 0xff) as usize];
    (rest as u8 == 0x0f && found & OTHER == 0).then(|| prefix + rex + 2 + behind(rest >> 16, found))
}

fn has_rex(word: u64) -> u8 {
    u8::from(word & 0xf0 == 0x40)
}

/// Bytes of ModRM, SIB, displacement and immediate, which are in `rest`.
#[inline]
fn behind(rest: u64, found: u8) -> u8 {
    let follows = tables::MODRM[(rest & 0xff) as usize];
    let no_base = follows >> 7 & u8::from(rest >> 8 & 7 == 5);
    let operand = 1 + (follows & !tables::NO_BASE) + 4 * no_base;
    (operand & (found & 1).wrapping_neg()) + (found >> 1 & 15)
}

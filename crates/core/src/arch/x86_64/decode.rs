//! How long an instruction is, where it goes, and what it does to the status flags.
//!
//! Sites are trusted only when they stand on an instruction boundary, and a jump site only when the flags
//! are dead at every label it may go to. Both questions are answered by reading a function from its start,
//! one [`decode`] after the other. So this decoder knows no operand but those that can name code: direct
//! branches, rip-relative operands, and constants wide enough for an address.
//!
//! Every opcode has one attributes word (module `tables`): whether a ModRM byte follows, how many immediate
//! bytes, how control goes on, what happens to the flags. From it follows where each field stands and how
//! long the instruction is (module `layout`), and from that the answer. The few opcodes whose meaning
//! depends on ModRM's `reg` field (`f6`, `ff`, the shifts …) are settled last, in `refine`.
//!
//! Two promises, both held by tests against another decoder (iced-x86):
//! * any bytes are fine: the answer is `None` for what no compiler emits, never a panic;
//! * flags err on one side. [`FlagUse::Overwrites`] is said only when all six are certainly replaced, and
//!   whatever is not known counts as [`FlagUse::Reads`].
//!
//! `66 e8`, `66 e9` and `66 0f 8x` have a 16-bit displacement on AMD and a 32-bit one on Intel. They are
//! read Intel's way; a site is never accepted with that prefix.

mod layout;
mod tables;

use layout::{Displacement, Layout, WINDOW, Window};
use tables::Class;

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
    match bytes.first_chunk() {
        Some(window) => interpret(window, Layout::read(window)?),
        None => decode_short(bytes),
    }
}

/// The length of the instruction at the start of `bytes`, for who needs no more: twice as fast.
#[must_use]
#[inline]
pub fn length(bytes: &[u8]) -> Option<u8> {
    match bytes.first_chunk() {
        Some(window) => Layout::read(window).map(|layout| layout.len),
        None => decode_short(bytes).map(|insn| insn.len),
    }
}

/// Near the end of the text: zeros behind it stand for what is missing, and must not be needed.
#[cold]
fn decode_short(bytes: &[u8]) -> Option<Insn> {
    let mut window = [0; WINDOW];
    window.get_mut(..bytes.len())?.copy_from_slice(bytes);
    let insn = interpret(&window, Layout::read(&window)?)?;
    (usize::from(insn.len) <= bytes.len()).then_some(insn)
}

/// Puts the answer together from where things stand.
#[inline]
fn interpret(window: &Window, layout: Layout) -> Option<Insn> {
    let mut insn = Insn {
        len: layout.len,
        flow: Flow::Next,
        flags: layout.attributes.flags(),
        rip_operand: None,
        immediate: None,
        disp32: None,
    };
    match layout.displacement() {
        Displacement::None => {}
        Displacement::Rip(at) => {
            insn.rip_operand = Some(RipOperand { disp: i32_at(window, at)?, is_lea: layout.is_lea() });
        }
        Displacement::Absolute(at) => insn.disp32 = Some(i32_at(window, at)?),
    }
    let at = usize::from(layout.immediate_at);
    let value = match layout.len - layout.immediate_at {
        0 => 0,
        1 => i32::from(window[at % WINDOW].cast_signed()),
        4 => {
            let value = i32_at(window, at)?;
            insn.immediate = Some(i64::from(value));
            value
        }
        8 if layout.is_wide() => {
            let value = i64::from_le_bytes(*window.get(at..)?.first_chunk()?);
            insn.immediate = Some(value);
            value as i32
        }
        2 => i32::from(i16::from_le_bytes(*window.get(at..)?.first_chunk()?)),
        _ => 0,
    };
    if layout.attributes.class() != Class::Plain {
        classify(layout, value, &mut insn)?;
    }
    Some(insn)
}

#[inline]
fn i32_at(window: &Window, at: usize) -> Option<i32> {
    window.get(at..)?.first_chunk().map(|bytes| i32::from_le_bytes(*bytes))
}

/// Settles flow and flags of what is not plain: by the opcode's class, then by ModRM where that decides.
/// `value` is the immediate, so a branch's displacement.
fn classify(layout: Layout, value: i32, insn: &mut Insn) -> Option<()> {
    let rel = value;
    match layout.attributes.class() {
        Class::Plain => {}
        Class::Escape | Class::Invalid => return None,
        Class::Jump => insn.flow = Flow::Jump { rel },
        Class::Cond => insn.flow = Flow::Cond { rel },
        Class::Call => insn.flow = Flow::Call { rel },
        Class::Return => insn.flow = Flow::Return,
        Class::Trap => insn.flow = Flow::Trap,
        Class::String if layout.prefixes.repeat => insn.flags = FlagUse::Neither,
        Class::String => {}
        Class::Refined => refine(layout, value, insn)?,
    }
    if layout.attributes.class().is_direct() {
        insn.immediate = None;
    }
    Some(())
}

/// The opcodes whose meaning is in ModRM's `reg` field.
fn refine(layout: Layout, value: i32, insn: &mut Insn) -> Option<()> {
    let modrm = layout.modrm;
    let reg = modrm >> 3 & 7;
    let is_register = modrm >= 0xc0;
    match layout.opcode {
        // uiret, among what only kernels and hypervisors do.
        0x01 if modrm == 0xec && layout.prefixes.repeat => insn.flow = Flow::Return,
        // add or adc sbb and sub xor cmp
        0x80..=0x83 => insn.flags = if matches!(reg, 2 | 3) { FlagUse::Reads } else { FlagUse::Overwrites },
        // By an immediate that may be 0, by 1, by cl: rol ror rcl rcr shl shr shl sar.
        0xc0 | 0xc1 | 0xd0..=0xd3 => insn.flags = shift_flags(layout.opcode, reg, value),
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

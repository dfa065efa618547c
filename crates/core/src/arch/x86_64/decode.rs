//! How long an instruction is, and where it goes.
//!
//! Sites are trusted only when they stand on an instruction boundary. That is found out by reading a function
//! from its start, one instruction after the other. So this decoder knows no operand but a direct branch's
//! displacement.
//!
//! Every opcode has one attributes word (module `tables`): whether a ModRM byte follows, how many immediate
//! bytes, how control goes on. From it follows where each field stands and how long the instruction is
//! (module `layout`), and from that the answer. The few opcodes whose meaning depends on ModRM's `reg` field
//! are settled last, in `refine`. Reading a program's functions is most of what its start takes, so
//! [`length`] has a shorter way for the opcodes that most instructions have (module `quick`).
//!
//! One promise, held by tests against another decoder (iced-x86): any bytes are fine. The answer is `None`
//! for what no compiler emits, never a panic.
//!
//! `66 e8`, `66 e9` and `66 0f 8x` have a 16-bit displacement on AMD and a 32-bit one on Intel. They are
//! read Intel's way; a site is never accepted with that prefix.

mod layout;
mod quick;
mod tables;

use layout::{Layout, WINDOW, Window};
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

/// One decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Insn {
    /// Length in bytes, 1 to 15.
    pub len: u8,
    /// Where control goes.
    pub flow: Flow,
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

/// The length of the instruction at the start of `bytes`, for who needs no more.
#[must_use]
#[inline]
pub fn length(bytes: &[u8]) -> Option<u8> {
    match bytes.first_chunk() {
        Some(window) => quick::length(window).or_else(|| long_length(window)),
        None => decode_short(bytes).map(|insn| insn.len),
    }
}

/// By the long way. Apart, so that the short one fits into the loops that need it.
#[cold]
fn long_length(window: &Window) -> Option<u8> {
    Some(interpret(window, Layout::read(window)?)?.len)
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
    let flow = match layout.attributes.class() {
        Class::Plain => Flow::Next,
        Class::Escape | Class::Invalid => return None,
        Class::Jump => Flow::Jump { rel: displacement(window, layout)? },
        Class::Cond => Flow::Cond { rel: displacement(window, layout)? },
        Class::Call => Flow::Call { rel: displacement(window, layout)? },
        Class::Return => Flow::Return,
        Class::Trap => Flow::Trap,
        Class::Refined => refine(window, layout)?,
    };
    Some(Insn { len: layout.len, flow })
}

/// The immediate of a direct branch.
fn displacement(window: &Window, layout: Layout) -> Option<i32> {
    let bytes = window.get(usize::from(layout.immediate_at)..usize::from(layout.len))?;
    match *bytes {
        [byte] => Some(i32::from(byte.cast_signed())),
        [a, b] => Some(i32::from(i16::from_le_bytes([a, b]))),
        _ => bytes.first_chunk().map(|bytes| i32::from_le_bytes(*bytes)),
    }
}

/// The opcodes whose way is in ModRM's `reg` field.
fn refine(window: &Window, layout: Layout) -> Option<Flow> {
    let modrm = layout.modrm;
    Some(match (layout.opcode, modrm >> 3 & 7) {
        // uiret, among what only kernels and hypervisors do.
        (0x01, _) if modrm == 0xec && layout.repeats => Flow::Return,
        // mov, or xbegin, which goes to its displacement when the transaction aborts.
        (0xc7, _) if modrm == 0xf8 => Flow::Cond { rel: displacement(window, layout)? },
        (0xff, 2 | 3) => Flow::IndirectCall,
        (0xff, 4 | 5) => Flow::IndirectJump,
        (0xff, 7) => return None,
        _ => Flow::Next,
    })
}

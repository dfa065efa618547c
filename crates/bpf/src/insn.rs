//! The encoded form of an instruction: eight bytes (RFC 9669 section 3).
//!
//! ```text
//! opcode:8  dst:4  src:4  offset:16  imm:32        little-endian, dst in the low nibble
//! ```

/// Bytes of one instruction slot.
pub const BYTES: usize = 8;

/// One instruction slot; a 64-bit immediate load takes two of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Insn {
    /// Class in the low three bits; the rest depends on the class.
    pub opcode: u8,
    /// Destination register, 0 to 15 as encoded.
    pub dst: u8,
    /// Source register, or what kind of call or immediate it is.
    pub src: u8,
    /// Signed offset of a jump (in slots) or memory operand (in bytes).
    pub offset: i16,
    /// Immediate.
    pub imm: i32,
}

impl Insn {
    /// Decodes one slot.
    #[must_use]
    pub const fn from_bytes(b: [u8; BYTES]) -> Insn {
        Insn {
            opcode: b[0],
            dst: b[1] & 15,
            src: b[1] >> 4,
            offset: i16::from_le_bytes([b[2], b[3]]),
            imm: i32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        }
    }

    /// Encodes one slot.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; BYTES] {
        let offset = self.offset.to_le_bytes();
        let imm = self.imm.to_le_bytes();
        [self.opcode, (self.dst & 15) | self.src << 4, offset[0], offset[1], imm[0], imm[1], imm[2], imm[3]]
    }
}

/// Decodes a section's worth of slots; `None` when the length is not a multiple of [`BYTES`].
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Vec<Insn>> {
    let (slots, rest) = bytes.as_chunks::<BYTES>();
    rest.is_empty().then(|| slots.iter().map(|slot| Insn::from_bytes(*slot)).collect())
}

/// Instruction classes, the low three bits of the opcode (RFC 9669 section 3.1).
pub mod class {
    /// Load immediate; packet access of classic filters.
    pub const LD: u8 = 0;
    /// Load from memory.
    pub const LDX: u8 = 1;
    /// Store an immediate.
    pub const ST: u8 = 2;
    /// Store a register; atomics.
    pub const STX: u8 = 3;
    /// 32-bit arithmetic.
    pub const ALU: u8 = 4;
    /// 64-bit comparisons, calls, exit.
    pub const JMP: u8 = 5;
    /// 32-bit comparisons, long jump.
    pub const JMP32: u8 = 6;
    /// 64-bit arithmetic.
    pub const ALU64: u8 = 7;
}

/// What the source field of a 64-bit immediate load says (RFC 9669 section 5.4).
pub mod imm64 {
    /// A plain number.
    pub const NUMBER: u8 = 0;
    /// A map; `imm` is its index among the program's maps.
    pub const MAP: u8 = 1;
    /// The first value of a map plus the second slot's `imm`.
    pub const MAP_VALUE: u8 = 2;
    /// A function of the program, relative to the next slot.
    pub const FUNCTION: u8 = 4;
}

/// What the source field of a call says (RFC 9669 section 4.3).
pub mod call {
    /// A function of the runtime by number.
    pub const HELPER: u8 = 0;
    /// A function of the program, relative to the next slot.
    pub const LOCAL: u8 = 1;
}

/// Bit 3 of arithmetic and jump opcodes: the second operand is a register.
pub const SOURCE_REG: u8 = 0x08;
/// `ld_imm64`.
pub const LD_IMM64: u8 = 0x18;
/// `call`.
pub const CALL: u8 = 0x85;
/// `callx`: a call of what a register says.
pub const CALL_REG: u8 = CALL | SOURCE_REG;
/// `may_goto`.
pub const MAY_GOTO: u8 = 0xe5;
/// `exit`.
pub const EXIT: u8 = 0x95;

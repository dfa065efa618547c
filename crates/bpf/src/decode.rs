//! From instruction slots to [`Op`]s, one at a time.
//!
//! Everything that a single instruction can get wrong is refused here: unknown opcodes, registers above r10,
//! reserved fields that are not zero (RFC 9669 section 3: "unused fields SHALL be set to zero"), writes to
//! the frame pointer, jumps out of the program. What needs more than one instruction is [`crate::check`]'s.

use crate::insn::{self, Insn, call, class, imm64};
use crate::op::{Alu, Atomic, Cond, Op, Operand, Order, R, Size, Width};

/// What is wrong with an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InsnError {
    /// No such instruction.
    #[error("unknown opcode {0:#04x}")]
    UnknownOpcode(u8),
    /// A field that the instruction does not use is not zero.
    #[error("a reserved field is not zero")]
    Reserved,
    /// There are registers r0 to r10 only.
    #[error("there is no register r{0}")]
    BadRegister(u8),
    /// r10 cannot be written.
    #[error("the frame pointer r10 is read-only")]
    WritesFramePointer,
    /// A 64-bit immediate load in the last slot, or followed by something that is not its second half.
    #[error("incomplete 64-bit immediate load")]
    IncompleteImm64,
    /// A kind of 64-bit immediate that is not supported (variables by BTF id, code addresses).
    #[error("64-bit immediate of unsupported kind {0}")]
    UnsupportedImm64(u8),
    /// No such atomic operation.
    #[error("unknown atomic operation {0:#x}")]
    UnknownAtomic(i32),
    /// A kind of call that is not supported (by BTF id).
    #[error("call of unsupported kind {0}")]
    UnsupportedCall(u8),
    /// A jump or call leads out of the program.
    #[error("jump out of the program, to instruction {0}")]
    JumpOutside(i64),
    /// A jump or call leads into the second half of a 64-bit immediate load.
    #[error("jump into the middle of instruction {0}")]
    JumpIntoMiddle(u32),
    /// A jump leads into another function.
    #[error("jump into another function, to instruction {0}")]
    JumpIntoFunction(u32),
    /// The last instruction of a function is neither exit nor a jump.
    #[error("execution runs off the end of the function")]
    FallsOff,
    /// Functions call each other in a circle, or nest too deep.
    #[error("calls nest deeper than {limit} functions, or for ever", limit = crate::check::MAX_FRAMES)]
    CallsTooDeep,
    /// An access through r10 outside the function's 512 bytes of stack.
    #[error("stack access at r10{offset:+} of {size} bytes is outside the frame of 512 bytes")]
    StackAccess {
        /// Offset from r10.
        offset: i16,
        /// Bytes.
        size: usize,
    },
    /// The runtime has no helper of this number.
    #[error("there is no helper {0}")]
    UnknownHelper(u32),
    /// The program has no map of this number.
    #[error("there is no map {0}")]
    UnknownMap(u32),
    /// An address inside a map that has no memory of its own, or beyond its values.
    #[error("map {0} has no such address")]
    NoMapValue(u32),
    /// A tail call whose second argument is not known to be one program array.
    #[error("the program array of a tail call is not known when the program is loaded")]
    UnknownProgArray,
}

/// Immediates of the ordered load and store.
const LOAD_ACQUIRE: i32 = 0x100;
const STORE_RELEASE: i32 = 0x110;

fn reg(n: u8) -> Result<R, InsnError> {
    R::new(n).ok_or(InsnError::BadRegister(n))
}

fn writable(n: u8) -> Result<R, InsnError> {
    match reg(n)? {
        R::FP => Err(InsnError::WritesFramePointer),
        r => Ok(r),
    }
}

fn zero(fields: &[i64]) -> Result<(), InsnError> {
    if fields.iter().all(|f| *f == 0) { Ok(()) } else { Err(InsnError::Reserved) }
}

/// The second operand, and that the unused one of register and immediate is zero.
fn operand(i: Insn) -> Result<Operand, InsnError> {
    if i.opcode & insn::SOURCE_REG == 0 {
        zero(&[i.src.into()])?;
        Ok(Operand::Imm(i.imm))
    } else {
        zero(&[i.imm.into()])?;
        reg(i.src).map(Operand::Reg)
    }
}

/// Decodes the instruction at slot `at` of `program`.
///
/// # Errors
/// What is wrong with it.
pub fn decode(program: &[Insn], at: usize) -> Result<Op, InsnError> {
    let i = *program.get(at).ok_or(InsnError::JumpOutside(at as i64))?;
    match i.opcode & 7 {
        class::ALU => arithmetic(i, Width::W32),
        class::ALU64 => arithmetic(i, Width::W64),
        class::JMP => jump(program.len(), at, i, Width::W64),
        class::JMP32 => jump(program.len(), at, i, Width::W32),
        class::LD => load_imm(program.len(), at, i, program.get(at + 1).copied()),
        class::LDX => load(i),
        class::ST | class::STX => store(i),
        _ => unreachable!("three bits"),
    }
}

fn arithmetic(i: Insn, width: Width) -> Result<Op, InsnError> {
    let dst = writable(i.dst)?;
    let op = match (i.opcode >> 4, i.offset) {
        (0x0, 0) => Alu::Add,
        (0x1, 0) => Alu::Sub,
        (0x2, 0) => Alu::Mul,
        (0x3, 0) => Alu::Div,
        (0x3, 1) => Alu::Sdiv,
        (0x4, 0) => Alu::Or,
        (0x5, 0) => Alu::And,
        (0x6, 0) => Alu::Lsh,
        (0x7, 0) => Alu::Rsh,
        (0x8, 0) => return negate(i, width, dst),
        (0x9, 0) => Alu::Mod,
        (0x9, 1) => Alu::Smod,
        (0xa, 0) => Alu::Xor,
        (0xb, 0) => Alu::Mov,
        (0xb, _) => return move_extended(i, width, dst),
        (0xc, 0) => Alu::Arsh,
        (0xd, 0) => return swap(i, width, dst),
        (0xe | 0xf, _) => return Err(InsnError::UnknownOpcode(i.opcode)),
        _ => return Err(InsnError::Reserved),
    };
    Ok(Op::Alu { width, op, dst, src: operand(i)? })
}

fn negate(i: Insn, width: Width, dst: R) -> Result<Op, InsnError> {
    if i.opcode & insn::SOURCE_REG != 0 {
        return Err(InsnError::UnknownOpcode(i.opcode));
    }
    zero(&[i.src.into(), i.imm.into()])?;
    Ok(Op::Neg { width, dst })
}

fn move_extended(i: Insn, width: Width, dst: R) -> Result<Op, InsnError> {
    let from = match (i.offset, width) {
        (8, _) => Size::B,
        (16, _) => Size::H,
        (32, Width::W64) => Size::W,
        _ => return Err(InsnError::Reserved),
    };
    match operand(i)? {
        Operand::Reg(src) => Ok(Op::MovSx { width, from, dst, src }),
        Operand::Imm(_) => Err(InsnError::Reserved),
    }
}

fn swap(i: Insn, width: Width, dst: R) -> Result<Op, InsnError> {
    zero(&[i.src.into()])?;
    let order = match (width, i.opcode & insn::SOURCE_REG) {
        (Width::W32, 0) => Order::Little,
        (Width::W32, _) => Order::Big,
        (Width::W64, 0) => Order::Swap,
        (Width::W64, _) => return Err(InsnError::UnknownOpcode(i.opcode)),
    };
    match i.imm {
        16 | 32 | 64 => Ok(Op::Swap { order, bits: i.imm as u8, dst }),
        _ => Err(InsnError::Reserved),
    }
}

fn slot(len: usize, at: usize, distance: i64) -> Result<u32, InsnError> {
    let target = at as i64 + 1 + distance;
    if (0..len as i64).contains(&target) { Ok(target as u32) } else { Err(InsnError::JumpOutside(target)) }
}

fn jump(len: usize, at: usize, i: Insn, width: Width) -> Result<Op, InsnError> {
    let cond = match i.opcode >> 4 {
        0x0 => return jump_always(len, at, i, width),
        0x8 if i.opcode == insn::CALL => return call_op(len, at, i),
        0x8 if i.opcode == insn::CALL_REG => {
            zero(&[i.src.into(), i.offset.into(), i.imm.into()])?;
            return Ok(Op::CallReg { dst: reg(i.dst)? });
        }
        0xe if i.opcode == insn::MAY_GOTO => {
            zero(&[i.dst.into(), i.src.into(), i.imm.into()])?;
            return Ok(Op::MayGoto { target: slot(len, at, i.offset.into())? });
        }
        0x9 if i.opcode == insn::EXIT => {
            zero(&[i.dst.into(), i.src.into(), i.offset.into(), i.imm.into()])?;
            return Ok(Op::Exit);
        }
        0x1 => Cond::Eq,
        0x2 => Cond::Gt,
        0x3 => Cond::Ge,
        0x4 => Cond::Set,
        0x5 => Cond::Ne,
        0x6 => Cond::Sgt,
        0x7 => Cond::Sge,
        0xa => Cond::Lt,
        0xb => Cond::Le,
        0xc => Cond::Slt,
        0xd => Cond::Sle,
        _ => return Err(InsnError::UnknownOpcode(i.opcode)),
    };
    let target = slot(len, at, i.offset.into())?;
    Ok(Op::Branch { width, cond, dst: reg(i.dst)?, src: operand(i)?, target })
}

fn jump_always(len: usize, at: usize, i: Insn, width: Width) -> Result<Op, InsnError> {
    if i.opcode & insn::SOURCE_REG != 0 {
        return Err(InsnError::UnknownOpcode(i.opcode));
    }
    let (distance, unused) = match width {
        Width::W64 => (i.offset.into(), i.imm.into()),
        Width::W32 => (i.imm.into(), i.offset.into()),
    };
    zero(&[i.dst.into(), i.src.into(), unused])?;
    Ok(Op::Jump { target: slot(len, at, distance)? })
}

fn call_op(len: usize, at: usize, i: Insn) -> Result<Op, InsnError> {
    zero(&[i.dst.into(), i.offset.into()])?;
    match i.src {
        call::HELPER => Ok(Op::Call { helper: i.imm.cast_unsigned() }),
        call::LOCAL => Ok(Op::CallLocal { target: slot(len, at, i.imm.into())? }),
        kind => Err(InsnError::UnsupportedCall(kind)),
    }
}

fn load_imm(len: usize, at: usize, i: Insn, next: Option<Insn>) -> Result<Op, InsnError> {
    if i.opcode != insn::LD_IMM64 {
        return load_packet(i);
    }
    let next = next.ok_or(InsnError::IncompleteImm64)?;
    if next.opcode != 0 {
        return Err(InsnError::IncompleteImm64);
    }
    zero(&[i.offset.into(), next.dst.into(), next.src.into(), next.offset.into()])?;
    let dst = writable(i.dst)?;
    let (low, high) = (i.imm.cast_unsigned(), next.imm.cast_unsigned());
    match i.src {
        imm64::NUMBER => Ok(Op::LoadImm { dst, value: u64::from(low) | u64::from(high) << 32 }),
        imm64::MAP => zero(&[high.into()]).map(|()| Op::LoadMap { dst, map: low }),
        imm64::FUNCTION => {
            zero(&[high.into()])?;
            Ok(Op::LoadFunction { dst, target: slot(len, at, i.imm.into())? })
        }
        imm64::MAP_VALUE => Ok(Op::LoadMapValue { dst, map: low, offset: high }),
        kind => Err(InsnError::UnsupportedImm64(kind)),
    }
}

/// `ld_abs` and `ld_ind`, as classic filters have them.
fn load_packet(i: Insn) -> Result<Op, InsnError> {
    let size = size(i.opcode);
    zero(&[i.dst.into(), i.offset.into()])?;
    match i.opcode >> 5 {
        1 if size != Size::D => {
            zero(&[i.src.into()])?;
            Ok(Op::LoadPacket { size, index: None, offset: i.imm })
        }
        2 if size != Size::D => Ok(Op::LoadPacket { size, index: Some(reg(i.src)?), offset: i.imm }),
        _ => Err(InsnError::UnknownOpcode(i.opcode)),
    }
}

fn size(opcode: u8) -> Size {
    match opcode >> 3 & 3 {
        0 => Size::W,
        1 => Size::H,
        2 => Size::B,
        _ => Size::D,
    }
}

fn load(i: Insn) -> Result<Op, InsnError> {
    zero(&[i.imm.into()])?;
    let size = size(i.opcode);
    let signed = match i.opcode >> 5 {
        3 => false,
        4 if size != Size::D => true,
        _ => return Err(InsnError::UnknownOpcode(i.opcode)),
    };
    Ok(Op::Load { size, signed, dst: writable(i.dst)?, src: reg(i.src)?, offset: i.offset })
}

fn store(i: Insn) -> Result<Op, InsnError> {
    let (size, dst) = (size(i.opcode), reg(i.dst)?);
    match (i.opcode & 7, i.opcode >> 5) {
        (class::ST, 3) => {
            zero(&[i.src.into()])?;
            Ok(Op::Store { size, dst, offset: i.offset, src: Operand::Imm(i.imm) })
        }
        (class::STX, 3) => {
            zero(&[i.imm.into()])?;
            Ok(Op::Store { size, dst, offset: i.offset, src: Operand::Reg(reg(i.src)?) })
        }
        (class::STX, 6) if i.imm == LOAD_ACQUIRE => {
            Ok(Op::LoadAcquire { size, dst: writable(i.dst)?, src: reg(i.src)?, offset: i.offset })
        }
        (class::STX, 6) if i.imm == STORE_RELEASE => {
            Ok(Op::StoreRelease { size, dst, offset: i.offset, src: reg(i.src)? })
        }
        (class::STX, 6) if matches!(size, Size::W | Size::D) => atomic(i, size, dst),
        _ => Err(InsnError::UnknownOpcode(i.opcode)),
    }
}

fn atomic(i: Insn, size: Size, dst: R) -> Result<Op, InsnError> {
    let fetch = i.imm & 1 != 0;
    let op = match i.imm {
        0x00 | 0x01 => Atomic::Add { fetch },
        0x40 | 0x41 => Atomic::Or { fetch },
        0x50 | 0x51 => Atomic::And { fetch },
        0xa0 | 0xa1 => Atomic::Xor { fetch },
        0xe1 => Atomic::Xchg,
        0xf1 => Atomic::Cmpxchg,
        other => return Err(InsnError::UnknownAtomic(other)),
    };
    // All that fetch, except for compare-and-exchange, write their source register.
    let src = if fetch && op != Atomic::Cmpxchg { writable(i.src)? } else { reg(i.src)? };
    Ok(Op::Atomic { size, op, dst, offset: i.offset, src })
}

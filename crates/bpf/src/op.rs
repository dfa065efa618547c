//! The decoded form of an instruction, which interpreter, compiler and analysis share.
//!
//! Decoding happens once; everything that can be wrong with a single instruction is found there
//! ([`crate::decode`]), so whoever handles an [`Op`] has no cases left that cannot happen. Jump targets are
//! absolute slot numbers.

/// A register of the machine: 0 to 10.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct R(u8);

impl R {
    /// Return value.
    pub const R0: R = R(0);
    /// First argument.
    pub const R1: R = R(1);
    /// Second argument.
    pub const R2: R = R(2);
    /// Third argument.
    pub const R3: R = R(3);
    /// First of the four registers that calls preserve.
    pub const R6: R = R(6);
    /// Frame pointer, read-only.
    pub const FP: R = R(10);

    /// Register `n`, or `None` above 10.
    #[must_use]
    pub const fn new(n: u8) -> Option<R> {
        if n <= 10 { Some(R(n)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Width of arithmetic and comparisons.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// The low halves; results are zero-extended.
    W32,
    /// Whole registers; immediates are sign-extended.
    W64,
}

/// Size of a memory access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// One byte.
    B,
    /// Two bytes.
    H,
    /// Four bytes.
    W,
    /// Eight bytes.
    D,
}

impl Size {
    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        1 << self as usize
    }
}

/// A second operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    /// A register.
    Reg(R),
    /// A constant, sign-extended where 64 bits are wanted.
    Imm(i32),
}

/// Binary arithmetic (RFC 9669 section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alu {
    /// Addition.
    Add,
    /// Subtraction.
    Sub,
    /// Multiplication.
    Mul,
    /// Unsigned division; by zero gives zero.
    Div,
    /// Signed division; by zero gives zero.
    Sdiv,
    /// Unsigned remainder; by zero leaves the destination.
    Mod,
    /// Signed remainder, with the dividend's sign; by zero leaves the destination.
    Smod,
    /// Bitwise or.
    Or,
    /// Bitwise and.
    And,
    /// Bitwise exclusive or.
    Xor,
    /// Left shift; the count is masked.
    Lsh,
    /// Logical right shift.
    Rsh,
    /// Arithmetic right shift.
    Arsh,
    /// Copy.
    Mov,
}

/// Byte orders of a swap instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// To little-endian: truncation on this machine.
    Little,
    /// To big-endian.
    Big,
    /// Always swap (v4).
    Swap,
}

/// Conditions of jumps (RFC 9669 section 4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cond {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Any common bit.
    Set,
    /// Unsigned greater.
    Gt,
    /// Unsigned greater or equal.
    Ge,
    /// Unsigned less.
    Lt,
    /// Unsigned less or equal.
    Le,
    /// Signed greater.
    Sgt,
    /// Signed greater or equal.
    Sge,
    /// Signed less.
    Slt,
    /// Signed less or equal.
    Sle,
}

/// Atomic read-modify-write (RFC 9669 section 5.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Atomic {
    /// Addition; `fetch` returns the old value in the source register.
    Add {
        /// See the variant.
        fetch: bool,
    },
    /// Or.
    Or {
        /// As for addition.
        fetch: bool,
    },
    /// And.
    And {
        /// As for addition.
        fetch: bool,
    },
    /// Exclusive or.
    Xor {
        /// As for addition.
        fetch: bool,
    },
    /// Exchange with the source register.
    Xchg,
    /// Store the source register if memory equals r0; r0 becomes the old value.
    Cmpxchg,
}

/// A decoded instruction. `target`s are slot numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "fields are named after the operands in RFC 9669")]
pub enum Op {
    /// Second slot of a 64-bit immediate; never executed.
    Pad,
    /// `dst = dst op src`.
    Alu { width: Width, op: Alu, dst: R, src: Operand },
    /// `dst = sign-extended low part of src`.
    MovSx { width: Width, from: Size, dst: R, src: R },
    /// `dst = -dst`.
    Neg { width: Width, dst: R },
    /// Byte order of the low `bits`, the rest cleared.
    Swap { order: Order, bits: u8, dst: R },
    /// `dst = value`.
    LoadImm { dst: R, value: u64 },
    /// `dst =` the handle of the program's map number `map`.
    LoadMap { dst: R, map: u32 },
    /// `dst =` address of the first value of map `map`, plus `offset`.
    LoadMapValue { dst: R, map: u32, offset: u32 },
    /// `dst = *(src + offset)`.
    Load { size: Size, signed: bool, dst: R, src: R, offset: i16 },
    /// `*(dst + offset) = src`.
    Store { size: Size, dst: R, offset: i16, src: Operand },
    /// Atomic update of `*(dst + offset)`; `size` is W or D.
    Atomic { size: Size, op: Atomic, dst: R, offset: i16, src: R },
    /// `dst = *(src + offset)`, before everything that follows.
    LoadAcquire { size: Size, dst: R, src: R, offset: i16 },
    /// `*(dst + offset) = src`, behind everything that went before.
    StoreRelease { size: Size, dst: R, offset: i16, src: R },
    /// `r0 =` big-endian bytes of the packet, `index + offset` from its beginning; return 0 where there are
    /// none. As a call does, it leaves zero in r1 to r5.
    LoadPacket { size: Size, index: Option<R>, offset: i32 },
    /// `dst =` what [`Op::CallReg`] knows the function at `target` by.
    LoadFunction { dst: R, target: u32 },
    /// Jump when the run has passed such instructions very often.
    MayGoto { target: u32 },
    /// Unconditional jump.
    Jump { target: u32 },
    /// Jump if `dst cond src`.
    Branch { width: Width, cond: Cond, dst: R, src: Operand, target: u32 },
    /// Call of a helper by its number.
    Call { helper: u32 },
    /// Call of a function of this program.
    CallLocal { target: u32 },
    /// Call of a function of this program, or of a helper by its number: what `dst` says.
    CallReg { dst: R },
    /// Return, or end of the run.
    Exit,
}

//! Programs for people: instructions as text, and the machine code that each of them became.

use crate::op::{Alu, Atomic, Cond, Op, Operand, Order, R, Size, Width};
use crate::program::Program;
use crate::proof::{Why, access};
use std::fmt::{self, Display, Formatter};

/// One slot of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// Its number.
    pub slot: usize,
    /// The instruction, in the notation of LLVM and the kernel.
    pub text: String,
    /// Whether it accesses memory, and why it need not be checked while it runs, if it need not.
    pub access: Option<Option<Why>>,
    /// Whether a function begins here.
    pub begins_function: bool,
    /// Its machine code: from where to where in [`Listing::code`].
    pub code: std::ops::Range<usize>,
}

/// A patch site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    /// Slot of the tail call.
    pub slot: usize,
    /// Index in its program array.
    pub index: u32,
    /// Where in [`Listing::code`] the word is that is jumped from when the slot of the array is empty.
    pub bypass: usize,
    /// Where the word is that jumps to the program.
    pub target: usize,
}

/// A program's instructions and machine code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// All slots, second halves of 64-bit immediate loads left out.
    pub lines: Vec<Line>,
    /// Address of the code.
    pub address: u64,
    /// The code as it is now, patch sites as they stand.
    pub code: Vec<u8>,
    /// Patch sites, in order.
    pub sites: Vec<Site>,
    /// Tail calls with computed indexes: slot, and where in [`Listing::code`] the gate is.
    pub gates: Vec<(usize, usize)>,
}

impl Program {
    /// What it consists of, at this moment.
    #[must_use]
    pub fn listing(&self) -> Listing {
        let _section = relpoline_patch::reclaim::Section::enter();
        // SAFETY: current inside the section, and so not freed before its end.
        let code = unsafe { &*self.core.code_ptr() };
        // SAFETY: the code's block is readable as long as the code lives; a patch site that changes meanwhile
        // is read as some mixture, which is only shown.
        let bytes = (0..code.len).map(|i| unsafe { ((code.entry + i as u64) as *const u8).read_volatile() }).collect();
        let checked = &code.body.checked;
        let end = |slot: usize| code.offsets.get(slot + 1).map_or(code.len, |o| *o as usize);
        let line = |(slot, op): (usize, &Op)| Line {
            slot,
            text: op.to_string(),
            access: access(*op).map(|_| code.body.proof.why(slot as u32)),
            begins_function: checked.functions.iter().any(|f| f.start as usize == slot),
            code: code.offsets[slot] as usize..end(slot),
        };
        let sites = code.sites.iter().map(|s| Site {
            slot: s.slot as usize,
            index: s.index,
            bypass: s.bypass,
            target: s.target,
        });
        Listing {
            lines: checked.ops.iter().enumerate().filter(|(_, op)| **op != Op::Pad).map(line).collect(),
            address: code.entry,
            code: bytes,
            sites: sites.collect(),
            gates: code.gates.iter().map(|(at, _)| (at.slot as usize, at.at)).collect(),
        }
    }
}

impl Display for R {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.index())
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Reg(r) => write!(f, "{r}"),
            Operand::Imm(imm) => write!(f, "{imm}"),
        }
    }
}

/// A register or operand in the width it is used in: `r1` or `w1`.
struct In<T>(Width, T);

impl Display for In<Operand> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.1 {
            Operand::Reg(r) => write!(f, "{}", In(self.0, r)),
            imm => write!(f, "{imm}"),
        }
    }
}

impl Display for In<R> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let letter = if self.0 == Width::W64 { 'r' } else { 'w' };
        write!(f, "{letter}{}", self.1.index())
    }
}

fn alu(op: Alu) -> &'static str {
    match op {
        Alu::Add => "+=",
        Alu::Sub => "-=",
        Alu::Mul => "*=",
        Alu::Div => "/=",
        Alu::Sdiv => "s/=",
        Alu::Mod => "%=",
        Alu::Smod => "s%=",
        Alu::Or => "|=",
        Alu::And => "&=",
        Alu::Xor => "^=",
        Alu::Lsh => "<<=",
        Alu::Rsh => ">>=",
        Alu::Arsh => "s>>=",
        Alu::Mov => "=",
    }
}

fn cond(cond: Cond) -> &'static str {
    match cond {
        Cond::Eq => "==",
        Cond::Ne => "!=",
        Cond::Set => "&",
        Cond::Gt => ">",
        Cond::Ge => ">=",
        Cond::Lt => "<",
        Cond::Le => "<=",
        Cond::Sgt => "s>",
        Cond::Sge => "s>=",
        Cond::Slt => "s<",
        Cond::Sle => "s<=",
    }
}

fn bits(size: Size) -> usize {
    size.bytes() * 8
}

fn atomic(op: Atomic) -> (&'static str, bool) {
    match op {
        Atomic::Add { fetch } => ("add", fetch),
        Atomic::Or { fetch } => ("or", fetch),
        Atomic::And { fetch } => ("and", fetch),
        Atomic::Xor { fetch } => ("xor", fetch),
        Atomic::Xchg => ("xchg", true),
        Atomic::Cmpxchg => ("cmpxchg", true),
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Op::Pad => Ok(()),
            Op::Alu { width, op, dst, src } => write!(f, "{} {} {}", In(width, dst), alu(op), In(width, src)),
            Op::MovSx { width, from, dst, src } => {
                write!(f, "{} = (s{}){}", In(width, dst), bits(from), In(width, src))
            }
            Op::Neg { width, dst } => write!(f, "{0} = -{0}", In(width, dst)),
            Op::Swap { order, bits, dst } => {
                let name = match order {
                    Order::Little => "le",
                    Order::Big => "be",
                    Order::Swap => "bswap",
                };
                write!(f, "{dst} = {name}{bits} {dst}")
            }
            Op::LoadImm { dst, value } => write!(f, "{dst} = {value:#x} ll"),
            Op::LoadMap { dst, map } => write!(f, "{dst} = map {map} ll"),
            Op::LoadMapValue { dst, map, offset } => write!(f, "{dst} = map {map} value + {offset} ll"),
            Op::Load { size, signed, dst, src, offset } => {
                write!(f, "{dst} = *({}{} *)({src} {offset:+})", if signed { 's' } else { 'u' }, bits(size))
            }
            Op::Store { size, dst, offset, src } => write!(f, "*(u{} *)({dst} {offset:+}) = {src}", bits(size)),
            Op::Atomic { size, op, dst, offset, src } => {
                let (name, fetch) = atomic(op);
                let fetch = if fetch { "fetch " } else { "" };
                write!(f, "lock {fetch}{name} *(u{} *)({dst} {offset:+}), {src}", bits(size))
            }
            Op::LoadAcquire { size, dst, src, offset } => {
                write!(f, "{dst} = load_acquire((u{} *)({src} {offset:+}))", bits(size))
            }
            Op::StoreRelease { size, dst, offset, src } => {
                write!(f, "store_release((u{} *)({dst} {offset:+}), {src})", bits(size))
            }
            Op::LoadPacket { size, index: None, offset } => write!(f, "r0 = *(u{} *)skb[{offset}]", bits(size)),
            Op::LoadPacket { size, index: Some(r), offset } => {
                write!(f, "r0 = *(u{} *)skb[{r} {offset:+}]", bits(size))
            }
            Op::LoadFunction { dst, target } => write!(f, "{dst} = function {target} ll"),
            Op::MayGoto { target } => write!(f, "may_goto {target}"),
            Op::CallReg { dst } => write!(f, "callx {dst}"),
            Op::Jump { target } => write!(f, "goto {target}"),
            Op::Branch { width, cond: c, dst, src, target } => {
                write!(f, "if {} {} {} goto {target}", In(width, dst), cond(c), In(width, src))
            }
            Op::Call { helper: crate::helper::TAIL_CALL } => write!(f, "tail call"),
            Op::Call { helper } => write!(f, "call helper {helper}"),
            Op::CallLocal { target } => write!(f, "call {target}"),
            Op::Exit => write!(f, "exit"),
        }
    }
}

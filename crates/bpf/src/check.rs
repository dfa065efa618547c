//! What has to hold for a program as a whole, and its division into functions.
//!
//! A program that passed has these properties, on which interpreter and compiler rely:
//! - every jump lands on the first slot of an instruction of the same function;
//! - no function runs off its end;
//! - calls between functions nest at most [`MAX_FRAMES`] deep, recursion included, so the stack a run needs
//!   is bounded beforehand; calls by register begin anew, and at most [`MAX_BY_REGISTER`] of them may be
//!   under way in a run, which is checked there;
//! - what is accessed directly through r10 lies in the function's own frame. (What is accessed through other
//!   registers is checked while the program runs, against the stack of the whole run: a program that reckons
//!   its addresses wrongly can damage frames of its own run, and nothing else.)
//!
//! It is not the kernel's verifier: types and ranges of values are not tracked, so that accesses are checked
//! while the program runs, and loops end by the budget. Reading registers that were never written is not
//! refused; it gives a value that the run defines (zero at the start and after a helper's call).

use crate::decode::{InsnError, decode};
use crate::insn::Insn;
use crate::op::{Op, R};

/// Bytes of stack each function has (RFC 9669 leaves it to the runtime; the kernel has 512 too).
pub const FRAME: usize = 512;
/// Functions that may be active at once in one program, the first included.
pub const MAX_FRAMES: usize = 8;

/// Calls by register that may be under way at once in one run.
pub const MAX_BY_REGISTER: usize = 8;

/// One function of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// First slot.
    pub start: u32,
    /// One past the last slot.
    pub end: u32,
    /// Which of r6 to r9 it writes, bit 0 for r6: what has to be preserved for its caller.
    pub saves: u8,
}

/// A program that passed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checked {
    /// One per slot.
    pub(crate) ops: Vec<Op>,
    /// In order of their slots; the first is where runs begin.
    pub(crate) functions: Vec<Function>,
    /// First slots of the functions that can be called by register, in order.
    pub(crate) taken: Vec<u32>,
}

impl Checked {
    /// Its instructions, one per slot.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Its functions, in order of their slots; the first is where runs begin.
    #[must_use]
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }
}

/// Checks `program`, which begins at slot 0.
///
/// # Errors
/// The first instruction found wrong, and what is wrong with it.
pub fn check(program: &[Insn]) -> Result<Checked, (usize, InsnError)> {
    if program.is_empty() {
        return Err((0, InsnError::FallsOff));
    }
    let ops = decode_all(program)?;
    let functions = divide(&ops);
    for function in &functions {
        check_function(&ops, function)?;
    }
    check_depth(&ops, &functions)?;
    let taken = ops.iter().filter_map(|op| if let Op::LoadFunction { target, .. } = op { Some(*target) } else { None });
    let mut taken: Vec<u32> = taken.collect();
    taken.sort_unstable();
    taken.dedup();
    Ok(Checked { ops, functions, taken })
}

fn decode_all(program: &[Insn]) -> Result<Vec<Op>, (usize, InsnError)> {
    let mut ops = Vec::with_capacity(program.len());
    while ops.len() < program.len() {
        let at = ops.len();
        let op = decode(program, at).map_err(|e| (at, e))?;
        ops.push(op);
        if is_wide(op) {
            ops.push(Op::Pad);
        }
    }
    Ok(ops)
}

/// Whether it takes two slots.
#[must_use]
pub fn is_wide(op: Op) -> bool {
    matches!(op, Op::LoadImm { .. } | Op::LoadMap { .. } | Op::LoadMapValue { .. } | Op::LoadFunction { .. })
}

/// The register an instruction writes, calls aside.
#[must_use]
pub fn written(op: Op) -> Option<R> {
    use crate::op::Atomic;
    match op {
        Op::Alu { dst, .. }
        | Op::MovSx { dst, .. }
        | Op::Neg { dst, .. }
        | Op::Swap { dst, .. }
        | Op::LoadImm { dst, .. }
        | Op::LoadMap { dst, .. }
        | Op::LoadMapValue { dst, .. }
        | Op::LoadFunction { dst, .. }
        | Op::LoadAcquire { dst, .. }
        | Op::Load { dst, .. } => Some(dst),
        Op::Atomic { op: Atomic::Cmpxchg, .. } => Some(R::R0),
        Op::Atomic { op: Atomic::Xchg, src, .. } => Some(src),
        Op::Atomic {
            op:
                Atomic::Add { fetch: true }
                | Atomic::Or { fetch: true }
                | Atomic::And { fetch: true }
                | Atomic::Xor { fetch: true },
            src,
            ..
        } => Some(src),
        _ => None,
    }
}

fn divide(ops: &[Op]) -> Vec<Function> {
    let mut starts: Vec<u32> = ops
        .iter()
        .filter_map(|op| match op {
            Op::CallLocal { target } | Op::LoadFunction { target, .. } => Some(*target),
            _ => None,
        })
        .chain([0])
        .collect();
    starts.sort_unstable();
    starts.dedup();
    let ends = starts[1..].iter().copied().chain([ops.len() as u32]);
    starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| Function { start, end, saves: saves(&ops[start as usize..end as usize]) })
        .collect()
}

fn saves(ops: &[Op]) -> u8 {
    ops.iter()
        .filter_map(|op| written(*op))
        .filter(|r| (6..10).contains(&r.index()))
        .fold(0, |bits, r| bits | 1 << (r.index() - 6))
}

fn check_function(ops: &[Op], function: &Function) -> Result<(), (usize, InsnError)> {
    let range = function.start..function.end;
    for at in range.clone() {
        let fail = |e| Err((at as usize, e));
        match ops[at as usize] {
            Op::Jump { target }
            | Op::MayGoto { target }
            | Op::Branch { target, .. }
            | Op::CallLocal { target }
            | Op::LoadFunction { target, .. }
                if ops[target as usize] == Op::Pad =>
            {
                return fail(InsnError::JumpIntoMiddle(target));
            }
            Op::Jump { target } | Op::MayGoto { target } | Op::Branch { target, .. } if !range.contains(&target) => {
                return fail(InsnError::JumpIntoFunction(target));
            }
            Op::Load { size, src: R::FP, offset, .. } | Op::LoadAcquire { size, src: R::FP, offset, .. } => {
                check_stack(offset, size.bytes()).or_else(fail)?;
            }
            Op::Store { size, dst: R::FP, offset, .. }
            | Op::StoreRelease { size, dst: R::FP, offset, .. }
            | Op::Atomic { size, dst: R::FP, offset, .. } => {
                check_stack(offset, size.bytes()).or_else(fail)?;
            }
            _ => {}
        }
    }
    match ops[function.end as usize - 1] {
        Op::Exit | Op::Jump { .. } => Ok(()),
        _ => Err((function.end as usize - 1, InsnError::FallsOff)),
    }
}

fn check_stack(offset: i16, size: usize) -> Result<(), InsnError> {
    let from = i32::from(offset);
    if from >= -(FRAME as i32) && from + size as i32 <= 0 {
        Ok(())
    } else {
        Err(InsnError::StackAccess { offset, size })
    }
}

/// The function that begins at `start`.
#[must_use]
pub fn function_at(functions: &[Function], start: u32) -> usize {
    functions.partition_point(|f| f.start < start)
}

/// Bounds the depth of calls by relaxation: after as many rounds as frames may nest, nothing may change.
fn check_depth(ops: &[Op], functions: &[Function]) -> Result<(), (usize, InsnError)> {
    let mut depth = vec![1usize; functions.len()];
    loop {
        let mut changed = false;
        for (caller, function) in functions.iter().enumerate() {
            for at in function.start..function.end {
                let Op::CallLocal { target } = ops[at as usize] else {
                    continue;
                };
                let callee = function_at(functions, target);
                if depth[callee] <= depth[caller] {
                    depth[callee] = depth[caller] + 1;
                    changed = true;
                    if depth[callee] > MAX_FRAMES {
                        return Err((at as usize, InsnError::CallsTooDeep));
                    }
                }
            }
        }
        if !changed {
            return Ok(());
        }
    }
}

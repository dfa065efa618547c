//! Which program array, and which index if always the same, each tail call names.
//!
//! A forward data-flow analysis per function: a register is a known number, a known map, or anything. Where
//! paths meet, what they disagree on becomes anything. That is enough for what compilers make of
//! `bpf_tail_call(ctx, &array, 3)`; an index computed at run time stays unknown and takes the indirect way.

use crate::check::{Checked, Function, is_wide, written};
use crate::decode::InsnError;
use crate::helper::TAIL_CALL;
use crate::op::{Alu, Op, Operand, R};
use crate::semantics;
use std::collections::BTreeMap;

/// What a tail call names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TailCall {
    /// Number of the array among the program's maps.
    pub map: u32,
    /// The index, where it is always the same.
    pub index: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Anything,
    Number(u64),
    Map(u32),
}

type State = [Known; 11];

/// Tail calls by slot.
///
/// # Errors
/// A tail call whose array is not known.
pub fn tail_calls(checked: &Checked) -> Result<BTreeMap<u32, TailCall>, (usize, InsnError)> {
    let mut calls = BTreeMap::new();
    for function in &checked.functions {
        if !has_tail_call(&checked.ops, function) {
            continue;
        }
        let states = analyse(&checked.ops, function);
        for at in function.start..function.end {
            // Unreachable tail calls are compiled like all else, so they too must be known.
            if checked.ops[at as usize] == (Op::Call { helper: TAIL_CALL }) {
                let state = states[(at - function.start) as usize].unwrap_or([Known::Anything; 11]);
                let Known::Map(map) = state[R::R2.index()] else {
                    return Err((at as usize, InsnError::UnknownProgArray));
                };
                let index = match state[R::R3.index()] {
                    Known::Number(n) => Some(n as u32),
                    _ => None,
                };
                calls.insert(at, TailCall { map, index });
            }
        }
    }
    Ok(calls)
}

fn has_tail_call(ops: &[Op], function: &Function) -> bool {
    ops[function.start as usize..function.end as usize].contains(&Op::Call { helper: TAIL_CALL })
}

/// The state before each slot of `function`; `None` where it cannot come.
fn analyse(ops: &[Op], function: &Function) -> Vec<Option<State>> {
    let start = function.start;
    let mut states = vec![None; (function.end - start) as usize];
    states[0] = Some([Known::Anything; 11]);
    let mut work = vec![start];
    while let Some(at) = work.pop() {
        let Some(state) = states[(at - start) as usize] else {
            continue;
        };
        let op = ops[at as usize];
        let after = transfer(state, op);
        for next in successors(op, at) {
            let Some(known) = states.get_mut((next - start) as usize) else {
                continue;
            };
            let merged = known.map_or(after, |k| meet(k, after));
            if *known != Some(merged) {
                *known = Some(merged);
                work.push(next);
            }
        }
    }
    states
}

fn successors(op: Op, at: u32) -> impl Iterator<Item = u32> {
    let (next, jump) = match op {
        Op::Exit => (None, None),
        Op::Jump { target } => (None, Some(target)),
        Op::Branch { target, .. } | Op::MayGoto { target } => (Some(at + 1), Some(target)),
        _ if is_wide(op) => (Some(at + 2), None),
        _ => (Some(at + 1), None),
    };
    next.into_iter().chain(jump)
}

fn meet(a: State, b: State) -> State {
    std::array::from_fn(|i| if a[i] == b[i] { a[i] } else { Known::Anything })
}

fn transfer(mut state: State, op: Op) -> State {
    let operand = |src| match src {
        Operand::Reg(r) => state[r.index()],
        Operand::Imm(imm) => Known::Number(semantics::immediate(imm)),
    };
    let (dst, known) = match op {
        Op::Alu { width: crate::op::Width::W64, op: Alu::Mov, dst, src } => (dst, operand(src)),
        Op::Alu { width, op, dst, src } => match (state[dst.index()], operand(src)) {
            (_, Known::Number(b)) if op == Alu::Mov => (dst, Known::Number(semantics::truncate(width, b))),
            (Known::Number(a), Known::Number(b)) => (dst, Known::Number(semantics::alu(width, op, a, b))),
            _ => (dst, Known::Anything),
        },
        Op::LoadImm { dst, value } => (dst, Known::Number(value)),
        Op::LoadMap { dst, map } => (dst, Known::Map(map)),
        Op::Call { .. } | Op::CallLocal { .. } | Op::CallReg { .. } | Op::LoadPacket { .. } => {
            state[..6].fill(Known::Anything);
            return state;
        }
        other => match written(other) {
            Some(dst) => (dst, Known::Anything),
            None => return state,
        },
    };
    state[dst.index()] = known;
    state
}

//! Which program array, and which index if always the same, each tail call names; and which map each look-up.
//!
//! A forward data-flow analysis per function: a register is a known number, a known map, a place in the
//! function's frame, or anything. Where paths meet, what they disagree on becomes anything. That is enough
//! for what compilers make of `bpf_tail_call(ctx, &array, 3)`; an index computed at run time stays unknown
//! and takes the indirect way. A look-up whose map is unknown is one all the same.

use crate::check::{Checked, Function, is_wide, written};
use crate::decode::InsnError;
use crate::helper::{LOOKUP, TAIL_CALL};
use crate::op::{Alu, Op, Operand, R, Width};
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

/// What a look-up names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lookup {
    /// Number of the map among the program's.
    pub map: u32,
    /// Where the key is in the function's frame, from r10 on, if it is there.
    pub key: Option<i32>,
}

/// Look-ups in longer functions are not looked at.
const MOST_SLOTS: usize = 1 << 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Anything,
    Number(u64),
    Map(u32),
    Frame(i32),
}

type State = [Known; 11];

/// Tail calls by slot.
///
/// # Errors
/// A tail call whose array is not known.
pub fn tail_calls(checked: &Checked) -> Result<BTreeMap<u32, TailCall>, (usize, InsnError)> {
    let mut found = BTreeMap::new();
    for function in &checked.functions {
        if !calls(&checked.ops, function, TAIL_CALL) {
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
                found.insert(at, TailCall { map, index });
            }
        }
    }
    Ok(found)
}

/// Look-ups by slot, of those whose map is always the same.
#[must_use]
pub fn lookups(checked: &Checked) -> BTreeMap<u32, Lookup> {
    let mut found = BTreeMap::new();
    for function in &checked.functions {
        let long = (function.end - function.start) as usize > MOST_SLOTS;
        if long || !calls(&checked.ops, function, LOOKUP) {
            continue;
        }
        let states = analyse(&checked.ops, function);
        for at in function.start..function.end {
            if checked.ops[at as usize] != (Op::Call { helper: LOOKUP }) {
                continue;
            }
            let Some(state) = states[(at - function.start) as usize] else { continue };
            let Known::Map(map) = state[R::R1.index()] else { continue };
            let key = if let Known::Frame(at) = state[R::R2.index()] { Some(at) } else { None };
            found.insert(at, Lookup { map, key });
        }
    }
    found
}

fn calls(ops: &[Op], function: &Function, helper: u32) -> bool {
    ops[function.start as usize..function.end as usize].contains(&Op::Call { helper })
}

/// The state before each slot of `function`; `None` where it cannot come.
fn analyse(ops: &[Op], function: &Function) -> Vec<Option<State>> {
    let start = function.start;
    let mut states = vec![None; (function.end - start) as usize];
    let mut begin = [Known::Anything; 11];
    begin[R::FP.index()] = Known::Frame(0);
    states[0] = Some(begin);
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
        Op::Alu { width: Width::W64, op: Alu::Mov, dst, src } => (dst, operand(src)),
        Op::Alu { width, op, dst, src } => match (state[dst.index()], operand(src)) {
            (_, Known::Number(b)) if op == Alu::Mov => (dst, Known::Number(semantics::truncate(width, b))),
            (Known::Frame(at), Known::Number(by)) if (width, op) == (Width::W64, Alu::Add) => {
                let moved = i32::try_from(by.cast_signed()).ok().and_then(|by| at.checked_add(by));
                (dst, moved.map_or(Known::Anything, Known::Frame))
            }
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

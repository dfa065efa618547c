//! Numbers: what is computed, compared and joined is where it is said to be.

use super::arithmetic::arithmetic;
use super::join::join;
use super::refine::refine;
use super::state::State;
use super::value::Value;
use crate::op::{Alu, Cond, Operand, R, Width};
use crate::semantics;
use proptest::prelude::*;

const OPS: [Alu; 14] = [
    Alu::Add,
    Alu::Sub,
    Alu::Mul,
    Alu::Div,
    Alu::Sdiv,
    Alu::Mod,
    Alu::Smod,
    Alu::Or,
    Alu::And,
    Alu::Xor,
    Alu::Lsh,
    Alu::Rsh,
    Alu::Arsh,
    Alu::Mov,
];
const CONDITIONS: [Cond; 11] =
    [Cond::Eq, Cond::Ne, Cond::Set, Cond::Gt, Cond::Ge, Cond::Lt, Cond::Le, Cond::Sgt, Cond::Sge, Cond::Slt, Cond::Sle];

/// Numbers of all sizes, mostly near the edges.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..70u64,
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
        (0..64u32, 0..3u64).prop_map(|(bit, by)| (1 << bit) + by - 1),
        (0..70u64).prop_map(|by| u64::MAX - by),
    ]
}

/// A range, and one of its numbers.
fn ranged() -> impl Strategy<Value = (Value, u64)> {
    (number(), number(), number(), any::<bool>()).prop_map(|(a, b, c, exact)| {
        let (least, most) = if exact { (a, a) } else { (a.min(b), a.max(b)) };
        let within = if most - least == u64::MAX { c } else { least + c % (most - least + 1) };
        (Value::number(least, most), within)
    })
}

fn holds(value: Value, number: u64) -> bool {
    let (least, most) = value.range(Width::W64);
    (least..=most).contains(&number)
}

fn state(a: Value, b: Value) -> State {
    let mut state = State::nothing();
    (state.regs[2], state.regs[3]) = (a, b);
    state
}

fn width(wide: bool) -> Width {
    if wide { Width::W64 } else { Width::W32 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// What is computed lies where it is said to lie.
    #[test]
    fn results_are_in_their_ranges(
        (a, x) in ranged(), (b, y) in ranged(), op in 0..OPS.len(), wide: bool, imm: Option<i32>,
    ) {
        let mut state = state(a, b);
        let (src, y) = match imm {
            Some(imm) => (Operand::Imm(imm), semantics::immediate(imm)),
            None => (Operand::Reg(R::R3), y),
        };
        let value = arithmetic(&mut state, (width(wide), OPS[op]), R::R2, src, 9);
        let result = semantics::alu(width(wide), OPS[op], x, y);
        prop_assert!(holds(value, result), "{:?} {x:#x} {y:#x}: {result:#x} is not in {value:x?}", OPS[op]);
    }

    /// A way that is taken is thought to be possible, and what is known there is so.
    #[test]
    fn ways_that_are_taken_are_known(
        (a, x) in ranged(), (b, y) in ranged(), cond in 0..CONDITIONS.len(), wide: bool, imm: Option<i32>,
    ) {
        let (src, y) = match imm {
            Some(imm) => (Operand::Imm(imm), semantics::immediate(imm)),
            None => (Operand::Reg(R::R3), y),
        };
        let taken = semantics::holds(width(wide), CONDITIONS[cond], x, y);
        let mut state = state(a, b);
        prop_assert!(refine(&mut state, (width(wide), CONDITIONS[cond]), R::R2, src, taken));
        prop_assert!(holds(state.regs[2], x), "{:?} {x:#x} {y:#x}: {:x?}", CONDITIONS[cond], state.regs[2]);
    }

    /// What two ways know is known where they meet.
    #[test]
    fn both_ways_are_in_what_meets((a, x) in ranged(), (b, y) in ranged(), give_up: bool) {
        let joined = join(&state(a, a), &state(b, b), 7, give_up);
        prop_assert!(holds(joined.regs[2], x) && holds(joined.regs[2], y), "{:x?}", joined.regs[2]);
    }
}

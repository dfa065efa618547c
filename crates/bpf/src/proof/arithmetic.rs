//! What instructions that reckon make known.

use super::state::{Base, State};
use super::value::{FAR, Value};
use crate::op::{Alu, Operand, R, Width};
use crate::semantics;

/// `dst op src`, as far as it is known.
pub(super) fn arithmetic(state: &mut State, (width, op): (Width, Alu), dst: R, src: Operand, at: u32) -> Value {
    let (a, b) = (state.get(dst), state.operand(src));
    let (low, high) = Value::Unknown.range(width);
    let anything = Value::number(low, high);
    if width == Width::W64 {
        let signed = |value: Value| value.constant().map(u64::cast_signed).filter(|n| n.unsigned_abs() < FAR);
        match (op, signed(a), signed(b)) {
            (Alu::Mov, ..) => return b,
            (Alu::Add, _, Some(by)) if !matches!(a, Value::Number { .. }) => return moved(a, by),
            (Alu::Add, Some(by), _) if !matches!(b, Value::Number { .. }) => return moved(b, by),
            (Alu::Sub, _, Some(by)) if !matches!(a, Value::Number { .. }) => return moved(a, -by),
            (Alu::Add, ..) => match (a, b) {
                (pointer, Value::Number { least, most }) | (Value::Number { least, most }, pointer)
                    if most < FAR && !matches!(pointer, Value::Number { .. }) =>
                {
                    return moved_by(state, pointer, (least, most), at);
                }
                _ => {}
            },
            _ => {}
        }
    }
    if let (Some(a), Some(b)) = (a.constant(), b.constant()) {
        let value = semantics::alu(width, op, a, b);
        return Value::Number { least: value, most: value };
    }
    let ((least, most), (low_b, high_b), constant) = (a.range(width), b.range(width), b.constant());
    let all_ones =
        |n: u64| n.checked_next_power_of_two().map_or(u64::MAX, |p| if n == p { 2 * (p - 1) + 1 } else { p - 1 });
    let fits = |least: Option<u64>, most: Option<u64>| match (least, most) {
        (Some(least), Some(most)) if most <= high => Value::number(least, most),
        _ => anything,
    };
    match (op, constant) {
        (Alu::Mov, _) => Value::number(low_b, high_b),
        (Alu::Add, _) => fits(least.checked_add(low_b), most.checked_add(high_b)),
        (Alu::Sub, _) if least >= high_b => Value::number(least - high_b, most - low_b),
        (Alu::Mul, _) => fits(least.checked_mul(low_b), most.checked_mul(high_b)),
        (Alu::And, _) => Value::number(0, most.min(high_b)),
        (Alu::Or | Alu::Xor, _) => Value::number(0, all_ones(most.max(high_b)).min(high)),
        (Alu::Lsh, Some(by)) if by < 32 => fits(least.checked_mul(1 << by), most.checked_mul(1 << by)),
        (Alu::Rsh, Some(by)) if by < 32 => Value::number(least >> by, most >> by),
        (Alu::Arsh, Some(by)) if by < 32 && most <= high / 2 => Value::number(least >> by, most >> by),
        (Alu::Div, Some(by)) if by & high != 0 => Value::number(least / (by & high), most / (by & high)),
        (Alu::Mod, Some(by)) if by & high != 0 => Value::number(0, most.min((by & high) - 1)),
        _ => anything,
    }
}

/// A pointer, some bytes on.
pub(super) fn moved(pointer: Value, by: i64) -> Value {
    let near = |offset: i64| Some(offset + by).filter(|offset| offset.unsigned_abs() < FAR);
    let value = match pointer {
        Value::Context(offset) => near(offset).map(Value::Context),
        Value::Stack(offset) => near(offset).map(Value::Stack),
        Value::Packet { base, offset } => near(offset).map(|offset| Value::Packet { base, offset }),
        Value::Inside { least, most, size, writable } => {
            near(least).zip(near(most)).map(|(least, most)| Value::Inside { least, most, size, writable })
        }
        _ => None,
    };
    value.unwrap_or(Value::Unknown)
}

/// A pointer, between `least` and `most` bytes on.
pub(super) fn moved_by(state: &mut State, pointer: Value, (low, high): (u64, u64), at: u32) -> Value {
    match pointer {
        Value::Packet { base, offset } => {
            let far = u64::try_from(offset).ok().and_then(|offset| state.far(base).checked_add(offset + high));
            let new = at + 1;
            let bytes = state.bytes(base).saturating_sub(offset.max(0) as u64 + high);
            state.forget_base(new);
            match far {
                Some(far) if far < FAR => {
                    state.bases.insert(new, Base { bytes, far });
                    Value::Packet { base: new, offset: 0 }
                }
                _ => Value::Unknown,
            }
        }
        Value::Inside { least, most, size, writable } if most.unsigned_abs() < FAR => {
            Value::Inside { least: least + low as i64, most: most + high as i64, size, writable }
        }
        _ => Value::Unknown,
    }
}

//! What comparisons make known, on the way that is taken and on the other.

use super::state::State;
use super::value::{FAR, MOST_32, Value, ZERO};
use crate::op::{Cond, Operand, R, Width};

/// What is known where `dst cond src` holds, or does not: false where that cannot be.
pub(super) fn refine(state: &mut State, (width, cond): (Width, Cond), dst: R, src: Operand, holds: bool) -> bool {
    let (a, b) = (state.get(dst), state.operand(src));
    // As one of the six comparisons that hold.
    let cond = if holds { cond } else { opposite(cond) };
    if width == Width::W64 {
        match (a, b) {
            (Value::Packet { base, offset }, Value::End) => within(state, base, offset, cond),
            (Value::End, Value::Packet { base, offset }) => within(state, base, offset, turned(cond)),
            _ => {}
        }
        if let (Value::Perhaps { size, writable, at }, Some(0)) = (a, b.constant()) {
            let now = match cond {
                Cond::Eq => ZERO,
                Cond::Ne | Cond::Gt => Value::Inside { least: 0, most: 0, size, writable },
                _ => return true,
            };
            let same = |v: &&mut Value| matches!(v, Value::Perhaps { at: other, .. } if *other == at);
            state.values().filter(same).for_each(|v| *v = now);
            return true;
        }
    }
    // Of what is compared by its low half only, that has to be all of it.
    let whole = |value: Value| match (value, width) {
        (Value::Number { .. } | Value::Unknown, Width::W64) => Some(value.range(width)),
        (Value::Number { most, .. }, Width::W32) if most <= MOST_32 => Some(value.range(width)),
        _ => None,
    };
    let Some((mut least, mut most)) = whole(a) else { return true };
    let by = match (b.constant(), width) {
        (Some(by), Width::W64) => by,
        (Some(by), Width::W32) => by & MOST_32,
        (None, _) => return true,
    };
    let half = Value::Unknown.range(width).1 / 2;
    // With a sign, what is not negative is compared as without.
    let cond = match cond {
        Cond::Sgt | Cond::Sge | Cond::Slt | Cond::Sle if most > half || by > half => return true,
        Cond::Sgt => Cond::Gt,
        Cond::Sge => Cond::Ge,
        Cond::Slt => Cond::Lt,
        Cond::Sle => Cond::Le,
        other => other,
    };
    match cond {
        Cond::Eq => (least, most) = (least.max(by), most.min(by)),
        Cond::Gt => match by.checked_add(1) {
            Some(by) => least = least.max(by),
            None => return false,
        },
        Cond::Ge => least = least.max(by),
        Cond::Lt => match by.checked_sub(1) {
            Some(by) => most = most.min(by),
            None => return false,
        },
        Cond::Le => most = most.min(by),
        _ => return true,
    }
    if least > most {
        return false;
    }
    state.regs[dst.index()] = Value::number(least, most);
    true
}

/// The pointer `base + offset` compares so with the packet's end.
pub(super) fn within(state: &mut State, base: u32, offset: i64, cond: Cond) {
    let Ok(offset) = u64::try_from(offset) else { return };
    // Farther away the sum might begin anew at zero.
    if offset >= FAR || state.far(base) >= FAR {
        return;
    }
    match cond {
        Cond::Le | Cond::Eq => state.learn(base, offset),
        Cond::Lt => state.learn(base, offset + 1),
        _ => {}
    }
}

pub(super) fn opposite(cond: Cond) -> Cond {
    match cond {
        Cond::Eq => Cond::Ne,
        Cond::Ne => Cond::Eq,
        Cond::Gt => Cond::Le,
        Cond::Ge => Cond::Lt,
        Cond::Lt => Cond::Ge,
        Cond::Le => Cond::Gt,
        Cond::Sgt => Cond::Sle,
        Cond::Sge => Cond::Slt,
        Cond::Slt => Cond::Sge,
        Cond::Sle => Cond::Sgt,
        // Knows nothing of numbers; that there is no common bit helps nobody here.
        Cond::Set => Cond::Set,
    }
}

/// The comparison of the same two the other way round.
pub(super) fn turned(cond: Cond) -> Cond {
    match cond {
        Cond::Gt => Cond::Lt,
        Cond::Ge => Cond::Le,
        Cond::Lt => Cond::Gt,
        Cond::Le => Cond::Ge,
        Cond::Sgt => Cond::Slt,
        Cond::Sge => Cond::Sle,
        Cond::Slt => Cond::Sgt,
        Cond::Sle => Cond::Sge,
        same => same,
    }
}

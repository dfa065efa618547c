//! Where ways meet: what is known is what is known on both.
//!
//! Two different pointers into the packet become one with a base of that place's own; see the text of
//! [`super`].

use super::state::{BEGINNING, Base, MEETING, State, WORDS};
use super::value::{FAR, Value};
use std::collections::BTreeSet;

/// What a function that is called knows: what means the same in every frame.
pub(super) fn arguments(state: &State) -> State {
    let mut callee = State::nothing();
    for (to, from) in callee.regs[1..6].iter_mut().zip(&state.regs[1..6]) {
        let same = matches!(
            from,
            Value::Number { .. }
                | Value::Context(_)
                | Value::Packet { base: BEGINNING, .. }
                | Value::End
                | Value::Map(_)
        );
        if same {
            *to = *from;
        }
    }
    callee.bases.extend(state.bases.get_key_value(&BEGINNING).map(|(id, base)| (*id, *base)));
    callee
}

/// What both know.
pub(super) fn join(known: &State, other: &State, at: u32, give_up: bool) -> State {
    let mut other = other.clone();
    let mut joined = known.clone();
    joined.bases.retain(|id, base| {
        let Some(found) = other.bases.get(id) else { return false };
        let (before, far) = (base.bytes, base.far);
        *base = Base { bytes: before.min(found.bytes), far: far.max(found.far) };
        !(give_up && (before, far) != (base.bytes, base.far))
    });
    // Pointers of this place's that have come round are others than what comes to be here now.
    let first = MEETING | (at * (11 + WORDS) as u32);
    let come: BTreeSet<u32> = other
        .values()
        .filter_map(|v| if let Value::Packet { base, .. } = v { Some(*base) } else { None })
        .filter(|base| (first..first + (11 + WORDS) as u32).contains(base))
        .collect();
    for index in 0..11 + WORDS {
        let base = first + index as u32;
        let mine = matches!(slot_of(known, index), Value::Packet { base: b, .. } if b == base);
        let stale = come.contains(&base);
        if stale {
            other.forget_base(base);
            joined.forget_base(base);
        }
        let (a, b) = (slot_of(known, index), slot_of(&other, index));
        let met = match (a, b) {
            _ if stale && mine => Value::Unknown,
            _ if a == b => a,
            (Value::Number { least, most }, Value::Number { least: low, most: high }) if !give_up => {
                Value::number(least.min(low), most.max(high))
            }
            (
                Value::Inside { least, most, size, writable },
                Value::Inside { least: low, most: high, size: other, writable: too },
            ) if size == other && !give_up => {
                Value::Inside { least: least.min(low), most: most.max(high), size, writable: writable && too }
            }
            (Value::Packet { .. }, Value::Packet { .. }) if !give_up => {
                meeting(&mut joined, (known, a), (&other, b), base)
            }
            _ => Value::Unknown,
        };
        if index < 11 {
            joined.regs[index] = met;
        } else {
            joined.words[index - 11] = met;
        }
    }
    joined
}

pub(super) fn slot_of(state: &State, index: usize) -> Value {
    if index < 11 { state.regs[index] } else { state.words[index - 11] }
}

/// A base for two pointers that meet: what is known of both holds for it.
pub(super) fn meeting(
    joined: &mut State,
    (first, a): (&State, Value),
    (second, b): (&State, Value),
    base: u32,
) -> Value {
    let of = |state: &State, value: Value| {
        let Value::Packet { base, offset } = value else { return None };
        let offset = u64::try_from(offset).ok()?;
        let far = state.far(base).checked_add(offset).filter(|far| *far < FAR)?;
        Some(Base { bytes: state.bytes(base).saturating_sub(offset), far })
    };
    match (of(first, a), of(second, b)) {
        (Some(one), Some(two)) => {
            joined.bases.insert(base, Base { bytes: one.bytes.min(two.bytes), far: one.far.max(two.far) });
            Value::Packet { base, offset: 0 }
        }
        _ => Value::Unknown,
    }
}

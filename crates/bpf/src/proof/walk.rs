//! The way through a program: from each place where ways may meet to the next ones, until nothing changes any
//! more.

use super::arithmetic::arithmetic;
use super::join::{arguments, join};
use super::refine::refine;
use super::state::{BEGINNING, State, word};
use super::value::Value;
use super::{Around, Call, Field, Proof, Returns, Why, access};
use crate::check::{Checked, FRAME, is_wide};
use crate::op::{Op, R, Size, Width};
use std::collections::{BTreeSet, HashMap};

/// Larger programs are not looked at.
pub(super) const MOST_SLOTS: usize = 1 << 16;
/// Nor those with more places where ways meet.
const MOST_STATES: usize = 8192;
/// Instructions looked at, for each that there is.
const PATIENCE: usize = 64;
/// How often what is known at a place may change before what still changes is given up.
const CHANGES: u32 = 8;

/// Where ways may meet: slots that are jumped to, and where functions begin.
fn meets(checked: &Checked) -> Vec<bool> {
    let mut meets = vec![false; checked.ops.len()];
    let targets = checked.ops.iter().filter_map(|op| match op {
        Op::Jump { target } | Op::MayGoto { target } | Op::Branch { target, .. } => Some(*target),
        _ => None,
    });
    targets.chain(checked.functions.iter().map(|f| f.start)).for_each(|at| meets[at as usize] = true);
    meets
}

/// The walk.
pub(super) struct Prover<'a> {
    checked: &'a Checked,
    around: &'a Around<'a>,
    /// Whether something in the program moves the packet.
    moves: bool,
    meets: Vec<bool>,
    /// What is known where ways may meet, or may go on, and how often that changed.
    states: HashMap<u32, (State, u32)>,
    work: BTreeSet<u32>,
}

impl<'a> Prover<'a> {
    pub(super) fn new(checked: &'a Checked, around: &'a Around<'a>) -> Prover<'a> {
        let (states, work) = (HashMap::new(), BTreeSet::new());
        let mut prover = Prover { checked, around, moves: false, meets: meets(checked), states, work };
        // A tail call in a function that was called comes back when the program that it went to has ended.
        let tail = checked.functions.len() > 1 && checked.ops.contains(&Op::Call { helper: around.tail_call });
        prover.moves = tail || checked.ops.iter().any(|op| prover.moves_packet(*op));
        prover
    }
}

impl Prover<'_> {
    fn moves_packet(&self, op: Op) -> bool {
        match op {
            Op::Call { helper } => (self.around.call)(helper).moves_packet,
            Op::CallReg { .. } => true,
            _ => false,
        }
    }

    /// Until nothing changes any more; false when that takes too long.
    pub(super) fn settle(&mut self) -> bool {
        let mut begin = State::nothing();
        if self.around.context.is_some() {
            begin.regs[R::R1.index()] = Value::Context(0);
        }
        self.meet(0, &begin);
        for taken in &self.checked.taken {
            self.meet(*taken, &State::nothing());
        }
        let mut left = self.checked.ops.len() * PATIENCE;
        while let Some(at) = self.work.pop_first() {
            let Some(state) = self.states.get(&at).map(|(state, _)| state.clone()) else { continue };
            if !self.walk(at, state, &mut left, &mut |_, _, _| {}) || self.states.len() > MOST_STATES {
                return false;
            }
        }
        true
    }

    /// Notes what is proved, now that it is settled.
    pub(super) fn collect(&mut self, proof: &mut Proof) {
        let places: Vec<(u32, State)> = self.states.iter().map(|(at, (state, _))| (*at, state.clone())).collect();
        let mut left = usize::MAX;
        // Where ways may meet they end; so each slot is seen once.
        for (at, state) in places {
            self.walk(at, state, &mut left, &mut |slot, why, field| {
                if let Some(why) = why {
                    proof.accesses.insert(slot, why);
                }
                if let Some(field) = field {
                    proof.fields.insert(slot, field);
                }
            });
        }
        // Nothing may have changed meanwhile.
        if !self.work.is_empty() {
            (proof.accesses, proof.fields) = Default::default();
        }
    }

    /// From a place where ways may meet to the next ones. False when patience is at its end.
    fn walk(
        &mut self,
        mut at: u32,
        mut state: State,
        left: &mut usize,
        seen: &mut dyn FnMut(u32, Option<Why>, Option<Field>),
    ) -> bool {
        loop {
            if *left == 0 {
                return false;
            }
            *left -= 1;
            let op = self.checked.ops[at as usize];
            let (why, field) = self.judge(&state, op);
            seen(at, why, field);
            let next = at + if is_wide(op) { 2 } else { 1 };
            match op {
                Op::Exit => return true,
                Op::Jump { target } => {
                    self.meet(target, &state);
                    return true;
                }
                Op::MayGoto { target } => self.meet(target, &state),
                Op::Branch { width, cond, dst, src, target } => {
                    let mut way = state.clone();
                    if refine(&mut way, (width, cond), dst, src, true) {
                        self.meet(target, &way);
                    }
                    if !refine(&mut state, (width, cond), dst, src, false) {
                        return true;
                    }
                }
                Op::CallLocal { target } => {
                    self.meet(target, &arguments(&state));
                    self.after_call(&mut state, None, at);
                }
                _ => self.step(&mut state, op, at, why, field),
            }
            at = next;
            if self.meets[at as usize] {
                self.meet(at, &state);
                return true;
            }
        }
    }

    /// What is known at `at` is at most what `state` knows.
    fn meet(&mut self, at: u32, state: &State) {
        let Some((known, changes)) = self.states.get_mut(&at) else {
            self.states.insert(at, (state.clone(), 0));
            self.work.insert(at);
            return;
        };
        let joined = join(known, state, at, *changes > CHANGES);
        if joined != *known {
            *known = joined;
            *changes += 1;
            self.work.insert(at);
        }
    }

    /// Whether the access of `op` is proved, and what it reads from the run.
    fn judge(&self, state: &State, op: Op) -> (Option<Why>, Option<Field>) {
        let Some((base, offset, size, write, atomic)) = access(op) else { return (None, None) };
        let (offset, bytes) = (i64::from(offset), size.bytes() as i64);
        let aligned = |at: i64| !atomic || at % bytes == 0;
        let why = match state.get(base) {
            Value::Stack(at) if (-(FRAME as i64)..=-bytes).contains(&(at + offset)) && aligned(at + offset) => {
                Some(Why::Frame)
            }
            Value::Context(at) => {
                let size = self.around.context.map_or(0, |context| context.size);
                let inside = at + offset >= 0 && at + offset + bytes <= size;
                (inside && aligned(at + offset)).then_some(Why::Context)
            }
            Value::Packet { base, offset: at } if !atomic => {
                let at = at + offset;
                // The broken variant that the tests must catch: one byte more than was compared.
                let known = state.bytes(base) as i64 + i64::from(cfg!(relpoline_broken = "proves-too-much"));
                (at >= 0 && at + bytes <= known).then_some(Why::Packet)
            }
            Value::Inside { least, most, size, writable } => {
                let known = !atomic || least == most && aligned(least + offset);
                let inside = least + offset >= 0 && u64::try_from(most + offset + bytes).is_ok_and(|end| end <= size);
                (inside && known && (writable || !write)).then_some(Why::Map)
            }
            _ => None,
        };
        let field = match (op, state.get(base), self.around.context) {
            (Op::Load { size: Size::W, signed: false, .. }, Value::Context(at), Some(context)) => {
                let is = |field: i64| at + offset == field;
                is(context.data).then_some(Field::Data).or_else(|| is(context.end).then_some(Field::End))
            }
            _ => None,
        };
        (why, field)
    }

    /// What holds after `op`, which is neither a jump nor a call of a function.
    fn step(&self, state: &mut State, op: Op, at: u32, why: Option<Why>, field: Option<Field>) {
        if let Some((base, offset, size, true, _)) = access(op) {
            self.store(state, op, (base, offset, size), why);
        }
        let (dst, value) = match op {
            Op::Alu { width, op, dst, src } => {
                let value = arithmetic(state, (width, op), dst, src, at);
                (dst, value)
            }
            Op::MovSx { width, from, dst, src } => {
                let (least, most) = state.get(src).range(Width::W64);
                let positive = most < 1 << (8 * from.bytes() as u32 - 1);
                let (low, high) = Value::Unknown.range(width);
                (dst, if positive { Value::number(least, most) } else { Value::number(low, high) })
            }
            Op::Neg { width, dst } => {
                let (low, high) = Value::Unknown.range(width);
                (dst, Value::number(low, high))
            }
            Op::Swap { bits, dst, .. } => {
                let most = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
                (dst, Value::number(0, most))
            }
            Op::LoadImm { dst, value } => (dst, Value::Number { least: value, most: value }),
            Op::LoadMap { dst, map } => (dst, Value::Map(map)),
            Op::LoadMapValue { dst, map, offset } => (dst, self.data(map, offset)),
            Op::Load { size, signed, dst, src, offset } => {
                let value = match (field, state.get(src)) {
                    (Some(Field::Data), _) => Value::Packet { base: BEGINNING, offset: 0 },
                    (Some(Field::End), _) => Value::End,
                    (None, Value::Stack(base)) if why.is_some() && size == Size::D => {
                        word(state, base + i64::from(offset))
                    }
                    _ if signed || size == Size::D => Value::Unknown,
                    _ => Value::Number { least: 0, most: (1 << (8 * size.bytes())) - 1 },
                };
                (dst, value)
            }
            Op::LoadPacket { .. } => return self.after_call(state, Some(self.around.load_packet), at),
            Op::Call { helper } => return self.after_call(state, Some(helper), at),
            Op::CallReg { .. } => return self.after_call(state, None, at),
            other => match crate::check::written(other) {
                Some(dst) => (dst, Value::Unknown),
                None => return,
            },
        };
        state.regs[dst.index()] = value;
    }

    /// What a store makes known or unknown on the stack.
    fn store(&self, state: &mut State, op: Op, (base, offset, size): (R, i16, Size), why: Option<Why>) {
        let (Some(why), value) = (why, state.get(base)) else {
            state.words.fill(Value::Unknown);
            return;
        };
        let (Why::Frame, Value::Stack(at)) = (why, value) else { return };
        let at = at + i64::from(offset);
        let kept = match op {
            Op::Store { size: Size::D, src, .. } if at % 8 == 0 => state.operand(src),
            _ => Value::Unknown,
        };
        state.words[State::touched(at, size.bytes() as i64)].fill(kept);
    }

    /// What holds after a call of helper `helper`, or of a function.
    fn after_call(&self, state: &mut State, helper: Option<u32>, at: u32) {
        let any = Call { writes: true, moves_packet: self.moves, returns: Returns::Anything };
        let call = helper.map_or(any, |helper| (self.around.call)(helper));
        let result = self.result(state, call.returns, at);
        if call.writes {
            state.words.fill(Value::Unknown);
        }
        if call.moves_packet {
            state.forget_packet();
        }
        let gone = |v: &&mut Value| matches!(v, Value::Perhaps { at: other, .. } if *other == at);
        state.values().filter(gone).for_each(|v| *v = Value::Unknown);
        state.regs[..6].fill(Value::Unknown);
        state.regs[0] = result;
    }

    /// What a helper returns.
    fn result(&self, state: &State, returns: Returns, at: u32) -> Value {
        let Value::Map(map) = state.get(R::R1) else { return Value::Unknown };
        let Some(memory) = self.around.maps.get(map as usize) else { return Value::Unknown };
        let size = match returns {
            Returns::Anything => None,
            Returns::Value => memory.value,
            Returns::Record => state.get(R::R2).constant().filter(|_| memory.is_ring),
        };
        size.map_or(Value::Unknown, |size| Value::Perhaps { size, writable: memory.writable, at })
    }

    /// An address inside a map that is known when the program is loaded.
    fn data(&self, map: u32, offset: u32) -> Value {
        let Some(memory) = self.around.maps.get(map as usize) else { return Value::Unknown };
        Value::Inside { least: offset.into(), most: offset.into(), size: memory.len, writable: memory.writable }
    }
}

//! Which memory accesses of a program are within bounds whatever it is given, so that compiled code need not check them.
//!
//! An abstract interpretation over the whole program: of each register, and of each word of the stack that a pointer may be
//! kept in, it is known what it may hold ([`Value`]). Proved are accesses
//! - to the function's own frame, at known places;
//! - to the context and the packet of a run that has a context of the kernel's (`Options::kernel_contexts`), the latter as
//!   far as the program has compared addresses with the packet's end;
//! - to the value that a look-up has found, once it was compared with null, and to data sections.
//!
//! All else stays checked. It is no verifier: nothing is refused.
//!
//! # Why it is sound
//! - Where the packet begins and ends is read from the run itself, not from the context, which programs can write
//!   ([`Proof::field`]); and a program that relies on that is not run without a context, since its beginning checks it.
//! - What moves the packet makes everything unknown that pointed to it: every helper that is not known to leave it alone.
//! - A store that is not proved to go elsewhere may go to the stack of its run, and makes unknown what was kept there. So does
//!   every helper that is not known to write nothing, and every call of a function.
//! - A pointer into the packet is a *base* and an offset. The first base is the packet's beginning; where something bounded but
//!   unknown is added, or two ways with different pointers meet, a new one comes to be, named after the place. Whatever
//!   still refers to the base that was there under the same name becomes unknown first.
//! - A map's memory stays where it is for as long as programs that name the map are loaded.
//!
//! The interpreter checks all accesses, proved or not: tests compare both.

use crate::check::{Checked, FRAME, is_wide};
use crate::op::{Alu, Cond, Op, Operand, R, Size, Width};
use crate::semantics;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Larger programs are not looked at.
const MOST_SLOTS: usize = 1 << 16;
/// Nor those with more places where ways meet.
const MOST_STATES: usize = 8192;
/// Instructions looked at, for each that there is.
const PATIENCE: usize = 64;
/// How often what is known at a place may change before what still changes is given up.
const CHANGES: u32 = 8;
/// Farther from the packet's beginning than this nothing is followed.
const FAR: u64 = 1 << 20;
/// Words of a frame.
const WORDS: usize = FRAME / 8;

/// What a register or word may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value {
    Unknown,
    /// A number between these.
    Number {
        least: u64,
        most: u64,
    },
    /// The context's address, plus this.
    Context(i64),
    /// r10, plus this.
    Stack(i64),
    /// A base's address, plus this.
    Packet {
        base: u32,
        offset: i64,
    },
    /// One past the packet.
    End,
    /// A map's handle.
    Map(u32),
    /// An address inside `size` bytes of a map, from the first between these on.
    Inside {
        least: i64,
        most: i64,
        size: u64,
        writable: bool,
    },
    /// The first address of those, or null: what the call in slot `at` returned.
    Perhaps {
        size: u64,
        writable: bool,
        at: u32,
    },
}

const ZERO: Value = Value::Number { least: 0, most: 0 };
const MOST_32: u64 = u32::MAX as u64;

impl Value {
    fn number(least: u64, most: u64) -> Value {
        if (least, most) == (0, u64::MAX) { Value::Unknown } else { Value::Number { least, most } }
    }

    fn constant(self) -> Option<u64> {
        if let Value::Number { least, most } = self { (least == most).then_some(least) } else { None }
    }

    /// Between which numbers the low `width` is.
    fn range(self, width: Width) -> (u64, u64) {
        match (self, width) {
            (Value::Number { least, most }, Width::W64) => (least, most),
            (Value::Number { least, most }, Width::W32) if most <= MOST_32 => (least, most),
            (_, Width::W32) => (0, MOST_32),
            (_, Width::W64) => (0, u64::MAX),
        }
    }
}

/// What is known of a base: bytes that are there from it on, and how far from the packet's beginning it is at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Base {
    bytes: u64,
    far: u64,
}

/// What is known before an instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    regs: [Value; 11],
    words: [Value; WORDS],
    bases: BTreeMap<u32, Base>,
}

/// The base that is the packet's beginning.
const BEGINNING: u32 = 0;
/// Bases of places where ways meet have this bit.
const MEETING: u32 = 1 << 31;

impl State {
    /// Nothing is known but the frame.
    fn nothing() -> State {
        let mut regs = [Value::Unknown; 11];
        regs[R::FP.index()] = Value::Stack(0);
        State { regs, words: [Value::Unknown; WORDS], bases: BTreeMap::new() }
    }

    fn values(&mut self) -> impl Iterator<Item = &mut Value> {
        self.regs.iter_mut().chain(&mut self.words)
    }

    fn get(&self, r: R) -> Value {
        self.regs[r.index()]
    }

    fn operand(&self, src: Operand) -> Value {
        match src {
            Operand::Reg(r) => self.get(r),
            Operand::Imm(imm) => {
                let value = semantics::immediate(imm);
                Value::Number { least: value, most: value }
            }
        }
    }

    /// Forgets all that refers to a base.
    fn forget_base(&mut self, gone: u32) {
        self.values()
            .filter(|v| matches!(v, Value::Packet { base, .. } if *base == gone))
            .for_each(|v| *v = Value::Unknown);
        self.bases.remove(&gone);
    }

    /// The packet may have moved.
    fn forget_packet(&mut self) {
        // The broken variant that the tests must catch: what was proved of a packet holds after it has moved.
        if cfg!(relpoline_broken = "packets-stand-still") {
            return;
        }
        let moves = |v: &&mut Value| matches!(v, Value::Packet { .. } | Value::End);
        self.values().filter(moves).for_each(|v| *v = Value::Unknown);
        self.bases.clear();
    }

    fn bytes(&self, base: u32) -> u64 {
        self.bases.get(&base).map_or(0, |base| base.bytes)
    }

    fn far(&self, base: u32) -> u64 {
        if base == BEGINNING { 0 } else { self.bases.get(&base).map_or(FAR, |base| base.far) }
    }

    /// There are `bytes` from `base` on.
    fn learn(&mut self, base: u32, bytes: u64) {
        let far = self.far(base);
        let known = self.bases.entry(base).or_insert(Base { bytes: 0, far });
        known.bytes = known.bytes.max(bytes);
    }

    /// The words that `size` bytes at `offset` from r10 touch.
    fn touched(offset: i64, size: i64) -> std::ops::Range<usize> {
        let word = |at: i64| usize::try_from((at + FRAME as i64).clamp(0, FRAME as i64)).unwrap_or(0);
        word(offset) / 8..word(offset + size).div_ceil(8)
    }
}

/// What a context's field is read as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    /// The packet's beginning.
    Data,
    /// Its end.
    End,
}

/// Why an access need not be checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It is to the function's frame.
    Frame,
    /// It is to the context.
    Context,
    /// It is to the packet, before what was compared with its end.
    Packet,
    /// It is to a map's value, or to a data section.
    Map,
}

/// What was proved of a program.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// By slot.
    accesses: BTreeMap<u32, Why>,
    fields: BTreeMap<u32, Field>,
}

impl Proof {
    /// Why the access in slot `slot` need not be checked.
    pub fn why(&self, slot: u32) -> Option<Why> {
        self.accesses.get(&slot).copied()
    }

    /// What the load in slot `slot` is to read from the run.
    pub fn field(&self, slot: u32) -> Option<Field> {
        self.fields.get(&slot).copied()
    }
}

/// What a proof may rely on beside the program itself.
pub struct Around<'a> {
    /// The context that its runs have in r1, whatever reaches it.
    pub context: Option<Layout>,
    /// Its maps, by number.
    pub maps: Vec<Memory>,
    /// What calls of helpers do.
    pub call: Box<dyn Fn(u32) -> Call + 'a>,
    /// The helper's number that is the tail call.
    pub tail_call: u32,
    /// That of the helper that reads packets for classic filters.
    pub load_packet: u32,
}

/// Where a context says where its packet is, and how long it is.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Offset of the packet's beginning.
    pub data: i64,
    /// Offset of its end.
    pub end: i64,
    /// Bytes of the context.
    pub size: i64,
}

/// The memory of a map.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Bytes of a value, if a look-up gives its address.
    pub value: Option<u64>,
    /// Whether records can be reserved there.
    pub is_ring: bool,
    /// Bytes of all values.
    pub len: u64,
    /// Whether programs may write them.
    pub writable: bool,
}

/// What a call of a helper does.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Whether it may write what the program can reach by its stack.
    pub writes: bool,
    /// Whether it may move the packet.
    pub moves_packet: bool,
    /// What it returns.
    pub returns: Returns,
}

/// What a helper returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Returns {
    /// Any number.
    Anything,
    /// The address of a value of the map in r1, or null.
    Value,
    /// The address of as many bytes of the map in r1 as r2 says, or null.
    Record,
}

/// What is proved of `checked`.
pub fn prove(checked: &Checked, around: &Around<'_>) -> Proof {
    let mut proof = Proof::default();
    if checked.ops.len() > MOST_SLOTS {
        return proof;
    }
    let (states, work) = (HashMap::new(), BTreeSet::new());
    let mut prover = Prover { checked, around, moves: false, meets: meets(checked), states, work };
    // A tail call in a function that was called comes back when the program that it went to has ended.
    let tail = checked.functions.len() > 1 && checked.ops.contains(&Op::Call { helper: around.tail_call });
    prover.moves = tail || checked.ops.iter().any(|op| prover.moves_packet(*op));
    if prover.settle() {
        prover.collect(&mut proof);
    }
    proof
}

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

struct Prover<'a> {
    checked: &'a Checked,
    around: &'a Around<'a>,
    /// Whether something in the program moves the packet.
    moves: bool,
    meets: Vec<bool>,
    /// What is known where ways may meet, or may go on, and how often that changed.
    states: HashMap<u32, (State, u32)>,
    work: BTreeSet<u32>,
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
    fn settle(&mut self) -> bool {
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
    fn collect(&mut self, proof: &mut Proof) {
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

/// What is at `offset` from r10, if a whole word is.
fn word(state: &State, offset: i64) -> Value {
    match usize::try_from(offset + FRAME as i64) {
        Ok(at) if at % 8 == 0 && at < FRAME => state.words[at / 8],
        _ => Value::Unknown,
    }
}

/// Base, offset and size of a memory access, whether it writes, and whether it has to be aligned.
pub fn access(op: Op) -> Option<(R, i16, Size, bool, bool)> {
    match op {
        Op::Load { size, src, offset, .. } | Op::LoadAcquire { size, src, offset, .. } => {
            Some((src, offset, size, false, false))
        }
        Op::Store { size, dst, offset, .. } | Op::StoreRelease { size, dst, offset, .. } => {
            Some((dst, offset, size, true, false))
        }
        Op::Atomic { size, dst, offset, .. } => Some((dst, offset, size, true, true)),
        _ => None,
    }
}

/// What a function that is called knows: what means the same in every frame.
fn arguments(state: &State) -> State {
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
fn join(known: &State, other: &State, at: u32, give_up: bool) -> State {
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

fn slot_of(state: &State, index: usize) -> Value {
    if index < 11 { state.regs[index] } else { state.words[index - 11] }
}

/// A base for two pointers that meet: what is known of both holds for it.
fn meeting(joined: &mut State, (first, a): (&State, Value), (second, b): (&State, Value), base: u32) -> Value {
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

/// `dst op src`, as far as it is known.
fn arithmetic(state: &mut State, (width, op): (Width, Alu), dst: R, src: Operand, at: u32) -> Value {
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
fn moved(pointer: Value, by: i64) -> Value {
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
fn moved_by(state: &mut State, pointer: Value, (low, high): (u64, u64), at: u32) -> Value {
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

/// What is known where `dst cond src` holds, or does not: false where that cannot be.
fn refine(state: &mut State, (width, cond): (Width, Cond), dst: R, src: Operand, holds: bool) -> bool {
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
fn within(state: &mut State, base: u32, offset: i64, cond: Cond) {
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

fn opposite(cond: Cond) -> Cond {
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
fn turned(cond: Cond) -> Cond {
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

#[cfg(test)]
mod tests {
    use super::*;
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
    const CONDITIONS: [Cond; 11] = [
        Cond::Eq,
        Cond::Ne,
        Cond::Set,
        Cond::Gt,
        Cond::Ge,
        Cond::Lt,
        Cond::Le,
        Cond::Sgt,
        Cond::Sge,
        Cond::Slt,
        Cond::Sle,
    ];

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
}

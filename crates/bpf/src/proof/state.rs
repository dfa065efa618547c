//! What is known at a place of a program: of its registers, of its frame's words, and of the bases that
//! pointers into the packet are reckoned from.

use super::value::{FAR, Value};
use crate::check::FRAME;
use crate::op::{Operand, R};
use crate::semantics;
use std::collections::BTreeMap;

/// Words of a frame.
pub(super) const WORDS: usize = FRAME / 8;

/// What is known of a base: bytes that are there from it on, and how far from the packet's beginning it is at
/// most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Base {
    pub(super) bytes: u64,
    pub(super) far: u64,
}

/// What is known before an instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct State {
    pub(super) regs: [Value; 11],
    pub(super) words: [Value; WORDS],
    pub(super) bases: BTreeMap<u32, Base>,
}

/// The base that is the packet's beginning.
pub(super) const BEGINNING: u32 = 0;
/// Bases of places where ways meet have this bit.
pub(super) const MEETING: u32 = 1 << 31;

impl State {
    /// Nothing is known but the frame.
    pub(super) fn nothing() -> State {
        let mut regs = [Value::Unknown; 11];
        regs[R::FP.index()] = Value::Stack(0);
        State { regs, words: [Value::Unknown; WORDS], bases: BTreeMap::new() }
    }

    pub(super) fn values(&mut self) -> impl Iterator<Item = &mut Value> {
        self.regs.iter_mut().chain(&mut self.words)
    }

    pub(super) fn get(&self, r: R) -> Value {
        self.regs[r.index()]
    }

    pub(super) fn operand(&self, src: Operand) -> Value {
        match src {
            Operand::Reg(r) => self.get(r),
            Operand::Imm(imm) => {
                let value = semantics::immediate(imm);
                Value::Number { least: value, most: value }
            }
        }
    }

    /// Forgets all that refers to a base.
    pub(super) fn forget_base(&mut self, gone: u32) {
        self.values()
            .filter(|v| matches!(v, Value::Packet { base, .. } if *base == gone))
            .for_each(|v| *v = Value::Unknown);
        self.bases.remove(&gone);
    }

    /// The packet may have moved.
    pub(super) fn forget_packet(&mut self) {
        // The broken variant that the tests must catch: what was proved of a packet holds after it has moved.
        if cfg!(relpoline_broken = "packets-stand-still") {
            return;
        }
        let moves = |v: &&mut Value| matches!(v, Value::Packet { .. } | Value::End);
        self.values().filter(moves).for_each(|v| *v = Value::Unknown);
        self.bases.clear();
    }

    pub(super) fn bytes(&self, base: u32) -> u64 {
        self.bases.get(&base).map_or(0, |base| base.bytes)
    }

    pub(super) fn far(&self, base: u32) -> u64 {
        if base == BEGINNING { 0 } else { self.bases.get(&base).map_or(FAR, |base| base.far) }
    }

    /// There are `bytes` from `base` on.
    pub(super) fn learn(&mut self, base: u32, bytes: u64) {
        let far = self.far(base);
        let known = self.bases.entry(base).or_insert(Base { bytes: 0, far });
        known.bytes = known.bytes.max(bytes);
    }

    /// The words that `size` bytes at `offset` from r10 touch.
    pub(super) fn touched(offset: i64, size: i64) -> std::ops::Range<usize> {
        let word = |at: i64| usize::try_from((at + FRAME as i64).clamp(0, FRAME as i64)).unwrap_or(0);
        word(offset) / 8..word(offset + size).div_ceil(8)
    }
}

/// What is at `offset` from r10, if a whole word is.
pub(super) fn word(state: &State, offset: i64) -> Value {
    match usize::try_from(offset + FRAME as i64) {
        Ok(at) if at % 8 == 0 && at < FRAME => state.words[at / 8],
        _ => Value::Unknown,
    }
}

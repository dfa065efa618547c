//! Which memory accesses of a program are within bounds whatever it is given, so that compiled code need not
//! check them.
//!
//! An abstract interpretation over the whole program: of each register, and of each word of the stack that a
//! pointer may be kept in, it is known what it may hold ([`value::Value`]). Proved are accesses
//! - to the function's own frame, at known places;
//! - to the context and the packet of a run that has a context of the kernel's (`Options::kernel_contexts`),
//!   the latter as far as the program has compared addresses with the packet's end;
//! - to the value that a look-up has found, once it was compared with null, and to data sections.
//!
//! All else stays checked. It is no verifier: nothing is refused.
//!
//! # Why it is sound
//! - Where the packet begins and ends is read from the run itself, not from the context, which programs can
//!   write ([`Proof::field`]); and a program that relies on that is not run without a context, since its
//!   beginning checks it.
//! - What moves the packet makes everything unknown that pointed to it: every helper that is not known to
//!   leave it alone.
//! - A store that is not proved to go elsewhere may go to the stack of its run, and makes unknown what was
//!   kept there. So does every helper that is not known to write nothing, and every call of a function.
//! - A pointer into the packet is a *base* and an offset. The first base is the packet's beginning; where
//!   something bounded but unknown is added, or two ways with different pointers meet, a new one comes to be,
//!   named after the place. Whatever still refers to the base that was there under the same name becomes
//!   unknown first.
//! - A map's memory stays where it is for as long as programs that name the map are loaded.
//!
//! The interpreter checks all accesses, proved or not: tests compare both.
//!
//! | part | module |
//! |---|---|
//! | the way through a program, and what each instruction makes known | [`walk`] |
//! | what a register or word may hold | [`value`] |
//! | what is known at a place | [`state`] |
//! | reckoning, comparisons, places where ways meet | [`arithmetic`], [`refine`], [`join`] |

mod arithmetic;
mod join;
mod refine;
mod state;
#[cfg(test)]
mod tests;
mod value;
mod walk;

use crate::check::Checked;
use crate::op::{Op, R, Size};
use std::collections::BTreeMap;
use walk::{MOST_SLOTS, Prover};

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
    let mut prover = Prover::new(checked, around);
    if prover.settle() {
        prover.collect(&mut proof);
    }
    proof
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

//! Slots: a gate that lies anywhere, one byte of which changes at a time.
//!
//! ```text
//! slot 0    a9 d0 d1 d2 d3     test $d,%eax: passed over
//! slot 1    e9 d0 d1 d2 d3     jmp: the first one decides
//! slot 2    e9 d0 d1 d2 d3     not reached
//! …
//! ```
//!
//! Where the program's text is changed through the kernel only single bytes are whole, so no word is (a gate
//! of a JIT compiler is better off as a [word](crate::word)). A gate is a row of slots, each a `jmp` or
//! passed over as a `test`; the first `jmp` decides. Moving to an earlier slot is one byte. Moving on to a
//! later one takes several, and a thread may be preempted between two slots and go on much later. So the
//! slots in between are switched over from the last to the first: until the very last change the old slot
//! decides, and whoever has passed it already finds nothing but `test` up to the new one.
//!
//! A slot's displacement is written before the slot can be reached, followed by a barrier. The falling form
//! writes flags, which no calling convention passes anything in.
//!
//! The bytes are behind a trait, so that a model checker can run the same code on simulated ones
//! (`crates/relpoline/tests/external/model`).

use crate::text::TextError;

/// First byte of a slot that decides.
pub const JMP: u8 = crate::switch::JMP_LONG;
/// First byte of a slot that is passed over.
pub const TEST: u8 = crate::switch::TEST_LONG;

/// The slots of a gate: their first bytes.
pub trait Slots {
    /// How many there are.
    const COUNT: usize;

    /// The first byte of slot `index`.
    fn opcode(&self, index: usize) -> u8;

    /// Changes the first byte of slot `index`, which is `old`.
    ///
    /// # Errors
    /// Nothing has changed then.
    fn change(&mut self, index: usize, old: u8, new: u8) -> Result<(), TextError>;
}

/// The slot that decides.
pub fn current<S: Slots>(slots: &S) -> usize {
    (0..S::COUNT).find(|&i| slots.opcode(i) != TEST).unwrap_or(0)
}

/// Lets slot `index` decide.
///
/// # Errors
/// A slot before it may decide then: the old one, or one that was to be passed over. All of them lead to
/// where the call went, or to the pointer.
pub fn select<S: Slots>(slots: &mut S, index: usize) -> Result<(), TextError> {
    let current = current(slots);
    set(slots, index, JMP)?;
    if cfg!(relpoline_broken = "slots-forward") {
        return (current..index).try_for_each(|between| set(slots, between, TEST));
    }
    (current..index).rev().try_for_each(|between| set(slots, between, TEST))
}

fn set<S: Slots>(slots: &mut S, index: usize, new: u8) -> Result<(), TextError> {
    match slots.opcode(index) {
        old if old == new => Ok(()),
        old @ (JMP | TEST) => slots.change(index, old, new),
        _ => Err(TextError::Changed),
    }
}

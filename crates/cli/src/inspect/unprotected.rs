//! Indirect branches that go through no thunk.
//!
//! They are what a build with retpolines has left open: PLT entries, calls through the GOT, and code from
//! objects that were compiled without. Functions are read from their starts with iced-x86, which also says
//! how an instruction is written.

use std::collections::{BTreeMap, HashSet};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};
use object::elf;
use relpoline_core::arch::thunk::Shape;
use relpoline_core::scan::{Function, Functions as _};

use super::code::Code;
use super::elf::Elf;
use super::findings::{Place, Unprotected};
use crate::symbols::names::Names;

/// Branches listed one by one.
const MOST_LISTED: usize = 1000;
/// Slots that the loader fills: more than any object takes from others.
const MOST_SLOTS: usize = 1 << 20;

/// Finds them.
pub fn examine(elf: &Elf<'_>, code: &Code, names: &Names) -> Unprotected {
    let slots = Slots::read(elf);
    let mut found = Unprotected::default();
    let mut read_up_to = 0;
    for function in functions(elf, code) {
        // Tables that overlap, as damaged ones may, are not read twice.
        let start = function.start.max(read_up_to);
        if start < function.end {
            let range = Function::new(start, function.end);
            // As they are met: of a large function of nothing else there would be no end.
            each_indirect_branch(elf, range, |instruction| count(&mut found, &slots, code, names, instruction));
            read_up_to = function.end;
        }
    }
    found
}

/// Unwind tables' functions and the PLTs, ascending.
fn functions(elf: &Elf<'_>, code: &Code) -> Vec<Function> {
    let mut functions = code.functions.clone();
    functions.extend(elf.plts());
    functions.sort_by_key(|function| function.start);
    functions
}

/// What tells a branch to another object's function from a program's own indirect branch.
struct Slots {
    /// The addresses that the loader fills with functions of other objects.
    filled: HashSet<u64>,
    /// Ascending, none of them in another.
    plts: Vec<Function>,
}

impl Slots {
    fn read(elf: &Elf<'_>) -> Slots {
        let is_slot = |kind| matches!(kind, elf::R_X86_64_GLOB_DAT | elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_IRELATIVE);
        let filled = elf.relocations().filter(|relocation| is_slot(relocation.kind)).take(MOST_SLOTS);
        let mut plts = elf.plts();
        plts.sort_by_key(|plt| plt.start);
        let mut end = 0;
        plts.retain(|plt| {
            let is_apart = plt.start >= end;
            end = end.max(plt.end);
            is_apart
        });
        Slots { filled: filled.map(|relocation| relocation.place).collect(), plts }
    }

    fn are_meant_by(&self, instruction: &Instruction) -> bool {
        let is_filled =
            instruction.is_ip_rel_memory_operand() && self.filled.contains(&instruction.ip_rel_memory_address());
        // The first PLT entry jumps to the loader itself, whose slot has no relocation.
        is_filled || self.plts.as_slice().containing(instruction.ip()).is_some()
    }
}

fn each_indirect_branch(elf: &Elf<'_>, range: Function, mut found: impl FnMut(&Instruction)) {
    let Some(bytes) = elf.at(range.start) else { return };
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(bytes.len());
    let mut decoder = Decoder::with_ip(64, &bytes[..len], range.start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if matches!(instruction.flow_control(), FlowControl::IndirectBranch | FlowControl::IndirectCall) {
            found(&instruction);
        }
    }
}

/// The instruction in AT&T syntax.
fn written(instruction: &Instruction) -> String {
    use iced_x86::Formatter as _;
    let mut text = String::new();
    let mut formatter = iced_x86::GasFormatter::new();
    formatter.options_mut().set_rip_relative_addresses(true);
    formatter.options_mut().set_uppercase_hex(false);
    formatter.format(instruction, &mut text);
    text
}

fn count(found: &mut Unprotected, slots: &Slots, code: &Code, names: &Names, instruction: &Instruction) {
    let address = instruction.ip();
    if is_in_thunk(&code.thunks, address) {
        return;
    }
    let is_call = instruction.flow_control() == FlowControl::IndirectCall;
    let through_slot = slots.are_meant_by(instruction);
    match (through_slot, is_call) {
        (true, true) => found.got_calls += 1,
        (true, false) => found.plt += 1,
        (false, true) => found.calls += 1,
        (false, false) => found.jumps += 1,
    }
    if !through_slot && found.places.len() < MOST_LISTED {
        found.places.push(Place {
            address: format!("{address:#x}").into(),
            function: names.function(address),
            instruction: written(instruction).into(),
        });
    }
}

/// Whether an address lies in one of the thunks that are jumps by design and known by name.
fn is_in_thunk(thunks: &BTreeMap<u64, relpoline_core::arch::thunk::Thunk>, address: u64) -> bool {
    let before = thunks.range(..=address).next_back();
    before.is_some_and(|(start, thunk)| {
        matches!(thunk.shape, Shape::Lfence | Shape::Jump) && address - start < u64::from(thunk.len)
    })
}

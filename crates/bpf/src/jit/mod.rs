//! The compiler from eBPF to x86-64: one pass, one instruction at a time, no allocation of registers.
//!
//! | part | module |
//! |---|---|
//! | machine instructions, who holds what | [`asm`] |
//! | entry, exits and slow paths shared by all programs of a runtime | [`stubs`] |
//! | arithmetic | `arith` |
//! | memory accesses and their bounds checks, atomics | `access` |
//! | look-ups in maps | `lookup` |
//! | jumps, calls, prologues | `flow` |
//! | tail calls and their patch sites | `tail` |
//!
//! A function pushes the registers among r6 to r9 that it writes, and nothing else. The stack of programs is
//! not the machine's: r10 moves through a stack of its own, so a program cannot overwrite a return address.

mod access;
mod arith;
pub mod asm;
mod flow;
mod lookup;
pub mod stubs;
mod tail;

use crate::code::Body;
use crate::op::{Op, Operand, Width};
use crate::run::FUNCTION;
use asm::{Asm, Label, reg};
use relpoline_patch::space::{Block, Space};

pub use stubs::{Stubs, enter};

/// Where a tail call's parts are, from the beginning of its code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SiteAt {
    /// Slot of the tail call.
    pub slot: u32,
    /// Number of the array among the program's maps, and the index in it.
    pub map: u32,
    /// See `map`.
    pub index: u32,
    /// The word that is jumped from when there is no program.
    pub bypass: usize,
    /// The word that jumps to the program.
    pub target: usize,
    /// Where execution goes on without.
    pub out: usize,
}

/// Where a tail call with a computed index leaves its program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GateAt {
    /// Slot of the tail call.
    pub slot: u32,
    /// Number of the array among the program's maps.
    pub map: u32,
    /// Its gate's word, from the beginning of the code.
    pub at: usize,
}

/// Compiled code that has its place but is not written there yet.
#[derive(Debug)]
pub struct Placed {
    /// Its place.
    pub block: Block,
    /// Its bytes, patch sites being nops.
    pub bytes: Vec<u8>,
    /// Its patch sites.
    pub sites: Vec<SiteAt>,
    /// Its gates.
    pub gates: Vec<GateAt>,
    /// Where the host comes in.
    pub way_in: usize,
    /// Where each slot's code begins.
    pub offsets: Vec<u32>,
}

/// Why a program could not be compiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CompileError {
    /// The runtime's code memory is full.
    #[error("the runtime's memory for code is full")]
    NoRoom,
    /// The runtime was inherited from the parent process.
    #[error("the runtime was inherited by fork; make a new one in this process")]
    Inherited,
}

/// Compilation of one program.
struct Compiler<'a> {
    asm: Asm,
    body: &'a Body,
    stubs: &'a Stubs,
    /// Addresses of the slot tables of the program's arrays.
    tables: &'a [u64],
    /// One per slot.
    labels: Vec<Label>,
    /// Where runs and tail calls begin.
    beginning: Label,
    /// One per function, before its prologue.
    entries: Vec<Label>,
    /// The slot being compiled.
    slot: u32,
    /// Registers the current function saves.
    saves: u8,
    slow: Vec<access::Slow>,
    sites: Vec<tail::Pending>,
    gates: Vec<GateAt>,
}

/// Compiles `body`. `tables` are the addresses of its arrays' slots, by map number.
///
/// # Errors
/// [`CompileError::NoRoom`].
pub fn compile(body: &Body, tables: &[u64], space: &Space, stubs: &Stubs) -> Result<Placed, CompileError> {
    let mut compiler = Compiler::new(body, tables, stubs);
    compiler.begin();
    for function in 0..body.checked.functions.len() {
        compiler.function(function);
    }
    compiler.slow_paths();
    let way_in = compiler.way_in();
    let gates = std::mem::take(&mut compiler.gates);
    let offsets = compiler.labels.iter().map(|l| compiler.asm.offset(*l) as u32).collect();
    let sites = compiler.sites.iter().map(|s| s.placed(&compiler.asm)).collect();
    let block = space.take(compiler.asm.at()).ok_or(CompileError::NoRoom)?;
    let Some(bytes) = compiler.asm.finish(space.memory().address(block.offset)) else {
        // SAFETY: nothing was written there.
        unsafe { space.give_back(block) };
        return Err(CompileError::NoRoom);
    };
    Ok(Placed { block, bytes, sites, gates, way_in, offsets })
}

impl<'a> Compiler<'a> {
    fn new(body: &'a Body, tables: &'a [u64], stubs: &'a Stubs) -> Self {
        let mut asm = Asm::default();
        let labels = body.checked.ops.iter().map(|_| asm.label()).collect();
        let beginning = asm.label();
        let entries = body.checked.functions.iter().map(|_| asm.label()).collect();
        Compiler {
            asm,
            body,
            stubs,
            tables,
            labels,
            beginning,
            entries,
            slot: 0,
            saves: 0,
            slow: Vec::new(),
            sites: Vec::new(),
            gates: Vec::new(),
        }
    }

    fn function(&mut self, number: usize) {
        let function = &self.body.checked.functions[number];
        self.saves = function.saves;
        for slot in function.start..function.end {
            self.slot = slot;
            if slot == function.start {
                self.prologue(number);
            }
            self.instruction(self.body.checked.ops[slot as usize]);
        }
    }

    fn way_in(&mut self) -> usize {
        let at = self.asm.at();
        self.stubs.way_in(&mut self.asm, self.beginning);
        at
    }

    fn instruction(&mut self, op: Op) {
        let label = self.labels[self.slot as usize];
        self.asm.place(label);
        match op {
            Op::Pad => {}
            Op::Alu { width, op, dst, src } => self.alu(width, op, reg(dst), src),
            Op::MovSx { width, from, dst, src } => self.mov_extended(width, from, reg(dst), reg(src)),
            Op::Neg { width, dst } => self.asm.rr(width, &[0xf7], 3, reg(dst)),
            Op::Swap { order, bits, dst } => self.swap(order, bits, reg(dst)),
            Op::LoadImm { dst, value } => self.asm.mov_imm(reg(dst), value),
            Op::LoadMap { dst, map } => self.asm.mov_imm(reg(dst), self.body.maps[map as usize].handle()),
            Op::LoadMapValue { dst, map, offset } => {
                let address = self.body.maps[map as usize].value_address(offset);
                self.asm.mov_imm(reg(dst), address.unwrap_or(0));
            }
            Op::Load { size, signed, dst, src, offset } => self.load(size, signed, dst, src, offset),
            Op::Store { size, dst, offset, src } => self.store(size, dst, offset, src),
            Op::Atomic { size, op, dst, offset, src } => self.atomic(size, op, dst, offset, src),
            // On this machine loads and stores are ordered so anyway.
            Op::LoadAcquire { size, dst, src, offset } => self.load(size, false, dst, src, offset),
            Op::StoreRelease { size, dst, offset, src } => self.store(size, dst, offset, Operand::Reg(src)),
            Op::LoadPacket { size, index, offset } => self.load_packet(size, index, offset),
            Op::LoadFunction { dst, target } => self.asm.mov_imm(reg(dst), FUNCTION | u64::from(target)),
            Op::MayGoto { target } => self.may_goto(target),
            Op::CallReg { dst } => self.call_register(dst),
            Op::Jump { target } => self.jump(target),
            Op::Branch { width, cond, dst, src, target } => self.branch(width, cond, dst, src, target),
            Op::Call { helper: crate::helper::TAIL_CALL } => self.tail_call(),
            Op::Call { helper: crate::helper::LOOKUP } => self.look_up(),
            Op::Call { helper } => self.call_helper(helper),
            Op::CallLocal { target } => self.call_local(target),
            Op::Exit => self.exit(),
        }
    }

    /// Notes in the run which instruction of which program is being left.
    fn note_instruction(&mut self) {
        use crate::run::Run;
        use std::mem::offset_of;
        self.asm.store_imm32(asm::RUN, offset_of!(Run, instruction) as i32, self.slot);
        self.asm.store_imm32(asm::RUN, offset_of!(Run, program) as i32, self.body.id);
    }

    /// `dst = operand`.
    fn mov_operand(&mut self, width: Width, dst: asm::Reg, src: Operand) {
        match src {
            Operand::Reg(src) => self.asm.mov(width, dst, reg(src)),
            Operand::Imm(imm) => {
                let value = crate::semantics::truncate(width, crate::semantics::immediate(imm));
                self.asm.mov_imm(dst, value);
            }
        }
    }
}

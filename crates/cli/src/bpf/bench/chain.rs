//! A chain of programs of ours.

use anyhow::Result;
use relpoline_bpf::insn::Insn;
use relpoline_bpf::{MapHandle, Options, ProgArray, Program, Runtime, Source};

use super::CHAIN;

/// Bytes that the summing program adds up.
const SUMMED: usize = 64;

/// An entry program and the 33 that it leads through.
pub struct Chain {
    pub array: ProgArray,
    pub entry: Program,
    pub programs: Vec<Program>,
}

fn insn(opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) -> Insn {
    Insn { opcode, dst, src, offset, imm }
}

fn load(runtime: &Runtime, name: &str, insns: &[Insn], maps: &[MapHandle], options: Options) -> Result<Program> {
    Ok(Program::load(runtime, Source { name, section: "", insns, maps }, options)?)
}

/// A program that tail-calls slot `next`, a constant or loaded from the input ([`input`]).
pub fn hop(runtime: &Runtime, array: &ProgArray, next: u32, constant: bool, options: Options) -> Result<Program> {
    let index = if constant { insn(0xb7, 3, 0, 0, next as i32) } else { insn(0x61, 3, 1, 4 * next as i16, 0) };
    let insns = [
        insn(0x18, 2, 1, 0, 0),
        insn(0, 0, 0, 0, 0),
        index,
        insn(0x85, 0, 0, 0, 12),
        insn(0xb7, 0, 0, 0, next as i32),
        insn(0x95, 0, 0, 0, 0),
    ];
    load(runtime, "hop", &insns, &[MapHandle::Array(array.clone())], options)
}

/// Adds up the first bytes of its input.
pub fn sum(runtime: &Runtime, options: Options) -> Result<Program> {
    let insns = [
        insn(0xb7, 0, 0, 0, 0),
        insn(0xb7, 3, 0, 0, SUMMED as i32),
        insn(0x71, 4, 1, 0, 0),
        insn(0x0f, 0, 4, 0, 0),
        insn(0x07, 1, 0, 0, 1),
        insn(0x17, 3, 0, 0, 1),
        insn(0x55, 3, 0, -5, 0),
        insn(0x95, 0, 0, 0, 0),
    ];
    load(runtime, "sum", &insns, &[], options)
}

impl Chain {
    /// A whole chain.
    pub fn new(runtime: &Runtime, constant: bool, options: Options) -> Result<Chain> {
        let array = ProgArray::new(runtime, "chain", CHAIN + 1)?;
        let entry = hop(runtime, &array, 0, constant, options)?;
        let link = |next| hop(runtime, &array, next, constant, options);
        let programs = (1..=CHAIN).map(link).collect::<Result<Vec<_>>>()?;
        let chain = Chain { array, entry, programs };
        chain.array.update_all(&chain.all())?;
        Ok(chain)
    }

    /// What fills it.
    pub fn all(&self) -> Vec<(u32, Option<&Program>)> {
        self.programs.iter().enumerate().map(|(i, p)| (i as u32, Some(p))).collect()
    }
}

/// The indexes that computed tail calls load: each word its own number.
pub fn input() -> Vec<u8> {
    (0..=CHAIN).flat_map(u32::to_le_bytes).collect()
}

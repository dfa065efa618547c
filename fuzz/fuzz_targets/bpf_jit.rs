//! Interpreter against compiled code: result, registers, memory and trap must be the same.
//!
//! Eight bytes of input are one instruction, bent until it is valid: so the fuzzer's changes nearly always give another
//! program, not another refusal. The first eight bytes of the run's memory are its length; the program ends by writing
//! r0 to r9 to the memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relpoline_bpf::insn::Insn;
use relpoline_bpf::{Engine, Invocation, Map, MapHandle, MapKind, MapSpec, Mode, Options, Program, Runtime, Source};
use std::sync::OnceLock;

/// Bytes of memory that r1 points to; the last 80 get the registers.
const MEMORY: usize = 256;
/// Where registers go in the end, below the two pointers.
const SPILL: i16 = -24;
/// Longest program.
const MOST: usize = 128;

/// All opcodes but those of jumps, which are made apart.
const OPCODES: &[u8] = &[
    // Arithmetic, with immediates and registers.
    0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c, 0x64, 0x6c, 0x74, 0x7c, 0x84, 0x94, 0x9c,
    0xa4, 0xac, 0xb4, 0xbc, 0xc4, 0xcc, 0xd4, 0xdc, 0x07, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x47, 0x4f, 0x57,
    0x5f, 0x67, 0x6f, 0x77, 0x7f, 0x87, 0x97, 0x9f, 0xa7, 0xaf, 0xb7, 0xbf, 0xc7, 0xcf, 0xd7,
    // Loads, sign-extending loads, stores, atomics.
    0x61, 0x69, 0x71, 0x79, 0x81, 0x89, 0x91, 0x62, 0x6a, 0x72, 0x7a, 0x63, 0x6b, 0x73, 0x7b, 0xc3, 0xdb,
];
const JUMPS: &[u8] = &[
    0x05, 0x06, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d, 0x55, 0x5d, 0x65, 0x6d, 0x75, 0x7d, 0xa5, 0xad, 0xb5,
    0xbd, 0xc5, 0xcd, 0xd5, 0xdd, 0x16, 0x1e, 0x26, 0x2e, 0x36, 0x3e, 0x46, 0x4e, 0x56, 0x5e, 0x66, 0x6e, 0x76, 0x7e,
    0xa6, 0xae, 0xb6, 0xbe, 0xc6, 0xce, 0xd6, 0xde,
];
const ATOMICS: [i32; 10] = [0, 1, 0x40, 0x41, 0x50, 0x51, 0xa0, 0xa1, 0xe1, 0xf1];

fn at(opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) -> Insn {
    Insn { opcode, dst, src, offset, imm }
}

/// The instruction that `raw` is nearest to, at slot `here` of `len`.
fn bend(raw: Insn, here: usize, len: usize) -> Insn {
    let (dst, src) = (raw.dst % 10, raw.src % 10);
    let pick = usize::from(raw.opcode);
    match raw.opcode % 8 {
        0 | 1 => jump(raw, JUMPS[pick / 8 % JUMPS.len()], here, len),
        // A pointer: to the memory, a map's values, or the stack.
        2 if raw.imm & 3 == 0 => at(0x79, dst, 10, -8, 0),
        2 if raw.imm & 3 == 1 => at(0x79, dst, 10, -16, 0),
        2 if raw.imm & 3 == 2 => at(0xbf, dst, 10, 0, 0),
        // r0 = helper 8
        2 => at(0x85, 0, 0, 0, 8),
        _ => other(raw, OPCODES[pick % OPCODES.len()], dst, src),
    }
}

fn jump(raw: Insn, opcode: u8, here: usize, len: usize) -> Insn {
    // Anywhere in the bent part, or to its end.
    let to = usize::from(raw.offset as u16) % (len + 1);
    let distance = to as i64 - here as i64 - 1;
    match opcode {
        0x05 => at(opcode, 0, 0, distance as i16, 0),
        0x06 => at(opcode, 0, 0, 0, distance as i32),
        _ if opcode & 8 == 0 => at(opcode, raw.dst % 11, 0, distance as i16, raw.imm),
        _ => at(opcode, raw.dst % 11, raw.src % 11, distance as i16, 0),
    }
}

fn other(raw: Insn, opcode: u8, dst: u8, src: u8) -> Insn {
    let signed = raw.offset & 1;
    match (opcode & 7, opcode >> 4) {
        // Through r10 only within the frame and clear of the saved pointers; else anywhere.
        (1, _) if raw.offset % 4 == 0 => at(opcode, dst, 10, -504 + (raw.offset as u16 % 488) as i16, 0),
        (2, _) => at(opcode, src, 0, raw.offset % 300, raw.imm),
        (3, 0xc | 0xd) => at(opcode, dst, src, raw.offset % 300, ATOMICS[raw.imm as u32 as usize % 10]),
        (3, _) if raw.offset % 4 == 0 => at(opcode, 10, src, -504 + (raw.offset as u16 % 488) as i16, 0),
        (1 | 3, _) => at(opcode, dst, src, raw.offset % 300, 0),
        (_, 0x8) => at(opcode, dst, 0, 0, 0),
        (_, 0xd) => at(opcode, dst, 0, 0, [16, 32, 64][raw.imm as u32 as usize % 3]),
        // Division and remainder have signed forms, moves extend signs.
        (_, 0x3 | 0x9) if opcode & 8 == 0 => at(opcode, dst, 0, signed, raw.imm),
        (_, 0x3 | 0x9) => at(opcode, dst, src, signed, 0),
        (class, 0xb) if opcode & 8 != 0 => {
            let widths: &[i16] = if class == 7 { &[0, 8, 16, 32] } else { &[0, 8, 16] };
            at(opcode, dst, src, widths[raw.offset as u16 as usize % widths.len()], 0)
        }
        _ if opcode & 8 == 0 => at(opcode, dst, 0, 0, raw.imm),
        _ => at(opcode, dst, src, 0, 0),
    }
}

/// Spills r1 and the address of the map's values, does what the bytes say, writes the registers behind the memory.
fn program(bytes: &[u8]) -> Vec<Insn> {
    let raw: Vec<Insn> = bytes.as_chunks::<8>().0.iter().take(MOST).map(|b| Insn::from_bytes(*b)).collect();
    let mut out = vec![at(0x7b, 10, 1, -8, 0), at(0x18, 2, 2, 0, 0), at(0, 0, 0, 0, 0), at(0x7b, 10, 2, -16, 0)];
    out.extend(raw.iter().enumerate().map(|(here, insn)| bend(*insn, here, raw.len())));
    // Wherever the program got to, r10 is what it was.
    for r in 0..10 {
        out.push(at(0x7b, 10, r, SPILL - 8 * i16::from(r), 0));
    }
    out.push(at(0x79, 1, 10, -8, 0));
    for r in 0..10 {
        out.push(at(0x79, 2, 10, SPILL - 8 * r, 0));
        out.push(at(0x7b, 1, 2, MEMORY as i16 - 80 + 8 * r, 0));
    }
    out.push(at(0x95, 0, 0, 0, 0));
    out
}

struct Bench {
    runtime: Runtime,
    map: Map,
}

fn bench() -> &'static Bench {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    BENCH.get_or_init(|| {
        // Built-in helper 8 names the CPU, which may change between two runs.
        let runtime =
            Runtime::builder().helper(8, |call| Ok(call.args[0].rotate_left(7))).build().expect("memory for code");
        let name = "values".into();
        let spec =
            MapSpec { name, kind: MapKind::Array, key_size: 4, value_size: 64, max_entries: 1, read_only: false, hashes: 0 };
        let map = Map::new(&runtime, &spec).expect("a small map");
        Bench { runtime, map }
    })
}

fuzz_target!(|bytes: &[u8]| {
    let bench = bench();
    let insns = program(bytes);
    let maps = [MapHandle::Map(bench.map.clone())];
    let source = Source { name: "fuzzed", section: "", insns: &insns, maps: &maps };
    let options = Options { budget: Some(4000), proofs: true, ..Options::default() };
    let program = Program::load(&bench.runtime, source, options).unwrap_or_else(|e| panic!("{e}"));
    // At one place, so that pointers are the same in both runs.
    let mut memory = Box::new([0u8; MEMORY]);
    let mut run = |engine| {
        for (i, byte) in memory.iter_mut().enumerate() {
            *byte = (i * 37 + 11) as u8;
        }
        bench.map.set(&[0; 4], &[0x5a; 64], Mode::Any).expect("the only value");
        let result = program.invoke(Invocation::new(&mut *memory).engine(engine).clear_stack());
        (result, memory.to_vec(), bench.map.get(&[0; 4]))
    };
    let (interpreted, compiled) = (run(Engine::Interpreter), run(Engine::Compiled));
    assert_eq!(compiled, interpreted, "compiled code and interpreter disagree");
});

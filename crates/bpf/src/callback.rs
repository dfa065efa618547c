//! Helpers that call back: `bpf_loop` and `bpf_for_each_map_elem`.
//!
//! They are functions in eBPF themselves, which are put behind a program that calls one; the call becomes one
//! of that function, which calls what it was given by register. So a callback's budget, stack, registers and
//! tail calls are what they are in any function, interpreted or compiled.

use crate::insn::{self, Insn, call};

/// Numbers of the helpers.
const FOR_EACH: i32 = 164;
const LOOP: i32 = 181;
/// The number of the helper that walks through a map, for `for_each` alone.
pub const NEXT: u32 = 0xffff_0001;
/// Longest key of a map that can be walked through: it lies in the function's frame.
pub const MOST_KEY: u64 = 480;

/// `program`, with the functions that it needs behind it.
pub fn expand(program: &[Insn]) -> Vec<Insn> {
    let mut out = program.to_vec();
    for (number, function) in [(LOOP, loop_function as fn() -> Vec<Insn>), (FOR_EACH, for_each_function)] {
        let mut wide = false;
        let is_call = |i: &Insn| i.opcode == insn::CALL && i.src == call::HELPER && i.imm == number;
        let mut begin = None;
        for at in 0..program.len() {
            // Second halves of wide instructions are none themselves.
            let second = wide;
            wide = program[at].opcode == insn::LD_IMM64 && !second;
            if second || !is_call(&program[at]) {
                continue;
            }
            let begin = *begin.get_or_insert_with(|| {
                out.extend(function());
                out.len() - function().len()
            });
            out[at] = Insn { src: call::LOCAL, imm: (begin - at - 1) as i32, ..out[at] };
        }
    }
    out
}

fn i(opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) -> Insn {
    Insn { opcode, dst, src, offset, imm }
}

const EXIT: Insn = Insn { opcode: insn::EXIT, dst: 0, src: 0, offset: 0, imm: 0 };

/// `r0 = -errno; exit`, unless r4, which is for flags, is zero.
fn refuses_flags() -> [Insn; 3] {
    [i(0x15, 4, 0, 2, 0), i(0xb7, 0, 0, 0, -22), EXIT]
}

/// `(count, function, context, flags)`: calls `function(i, context)` until that is not 0.
fn loop_function() -> Vec<Insn> {
    /// `BPF_MAX_LOOPS`.
    const MOST: i32 = 8 << 20;
    let mut out = refuses_flags().to_vec();
    out.extend([
        // w1 = w1; if r1 > MOST return -E2BIG
        i(0xbc, 1, 1, 0, 0),
        i(0xb5, 1, 0, 2, MOST),
        i(0xb7, 0, 0, 0, -7),
        EXIT,
        // r6 = 0; r7 = count; r8 = context; r9 = function
        i(0xb7, 6, 0, 0, 0),
        i(0xbf, 7, 1, 0, 0),
        i(0xbf, 8, 3, 0, 0),
        i(0xbf, 9, 2, 0, 0),
        // if r6 >= r7 goto the end
        i(0x3d, 6, 7, 5, 0),
        i(0xbf, 1, 6, 0, 0),
        i(0xbf, 2, 8, 0, 0),
        i(insn::CALL_REG, 9, 0, 0, 0),
        i(0x07, 6, 0, 0, 1),
        // if r0 == 0 go on
        i(0x15, 0, 0, -6, 0),
        i(0xbf, 0, 6, 0, 0),
        EXIT,
    ]);
    out
}

/// `(map, function, context, flags)`: calls `function(map, key, value, context)` until that is not 0.
fn for_each_function() -> Vec<Insn> {
    const KEY: i32 = -16 - MOST_KEY as i32;
    let mut out = refuses_flags().to_vec();
    out.extend([
        // r6 = map; r7 = function; r8 = context; r9 = 0; the walk is at 0
        i(0xbf, 6, 1, 0, 0),
        i(0xbf, 7, 2, 0, 0),
        i(0xbf, 8, 3, 0, 0),
        i(0xb7, 9, 0, 0, 0),
        i(0x7a, 10, 0, -8, 0),
        // r0 = next(map, r10 - 16, key)
        i(0xbf, 1, 6, 0, 0),
        i(0xbf, 2, 10, 0, 0),
        i(0x07, 2, 0, 0, -16),
        i(0xbf, 3, 10, 0, 0),
        i(0x07, 3, 0, 0, KEY),
        i(insn::CALL, 0, 0, 0, NEXT.cast_signed()),
        // if r0 == 0 goto the end
        i(0x15, 0, 0, 8, 0),
        i(0x07, 9, 0, 0, 1),
        i(0xbf, 1, 6, 0, 0),
        i(0xbf, 2, 10, 0, 0),
        i(0x07, 2, 0, 0, KEY),
        i(0x79, 3, 10, -16, 0),
        i(0xbf, 4, 8, 0, 0),
        i(insn::CALL_REG, 7, 0, 0, 0),
        // if r0 == 0 go on
        i(0x15, 0, 0, -15, 0),
        i(0xbf, 0, 9, 0, 0),
        EXIT,
    ]);
    out
}

//! Which pairs of instructions differ in one byte, one of them a direct jump and the other doing nothing: all of them are tried.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess, OpCodeOperandKind,
};
use relpoline_patch::switch;
use std::collections::BTreeSet;

/// Displacements: what the linker writes there is anything, and is the operand of what does nothing.
const DISPLACEMENTS: [[u8; 4]; 5] =
    [[0; 4], [0x10, 0, 0, 0], [0x44, 0x33, 0x22, 0x11], [0xf0, 0xff, 0xff, 0xff], [0xc0, 0xc1, 0x90, 0x0f]];

/// A jump up to its opcode, which of its bytes changes, what it becomes, and whether that writes flags.
type Pair = (Vec<u8>, usize, u8, bool);

/// The one instruction that `bytes` are, all of them.
fn one(bytes: &[u8]) -> Option<Instruction> {
    let mut decoder = Decoder::with_ip(64, bytes, 0x1000, DecoderOptions::NONE);
    let insn = decoder.decode();
    (!insn.is_invalid() && insn.len() == bytes.len()).then_some(insn)
}

/// Whether it changes nothing but flags: no register, no memory, no flow, and needs nothing that may be missing. Returns whether
/// flags change.
fn does_nothing(insn: &Instruction, info: &mut InstructionInfoFactory) -> Option<bool> {
    if insn.flow_control() != FlowControl::Next || insn.is_privileged() || insn.is_stack_instruction() {
        return None;
    }
    let used = info.info(insn);
    let writes = |access: OpAccess| !matches!(access, OpAccess::None | OpAccess::NoMemAccess | OpAccess::Read);
    let touches_memory = used.used_memory().iter().any(|memory| memory.access() != OpAccess::NoMemAccess);
    if touches_memory || used.used_registers().iter().any(|register| writes(register.access())) {
        return None;
    }
    // Those that have an effect of another kind: fences, hints, input and output.
    let operands = insn.op_code().op_kinds();
    let io = operands.iter().any(|kind| matches!(kind, OpCodeOperandKind::seg_rSI | OpCodeOperandKind::es_rDI));
    (!io && insn.cpuid_features().iter().all(|feature| format!("{feature:?}").starts_with("INTEL")))
        .then(|| insn.rflags_modified() != 0)
}

/// Jumps of every length: `jmp rel32` and `jmp rel8`, with prefixes that mean nothing there or that lengthen them.
fn jumps(displacement: [u8; 4]) -> Vec<Vec<u8>> {
    let mut jumps = Vec::new();
    let prefixes: [&[u8]; 9] = [&[], &[0x2e], &[0x36], &[0x3e], &[0x64], &[0x40], &[0x48], &[0x3e, 0x40], &[0x67]];
    for prefix in prefixes {
        jumps.push([prefix, &[switch::JMP_LONG], &displacement[..]].concat());
        jumps.push([prefix, &[switch::JMP_SHORT], &displacement[..1]].concat());
    }
    jumps
}

#[test]
fn the_only_pairs_are_those_in_use_and_they_write_flags() {
    let mut info = InstructionInfoFactory::new();
    let mut pairs: Option<BTreeSet<Pair>> = None;
    for displacement in DISPLACEMENTS {
        let mut found = BTreeSet::new();
        for jump in jumps(displacement) {
            let insn = one(&jump).unwrap_or_else(|| panic!("{jump:02x?} is no jump"));
            assert_eq!(insn.flow_control(), FlowControl::UnconditionalBranch, "{jump:02x?}");
            let opcode = jump.iter().position(|b| [switch::JMP_LONG, switch::JMP_SHORT].contains(b)).unwrap();
            for at in 0..=opcode {
                for byte in 0..=255u8 {
                    let mut other = jump.clone();
                    other[at] = byte;
                    if let Some(flags) = one(&other).and_then(|insn| does_nothing(&insn, &mut info)) {
                        found.insert((jump[..=opcode].to_vec(), at, byte, flags));
                    }
                }
            }
        }
        // What does nothing with one displacement only is no pair.
        pairs = Some(match pairs {
            None => found,
            Some(before) => before.intersection(&found).cloned().collect(),
        });
    }
    let pairs = pairs.unwrap();
    for pair in &pairs {
        println!("{:02x?}, byte {} becomes {:02x}: flags {}", pair.0, pair.1, pair.2, pair.3);
    }
    assert!(!pairs.is_empty());
    for (jump, at, byte, flags) in &pairs {
        assert!(flags, "{jump:02x?} with {byte:02x} at {at} writes no flags: a better pair");
        // Prefixes make no difference: it is the opcode that changes, to a `test` or a `cmp` with the accumulator.
        assert_eq!(*at, jump.len() - 1, "{jump:02x?} with {byte:02x}");
        let long = jump[*at] == switch::JMP_LONG;
        assert!([0xa8, 0x3c].contains(&(byte - u8::from(long))), "{jump:02x?} with {byte:02x}");
    }
    for plain in [switch::JMP_LONG, switch::JMP_SHORT] {
        let test = switch::toggled(plain).unwrap();
        assert!(pairs.iter().any(|(jump, _, byte, _)| jump == &[plain] && *byte == test), "{plain:02x}");
    }
}

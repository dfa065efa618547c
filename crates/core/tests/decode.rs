//! The decoder against iced-x86: random bytes, every opcode, and the machine's own programs.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpCodeTableKind};
use proptest::prelude::*;
use relpoline_core::arch::decode::{Flow, Insn, MAX_LEN, decode, length};

fn oracle(bytes: &[u8]) -> Option<Instruction> {
    let mut decoder = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE);
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// Near branches with an operand-size prefix differ between AMD and Intel.
fn check(bytes: &[u8]) {
    assert_eq!(length(bytes), decode(bytes).map(|ours| ours.len), "{bytes:02x?}, the quick way and the long one");
    let Some(theirs) = oracle(bytes) else { return };
    let Some(ours) = decode(bytes) else {
        panic!("{bytes:02x?} is {theirs} ({:?}), not an unknown instruction", theirs.code());
    };
    assert_eq!(usize::from(ours.len), theirs.len(), "{bytes:02x?} is {theirs}");
    check_flow(bytes, &ours, &theirs);
}

fn check_flow(bytes: &[u8], ours: &Insn, theirs: &Instruction) {
    let what = || format!("{bytes:02x?} is {theirs}, read as {ours:?}");
    match theirs.flow_control() {
        // Hypervisor entries and exits count as branches there; no compiler emits them.
        _ if is_group7(theirs) && theirs.mnemonic() != Mnemonic::Uiret => {}
        FlowControl::UnconditionalBranch => {
            assert!(matches!(ours.flow, Flow::Jump { .. }), "{}", what())
        }
        FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend if theirs.is_jcc_short_or_near() => {
            assert!(matches!(ours.flow, Flow::Cond { .. }), "{}", what());
        }
        FlowControl::Call if theirs.is_call_near() => {
            assert!(matches!(ours.flow, Flow::Call { .. }), "{}", what());
        }
        FlowControl::IndirectBranch => assert_eq!(ours.flow, Flow::IndirectJump, "{}", what()),
        FlowControl::IndirectCall => assert_eq!(ours.flow, Flow::IndirectCall, "{}", what()),
        FlowControl::Return => assert!(matches!(ours.flow, Flow::Return), "{}", what()),
        FlowControl::Next => assert!(matches!(ours.flow, Flow::Next | Flow::Trap), "{}", what()),
        _ => {}
    }
    let direct = theirs.is_jmp_short_or_near() || theirs.is_jcc_short_or_near() || theirs.is_call_near();
    if direct || theirs.is_jcx_short() || theirs.is_loop() || theirs.is_loopcc() {
        let target = ours.branch_target(0).unwrap_or_else(|| panic!("{}", what()));
        assert_eq!(target, theirs.near_branch_target(), "{}", what());
    }
}

/// `0f 01`, with or without a fixed ModRM byte.
fn is_group7(instruction: &Instruction) -> bool {
    let opcode = instruction.op_code();
    opcode.table() == OpCodeTableKind::T0F && matches!(opcode.op_code(), 0x01 | 0x01c0..=0x01ff)
}

/// Bytes that look more like code than noise does: prefixes, escapes, then anything.
fn code_like() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop::sample::select(vec![0x66u8, 0x67, 0xf2, 0xf3, 0x2e, 0x3e, 0x64, 0xf0, 0x48, 0x41, 0x4c]);
    let escape = prop::sample::select(vec![
        vec![],
        vec![0x0f],
        vec![0x0f, 0x38],
        vec![0x0f, 0x3a],
        vec![0xc5],
        vec![0xc4],
        vec![0x62],
        vec![0x8f],
    ]);
    (prop::collection::vec(prefix, 0..4), escape, prop::collection::vec(any::<u8>(), 16))
        .prop_map(|(prefixes, escape, rest)| [prefixes, escape, rest].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 40 } else { 200_000 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_agree(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
        check(&bytes);
        if let Some(insn) = decode(&bytes) {
            prop_assert!(usize::from(insn.len) <= bytes.len().min(MAX_LEN) && insn.len > 0);
        }
    }

    #[test]
    fn code_like_bytes_agree(bytes in code_like()) {
        check(&bytes);
    }
}

/// All opcodes of all maps, with every ModRM, under the prefixes that change something.
#[test]
#[cfg_attr(miri, ignore = "too slow")]
fn every_opcode_agrees() {
    let prefixes: [&[u8]; 9] =
        [&[], &[0x66], &[0xf2], &[0xf3], &[0x48], &[0x66, 0x48], &[0x67], &[0xf3, 0x48], &[0x66, 0xf2]];
    let escapes: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    for prefix in prefixes {
        for escape in escapes {
            for opcode in 0..=255 {
                for modrm in 0..=255 {
                    let tail = [opcode, modrm, 0x25, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
                    check(&[prefix, escape, &tail].concat());
                }
            }
        }
    }
}

/// VEX, EVEX and XOP with all maps, opcodes and prefixes.
#[test]
#[cfg_attr(miri, ignore = "too slow")]
fn every_vector_opcode_agrees() {
    for map in 0..32u8 {
        for opcode in 0..=255 {
            for second in [0x78, 0x79, 0x7a, 0x7b, 0xf8, 0xf9, 0xfa, 0xfb, 0x7c, 0x7d, 0xfd, 0xfe] {
                for modrm in [0x05, 0x04, 0x44, 0x84, 0xc1, 0xc8, 0xd9, 0xe2, 0xf1] {
                    let tail = [opcode, modrm, 0x25, 1, 2, 3, 4, 5, 6, 7, 8];
                    check(&[&[0xc4, 0xe0 | map, second][..], &tail].concat());
                    check(&[&[0x8f, 0xe0 | map, second][..], &tail].concat());
                    check(&[&[0x62, 0xf0 | map & 7, second | 4, 0x08][..], &tail].concat());
                    check(&[&[0x62, 0xf0 | map & 7, second | 4, 0x48][..], &tail].concat());
                    check(&[&[0xc5, second][..], &tail].concat());
                }
            }
        }
    }
}

/// Programs and libraries of this machine, from their functions' first instructions on.
#[test]
#[cfg_attr(miri, ignore = "too slow")]
fn the_machines_own_code_agrees() {
    let mut instructions = 0u64;
    for path in ["/usr/bin/bash", "/usr/bin/git", "/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libm.so.6"]
    {
        let Ok(file) = std::fs::read(path) else {
            println!("{path} is not here");
            continue;
        };
        instructions += check_file(&file);
    }
    assert!(instructions > 100_000, "only {instructions} instructions were compared");
}

/// Compares the executable segments linearly; iced sets the pace, one byte at a time where it gives up.
fn check_file(file: &[u8]) -> u64 {
    let mut compared = 0;
    for (offset, size) in executable_segments(file) {
        let code = &file[offset..offset + size];
        let mut at = 0;
        while at < code.len() {
            let window = &code[at..code.len().min(at + 16)];
            check(window);
            at += oracle(window).map_or(1, |instruction| {
                compared += 1;
                instruction.len()
            });
        }
    }
    compared
}

fn executable_segments(file: &[u8]) -> Vec<(usize, usize)> {
    let word = |at: usize, n: usize| file[at..at + n].iter().rev().fold(0usize, |v, b| v << 8 | usize::from(*b));
    let (headers, count) = (word(32, 8), word(56, 2));
    (0..count)
        .map(|i| headers + i * 56)
        .filter(|&at| word(at, 4) == 1 && word(at + 4, 4) & 1 != 0)
        .map(|at| (word(at + 8, 8), word(at + 32, 8)))
        .collect()
}

#[test]
fn known_instructions() {
    let flow = |bytes: &[u8]| decode(bytes).unwrap().flow;
    assert_eq!(flow(&[0xe8, 1, 0, 0, 0]), Flow::Call { rel: 1 });
    assert_eq!(flow(&[0x2e, 0xe9, 0xff, 0xff, 0xff, 0xff]), Flow::Jump { rel: -1 });
    assert_eq!(flow(&[0x0f, 0x84, 2, 0, 0, 0]), Flow::Cond { rel: 2 });
    assert_eq!(flow(&[0xff, 0xe0]), Flow::IndirectJump);
    assert_eq!(flow(&[0xff, 0x15, 0, 0, 0, 0]), Flow::IndirectCall);
    assert_eq!(decode(&[0x62]), None);
    assert_eq!(decode(&[0x66; 20]), None);
}

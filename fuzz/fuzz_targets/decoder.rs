//! The decoder against iced-x86: any bytes. Where iced reads an instruction, the decoder has to read one of the same length
//! and flow; and the quick way to a length agrees with the long one.
#![no_main]

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpCodeTableKind};
use libfuzzer_sys::fuzz_target;
use relpoline_core::arch::decode::{Flow, Insn, MAX_LEN, decode, length};

fuzz_target!(|bytes: &[u8]| {
    let ours = decode(bytes);
    assert_eq!(length(bytes), ours.as_ref().map(|ours| ours.len), "{bytes:02x?}");
    if let Some(ours) = &ours {
        assert!(ours.len > 0 && usize::from(ours.len) <= bytes.len().min(MAX_LEN));
    }
    let theirs = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode();
    if theirs.is_invalid() {
        return;
    }
    let ours = ours.unwrap_or_else(|| panic!("{bytes:02x?} is {theirs}, not an unknown instruction"));
    assert_eq!(usize::from(ours.len), theirs.len(), "{bytes:02x?} is {theirs}");
    check_flow(&ours, &theirs);
});

fn check_flow(ours: &Insn, theirs: &Instruction) {
    let agrees = match theirs.flow_control() {
        // Hypervisor entries and exits count as branches there; no compiler emits them.
        _ if is_group7(theirs) && theirs.mnemonic() != Mnemonic::Uiret => true,
        FlowControl::IndirectBranch => ours.flow == Flow::IndirectJump,
        FlowControl::IndirectCall => ours.flow == Flow::IndirectCall,
        FlowControl::Return => matches!(ours.flow, Flow::Return),
        FlowControl::Next => matches!(ours.flow, Flow::Next | Flow::Trap),
        _ if theirs.is_jmp_short_or_near() => matches!(ours.flow, Flow::Jump { .. }),
        _ if theirs.is_jcc_short_or_near() => matches!(ours.flow, Flow::Cond { .. }),
        _ if theirs.is_call_near() => matches!(ours.flow, Flow::Call { .. }),
        _ => true,
    };
    assert!(agrees, "{theirs} is read as {ours:?}");
    if theirs.is_jmp_short_or_near() || theirs.is_jcc_short_or_near() || theirs.is_call_near() {
        assert_eq!(ours.branch_target(0), Some(theirs.near_branch_target()), "{theirs}");
    }
}

/// `0f 01`, with or without a fixed ModRM byte.
fn is_group7(instruction: &Instruction) -> bool {
    let opcode = instruction.op_code();
    opcode.table() == OpCodeTableKind::T0F && matches!(opcode.op_code(), 0x01 | 0x01c0..=0x01ff)
}

//! Any bytes as text that may hold thunks. What is found lies in the text; a site may only go to one that, executed,
//! jumps to the register that it names: shown by running it.
#![no_main]

use iced_x86::{Code, Decoder, DecoderOptions, OpKind, Register};
use libfuzzer_sys::fuzz_target;
use relpoline_core::arch::thunk::{Shape, Thunk, body, find, match_at};

fuzz_target!(|bytes: &[u8]| {
    let mut last = None;
    for (offset, thunk) in find(bytes) {
        assert!(last.is_none_or(|last| last < offset), "thunks are found in order");
        last = Some(offset);
        assert_eq!(match_at(&bytes[offset..]), Some(thunk));
        if thunk.shape.takes_sites() && !matches!(thunk.shape, Shape::Lfence | Shape::Jump) {
            jumps_to_its_register(&bytes[offset..], thunk);
            if let Some(body) = body(thunk) {
                jumps_to_its_register(&body, thunk);
            }
        }
    }
});

/// Executes it: `call` over the capture loop, `mov %reg, (%rsp)`, `ret`.
fn jumps_to_its_register(bytes: &[u8], thunk: Thunk) {
    let decode = |at: usize| Decoder::with_ip(64, &bytes[at..], at as u64, DecoderOptions::NONE).decode();
    let (mut at, mut pushed, mut replaced) = (0, 0, None);
    for _ in 0..40 {
        let insn = decode(at);
        assert!(!insn.is_invalid(), "{thunk:?} holds no instruction at {at}");
        match insn.code() {
            Code::Call_rel32_64 => {
                pushed += 1;
                at = insn.near_branch_target() as usize;
                continue;
            }
            // An inline thunk jumps over itself, to the call that uses it.
            Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => {
                at = insn.near_branch_target() as usize;
                continue;
            }
            Code::Mov_rm64_r64 if insn.op0_kind() == OpKind::Memory => {
                assert_eq!((insn.memory_base(), insn.memory_displacement64()), (Register::RSP, 0), "{thunk:?}");
                replaced = Some(insn.op1_register());
            }
            Code::Retnq => {
                assert!(
                    pushed >= 1 && replaced.map(|register| register.number()) == Some(thunk.reg.number().into()),
                    "{thunk:?}"
                );
                return;
            }
            Code::Nopd | Code::Nopw | Code::Nop_rm32 | Code::Nop_rm16 | Code::Int3 => {}
            other => panic!("{thunk:?} executes {other:?}"),
        }
        at += insn.len();
    }
    panic!("{thunk:?} does not return");
}

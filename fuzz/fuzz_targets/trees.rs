//! The tree builder, its code executed by a small interpreter: every target reaches itself, everything else the miss, and
//! there is neither an indirect branch nor a jump without `int3` behind it.
#![no_main]

use iced_x86::{Code, Decoder, DecoderOptions, OpKind};
use libfuzzer_sys::fuzz_target;
use relpoline_core::arch::Reg;
use relpoline_core::tree::{CELL, MAX_TARGETS, Target, TreeSpec, body_size, emit};

const HEAD: u64 = 0x5555_4000_0040;
const BODY: u64 = 0x5555_4100_0080;
const MISS: u64 = 0x5555_4200_0008;
const COUNTERS: u64 = 0x5555_4300_0000;
const SLOW: u64 = 0x5555_4400_0000;
/// What all addresses have less when everything lies below 2 GiB.
const LOW: u64 = 0x5555_0000_0000;

fuzz_target!(|input: (u8, Vec<(u32, u32)>, u8, bool, bool, bool, Vec<u64>)| {
    let (register, offsets, chain, hits, exits, low, probes) = input;
    let at = |address: u64| if low { address - LOW } else { address };
    let mut targets: Vec<Target> = Vec::new();
    for (offset, share) in offsets.into_iter().take(MAX_TARGETS) {
        let address = at(0x5555_5000_0000) + u64::from(offset % 0x1000_0000);
        if targets.iter().all(|target| target.address != address) {
            targets.push(Target { address, share });
        }
    }
    let spec = TreeSpec {
        reg: Reg::new(register % 16).expect("there are sixteen"),
        targets: &targets,
        chain: usize::from(chain),
        miss: at(MISS),
        hits_counter: hits.then_some(at(COUNTERS)),
        exits: exits.then_some((at(COUNTERS) + 16, at(SLOW))),
        keeps_flags: false,
    };
    let (mut head, mut body) = ([0; CELL], vec![0; body_size(&spec)]);
    emit(&spec, &mut head, at(HEAD), &mut body, at(BODY)).expect("everything is in reach");
    let tree = Tree { head: (at(HEAD), &head), body: (at(BODY), &body), register: spec.reg };
    let around = targets.iter().flat_map(|target| [target.address, target.address ^ 1, target.address + (1 << 32)]);
    for value in around.chain(probes) {
        let expected = if targets.iter().any(|target| target.address == value) { value } else { at(MISS) };
        assert_eq!(tree.call(value), expected, "calling {value:x}");
    }
});

struct Tree<'a> {
    head: (u64, &'a [u8]),
    body: (u64, &'a [u8]),
    register: Reg,
}

impl Tree<'_> {
    fn bytes(&self, at: u64) -> Option<&[u8]> {
        [self.head, self.body]
            .into_iter()
            .find_map(|(base, bytes)| bytes.get(usize::try_from(at.checked_sub(base)?).ok()?..))
    }

    fn call(&self, value: u64) -> u64 {
        let (mut at, mut equal, mut below) = (self.head.0, false, false);
        while let Some(bytes) = self.bytes(at).filter(|bytes| !bytes.is_empty()) {
            let insn = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
            at = insn.next_ip();
            let taken = match insn.code() {
                Code::Cmp_r64_rm64 | Code::Cmp_rm64_imm32 => {
                    assert_eq!(insn.op0_register().number(), usize::from(self.register.number()));
                    let other = match insn.op1_kind() {
                        OpKind::Memory => self.word(insn.ip_rel_memory_address()),
                        _ => insn.immediate(1),
                    };
                    (equal, below) = (value == other, value < other);
                    continue;
                }
                Code::Je_rel32_64 => equal,
                Code::Ja_rel32_64 => !equal && !below,
                Code::Jb_rel32_64 => below,
                // The exit counter never ends here.
                Code::Jle_rel32_64 => false,
                Code::Inc_rm64 | Code::Dec_rm32 => continue,
                Code::Jmp_rel32_64 => {
                    assert_eq!(self.bytes(at).and_then(<[u8]>::first), Some(&0xcc), "no int3 behind a jmp");
                    true
                }
                other => panic!("{other:?} at {:x}", insn.ip()),
            };
            if taken {
                at = insn.near_branch_target();
            }
        }
        at
    }

    fn word(&self, at: u64) -> u64 {
        assert_eq!(at % 8, 0, "a constant across two words");
        u64::from_le_bytes(*self.bytes(at).and_then(<[u8]>::first_chunk).expect("a constant lies in the tree"))
    }
}

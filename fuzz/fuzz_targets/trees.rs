//! The tree builder, its code executed by a small interpreter: every target reaches itself, everything else the miss, and
//! there is neither an indirect branch nor a jump without `int3` behind it. Trees that keep flags consist of instructions that
//! neither change nor read any, and leave every register as it was.
#![no_main]

use iced_x86::{Code, Decoder, DecoderOptions, OpKind, Register};
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
const RSP: u8 = 4;

fuzz_target!(|input: (u8, Vec<(u32, u32)>, u8, bool, bool, bool, Vec<u64>, bool)| {
    let (register, offsets, chain, hits, exits, low, probes, keeps_flags) = input;
    // rsp holds no target at a jump.
    let register = if keeps_flags && register % 16 == RSP { RSP + 1 } else { register % 16 };
    let at = |address: u64| if low { address - LOW } else { address };
    let mut targets: Vec<Target> = Vec::new();
    for (offset, share) in offsets.into_iter().take(MAX_TARGETS) {
        let address = at(0x5555_5000_0000) + u64::from(offset % 0x1000_0000);
        if targets.iter().all(|target| target.address != address) {
            targets.push(Target { address, share });
        }
    }
    let spec = TreeSpec {
        reg: Reg::new(register).expect("there are sixteen"),
        targets: &targets,
        chain: usize::from(chain),
        miss: at(MISS),
        hits_counter: hits.then_some(at(COUNTERS)),
        exits: exits.then_some((at(COUNTERS) + 16, at(SLOW))),
        keeps_flags,
    };
    let (mut head, mut body) = ([0; CELL], vec![0; body_size(&spec)]);
    emit(&spec, &mut head, at(HEAD), &mut body, at(BODY)).expect("everything is in reach");
    let tree = Tree { head: (at(HEAD), &head), body: (at(BODY), &body), register: spec.reg };
    let around = targets.iter().flat_map(|target| [target.address, target.address ^ 1, target.address + (1 << 32)]);
    for value in around.chain(probes) {
        let expected = if targets.iter().any(|target| target.address == value) { value } else { at(MISS) };
        let reached = if keeps_flags { tree.jump(value) } else { tree.call(value) };
        assert_eq!(reached, expected, "calling {value:x}");
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

    /// Likewise, for a tree that keeps flags.
    fn jump(&self, value: u64) -> u64 {
        let mut registers: [u64; 16] = std::array::from_fn(|n| 0x1234_5678_9abc_def0 ^ (n as u64) << 40);
        registers[usize::from(self.register.number())] = value;
        let (before, mut at, mut below) = (registers, self.head.0, None);
        while let Some(bytes) = self.bytes(at).filter(|bytes| !bytes.is_empty()) {
            let insn = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
            at = insn.next_ip();
            let (to, from) = (insn.op0_register().number(), insn.op1_register().number());
            let is_scratch = insn.memory_base() == Register::RSP && insn.memory_displacement64() == 8u64.wrapping_neg();
            match insn.code() {
                Code::Mov_rm64_r64 if insn.op0_kind() == OpKind::Register => registers[to] = registers[from],
                Code::Mov_rm64_r64 if is_scratch => below = Some(registers[from]),
                Code::Mov_r64_rm64 if is_scratch => registers[to] = below.expect("what is read was written"),
                // Counters: they never end here.
                Code::Mov_rm64_r64 | Code::Mov_rm32_r32 if insn.is_ip_rel_memory_operand() => {}
                Code::Mov_r64_rm64 | Code::Mov_r32_rm32 if insn.is_ip_rel_memory_operand() => registers[to] = 1000,
                Code::Mov_r64_imm64 => registers[to] = insn.immediate64(),
                Code::Lea_r64_m | Code::Lea_r32_m => {
                    let index = match insn.memory_index() {
                        Register::None => 0,
                        index => registers[index.number()],
                    };
                    let sum = registers[insn.memory_base().number()].wrapping_add(index);
                    let sum = sum.wrapping_add(insn.memory_displacement64());
                    registers[to] = if insn.code() == Code::Lea_r64_m { sum } else { sum & 0xffff_ffff };
                }
                Code::Bswap_r64 => registers[to] = registers[to].swap_bytes(),
                Code::Bswap_r32 => registers[to] = u64::from((registers[to] as u32).swap_bytes()),
                Code::Movzx_r32_rm8 => registers[to] = registers[from] & 0xff,
                Code::Jrcxz_rel8_64 if registers[1] == 0 => at = insn.near_branch_target(),
                Code::Jrcxz_rel8_64 => {}
                Code::Jmp_rel32_64 | Code::Jmp_rel8_64 => {
                    assert_eq!(self.bytes(at).and_then(<[u8]>::first), Some(&0xcc), "no int3 behind a jmp");
                    at = insn.near_branch_target();
                }
                other => panic!("{other:?} at {:x}", insn.ip()),
            }
        }
        assert_eq!(registers, before, "calling {value:x} changes registers");
        at
    }

    fn word(&self, at: u64) -> u64 {
        assert_eq!(at % 8, 0, "a constant across two words");
        u64::from_le_bytes(*self.bytes(at).and_then(<[u8]>::first_chunk).expect("a constant lies in the tree"))
    }
}

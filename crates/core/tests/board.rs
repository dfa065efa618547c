//! Boards and their leaves, executed, while what they hold is exchanged between any two instructions: whatever mixture is
//! read, a call ends at its own target, or at the miss, or at the thunk, with its registers as they were.

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use proptest::prelude::*;
use relpoline_core::arch::Reg;
use relpoline_core::tree::board::{self, BoardSpec, SLOTS, body_size};
use relpoline_core::tree::{self, CELL, Target, TreeSpec};

const HEAD: u64 = 0x5555_4000_0040;
const BODY: u64 = 0x5555_4100_0080;
const MISS: u64 = 0x5555_4200_0008;
const KEYS: u64 = 0x5555_4300_0000;
const HITS: u64 = 0x5555_4300_1000;
const WORDS: u64 = 0x5555_4400_0000;
const LEAVES: u64 = 0x5555_4500_0000;
const THUNK: u64 = 0x5555_4600_0000;
const TARGETS: u64 = 0x5555_5000_0000;
const RSP: usize = 4;

struct Machine {
    code: BTreeMap<u64, Vec<u8>>,
    memory: BTreeMap<u64, u64>,
    words: [u64; SLOTS],
    registers: [u64; 16],
    equal: bool,
}

fn target(n: u64) -> u64 {
    TARGETS + n * 16
}

impl Machine {
    fn new(reg: Reg, keeps_flags: bool, counted: bool, targets: u64, registers: [u64; 16]) -> Machine {
        let mut code = BTreeMap::new();
        let words = core::array::from_fn(|slot| WORDS + slot as u64 * 8);
        let hits_counter = counted.then_some(HITS);
        let spec = BoardSpec { reg, keys: KEYS, words, miss: MISS, hits_counter, keeps_flags };
        let (mut head, mut body) = (vec![0; CELL], vec![0; body_size(keeps_flags)]);
        let written = board::emit(&spec, &mut head, HEAD, &mut body, BODY).expect("the board fits");
        assert_eq!((written.head, written.body), (head.len(), body.len()));
        code.insert(HEAD, head);
        code.insert(BODY, body);
        for n in 0..targets {
            let targets = [Target { address: target(n), share: 1 }];
            let spec = TreeSpec {
                reg,
                targets: &targets,
                chain: 1,
                miss: THUNK,
                hits_counter: None,
                exits: None,
                keeps_flags,
            };
            let (at, mut leaf, mut rest) = (leaf(n), vec![0; CELL], vec![0; tree::body_size(&spec)]);
            tree::emit(&spec, &mut leaf, at, &mut rest, at + CELL as u64).expect("the leaf fits");
            leaf.extend(rest);
            code.insert(at, leaf);
        }
        let memory = (0..SLOTS as u64).map(|slot| (KEYS + slot * 8, 0)).chain([(HITS, 7)]).collect();
        Machine { code, memory, words: [THUNK; SLOTS], registers, equal: false }
    }

    fn plug(&mut self, slot: usize, key: u64, to: u64, keeps_flags: bool) {
        self.words[slot] = leaf(to);
        self.memory.insert(KEYS + slot as u64 * 8, board::key(target(key), keeps_flags));
    }

    fn decode(&self, at: u64) -> Option<Instruction> {
        let (base, bytes) = self.code.range(..=at).next_back()?;
        let bytes = bytes.get((at - base) as usize..).filter(|bytes| !bytes.is_empty())?;
        Some(Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode())
    }

    /// Runs a call; `between` any two instructions something may be exchanged.
    fn call(&mut self, mut between: impl FnMut(&mut Machine)) -> u64 {
        let mut at = HEAD;
        loop {
            between(self);
            if let Some(slot) = at.checked_sub(WORDS).filter(|offset| offset / 8 < SLOTS as u64) {
                at = self.words[slot as usize / 8];
                continue;
            }
            let Some(insn) = self.decode(at) else { return at };
            at = insn.next_ip();
            let zero = self.registers[1] == 0;
            match insn.mnemonic() {
                Mnemonic::Jmp => at = insn.near_branch_target(),
                Mnemonic::Je if self.equal => at = insn.near_branch_target(),
                Mnemonic::Jrcxz if zero => at = insn.near_branch_target(),
                Mnemonic::Je | Mnemonic::Jrcxz => {}
                _ => self.execute(&insn),
            }
        }
    }

    fn address(&self, insn: &Instruction) -> u64 {
        let part = |register: Register| self.registers[register.number()];
        match (insn.memory_base(), insn.memory_index()) {
            (Register::RIP | Register::None, _) => insn.memory_displacement64(),
            (base, Register::None) => part(base).wrapping_add(insn.memory_displacement64()),
            (base, index) => part(base).wrapping_add(part(index)).wrapping_add(insn.memory_displacement64()),
        }
    }

    /// Of a constant that lies in the code, or of what was written.
    fn load(&self, at: u64) -> u64 {
        let constant = || {
            let (base, bytes) = self.code.range(..=at).next_back()?;
            let offset = (at - base) as usize;
            Some(u64::from_le_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
        };
        self.memory.get(&at).copied().or_else(constant).expect("what is read is there")
    }

    fn execute(&mut self, insn: &Instruction) {
        let first = insn.op0_register();
        match (insn.mnemonic(), insn.op0_kind(), insn.op1_kind()) {
            (Mnemonic::Cmp, OpKind::Register, OpKind::Memory) => {
                self.equal = self.registers[first.number()] == self.load(self.address(insn));
            }
            (Mnemonic::Inc, OpKind::Memory, _) => *self.memory.entry(self.address(insn)).or_default() += 1,
            (Mnemonic::Mov, OpKind::Memory, OpKind::Register) => {
                self.memory.insert(self.address(insn), self.registers[insn.op1_register().number()]);
            }
            (Mnemonic::Mov, OpKind::Register, OpKind::Memory) => {
                self.registers[first.number()] = self.load(self.address(insn));
            }
            (Mnemonic::Mov, OpKind::Register, OpKind::Register) => {
                self.registers[first.number()] = self.registers[insn.op1_register().number()];
            }
            (Mnemonic::Mov, OpKind::Register, _) => self.registers[first.number()] = insn.immediate64(),
            (Mnemonic::Lea, ..) => self.registers[first.number()] = self.address(insn),
            other => panic!("{other:?} at {:#x}", insn.ip()),
        }
    }
}

fn leaf(n: u64) -> u64 {
    LEAVES + n * 0x100
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    reg: u8,
    keeps_flags: bool,
    counted: bool,
}

fn kinds() -> impl Strategy<Value = Kind> {
    let kind = (0u8..16, any::<bool>(), any::<bool>());
    // No thunk takes its target in rsp.
    kind.prop_filter("rsp", |kind| usize::from(kind.0) != RSP).prop_map(|(reg, keeps_flags, counted)| Kind {
        reg,
        keeps_flags,
        counted,
    })
}

const COUNT: u64 = 24;

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 300 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_exchanged_meanwhile(kind in kinds(), registers in any::<[u64; 16]>(), mut state in 1u64..) {
        let mut random = move || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            state >> 33
        };
        let reg = Reg::new(kind.reg).unwrap();
        for round in 0..COUNT * 2 {
            let mut registers = registers;
            let asked = if round < COUNT { target(round) } else { random() };
            registers[usize::from(kind.reg)] = asked;
            let mut machine = Machine::new(reg, kind.keeps_flags, kind.counted, COUNT, registers);
            for slot in 0..SLOTS {
                machine.plug(slot, random() % COUNT, random() % COUNT, kind.keeps_flags);
            }
            let reached = machine.call(|machine| {
                // Now the key alone, now the word, now both, of one slot.
                let (slot, key, to) = (random() as usize % SLOTS, random() % COUNT, random() % COUNT);
                match random() % 4 {
                    0 => machine.words[slot] = leaf(to),
                    1 => _ = machine.memory.insert(KEYS + slot as u64 * 8, board::key(target(key), kind.keeps_flags)),
                    2 => machine.plug(slot, key, to, kind.keeps_flags),
                    _ => {}
                }
            });
            prop_assert!([asked, MISS, THUNK].contains(&reached), "{:#x} came to {:#x}", asked, reached);
            prop_assert!(reached != asked || round < COUNT, "there is no such target");
            prop_assert_eq!(machine.registers, registers);
            prop_assert_eq!(machine.memory[&HITS], if kind.counted { 8 } else { 7 });
        }
    }

    #[test]
    fn what_is_plugged_is_found(kind in kinds(), registers in any::<[u64; 16]>(), used in 0usize..=SLOTS) {
        let reg = Reg::new(kind.reg).unwrap();
        for n in 0..COUNT {
            let mut registers = registers;
            registers[usize::from(kind.reg)] = target(n);
            let mut machine = Machine::new(reg, kind.keeps_flags, kind.counted, COUNT, registers);
            (0..used).for_each(|slot| machine.plug(slot, slot as u64, slot as u64, kind.keeps_flags));
            let expected = if n < used as u64 { target(n) } else { MISS };
            prop_assert_eq!(machine.call(|_| {}), expected);
        }
    }
}

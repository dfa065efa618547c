//! Trees that keep the flags, executed: whatever the registers hold, such a tree ends where the thunk would, with every
//! register as it was, and has written nothing but the word that the thunk writes, and its counters. The machine knows no
//! instruction that changes a flag or reads one, so whatever it executes keeps them.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use proptest::prelude::*;
use relpoline_core::arch::Reg;
use relpoline_core::arch::encode::{Code, CodeError};
use relpoline_core::arch::keep;
use relpoline_core::tree::shape::LEVELS;
use relpoline_core::tree::{CELL, Emitted, MAX_TARGETS, Target, TreeSpec, body_size, emit};

const HEAD: u64 = 0x5555_4000_0040;
const BODY: u64 = 0x5555_4100_0080;
const MISS: u64 = 0x5555_4200_0008;
const HITS: u64 = 0x5555_4300_0000;
const EXITS: u64 = 0x5555_4300_0010;
const EXIT_SLOW: u64 = 0x5555_4400_0000;
/// What all addresses have less when everything lies below 2 GiB.
const LOW: u64 = 0x5555_0000_0000;
const RSP: usize = 4;

/// Registers by hardware number, and memory that was written.
#[derive(Clone, PartialEq, Debug)]
struct State {
    registers: [u64; 16],
    memory: BTreeMap<u64, u64>,
}

/// Code at its addresses.
struct Machine {
    parts: Vec<(u64, Vec<u8>)>,
    start: u64,
}

impl Machine {
    fn of(spec: &TreeSpec<'_>, head_at: u64, body_at: u64) -> Machine {
        let (mut head, mut body) = (vec![0u8; CELL], vec![0u8; body_size(spec)]);
        let emitted = emit(spec, &mut head, head_at, &mut body, body_at).expect("the tree fits");
        assert_eq!(emitted, Emitted { head: CELL, body: body.len() });
        Machine { parts: vec![(head_at, head), (body_at, body)], start: head_at }
    }

    fn bytes(&self, at: u64) -> Option<&[u8]> {
        self.parts.iter().find_map(|(base, bytes)| {
            let offset = at.checked_sub(*base).filter(|&offset| offset < bytes.len() as u64)?;
            Some(&bytes[offset as usize..])
        })
    }

    fn decode(&self, at: u64) -> Option<Instruction> {
        Some(Decoder::with_ip(64, self.bytes(at)?, at, DecoderOptions::NONE).decode())
    }

    /// Runs it. Where it ends, and how many addresses were compared.
    fn run(&self, state: &mut State) -> (u64, usize) {
        let (mut at, mut jumps) = (self.start, 0);
        while let Some(insn) = self.decode(at) {
            at = insn.next_ip();
            match insn.mnemonic() {
                Mnemonic::Jmp => at = insn.near_branch_target(),
                Mnemonic::Jrcxz => {
                    jumps += 1;
                    if state.registers[1] == 0 {
                        at = insn.near_branch_target();
                    }
                }
                _ => execute(&insn, state),
            }
        }
        (at, jumps)
    }

    /// All instructions that can be reached.
    fn reachable(&self) -> Vec<Instruction> {
        let (mut seen, mut todo, mut all) = (BTreeSet::new(), vec![self.start], Vec::new());
        while let Some(at) = todo.pop() {
            let Some(insn) = self.decode(at).filter(|_| seen.insert(at)) else { continue };
            if matches!(insn.flow_control(), FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch) {
                todo.push(insn.near_branch_target());
            }
            if insn.flow_control() != FlowControl::UnconditionalBranch {
                todo.push(insn.next_ip());
            }
            all.push(insn);
        }
        all
    }
}

fn read(state: &State, register: Register) -> u64 {
    let whole = state.registers[register.number()];
    match register.size() {
        8 => whole,
        4 => whole & 0xffff_ffff,
        1 => whole & 0xff,
        size => panic!("a register of {size} bytes"),
    }
}

fn write(state: &mut State, register: Register, value: u64) {
    let mask = if register.size() == 8 { u64::MAX } else { 0xffff_ffff };
    state.registers[register.number()] = value & mask;
}

fn address(insn: &Instruction, state: &State) -> u64 {
    let base = match insn.memory_base() {
        Register::RIP | Register::None => return insn.memory_displacement64(),
        base => state.registers[base.number()],
    };
    let index = match insn.memory_index() {
        Register::None => 0,
        index => state.registers[index.number()],
    };
    base.wrapping_add(index).wrapping_add(insn.memory_displacement64())
}

fn execute(insn: &Instruction, state: &mut State) {
    match (insn.mnemonic(), insn.op0_kind(), insn.op1_kind()) {
        (Mnemonic::Mov, OpKind::Memory, OpKind::Register) => {
            let (at, value) = (address(insn, state), read(state, insn.op1_register()));
            state.memory.insert(at, value);
        }
        (Mnemonic::Mov, OpKind::Register, OpKind::Memory) => {
            let value = state.memory.get(&address(insn, state)).copied().expect("what is read was written");
            write(state, insn.op0_register(), value);
        }
        (Mnemonic::Mov | Mnemonic::Movzx, OpKind::Register, OpKind::Register) => {
            write(state, insn.op0_register(), read(state, insn.op1_register()));
        }
        (Mnemonic::Mov, OpKind::Register, OpKind::Immediate64) => write(state, insn.op0_register(), insn.immediate64()),
        (Mnemonic::Lea, ..) => write(state, insn.op0_register(), address(insn, state)),
        (Mnemonic::Bswap, ..) => {
            let (register, value) = (insn.op0_register(), read(state, insn.op0_register()));
            let swapped = if register.size() == 8 { value.swap_bytes() } else { (value as u32).swap_bytes().into() };
            write(state, register, swapped);
        }
        other => panic!("{other:?} at {:#x} is not permitted", insn.ip()),
    }
}

#[derive(Debug, Clone)]
struct Case {
    reg: Reg,
    targets: Vec<Target>,
    chain: usize,
    hits: bool,
    exits: bool,
    low: bool,
    registers: [u64; 16],
}

impl Case {
    fn at(&self, address: u64) -> u64 {
        if self.low { address - LOW } else { address }
    }

    fn spec(&self) -> TreeSpec<'_> {
        TreeSpec {
            reg: self.reg,
            targets: &self.targets,
            chain: self.chain,
            miss: self.at(MISS),
            hits_counter: self.hits.then_some(self.at(HITS)),
            exits: self.exits.then_some((self.at(EXITS), self.at(EXIT_SLOW))),
            keeps_flags: true,
        }
    }

    fn machine(&self) -> Machine {
        Machine::of(&self.spec(), self.at(HEAD), self.at(BODY))
    }

    /// The state in which the site jumps to `target`.
    fn state(&self, target: u64) -> State {
        let mut registers = self.registers;
        registers[usize::from(self.reg.number())] = target;
        let counters = [(self.at(HITS), 7), (self.at(EXITS), 1000)];
        State { registers, memory: counters.into() }
    }

    /// Whether something is behind the chain, and exits to it are counted.
    fn is_watched(&self) -> bool {
        self.exits && self.targets.len() > self.chain
    }
}

fn cases() -> impl Strategy<Value = Case> {
    // Labels of one function, functions of one program, and what lies farther apart than a displacement reaches.
    let spread = prop::sample::select(vec![0x400u64, 0x40_0000, 0x7000_0000, 0x1_2000_0000]);
    let offsets = (spread, prop::collection::vec(any::<u64>(), 0..=MAX_TARGETS));
    let register = prop::sample::select((0u8..16).filter(|&n| usize::from(n) != RSP).collect::<Vec<_>>());
    (register, offsets, any::<u64>(), 0usize..=40, any::<[bool; 3]>(), any::<[u64; 16]>()).prop_map(
        |(reg, (spread, offsets), seed, chain, [hits, exits, low], registers)| {
            let spread = if low { spread.min(0x2000_0000) } else { spread };
            let base = 0x5555_5000_0000 - if low { LOW } else { 0 };
            // Branches must reach them all from the tree, which lies at the lower end.
            let base = if spread > 0x7000_0000 { base - spread / 2 } else { base };
            let unique: BTreeSet<u64> = offsets.into_iter().map(|o| base + o % spread).collect();
            let share = |i: usize| (seed.rotate_left(i as u32 * 7) as u32) >> (i % 33).min(31);
            // The body lies 16 MiB behind the head.
            let reaches = |t: &u64| t.abs_diff(HEAD - if low { LOW } else { 0 }) < 0x7e00_0000;
            let mut targets: Vec<Target> = (unique.into_iter().filter(reaches).enumerate())
                .map(|(i, address)| Target { address, share: share(i) })
                .collect();
            targets.sort_by_key(|t| std::cmp::Reverse(t.share));
            Case { reg: Reg::new(reg).unwrap(), targets, chain, hits, exits, low, registers }
        },
    )
}

fn probes(case: &Case) -> BTreeSet<u64> {
    let around = case.targets.iter().flat_map(|t| [t.address - 1, t.address, t.address + 1]);
    let far = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, u64::MAX, u64::MAX - 0x7fff_ffff, 1 << 63, 1 << 56];
    // What a truncated difference would mistake for them.
    let twins = case.targets.iter().flat_map(|t| [t.address & 0xffff_ffff, t.address ^ 1 << 32, t.address ^ 1 << 63]);
    around.chain(far).chain(twins).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 400 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_does_what_the_thunk_does(case in cases()) {
        let machine = case.machine();
        let known: BTreeSet<u64> = case.targets.iter().map(|t| t.address).collect();
        for value in probes(&case) {
            let before = case.state(value);
            let mut after = before.clone();
            let (reached, jumps) = machine.run(&mut after);
            let expected = if known.contains(&value) { value } else { case.at(MISS) };
            prop_assert_eq!(reached, expected, "jumping to {:#x}", value);
            prop_assert_eq!(after.registers, before.registers, "jumping to {:#x}", value);
            // Two for each node, one for the countdown.
            prop_assert!(jumps <= case.chain + 2 * LEVELS + 1);
            let below = before.registers[RSP].wrapping_sub(8);
            let changed = after.memory.iter().filter(|(at, now)| before.memory.get(at) != Some(*now));
            for (at, now) in changed {
                let counted = *at == case.at(HITS) && case.hits && *now == 8
                    || *at == case.at(EXITS) && case.is_watched() && *now == 999;
                prop_assert!(*at == below || counted, "{:#x} is written to {:#x}", now, at);
            }
        }
    }

    #[test]
    fn code_has_the_promised_form(case in cases()) {
        let machine = case.machine();
        for insn in machine.reachable() {
            let permitted = matches!(
                insn.mnemonic(),
                Mnemonic::Mov | Mnemonic::Lea | Mnemonic::Bswap | Mnemonic::Movzx | Mnemonic::Jmp | Mnemonic::Jrcxz
            );
            prop_assert!(permitted, "{:?}", insn.mnemonic());
            prop_assert_eq!((insn.rflags_modified(), insn.rflags_read()), (0, 0));
            if insn.mnemonic() == Mnemonic::Jmp {
                prop_assert_eq!(machine.bytes(insn.next_ip()).unwrap()[0], 0xcc, "no int3 behind the jmp at {:#x}", insn.ip());
            }
        }
    }

    #[test]
    fn exits_end_where_they_are_counted(case in cases(), left in 0u64..3) {
        let Some(last) = case.targets.last().filter(|_| case.is_watched()) else { return Ok(()) };
        let mut state = case.state(last.address);
        let registers = state.registers;
        state.memory.insert(case.at(EXITS), left);
        let expected = if left <= 1 { case.at(EXIT_SLOW) } else { last.address };
        prop_assert_eq!(case.machine().run(&mut state).0, expected);
        prop_assert_eq!(state.registers, registers);
        prop_assert_eq!(state.memory[&case.at(EXITS)] as u32, (left as u32).wrapping_sub(1));
    }

    #[test]
    fn never_panics(case in cases(), head in 0usize..80, body in 0usize..900, head_at: u64, body_at: u64) {
        let (mut head, mut body) = (vec![0u8; head], vec![0u8; body]);
        let fits = head.len() >= CELL && body.len() >= body_size(&case.spec());
        match emit(&case.spec(), &mut head, head_at, &mut body, body_at) {
            Ok(_) => prop_assert!(fits),
            Err(CodeError::Overflow) => prop_assert!(!fits),
            Err(_) => {}
        }
    }

    /// `decl; jle`, without flags.
    #[test]
    fn a_countdown_is_over_at_zero(start in prop::sample::select(vec![
        0u32, 1, 2, 3, 0xff, 0x100, 0xffff, 0x10000, keep::LONGEST - 1, keep::LONGEST, u32::MAX, 1 << 31 | 9,
    ])) {
        let mut buf = [0; CELL];
        let mut code = Code::new(&mut buf, HEAD);
        let goes_on = keep::count_down(&mut code, EXITS);
        code.jmp(EXIT_SLOW);
        code.bind_short(goes_on);
        code.jmp(MISS);
        code.finish().unwrap();
        let machine = Machine { parts: vec![(HEAD, buf.to_vec())], start: HEAD };
        let mut state = State { registers: [5; 16], memory: [(EXITS, start.into())].into() };
        let expected = if start.wrapping_sub(1).cast_signed() <= 0 { EXIT_SLOW } else { MISS };
        prop_assert_eq!(machine.run(&mut state).0, expected);
        prop_assert_eq!(state.memory[&EXITS] as u32, start.wrapping_sub(1));
    }
}

fn labels(n: u64) -> Vec<Target> {
    (0..n).map(|i| Target { address: 0x5555_5000_0000 + i * 48, share: 65536 >> i.min(16) }).collect()
}

fn spec(targets: &[Target], reg: Reg) -> TreeSpec<'_> {
    TreeSpec { reg, targets, chain: 8, miss: MISS, hits_counter: None, exits: None, keeps_flags: true }
}

#[test]
fn two_targets_fit_the_head() {
    let all = labels(3);
    assert_eq!(body_size(&spec(&all[..2], Reg::RAX)), 0);
    assert_eq!(body_size(&spec(&all[..1], Reg::RCX)), 0);
    assert_eq!(body_size(&TreeSpec { hits_counter: Some(HITS), ..spec(&all[..1], Reg::RAX) }), 0);
    assert_eq!(body_size(&TreeSpec { hits_counter: Some(HITS), ..spec(&all[..1], Reg::RCX) }), CELL);
    assert_eq!(body_size(&spec(&all, Reg::RAX)), CELL);
}

#[test]
fn one_target_looks_as_documented() {
    let one = labels(1);
    let (mut head, mut body) = ([0u8; CELL], [0u8; 0]);
    emit(&spec(&one, Reg::R11), &mut head, HEAD, &mut body, 0).unwrap();
    assert_eq!(head[..5], [0x48, 0x89, 0x4c, 0x24, 0xf8], "mov %rcx, -8(%rsp)");
    assert_eq!(head[5..7], [0x48, 0xb9], "movabs $-T, %rcx");
    assert_eq!(head[7..15], one[0].address.wrapping_neg().to_le_bytes());
    assert_eq!(head[15..19], [0x4a, 0x8d, 0x0c, 0x19], "lea (%rcx,%r11), %rcx");
    assert_eq!(head[19..21], [0xe3, 11], "jrcxz");
    assert_eq!(head[21..27], [0x48, 0x8b, 0x4c, 0x24, 0xf8, 0xe9], "mov -8(%rsp), %rcx; jmp miss");
    assert_eq!(head[32..38], [0x48, 0x8b, 0x4c, 0x24, 0xf8, 0xe9], "mov -8(%rsp), %rcx; jmp T");
    assert!(head[42..].iter().all(|&b| b == 0xcc));
}

#[test]
fn rsp_holds_no_target() {
    let (mut head, mut body) = ([0u8; CELL], [0u8; CELL]);
    let rsp = Reg::new(RSP as u8).unwrap();
    assert_eq!(emit(&spec(&labels(1), rsp), &mut head, HEAD, &mut body, BODY), Err(CodeError::Register));
}

//! Branch trees, executed: the emitted bytes are decoded by iced-x86 and run by a tiny interpreter, for all
//! registers, both ways of comparing, and 0 to 96 targets.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{Code as Op, Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};
use proptest::prelude::*;
use relpoline_core::arch::x86_64::Reg;
use relpoline_core::arch::x86_64::encode::CodeError;
use relpoline_core::tree::shape::{LEVELS, Walk, by_address};
use relpoline_core::tree::{CELL, Emitted, MAX_TARGETS, Target, TreeSpec, body_size, emit, fingerprint};

const HEAD: u64 = 0x5555_4000_0040;
const BODY: u64 = 0x5555_4100_0080;
const MISS: u64 = 0x5555_4200_0008;
const HITS: u64 = 0x5555_4300_0000;
const EXITS: u64 = 0x5555_4300_0010;
const EXIT_SLOW: u64 = 0x5555_4400_0000;

/// Addresses below 2 GiB, where everything compares with immediates. `LOW` is added to the constants above.
const LOW: u64 = 0x5555_0000_0000;

const REGISTERS: [Register; 16] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RSP,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// A tree in its memory.
struct Machine {
    head: Vec<u8>,
    body: Vec<u8>,
    head_at: u64,
    body_at: u64,
    counters: BTreeMap<u64, u64>,
    register: Register,
}

/// How a call went.
#[derive(Debug, PartialEq)]
struct Run {
    reached: u64,
    compares: usize,
}

impl Machine {
    fn build(spec: &TreeSpec<'_>, head_at: u64, body_at: u64) -> Result<Machine, CodeError> {
        let (mut head, mut body) = (vec![0u8; CELL], vec![0u8; body_size(spec)]);
        let emitted = emit(spec, &mut head, head_at, &mut body, body_at)?;
        assert_eq!(emitted, Emitted { head: CELL, body: body.len() });
        let register = REGISTERS[usize::from(spec.reg.number())];
        Ok(Machine { head, body, head_at, body_at, counters: BTreeMap::new(), register })
    }

    fn bytes(&self, at: u64) -> Option<&[u8]> {
        let inside = |base: u64, bytes: &'_ [u8]| at.checked_sub(base).filter(|&o| o < bytes.len() as u64);
        if let Some(offset) = inside(self.head_at, &self.head) {
            return Some(&self.head[offset as usize..]);
        }
        inside(self.body_at, &self.body).map(|offset| &self.body[offset as usize..])
    }

    fn decode(&self, at: u64) -> Option<Instruction> {
        let bytes = self.bytes(at)?;
        Some(Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode())
    }

    fn constant(&self, at: u64) -> u64 {
        let bytes = self.bytes(at).expect("a constant outside the tree");
        u64::from_le_bytes(bytes[..8].try_into().unwrap())
    }

    fn call(&mut self, target: u64) -> Run {
        let (mut at, mut compares) = (self.head_at, 0);
        let (mut equal, mut below, mut not_positive) = (false, false, false);
        while let Some(i) = self.decode(at) {
            at = i.next_ip();
            match i.code() {
                Op::Cmp_r64_rm64 | Op::Cmp_rm64_imm32 => {
                    assert_eq!(i.op0_register(), self.register);
                    let other = match i.op1_kind() {
                        OpKind::Memory => self.constant(i.ip_rel_memory_address()),
                        _ => i.immediate(1),
                    };
                    (equal, below, compares) = (target == other, target < other, compares + 1);
                }
                Op::Je_rel32_64 if equal => at = i.near_branch_target(),
                Op::Ja_rel32_64 if !equal && !below => at = i.near_branch_target(),
                Op::Jb_rel32_64 if below => at = i.near_branch_target(),
                Op::Jle_rel32_64 if not_positive => at = i.near_branch_target(),
                Op::Je_rel32_64 | Op::Ja_rel32_64 | Op::Jb_rel32_64 | Op::Jle_rel32_64 => {}
                Op::Jmp_rel32_64 => at = i.near_branch_target(),
                Op::Inc_rm64 => *self.counters.entry(i.ip_rel_memory_address()).or_default() += 1,
                Op::Dec_rm32 => {
                    let counter = self.counters.entry(i.ip_rel_memory_address()).or_default();
                    *counter = u64::from((*counter as u32).wrapping_sub(1));
                    not_positive = (*counter as u32).cast_signed() <= 0;
                }
                other => panic!("unexpected instruction {other:?} before {at:#x}"),
            }
        }
        Run { reached: at, compares }
    }

    /// All instructions that can be reached from the head.
    fn reachable(&self) -> Vec<Instruction> {
        let (mut seen, mut todo, mut all) = (BTreeSet::new(), vec![self.head_at], Vec::new());
        while let Some(at) = todo.pop() {
            let Some(i) = self.decode(at).filter(|_| seen.insert(at)) else { continue };
            if matches!(i.flow_control(), FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch) {
                todo.push(i.near_branch_target());
            }
            if i.flow_control() != FlowControl::UnconditionalBranch {
                todo.push(i.next_ip());
            }
            all.push(i);
        }
        all
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
            keeps_flags: false,
        }
    }

    fn machine(&self) -> Machine {
        let mut machine = Machine::build(&self.spec(), self.at(HEAD), self.at(BODY)).expect("the tree fits");
        machine.counters.insert(self.at(EXITS), 1 << 20);
        machine
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let offsets = prop::collection::btree_set(0u64..0x1000_0000, 0..=MAX_TARGETS);
    (0u8..16, offsets, any::<u64>(), 0usize..=5, any::<[bool; 3]>()).prop_map(
        |(reg, offsets, seed, chain, [hits, exits, low])| {
            let base = 0x5555_5000_0000 - if low { LOW } else { 0 };
            let mut targets: Vec<Target> = offsets
                .into_iter()
                .enumerate()
                // Shares over many orders of magnitude, zero among them.
                .map(|(i, o)| Target {
                    address: base + o,
                    share: (seed.rotate_left(i as u32 * 7) as u32) >> (i % 33).min(31),
                })
                .collect();
            targets.sort_by_key(|t| std::cmp::Reverse(t.share));
            Case { reg: Reg::new(reg).unwrap(), targets, chain, hits, exits, low }
        },
    )
}

fn probes(case: &Case) -> BTreeSet<u64> {
    let around = case.targets.iter().flat_map(|t| [t.address - 1, t.address, t.address + 1]);
    let far = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, u64::MAX, u64::MAX - 0x7fff_ffff, 1 << 63, case.at(MISS)];
    // The low halves and sign-extended twins of targets, which a truncated compare would mistake for them.
    let twins = case.targets.iter().flat_map(|t| [t.address & 0xffff_ffff, t.address | 0xffff_ffff_0000_0000]);
    around.chain(far).chain(twins).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 400 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_target_reaches_itself_and_everything_else_the_miss(case in cases()) {
        let mut machine = case.machine();
        let known: BTreeSet<u64> = case.targets.iter().map(|t| t.address).collect();
        for value in probes(&case) {
            let expected = if known.contains(&value) { value } else { case.at(MISS) };
            let run = machine.call(value);
            prop_assert_eq!(run.reached, expected, "calling {:#x}", value);
            prop_assert!(run.compares <= case.chain + LEVELS);
        }
    }

    #[test]
    fn code_has_the_promised_form(case in cases()) {
        let machine = case.machine();
        for i in machine.reachable() {
            prop_assert!(!matches!(i.flow_control(), FlowControl::IndirectBranch | FlowControl::IndirectCall
                | FlowControl::Return | FlowControl::Call | FlowControl::Interrupt | FlowControl::Exception));
            if i.flow_control() == FlowControl::UnconditionalBranch {
                prop_assert_eq!(machine.bytes(i.next_ip()).unwrap()[0], 0xcc, "no int3 behind the jmp at {:#x}", i.ip());
            }
            if i.op1_kind() == OpKind::Memory {
                prop_assert_eq!(i.ip_rel_memory_address() % 8, 0, "a constant across two lines");
            }
        }
    }

    #[test]
    fn counters_count(case in cases(), calls in 1u64..20) {
        let mut machine = case.machine();
        let Some(last) = case.targets.last().map(|t| t.address) else { return Ok(()) };
        for _ in 0..calls {
            prop_assert_eq!(machine.call(last).reached, last);
        }
        let hits = machine.counters.get(&case.at(HITS)).copied().unwrap_or(0);
        prop_assert_eq!(hits, if case.hits { calls } else { 0 });
        let exits = (1 << 20) - machine.counters[&case.at(EXITS)];
        let watched = case.exits && case.targets.len() > case.chain;
        prop_assert_eq!(exits, if watched { calls } else { 0 });
        if watched {
            machine.counters.insert(case.at(EXITS), 1);
            prop_assert_eq!(machine.call(last).reached, case.at(EXIT_SLOW));
            prop_assert_eq!(machine.call(last).reached, case.at(EXIT_SLOW), "a lost zero");
        }
    }

    #[test]
    fn never_panics(case in cases(), head in 0usize..80, body in 0usize..600, head_at: u64, body_at: u64) {
        let (mut head, mut body) = (vec![0u8; head], vec![0u8; body]);
        let fits = head.len() >= CELL && body.len() >= body_size(&case.spec());
        match emit(&case.spec(), &mut head, head_at, &mut body, body_at) {
            Ok(_) => prop_assert!(fits),
            Err(CodeError::Overflow) => prop_assert!(!fits),
            Err(CodeError::OutOfReach | CodeError::Register) => {}
        }
    }

    #[test]
    fn walks_visit_every_target_once_and_stay_shallow(weights in prop::collection::vec(any::<u32>(), 0..=MAX_TARGETS)) {
        let mut seen = BTreeSet::new();
        for node in Walk::new(weights.len(), |i| weights[i]) {
            prop_assert!(node.from <= node.root && node.root < node.to && node.depth < LEVELS);
            prop_assert!(seen.insert(node.root));
        }
        prop_assert_eq!(seen.len(), weights.len());
    }
}

fn targets(n: u64) -> Vec<Target> {
    (0..n).map(|i| Target { address: 0x5555_5000_0000 + i * 48, share: 65536 >> i.min(16) }).collect()
}

fn spec(targets: &[Target], chain: usize) -> TreeSpec<'_> {
    TreeSpec { reg: Reg::R11, targets, chain, miss: MISS, hits_counter: None, exits: None, keeps_flags: false }
}

#[test]
fn two_far_and_four_near_targets_fit_the_head() {
    let far = targets(3);
    assert_eq!(body_size(&spec(&far[..2], 4)), 0);
    assert_eq!(body_size(&TreeSpec { hits_counter: Some(HITS), ..spec(&far[..2], 4) }), 0);
    assert_eq!(body_size(&spec(&far, 4)), CELL);
    let near: Vec<Target> = far.iter().cycle().take(5).map(|t| Target { address: t.address - LOW, ..*t }).collect();
    assert_eq!(body_size(&spec(&near[..4], 4)), 0);
    assert_eq!(body_size(&TreeSpec { hits_counter: Some(HITS), ..spec(&near[..3], 4) }), 0);
    assert_eq!(body_size(&spec(&near, 5)), CELL);
}

#[test]
fn one_target_looks_as_documented() {
    let one = targets(1);
    let (mut head, mut body) = ([0u8; CELL], [0u8; 0]);
    emit(&spec(&one, 1), &mut head, HEAD, &mut body, 0).unwrap();
    // cmp 0x29(%rip),%r11 ; je T ; jmp miss ; int3
    assert_eq!(head[..3], [0x4c, 0x3b, 0x1d]);
    assert_eq!(head[7..9], [0x0f, 0x84]);
    assert_eq!(head[13], 0xe9);
    assert!(head[18..48].iter().all(|&b| b == 0xcc));
    assert_eq!(head[48..56], one[0].address.to_le_bytes());
}

#[test]
fn kernel_addresses_compare_as_immediates() {
    let kernel = [Target { address: 0xffff_ffff_8100_0010, share: 65536 }];
    let at = 0xffff_ffff_a000_0000;
    let spec = TreeSpec { miss: at + 0x100, ..spec(&kernel, 1) };
    let mut machine = Machine::build(&spec, at, at + 0x1000).unwrap();
    assert_eq!(machine.call(kernel[0].address).reached, kernel[0].address);
    assert_eq!(machine.call(0x8100_0010).reached, at + 0x100);
    assert!(machine.reachable().iter().any(|i| i.code() == Op::Cmp_rm64_imm32));
}

#[test]
fn heavy_targets_are_near_the_root() {
    let mut tree = targets(64);
    tree.sort_by_key(|t| t.address % 7);
    for t in &mut tree {
        t.share = 100;
    }
    tree[17].share = 60_000;
    tree.sort_by_key(|t| std::cmp::Reverse(t.share));
    let mut machine = Machine::build(&spec(&tree, 0), HEAD, BODY).unwrap();
    assert_eq!(machine.call(tree[0].address).compares, 1);
    let order = by_address(&tree);
    assert!(order[..64].windows(2).all(|w| tree[usize::from(w[0])].address < tree[usize::from(w[1])].address));
}

#[test]
fn errors_are_typed() {
    let many = targets(97);
    let (mut head, mut body) = ([0u8; CELL], vec![0u8; 8192]);
    assert_eq!(emit(&spec(&many, 2), &mut head, HEAD, &mut body, BODY), Err(CodeError::Overflow));
    assert_eq!(emit(&spec(&many[..9], 2), &mut head[..63], HEAD, &mut body, BODY), Err(CodeError::Overflow));
    assert_eq!(emit(&spec(&many[..9], 2), &mut head, HEAD, &mut body[..64], BODY), Err(CodeError::Overflow));
    assert_eq!(emit(&spec(&many[..9], 2), &mut head, 0, &mut body, BODY), Err(CodeError::OutOfReach));
    assert_eq!(emit(&spec(&many[..9], 2), &mut head, HEAD, &mut body, 1 << 46), Err(CodeError::OutOfReach));
}

#[test]
fn fingerprints_tell_trees_apart() {
    let all = targets(8);
    let print = |t: &[Target], chain| fingerprint(&spec(t, chain));
    let mut other = all.clone();
    other.swap(5, 6);
    assert_eq!(print(&all, 2), print(&other, 2), "the order behind the chain does not matter");
    other[7].share = 1;
    assert_eq!(print(&all, 2), print(&other, 2), "shares do not matter");
    other.swap(0, 1);
    assert_ne!(print(&all, 2), print(&other, 2), "the order of the chain does");
    assert_ne!(print(&all, 2), print(&all, 3));
    assert_ne!(print(&all, 2), print(&all[..7], 2));
    assert_ne!(print(&all, 2), fingerprint(&TreeSpec { keeps_flags: true, ..spec(&all, 2) }));
    assert_ne!(print(&all, 2), fingerprint(&TreeSpec { reg: Reg::RAX, ..spec(&all, 2) }));
    assert_eq!(print(&all, 8), print(&all, 9), "lengths beyond the list mean all of it");
}

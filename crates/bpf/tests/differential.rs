//! Interpreter against compiled code: random programs, in which registers, memory, result and trap must agree.
//!
//! A program is a main function and one that it may call. Both begin by spilling r1, run random
//! instructions, and the main function ends by writing r0 to r9 to its input, so that comparing the input
//! compares the registers. Addresses are often near something valid, and sometimes wild.
//!
//! `RELPOLINE_BPF_CASES` sets the number of programs (default 2000).

mod support;

use proptest::prelude::*;
use relpoline_bpf::insn::Insn;
use relpoline_bpf::{Engine, Invocation, MapHandle, MapKind, MapSpec, Mode, Options, Program, Runtime, Trap};

/// Bytes of input; the last 80 get the registers.
const INPUT: usize = 256;

/// One random instruction; jumps name the item they go to.
#[derive(Clone, Debug)]
enum Item {
    Plain(Insn),
    Wide(u8, u64),
    Jump(Insn, usize),
    Call,
    /// Makes a register point somewhere valid: input, stack or map.
    Point(u8, u8, i32),
}

fn slots(item: &Item) -> usize {
    if matches!(item, Item::Wide(..)) { 2 } else { 1 }
}

fn any_imm() -> impl Strategy<Value = i32> {
    prop_oneof![any::<i32>(), -4..70i32, Just(i32::MIN), Just(i32::MAX), Just(0), Just(-1)]
}

/// r0 to r9; the frame pointer is read-only.
fn dst() -> impl Strategy<Value = u8> {
    0..10u8
}

fn arithmetic() -> impl Strategy<Value = Item> {
    let op = (0..14u8, any::<bool>(), any::<bool>(), dst(), 0..10u8, any_imm(), any::<bool>());
    op.prop_map(|(op, wide, from_reg, dst, src, imm, signed)| {
        let class = if wide { 7 } else { 4 };
        let base = Insn { opcode: class | op << 4, dst, ..Insn::default() };
        Item::Plain(match op {
            8 => base,
            13 => Insn { opcode: 0xd4, imm: [16, 32, 64][imm.rem_euclid(3) as usize], ..base }.or_big(from_reg, wide),
            11 if signed => {
                let offset = [8, 16, 32][imm.rem_euclid(if wide { 3 } else { 2 }) as usize];
                Insn { opcode: class | 0xb8, src, offset, ..base }
            }
            _ => {
                let offset = i16::from(signed && matches!(op, 3 | 9));
                if from_reg {
                    Insn { opcode: base.opcode | 8, src, offset, ..base }
                } else {
                    Insn { imm, offset, ..base }
                }
            }
        })
    })
}

trait OrBig {
    fn or_big(self, big: bool, swap: bool) -> Self;
}

impl OrBig for Insn {
    fn or_big(self, big: bool, swap: bool) -> Insn {
        let opcode = if swap { 0xd7 } else { 0xd4 | u8::from(big) << 3 };
        Insn { opcode, ..self }
    }
}

fn memory() -> impl Strategy<Value = Item> {
    (0..5u8, 0..4u8, dst(), 0..10u8, -20..40i16, any_imm(), 0..12u8).prop_map(
        |(kind, size, a, b, offset, imm, atomic)| {
            let bits = size << 3;
            let base = Insn { dst: a, src: b, offset, ..Insn::default() };
            Item::Plain(match kind {
                0 => Insn { opcode: 0x61 | bits, ..base },
                1 if size != 3 => Insn { opcode: 0x81 | bits, ..base },
                2 => Insn { opcode: 0x62 | bits, src: 0, imm, ..base },
                3 => {
                    let op = [0, 1, 0x40, 0x41, 0x50, 0x51, 0xa0, 0xa1, 0xe1, 0xf1, 0, 1][atomic as usize];
                    // Mostly aligned, so that it gets somewhere.
                    let offset = if imm & 7 == 0 { offset } else { offset & !7 };
                    Insn { opcode: if size & 1 == 0 { 0xc3 } else { 0xdb }, imm: op, offset, ..base }
                }
                _ => Insn { opcode: 0x63 | bits, ..base },
            })
        },
    )
}

fn stack() -> impl Strategy<Value = Item> {
    (any::<bool>(), 0..4u8, 0..10u8, 14..60i16).prop_map(|(load, size, r, down)| {
        let base = Insn { offset: down * -8, ..Insn::default() };
        Item::Plain(if load {
            Insn { opcode: 0x61 | size << 3, dst: r, src: 10, ..base }
        } else {
            Insn { opcode: 0x63 | size << 3, dst: 10, src: r, ..base }
        })
    })
}

fn jump() -> impl Strategy<Value = Item> {
    let fields = (0..13usize, any::<bool>(), any::<bool>(), 0..10u8, 0..10u8, any_imm(), any::<prop::sample::Index>());
    fields.prop_map(|(kind, wide, from_reg, dst, src, imm, target)| {
        let code = [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 5][kind];
        let class = if wide { 5 } else { 6 };
        let base = Insn { opcode: class | code << 4, ..Insn::default() };
        let insn = match (code, from_reg) {
            (0, _) => base,
            (_, true) => Insn { opcode: base.opcode | 8, dst, src, ..base },
            (_, false) => Insn { dst, imm, ..base },
        };
        Item::Jump(insn, target.index(1 << 16))
    })
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        8 => arithmetic(),
        4 => memory(),
        2 => stack(),
        3 => jump(),
        1 => (dst(), any::<u64>()).prop_map(|(r, v)| Item::Wide(r, v)),
        1 => Just(Item::Call),
        4 => (dst(), 0..3u8, 0..200i32).prop_map(|(r, what, offset)| Item::Point(r, what, offset)),
    ]
}

fn at(opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) -> Insn {
    Insn { opcode, dst, src, offset, imm }
}

/// A function's slots. `callee` is the slot of the other function, for those that may call it.
fn function(items: &[Item], start: usize, callee: Option<usize>, end: &[Insn]) -> Vec<Insn> {
    let mut out = vec![at(0x7b, 10, 1, -8, 0)];
    let mut places = Vec::new();
    let mut place = 1;
    for item in items {
        places.push(place);
        place += match item {
            Item::Point(_, 2, _) => 2,
            Item::Point(..) => 2,
            item => slots(item),
        };
    }
    places.push(place);
    for item in items {
        match *item {
            Item::Plain(insn) => out.push(insn),
            Item::Wide(r, v) => {
                out.extend([at(0x18, r, 0, 0, v as i32), at(0, 0, 0, 0, (v >> 32) as i32)]);
            }
            Item::Jump(insn, target) => {
                let to = places[target % places.len()] as i64 - out.len() as i64 - 1;
                let long = insn.opcode == 0x06;
                out.push(if long { Insn { imm: to as i32, ..insn } } else { Insn { offset: to as i16, ..insn } });
            }
            Item::Call => match callee {
                Some(callee) => out.push(at(0x85, 0, 1, 0, (callee as i64 - (start + out.len()) as i64 - 1) as i32)),
                None => out.push(at(0x85, 0, 0, 0, 8)),
            },
            Item::Point(r, 0, offset) => out.extend([at(0x79, r, 10, -8, 0), at(0x07, r, 0, 0, offset)]),
            Item::Point(r, 1, offset) => out.extend([at(0xbf, r, 10, 0, 0), at(0x07, r, 0, 0, -110 - offset)]),
            Item::Point(r, _, offset) => out.extend([at(0x18, r, 2, 0, 0), at(0, 0, 0, 0, offset % 64)]),
        }
    }
    out.extend_from_slice(end);
    out
}

/// Writes r0 to r9 behind the input. They go through the stack, since the pointer needs a register.
fn dump() -> Vec<Insn> {
    let mut out: Vec<Insn> = (0..10).map(|r| at(0x7b, 10, r, -16 - 8 * i16::from(r), 0)).collect();
    out.push(at(0x79, 1, 10, -8, 0));
    for r in 0..10i16 {
        out.push(at(0x79, 2, 10, -16 - 8 * r, 0));
        out.push(at(0x7b, 1, 2, INPUT as i16 - 80 + 8 * r, 0));
    }
    out.push(at(0x95, 0, 0, 0, 0));
    out
}

fn program(main: &[Item], sub: &[Item]) -> Vec<Insn> {
    // The length does not depend on where the callee is.
    let len = function(main, 0, Some(0), &dump()).len();
    let mut insns = function(main, 0, Some(len), &dump());
    insns.extend(function(sub, len, None, &[at(0x95, 0, 0, 0, 0)]));
    insns
}

struct Bench {
    runtime: Runtime,
    map: relpoline_bpf::Map,
}

impl Bench {
    fn new() -> Bench {
        // The CPU's number is the one thing that may differ between two runs; pin it.
        let runtime = Runtime::builder().helper(8, |call| Ok(call.args[0].rotate_left(7))).build().unwrap();
        let name = "values".into();
        let spec = MapSpec {
            name,
            kind: MapKind::Array,
            key_size: 4,
            value_size: 64,
            max_entries: 1,
            read_only: false,
            hashes: 0,
        };
        let map = relpoline_bpf::Map::new(&runtime, &spec).unwrap();
        Bench { runtime, map }
    }

    fn run(&self, program: &Program, input: &mut [u8; INPUT], engine: Engine) -> (Result<u64, Trap>, Vec<u8>) {
        for (i, byte) in input.iter_mut().enumerate() {
            *byte = (i * 37 + 11) as u8;
        }
        self.map.set(&[0; 4], &[0x5a; 64], Mode::Any).unwrap();
        let result = program.invoke(Invocation::new(input).engine(engine).clear_stack());
        (result, self.map.get(&[0; 4]).unwrap())
    }
}

#[test]
fn interpreter_and_compiled_code_agree() {
    let cases = std::env::var("RELPOLINE_BPF_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let bench = Bench::new();
    let mut input = Box::new([0u8; INPUT]);
    let finished = std::cell::Cell::new(0u32);
    let items = || prop::collection::vec(item(), 1..40);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let strategy = (items(), items());
    let input = std::cell::RefCell::new(&mut input);
    runner
        .run(&strategy, |(main, sub)| {
            let insns = program(&main, &sub);
            let options = Options { budget: Some(5000), ..Options::default() };
            let maps = [MapHandle::Map(bench.map.clone())];
            let program = support::load_insns(&bench.runtime, "random", &insns, &maps, options);
            let program = match program {
                Ok(program) => program,
                Err(e) => return Err(TestCaseError::fail(e.to_string())),
            };
            let mut input = input.borrow_mut();
            let expected = bench.run(&program, &mut input, Engine::Interpreter);
            let memory = ***input;
            let got = bench.run(&program, &mut input, Engine::Compiled);
            prop_assert_eq!(&got, &expected);
            prop_assert_eq!(&input[..], &memory[..]);
            finished.set(finished.get() + u32::from(got.0.is_ok()));
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
    eprintln!("{} of {cases} programs ran to their end", finished.get());
    assert!(finished.get() > cases / 20, "hardly any program ran to its end: {}", finished.get());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the bytes: refused, or run to an end or a trap, the same for both.
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<[u8; 8]>(), 1..60)) {
        let runtime = shared();
        let insns: Vec<Insn> = bytes.into_iter().map(Insn::from_bytes).collect();
        let options = Options { budget: Some(5000), ..Options::default() };
        if let Ok(program) = support::load_insns(runtime, "bytes", &insns, &[], options) {
            let mut input = [1u8; 64];
            let _ = program.run(&mut input);
        }
    }
}

fn shared() -> &'static Runtime {
    static RUNTIME: std::sync::OnceLock<Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

//! Calls by register, callbacks, and the instructions that came with version 4 and later.
//!
//! `callbacks.txt` has what the kernel's test run said of `programs/callbacks.c` (by `kernel.c`, as in `helpers.rs`).
//! With `RUSTFLAGS='--cfg relpoline_broken="calls-nest-for-ever"'` a function that calls itself by register uses up the stack,
//! which this notices.

mod support;

use relpoline_bpf::insn::Insn;
use relpoline_bpf::{
    ContextKind, Engine, Invocation, LoadErrorKind, Object, Options, PacketBuffer, Program, Runtime, TrapKind,
};
use support::load_insns;

const ENGINES: [Engine; 2] = [Engine::Interpreter, Engine::Compiled];

#[test]
fn callbacks_as_the_kernel_makes_them() {
    let recorded = include_str!("callbacks.txt");
    let mut buffer = PacketBuffer::new(100).unwrap();
    let mut count = 0;
    for line in recorded.lines().filter(|line| !line.starts_with('#')) {
        let (name, result) = line.split_once(' ').unwrap();
        let result: i32 = result.split(' ').next().unwrap().parse().unwrap();
        // Eight million calls take the interpreter half a minute without optimisation.
        for engine in ENGINES.into_iter().filter(|engine| name != "loop_most" || *engine == Engine::Compiled) {
            let runtime = Runtime::new().unwrap();
            let object = Object::load(&runtime, &support::object("callbacks"), Options::default()).unwrap();
            assert!(object.refused().is_empty(), "{:?}", object.refused());
            buffer.put(&[0; 64], ContextKind::Xdp);
            let got = object.program(name).unwrap().invoke(buffer.invocation().engine(engine));
            assert_eq!(got.map(|r0| r0 as u32 as i32), Ok(result), "{name}, {engine:?}");
        }
        count += 1;
    }
    assert_eq!(count, 13);
}

fn insn(opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) -> Insn {
    Insn { opcode, dst, src, offset, imm }
}

const EXIT: Insn = Insn { opcode: 0x95, dst: 0, src: 0, offset: 0, imm: 0 };

fn load(insns: &[Insn], options: Options) -> Program {
    load_insns(&Runtime::new().unwrap(), "p", insns, &[], options).unwrap()
}

/// `r2 =` the function `distance` slots behind the next one.
fn function(register: u8, distance: i32) -> [Insn; 2] {
    [insn(0x18, register, 4, 0, distance), Insn::default()]
}

#[test]
fn what_a_register_calls() {
    // r6 = f; r0 = f(20); r0 += 1. f doubles r1.
    let mut insns = function(6, 5).to_vec();
    insns.extend([insn(0xb7, 1, 0, 0, 20), insn(0x8d, 6, 0, 0, 0), insn(0x07, 0, 0, 0, 1), EXIT]);
    insns.extend([insn(0xbf, 0, 1, 0, 0), insn(0x0f, 0, 1, 0, 0), insn(0xb7, 6, 0, 0, 9), EXIT]);
    // Its result, if the register is r1 and holds a number: the helper of that number, or a trap.
    let number = |number: i32| vec![insn(0xb7, 1, 0, 0, number), insn(0x8d, 1, 0, 0, 0), insn(0xb7, 0, 0, 0, 3), EXIT];
    for engine in ENGINES {
        let run = |insns: &[Insn]| load(insns, Options::default()).invoke(Invocation::new(&mut []).engine(engine));
        assert_eq!(run(&insns), Ok(41), "{engine:?}");
        assert_eq!(run(&number(5)), Ok(3));
        for wrong in [0, 12, 181, 99_999, -1] {
            let trap = run(&number(wrong)).unwrap_err();
            assert!(matches!(trap.kind, TrapKind::NotAFunction { .. }), "{wrong}: {trap}");
        }
    }
}

/// A function that calls itself by register ends, whatever its budget is, and does not leave its stack.
#[test]
fn calls_by_register_nest_only_so_deep() {
    let mut insns = function(6, 3).to_vec();
    insns.extend([insn(0x8d, 6, 0, 0, 0), EXIT]);
    // *(u64 *)(r10 - 8) = r10; r6 = this; callx r6
    insns.extend([insn(0x7b, 10, 10, -8, 0)]);
    insns.extend(function(6, -2));
    insns.extend([insn(0x8d, 6, 0, 0, 0), EXIT]);
    for engine in ENGINES {
        for budget in [None, Some(1 << 20)] {
            let program = load(&insns, Options { budget, ..Options::default() });
            let trap = program.invoke(Invocation::new(&mut []).engine(engine)).unwrap_err();
            assert_eq!(trap.kind, TrapKind::NestedCalls, "{engine:?}");
        }
    }
}

#[test]
fn a_loop_that_may_go_on() {
    // r0 = 0; loop: may_goto end; r0 += 1; goto loop; end: exit
    let insns = [insn(0xb7, 0, 0, 0, 0), insn(0xe5, 0, 0, 2, 0), insn(0x07, 0, 0, 0, 1), insn(0x05, 0, 0, -3, 0), EXIT];
    for engine in ENGINES {
        let got = load(&insns, Options::default()).invoke(Invocation::new(&mut []).engine(engine));
        assert_eq!(got, Ok(8 << 20), "{engine:?}");
    }
}

#[test]
fn loads_that_acquire_and_stores_that_release() {
    // Each size: stores r2 by release, loads it back by acquire.
    for (opcode, bits) in [(0xd3, 8), (0xcb, 16), (0xc3, 32), (0xdb, 64)] {
        let insns = [
            insn(0x18, 2, 0, 0, 0x8765_4321_u32.cast_signed()),
            insn(0, 0, 0, 0, 0x1234_5678),
            insn(opcode, 1, 2, 8, 0x110),
            insn(opcode, 0, 1, 8, 0x100),
            EXIT,
        ];
        for engine in ENGINES {
            let mut memory = [0xff; 16];
            let got = load(&insns, Options::default()).invoke(Invocation::new(&mut memory).engine(engine));
            let whole = 0x1234_5678_8765_4321_u64;
            assert_eq!(got, Ok(if bits == 64 { whole } else { whole & ((1 << bits) - 1) }), "{engine:?} {bits}");
            let trap = load(&insns, Options::default()).invoke(Invocation::new(&mut memory[..8]).engine(engine));
            assert!(matches!(trap.unwrap_err().kind, TrapKind::OutOfBounds { write: true, .. }));
        }
    }
    // Out of the frame.
    for insns in [[insn(0xdb, 10, 1, 0, 0x110), EXIT], [insn(0xdb, 1, 10, -520, 0x100), EXIT]] {
        let error = load_insns(&Runtime::new().unwrap(), "p", &insns, &[], Options::default()).unwrap_err();
        assert!(matches!(error.kind, LoadErrorKind::Insn(_)), "{error}");
    }
}

//! The same programs here and in rbpf, in one process, in turn: `cargo bench -p relpoline-bpf`.
//!
//! rbpf has no tail calls, so 33 hops there are 33 runs of a program that the host starts one after the other, which
//! is how its users chain programs. The median of rounds is shown, in nanoseconds per run.

use relpoline_bpf::insn::Insn;
use relpoline_bpf::{Engine, Invocation, MapHandle, Options, ProgArray, Program, Runtime, Source};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: usize = 15;
const HOPS: u32 = 33;

fn insn(opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) -> Insn {
    Insn { opcode, dst, src, offset, imm }
}

/// Adds up the first 64 bytes of its input.
fn sum() -> Vec<Insn> {
    vec![
        insn(0xb7, 0, 0, 0, 0),
        insn(0xb7, 3, 0, 0, 64),
        insn(0x71, 4, 1, 0, 0),
        insn(0x0f, 0, 4, 0, 0),
        insn(0x07, 1, 0, 0, 1),
        insn(0x17, 3, 0, 0, 1),
        insn(0x55, 3, 0, -5, 0),
        insn(0x95, 0, 0, 0, 0),
    ]
}

fn nothing() -> Vec<Insn> {
    vec![insn(0xb7, 0, 0, 0, 1), insn(0x95, 0, 0, 0, 0)]
}

fn hop(next: u32) -> Vec<Insn> {
    vec![
        insn(0x18, 2, 1, 0, 0),
        insn(0, 0, 0, 0, 0),
        insn(0xb7, 3, 0, 0, next as i32),
        insn(0x85, 0, 0, 0, 12),
        insn(0xb7, 0, 0, 0, 1),
        insn(0x95, 0, 0, 0, 0),
    ]
}

fn load(runtime: &Runtime, insns: &[Insn], maps: &[MapHandle], options: Options) -> Program {
    Program::load(runtime, Source { name: "bench", section: "", insns, maps }, options).expect("a valid program")
}

/// Median nanoseconds of `run`, done `runs` times per round.
fn time(runs: u32, mut run: impl FnMut() -> u64) -> f64 {
    let mut all: Vec<f64> = (0..=ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            for _ in 0..runs {
                black_box(run());
            }
            begin.elapsed().as_nanos() as f64 / f64::from(runs)
        })
        .skip(1)
        .collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn ours(program: &Program, engine: Engine) -> f64 {
    let mut input = [1u8; 64];
    let runs = if engine == Engine::Compiled { 100_000 } else { 5_000 };
    time(runs, || program.invoke(Invocation::new(&mut input).engine(engine)).expect("no trap"))
}

fn bytes(insns: &[Insn]) -> Vec<u8> {
    insns.iter().flat_map(|i| i.to_bytes()).collect()
}

/// rbpf's compiled code, and its interpreter.
fn rbpfs(insns: &[Insn], times: u32) -> (f64, f64) {
    let code = bytes(insns);
    let mut vm = rbpf::EbpfVmRaw::new(Some(&code)).expect("a valid program");
    vm.jit_compile().expect("compiles");
    let mut input = [1u8; 64];
    let interpreted =
        time(2_000, || (0..times).map(|_| vm.execute_program(black_box(&mut input)).expect("no error")).sum());
    let compiled = time(20_000, || {
        // SAFETY: the program reads its 64 bytes of input and nothing else.
        (0..times).map(|_| unsafe { vm.execute_program_jit(black_box(&mut input)) }.expect("no error")).sum()
    });
    (compiled, interpreted)
}

fn row(name: &str, compiled: f64, interpreted: f64) {
    println!("{name:<46} {compiled:>10.1} {interpreted:>12.1}");
}

fn main() {
    let runtime = Runtime::new().expect("memory for code");
    let checked = Options::default();
    let trusted = Options { trusted: true, budget: None, ..checked };
    println!("{:<46} {:>10} {:>12}", "nanoseconds per run", "compiled", "interpreted");
    for (name, insns) in [("return 1", nothing()), ("sum of 64 bytes", sum())] {
        for (how, options) in [("checked", checked), ("trusted", trusted)] {
            let program = load(&runtime, &insns, &[], options);
            let (compiled, interpreted) = (ours(&program, Engine::Compiled), ours(&program, Engine::Interpreter));
            row(&format!("{name}, here, {how}"), compiled, interpreted);
        }
        let (compiled, interpreted) = rbpfs(&insns, 1);
        row(&format!("{name}, rbpf (compiled code unchecked)"), compiled, interpreted);
    }
    let array = ProgArray::new(&runtime, "chain", HOPS + 1).expect("a valid size");
    let maps = [MapHandle::Array(array.clone())];
    let programs: Vec<Program> = (0..=HOPS).map(|next| load(&runtime, &hop(next), &maps, checked)).collect();
    for (index, program) in programs.iter().skip(1).enumerate() {
        array.update(index as u32, Some(program)).expect("a free slot");
    }
    row("33 hops, here", ours(&programs[0], Engine::Compiled), ours(&programs[0], Engine::Interpreter));
    let (compiled, interpreted) = rbpfs(&nothing(), HOPS + 1);
    row("33 hops, rbpf, started by the host", compiled, interpreted);
}

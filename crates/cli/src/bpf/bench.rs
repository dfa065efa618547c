//! `relpoline bpf bench`: what a hop and an update cost on this machine.
//!
//! *Hops*: a chain of 33 programs against the entry program alone, divided by 33, as the median of rounds. Each
//! program of the chain does nothing but call the next.
//!
//! *Updates*: while threads run the chain, one slot is replaced, removed and inserted, and the whole array
//! swapped, each many times; the median is shown, since a preempted thread makes single grace periods long.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use relpoline_bpf::insn::Insn;
use relpoline_bpf::{Engine, Invocation, MapHandle, Options, ProgArray, Program, Runtime, Source};

/// Programs in the chain.
const CHAIN: u32 = 33;

/// Arguments.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    /// Rounds, of which the median is taken.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Threads that run the chain while it is updated; leave a CPU for the updates.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

#[derive(Debug, serde::Serialize)]
struct Figures {
    /// Nanoseconds of a run without a hop.
    run_ns: f64,
    /// Nanoseconds of 33 hops through patched jumps, of a run less its own cost.
    direct_33_ns: f64,
    /// The same through table lookups.
    variable_33_ns: f64,
    /// The same in the interpreter.
    interpreter_33_ns: f64,
    /// Microseconds, with threads running.
    replace_us: f64,
    remove_us: f64,
    insert_us: f64,
    swap_us: f64,
    /// Of the remaining threads.
    threads: usize,
}

struct Chain {
    array: ProgArray,
    entry: Program,
    programs: Vec<Program>,
}

fn insn(opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) -> Insn {
    Insn { opcode, dst, src, offset, imm }
}

/// A program that tail-calls slot `next`, known beforehand or added up from r2, the input's length of zero.
fn hop(runtime: &Runtime, array: &ProgArray, next: u32, direct: bool) -> Result<Program> {
    let index = if direct { insn(0xb7, 3, 0, 0, next as i32) } else { insn(0x61, 3, 1, 4 * next as i16, 0) };
    let insns = [
        insn(0x18, 2, 1, 0, 0),
        insn(0, 0, 0, 0, 0),
        index,
        insn(0x85, 0, 0, 0, 12),
        insn(0xb7, 0, 0, 0, next as i32),
        insn(0x95, 0, 0, 0, 0),
    ];
    let maps = [MapHandle::Array(array.clone())];
    let source = Source { name: "hop", section: "", insns: &insns, maps: &maps };
    Ok(Program::load(runtime, source, Options::default())?)
}

impl Chain {
    fn new(runtime: &Runtime, direct: bool) -> Result<Chain> {
        let array = ProgArray::new(runtime, "chain", CHAIN + 1)?;
        let entry = hop(runtime, &array, 0, direct)?;
        let programs = (1..=CHAIN).map(|next| hop(runtime, &array, next, direct)).collect::<Result<Vec<_>>>()?;
        let chain = Chain { array, entry, programs };
        chain.fill()?;
        Ok(chain)
    }

    fn fill(&self) -> Result<()> {
        let all: Vec<_> = self.programs.iter().enumerate().map(|(i, p)| (i as u32, Some(p))).collect();
        Ok(self.array.update_all(&all)?)
    }
}

/// The indexes that the variable chain loads: each word its own number.
fn input() -> Vec<u8> {
    (0..=CHAIN).flat_map(u32::to_le_bytes).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Nanoseconds per run.
fn time(program: &Program, engine: Engine, runs: u32, rounds: u32) -> Result<f64> {
    let mut bytes = input();
    let mut round = || -> Result<f64> {
        let begin = Instant::now();
        for _ in 0..runs {
            black_box(program.invoke(Invocation::new(black_box(&mut bytes)).engine(engine))?);
        }
        Ok(begin.elapsed().as_nanos() as f64 / f64::from(runs))
    };
    round()?;
    Ok(median((0..rounds).map(|_| round()).collect::<Result<_>>()?))
}

/// Nanoseconds of 33 hops, and of a run without any.
fn hops(runtime: &Runtime, direct: bool, engine: Engine, rounds: u32) -> Result<(f64, f64)> {
    let runs = if engine == Engine::Compiled { 200_000 } else { 10_000 };
    let chain = Chain::new(runtime, direct)?;
    let with = time(&chain.entry, engine, runs, rounds)?;
    chain.array.update(0, None)?;
    let without = time(&chain.entry, engine, runs, rounds)?;
    Ok((with - without, without))
}

/// Median microseconds of `what`, done `times` times.
fn microseconds(times: u32, mut what: impl FnMut(u32) -> Result<()>) -> Result<f64> {
    let mut all = Vec::new();
    for i in 0..times {
        let begin = Instant::now();
        what(i)?;
        all.push(begin.elapsed().as_nanos() as f64 / 1000.0);
    }
    Ok(median(all))
}

fn updates(chain: &Chain, runtime: &Runtime, rounds: u32) -> Result<[f64; 4]> {
    let other = hop(runtime, &chain.array, 17, true)?;
    let one = &chain.programs[16];
    let times = 40 * rounds;
    let replace = microseconds(times, |i| Ok(chain.array.update(16, Some(if i % 2 == 0 { &other } else { one }))?))?;
    let (mut removes, mut inserts) = (Vec::new(), Vec::new());
    for _ in 0..times {
        removes.push(microseconds(1, |_| Ok(chain.array.update(16, None)?))?);
        inserts.push(microseconds(1, |_| Ok(chain.array.update(16, Some(one))?))?);
    }
    let swap = microseconds(4 * rounds, |_| {
        Ok(chain.array.swap(chain.programs.iter().enumerate().map(|(i, p)| (i as u32, Some(p))))?)
    })?;
    Ok([replace, median(removes), median(inserts), swap])
}

fn updates_under_load(runtime: &Runtime, threads: usize, rounds: u32) -> Result<[f64; 4]> {
    let chain = Chain::new(runtime, true)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let program = chain.entry.clone();
            let stop = &stop;
            scope.spawn(move || {
                let mut bytes = input();
                while !stop.load(Ordering::Relaxed) {
                    // A trap would be a bug, and shown by the tests; here only time counts.
                    let _ = black_box(program.run(&mut bytes));
                }
            });
        }
        let figures = updates(&chain, runtime, rounds);
        stop.store(true, Ordering::Relaxed);
        figures
    })
}

/// Measures.
///
/// # Errors
/// When the runtime cannot be made.
pub fn run(arguments: &BenchArgs) -> Result<ExitCode> {
    let runtime = Runtime::new()?;
    let rounds = arguments.rounds;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = arguments.threads.unwrap_or(cpus.saturating_sub(1)).max(1);
    let (direct, run) = hops(&runtime, true, Engine::Compiled, rounds)?;
    let (variable, _) = hops(&runtime, false, Engine::Compiled, rounds)?;
    let (interpreter, _) = hops(&runtime, true, Engine::Interpreter, rounds)?;
    let [replace, remove, insert, swap] = updates_under_load(&runtime, threads, rounds)?;
    let figures = Figures {
        run_ns: run,
        direct_33_ns: direct,
        variable_33_ns: variable,
        interpreter_33_ns: interpreter,
        replace_us: replace,
        remove_us: remove,
        insert_us: insert,
        swap_us: swap,
        threads,
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print(&figures);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(f: &Figures) {
    let hop = f64::from(CHAIN);
    println!("a run without hops      {:8.1} ns", f.run_ns);
    println!("33 hops, patched jumps  {:8.1} ns  ({:.2} ns per hop)", f.direct_33_ns, f.direct_33_ns / hop);
    println!("33 hops, table lookup   {:8.1} ns  ({:.2} ns per hop)", f.variable_33_ns, f.variable_33_ns / hop);
    println!("33 hops, interpreter    {:8.1} ns  ({:.2} ns per hop)", f.interpreter_33_ns, f.interpreter_33_ns / hop);
    println!("\nupdates with {} running thread(s), median", f.threads);
    for (name, us) in [("replace", f.replace_us), ("remove", f.remove_us), ("insert", f.insert_us)] {
        println!("{name:<23} {us:8.1} µs");
    }
    println!("{:<23} {:8.1} µs", "swap of all 33 slots", f.swap_us);
}

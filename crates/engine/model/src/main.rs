//! The engine's protocols under a scheduler that decides, step by step, which thread goes next.
//!
//! ```text
//! RUSTFLAGS='--cfg relpoline_model' cargo run --release -- [--executions N] [--seed S] [--broken FAULT] [SCENARIO…]
//! RUSTFLAGS='--cfg relpoline_model' cargo run --release -- --faults
//! ```
//!
//! # What runs
//! The real engine: its slow path, lock, judging, recording, building, publishing, linking, relearning,
//! switching, recovering, forking (`judge`, `engine`, `fork`, `state`, `table`, `rings`, `report`, the
//! policy), on real arenas, which are mapped twice and sealed, with real gates, stubs and trees, real pokes
//! of a program's text through `/proc/self/mem`, and real forked processes. Every access to shared memory is
//! a step ([`world`]).
//!
//! # What is modelled
//! - *The processor* ([`processor`]): generated code is executed from memory, instruction by instruction,
//!   each a step.
//! - *Memory*: in order. x86-64 lets loads overtake a processor's own earlier stores; nothing here depends on
//!   that, since nobody decides by what it has not seen. How compilers may reorder is up to the orderings
//!   given, which this does not try (loom does, for the library's slots and keys).
//! - *The slow path's assembly*, which saves registers around the call of `judge::slow`; *the clock*; *what
//!   it costs to call*; *finding sites* in objects. Windows are shorter, and a child gets its own arena
//!   sooner (`cfg!(relpoline_model)`).
//!
//! # Why shuttle
//! An execution has some thousands of steps: until a site is promoted it must be called some ten times. loom
//! would try all interleavings and not come to an end; and its atomics cannot lie in an arena. shuttle draws
//! interleavings: at random, and by *probabilistic concurrency testing*, which finds a fault that needs `d`
//! preemptions among `n` threads and `k` steps with a probability of at least `1/(n·k^(d-1))` per execution.
//!
//! # What must hold
//! - A call ends at the target it asks for, with its registers; only code is executed, and code that was
//!   executed never changes (so none is entered unfinished, and no cell is used twice).
//! - At most one judgement is under way. One that its thread has left is mended: in the end every site has
//!   come to rest, its gate leads where its state says, and no ring is lost.
//! - Once promotion is off nothing is published, until it is on again; then sites learn.
//! - Text that was put back, or that leads to gates because promotion is off, is changed by nobody, however
//!   late they come.
//! - A child does the same with what its parent had half done, whatever that does meanwhile.
//!
//! Each is broken by one of the deliberate faults ([`scenarios::FAULTS`]), which `--faults` shows to be
//! found. They are those of `--cfg relpoline_broken="FAULT"`; here they are chosen at run time, which spares
//! a build for each.
//!
//! # What is not explored
//! Trials of trees against the clock (tens of thousands of calls); objects that come and go; the tool's
//! commands but for what they do under the lock, and to the text in a stop; children made by vfork; a child
//! that goes on inside a judgement which its own handler interrupted to fork.

mod child;
mod processor;
mod program;
mod scenarios;
mod world;

use scenarios::{FAULTS, SCENARIOS, Scenario};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};
use std::time::Instant;

/// Executions in a process: what an execution maps is never given back.
const BATCH: u32 = 100;
/// Executions in which a fault must be found.
const ENOUGH: u32 = 3000;

struct Options {
    executions: u32,
    seed: u64,
    wanted: Vec<String>,
    /// Each fault is to be shown to be found.
    faults: bool,
}

fn options() -> Option<Options> {
    let mut options = Options { executions: 400, seed: 1, wanted: Vec::new(), faults: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--executions" => options.executions = arguments.next()?.parse().ok()?,
            "--broken" => world::MISTAKE.set(arguments.next()?).ok()?,
            "--faults" => options.faults = true,
            "--seed" => options.seed = arguments.next()?.parse().ok()?,
            name if SCENARIOS.iter().any(|scenario| scenario.name == name) => options.wanted.push(argument),
            _ => return None,
        }
    }
    Some(options)
}

fn main() {
    let Some(options) = options() else {
        eprintln!(
            "usage: relpoline-model [--executions N] [--seed S] [--broken FAULT] [SCENARIO…], or --faults; there are:"
        );
        SCENARIOS.iter().for_each(|scenario| eprintln!("  {:10} {}", scenario.name, scenario.about));
        std::process::exit(2);
    };
    if options.faults {
        return look_for_faults(options.seed);
    }
    let wanted = |scenario: &&Scenario| options.wanted.is_empty() || options.wanted.iter().any(|n| n == scenario.name);
    for scenario in SCENARIOS.iter().filter(wanted) {
        let begun = Instant::now();
        if let Some(executions) = first_failure(scenario, options.seed, options.executions, None) {
            eprintln!("{}: FAILED within {executions} executions (seed {})", scenario.name, options.seed);
            std::process::exit(1);
        }
        println!("{}: {} executions, {:.1} s", scenario.name, options.executions, begun.elapsed().as_secs_f64());
    }
}

/// Shows that each deliberate fault is found.
fn look_for_faults(seed: u64) {
    for (fault, name) in FAULTS {
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == *name).expect("a scenario");
        let Some(executions) = first_failure(scenario, seed, ENOUGH, Some(fault)) else {
            eprintln!("the fault {fault} goes unnoticed in {ENOUGH} executions of {name}");
            std::process::exit(1);
        };
        println!("{fault}: found within {executions} executions of {name}");
    }
}

/// Runs `executions` of a scenario; how many there were when one failed. With a fault, what is said of it is
/// not shown.
fn first_failure(scenario: &'static Scenario, seed: u64, executions: u32, fault: Option<&str>) -> Option<u32> {
    (0..executions.div_ceil(BATCH)).find_map(|batch| {
        let seed = seed.wrapping_mul(1 << 20) + u64::from(batch);
        let count = BATCH.min(executions - batch * BATCH);
        let went_well = in_a_process_of_its_own(|| {
            if let Some(fault) = fault {
                world::MISTAKE.set(fault.to_owned()).expect("one fault");
                std::panic::set_hook(Box::new(|_| {}));
                be_quiet();
            }
            run(scenario, seed, batch, count);
        });
        (!went_well).then_some(batch * BATCH + count)
    })
}

/// Nothing that this process prints is shown.
fn be_quiet() {
    // SAFETY: descriptors of our own.
    unsafe {
        let nowhere = libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY);
        libc::dup2(nowhere, 2);
    }
}

/// Every third batch is drawn at random, the others by priorities with three or six changes.
fn run(scenario: &'static Scenario, seed: u64, batch: u32, count: u32) {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    // A seed repeats everything; a schedule of thousands of steps is of no use to a reader.
    config.failure_persistence = shuttle::FailurePersistence::None;
    config.max_steps = shuttle::MaxSteps::FailAfter(4_000_000);
    let count = count as usize;
    match batch % 3 {
        0 => Runner::new(RandomScheduler::new_from_seed(seed, count), config).run(scenario.run),
        n => Runner::new(PctScheduler::new_from_seed(seed, 3 * n as usize, count), config).run(scenario.run),
    };
    scenarios::end();
    if std::env::var_os("RELPOLINE_MODEL_FIGURES").is_some() {
        println!("  batch {batch}: {:?}", world::figures());
    }
}

/// Whether `work` came to its end.
fn in_a_process_of_its_own(work: impl FnOnce()) -> bool {
    // SAFETY: there is one thread.
    match unsafe { libc::fork() } {
        0 => {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // SAFETY: ends this process.
            unsafe { libc::_exit(i32::from(outcome.is_err())) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: our child.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            status == 0
        }
    }
}

//! The learner's protocols under a scheduler that decides, step by step, which thread goes next.
//!
//! ```text
//! RUSTFLAGS='--cfg relpoline_model' cargo run --release -- [--executions N] [--seed S]
//! RUSTFLAGS='--cfg relpoline_model' cargo run --release -- --faults
//! ```
//!
//! The learner, its rings, countdowns and epoch, the policy, and the counters are the real ones; sites are
//! those of `tests/machine`, whose stubs load, change and store as generated code does. Three threads call
//! two sites, whose targets change, and judge under a lock that is tried and not waited for, as all callers
//! of the learner do. Text can be changed, is refused, or is another's just now. What an engine adds to that
//! (arenas, generated code, fork, locks that are broken) is for `crates/engine/model`.
//!
//! # What must hold
//! - A tree holds targets only that were called in this execution: nothing of what is left in rings from
//!   before. (A thread that is late may have another site record in its ring for a while. Such targets cost a
//!   compare, and go with the tree.)
//! - When all threads are done, what comes next is learned: no site waits for ever, none is stuck in a
//!   window.
//! - Then no ring is lent but to sites that learn.
//! - In a forked child, what has to be done first is done once, and seen by whoever goes on.
//!
//! `--faults` shows that each deliberate fault is found.

#[path = "../../tests/machine/mod.rs"]
mod machine;

use machine::{ALLOWED, Machine, OVERTAKEN, REFUSED};
use relpoline_core::policy::{Config, Phase};
use relpoline_learn::Learner;
use relpoline_learn::countdown::{LATER, postpone};
use relpoline_learn::epoch::Epoch;
use relpoline_learn::rings::{RING_BYTES, Rings};
use relpoline_text::sync::{self, AtomicU32, AtomicU64, World};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Runner, thread};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex};

/// Each deliberate fault, and in how many executions it must be found.
const FAULTS: [(&str, u32); 5] = [
    ("empty-reads-full", 300),
    ("cursor-trusted", 3000),
    ("refusal-ignored", 3000),
    ("waits-for-ever", 3000),
    ("settled-too-soon", 300),
];
const SITES: usize = 2;
const THREADS: usize = 3;
const CALLS: u32 = 160;

thread_local! {
    static MISTAKE: Cell<&'static str> = const { Cell::new("") };
    /// Threads run.
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    static CLOCK: Cell<u64> = const { Cell::new(0) };
    /// Executions so far: each has targets of its own.
    static COUNT: Cell<u64> = const { Cell::new(0) };
    /// Sites that were stuck, and that were promoted, of how many.
    static SEEN: Cell<(u32, u32, u32)> = const { Cell::new((0, 0, 0)) };
}

static WORLD: World = World {
    step,
    relax: step,
    now,
    thread: || 1,
    hold_back: |_| false,
    begins: |_| {},
    ends: || {},
    makes_mistake: |name| MISTAKE.get() == name,
};

fn step() {
    if RUNNING.get() {
        // Nothing but a scheduling point, says shuttle.
        thread::sleep(std::time::Duration::ZERO);
    }
}

fn now() -> u64 {
    CLOCK.set(CLOCK.get() + 1000);
    CLOCK.get()
}

/// What threads share.
struct Program {
    learner: Mutex<Learner<1>>,
    /// 1 while somebody judges.
    lock: AtomicU32,
    sites: Vec<Machine>,
}

impl Program {
    fn new(rings: Rings<1>) -> Program {
        let mut learner = Learner::new();
        learner.rings = rings;
        learner.policy.costs.link = 1;
        learner.policy.config = Config {
            cold_calls: 3,
            cold_share: u32::MAX,
            window_first: 8,
            window_max: 64,
            settle_calls: 3,
            miss_window: 4,
            miss_window_young: 3,
            exit_window: 4,
            relearn_share: 1 << 28,
            max_backoff: 1,
            max_retry_backoff: 1,
            retry_ms: 0,
            trials: false,
            allowance_ms: u32::MAX,
            patch_burst: 1 << 20,
            ..Config::DEFAULT
        };
        let sites = (0..SITES).map(|_| Machine::new(&learner.rings, all(), 3)).collect();
        Program { learner: Mutex::new(learner), lock: AtomicU32::new(0), sites }
    }

    /// A call; whether a tree knew the target.
    fn call(&self, site: usize, target: u64) -> bool {
        let site = &self.sites[site];
        let (slow, known) = site.call(target);
        if slow {
            self.slow_path(site);
        }
        known
    }

    fn slow_path(&self, site: &Machine) {
        if self.lock.compare_exchange(0, 1, Acquire, Relaxed).is_err() {
            return postpone(&site.counters, LATER);
        }
        // Nobody else has it in hand, so this lock is never waited for, nor held in a step of another thread.
        let mut learner = self.learner.try_lock().expect("one judges");
        let now = now();
        learner.attend(&mut site.hand(), now);
        for other in &self.sites {
            learner.look_at(&mut other.hand(), now);
        }
        drop(learner);
        self.lock.store(0, Release);
    }

    /// No ring is lost.
    fn count_rings(&self) {
        let learning = self.sites.iter().filter(|site| site.memory().state.phase() == Phase::Learning).count();
        assert_eq!(self.learner.lock().expect("no panic").rings.lent(), learning, "rings");
    }
}

/// The targets of this execution.
fn all() -> std::ops::Range<u64> {
    let first = (COUNT.get() + 1) * 1000;
    first..first + 100 * SITES as u64
}

/// Target `n` of a site.
fn target(site: usize, n: u32) -> u64 {
    all().start + site as u64 * 100 + u64::from(n)
}

fn execute(rings: u64) {
    sync::enter(&WORLD);
    RUNNING.set(false);
    CLOCK.set(1 << 40);
    COUNT.set(COUNT.get() + 1);
    // SAFETY: memory that is never given back; the pool of the last execution is gone.
    let rings = unsafe { Rings::at(rings) };
    // What earlier borrowers left: a target that nobody calls.
    let stale = |ring| rings.records(ring, RING_BYTES / 8).iter().for_each(|record| record.store(7, Relaxed));
    (0..SITES as u16).for_each(stale);
    let program = Arc::new(Program::new(rings));
    RUNNING.set(true);
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let program = program.clone();
            thread::spawn(move || {
                for call in 0..CALLS {
                    let site = thread_rng().gen_range(0..SITES);
                    // A favourite, which changes.
                    program.call(site, target(site, call / 40));
                    if thread_rng().gen_range(0..50) == 0 {
                        let pokes = [ALLOWED, ALLOWED, REFUSED, OVERTAKEN][thread_rng().gen_range(0..4)];
                        program.sites[site].pokes.store(pokes, Relaxed);
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    RUNNING.set(false);
    program.count_rings();
    for site in 0..SITES {
        let (stuck, promoted, all) = SEEN.get();
        let memory = program.sites[site].memory();
        SEEN.set((stuck + u32::from(memory.stuck), promoted + u32::from(memory.state.has_tree()), all + 1));
        program.sites[site].pokes.store(REFUSED, Relaxed);
        let learned = (0..3000).any(|_| program.call(site, target(site, 99)));
        assert!(learned, "site {site} learns nothing more: {:?}", program.sites[site].memory());
    }
    program.count_rings();
}

/// Threads of a forked child come at once.
fn fork() {
    sync::enter(&WORLD);
    let wiped = AtomicU64::new(0);
    // SAFETY: an epoch is such a word, whose page the kernel has wiped.
    let epoch: &'static Epoch = unsafe { &*std::ptr::from_ref(Box::leak(Box::new(wiped))).cast() };
    let (begun, done) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    RUNNING.set(true);
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (begun, done) = (begun.clone(), done.clone());
            thread::spawn(move || {
                let settled = epoch.settle(|| {
                    begun.fetch_add(1, Relaxed);
                    done.store(1, Relaxed);
                });
                assert!(!settled || done.load(Relaxed) == 1, "goes on before it is settled");
                assert!(!epoch.is_settled() || done.load(Relaxed) == 1, "not settled");
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    RUNNING.set(false);
    assert_eq!(begun.load(Relaxed), 1);
}

/// Runs executions from `seed` on; how many there were when one failed.
fn first_failure(seed: u64, executions: u32) -> Option<u32> {
    const BATCH: u32 = 50;
    let rings = machine::ring_memory();
    (0..executions.div_ceil(BATCH)).find_map(|batch| {
        let seed = seed.wrapping_mul(1 << 20) + u64::from(batch);
        let mut config = shuttle::Config::new();
        // A learner is made on it.
        config.stack_size = 1 << 20;
        config.failure_persistence = shuttle::FailurePersistence::None;
        let count = BATCH as usize;
        let went = catch_unwind(AssertUnwindSafe(|| {
            let both = move || {
                execute(rings);
                fork();
            };
            match batch % 3 {
                0 => Runner::new(RandomScheduler::new_from_seed(seed, count), config).run(both),
                n => Runner::new(PctScheduler::new_from_seed(seed, 3 * n as usize, count), config).run(both),
            }
        }));
        went.is_err().then_some((batch + 1) * BATCH)
    })
}

fn main() {
    let (mut executions, mut seed, mut faults) = (400, 1, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|n| n.parse().ok()).expect("a number");
        match argument.as_str() {
            "--executions" => executions = number(),
            "--seed" => seed = u64::from(number()),
            "--faults" => faults = true,
            _ => panic!("usage: relpoline-learn-model [--executions N] [--seed S], or --faults"),
        }
    }
    if !faults {
        if let Some(executions) = first_failure(seed, executions) {
            eprintln!("FAILED within {executions} executions (seed {seed})");
            std::process::exit(1);
        }
        let (stuck, promoted, all) = SEEN.get();
        println!("{executions} executions: of {all} sites {promoted} had trees in the end, {stuck} were stuck");
        assert!(2 * promoted >= all && stuck > 0, "nothing was shown");
        return;
    }
    std::panic::set_hook(Box::new(|_| {}));
    for (fault, enough) in FAULTS {
        MISTAKE.set(fault);
        let Some(executions) = first_failure(seed, enough) else {
            eprintln!("the fault {fault} goes unnoticed in {enough} executions");
            std::process::exit(1);
        };
        println!("{fault}: found within {executions} executions");
    }
}

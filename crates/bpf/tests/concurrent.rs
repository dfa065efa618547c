//! Eight threads run a chain of 33 programs while another changes it: no packet is lost, none goes astray.
//!
//! Each program of the chain exists in two versions. Program *i* of version *v* writes `2i + v + 1` to byte *i* of
//! its packet, and calls the next; if that is not there, it returns *i*. So a packet tells where it was.
//!
//! With `RUSTFLAGS='--cfg relpoline_broken="tail-call-order"'` bypasses open before their targets are there, and targets
//! are cleared without a grace period: `slots_are_emptied_and_filled` then fails within a second.
//!
//! With `--cfg relpoline_broken="tail-call-tree"` the trees of computed indexes outlive the programs they were made
//! for: `slots_are_replaced` and `programs_come_and_go` fail or crash.
//!
//! `RELPOLINE_BPF_SECONDS` sets how long each test runs (default 1), or `RELPOLINE_BPF_RUNS` over how many packets.

mod support;

use relpoline_bpf::{Engine, Invocation, MapHandle, ProgArray, Program, Runtime};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Programs in the array; the one that leads there is not.
const CHAIN: usize = 33;
const THREADS: usize = 8;

struct Chain {
    runtime: Runtime,
    array: ProgArray,
    entry: Program,
    /// By version.
    programs: [Vec<Program>; 2],
}

fn program(runtime: &Runtime, array: &ProgArray, place: usize, version: usize, direct: bool) -> Program {
    let mark = 2 * place + version + 1;
    let index = if direct { "mov %r3, NEXT".replace("NEXT", &place.to_string()) } else { variable(place) };
    // r6 is clobbered, so that prologues push and tail calls pop.
    let text = format!(
        "mov %r6, %r1\nstb [%r1+{place}], {mark}\nldmap %r2, 0\n{index}\ncall 12\n\
         ldxb %r0, [%r6+{place}]\nsub %r0, 1\nrsh %r0, 1\nexit"
    );
    support::load(runtime, &format!("{place}.{version}"), &text, &[MapHandle::Array(array.clone())])
}

/// The index computed from the packet, so that it is not a constant.
fn variable(place: usize) -> String {
    format!("ldxb %r3, [%r1+{place}]\nsub %r3, 1\nrsh %r3, 1")
}

impl Chain {
    fn new(direct: bool) -> Chain {
        let runtime = Runtime::new().unwrap();
        let array = ProgArray::new(&runtime, "chain", CHAIN as u32).unwrap();
        let entry = program(&runtime, &array, 0, 0, direct);
        let programs = [0, 1].map(|version| {
            (1..=CHAIN).map(|place| program(&runtime, &array, place, version, direct)).collect::<Vec<_>>()
        });
        let chain = Chain { runtime, array, entry, programs };
        chain.array.update_all(&chain.all(0)).unwrap();
        chain
    }

    fn all(&self, version: usize) -> Vec<(u32, Option<&Program>)> {
        self.programs[version].iter().enumerate().map(|(i, p)| (i as u32, Some(p))).collect()
    }

    /// Tail calls that were promoted.
    fn promoted(&self) -> usize {
        let calls = self.programs.iter().flatten().flat_map(Program::variable_calls);
        calls.filter(|call| call.promotions > 0).count()
    }

    /// Runs one packet: where it ended, and the versions it met.
    fn run(&self, engine: Engine, met: &mut [u8; CHAIN]) -> usize {
        let mut packet = [0u8; 64];
        let end = self.entry.invoke(Invocation::new(&mut packet).engine(engine)).unwrap_or_else(|t| panic!("{t}"));
        let end = end as usize;
        for (place, met) in (1..=end).zip(met) {
            let mark = packet[place].wrapping_sub(1);
            assert_eq!(usize::from(mark / 2), place, "program {place} was left out or another ran: {packet:?}");
            *met = mark % 2;
        }
        assert!(packet[end + 1..].iter().all(|b| *b == 0), "went on after its end at {end}: {packet:?}");
        end
    }
}

fn duration() -> Duration {
    let seconds = std::env::var("RELPOLINE_BPF_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1.0);
    Duration::from_secs_f64(seconds)
}

/// Over how many packets a test runs, where that is said.
fn wanted() -> Option<u64> {
    std::env::var("RELPOLINE_BPF_RUNS").ok().map(|runs| runs.parse().unwrap())
}

/// Runs packets in eight threads, and `change` over and over in this one.
fn under_load(chain: &Chain, judge: impl Fn(usize, &[u8]) + Sync, mut change: impl FnMut(usize)) -> (u64, usize) {
    /// Runs that are counted together, and how often a long test says how far it is.
    const AT_A_TIME: u64 = 16;
    const SAID: Duration = Duration::from_secs(300);
    let (stop, runs) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut changes = 0;
    std::thread::scope(|scope| {
        let mut said = Duration::ZERO;
        let threads = (0..THREADS).map(|thread| {
            let (stop, runs, judge) = (&stop, &runs, &judge);
            scope.spawn(move || {
                // One of them interprets.
                let engine = if thread == 0 { Engine::Interpreter } else { Engine::Compiled };
                let mut met = [0; CHAIN];
                while !stop.load(Relaxed) {
                    for _ in 0..AT_A_TIME {
                        let end = chain.run(engine, &mut met);
                        judge(end, &met[..end]);
                    }
                    runs.fetch_add(AT_A_TIME, Relaxed);
                }
            })
        });
        let threads: Vec<_> = threads.collect();
        let begin = Instant::now();
        let most = wanted();
        let is_over = || most.map_or_else(|| begin.elapsed() >= duration(), |most| runs.load(Relaxed) >= most);
        // A thread that has found something wrong has ended.
        while !is_over() && !threads.iter().any(std::thread::ScopedJoinHandle::is_finished) {
            change(changes);
            changes += 1;
            if begin.elapsed() > said + SAID {
                said = begin.elapsed();
                eprintln!("{} runs, {changes} changes, after {} s", runs.load(Relaxed), said.as_secs());
            }
        }
        stop.store(true, Relaxed);
    });
    let runs = runs.into_inner();
    eprintln!("{runs} runs, {changes} changes");
    assert!(runs > 100 && changes > 3, "{runs} runs, {changes} changes");
    (runs, changes)
}

#[test]
fn slots_are_replaced() {
    for direct in [true, false] {
        let chain = Chain::new(direct);
        let whole = |end: usize, _: &[u8]| assert_eq!(end, CHAIN, "a packet was lost");
        under_load(&chain, whole, |n| {
            let slot = n * 7 % CHAIN;
            chain.array.update(slot as u32, Some(&chain.programs[n / CHAIN % 2][slot])).unwrap();
        });
        assert!(direct || chain.promoted() > 0, "nothing was promoted, so nothing was tested");
    }
}

#[test]
fn whole_arrays_are_swapped() {
    for direct in [true, false] {
        let chain = Chain::new(direct);
        let judge = |end: usize, met: &[u8]| {
            assert_eq!(end, CHAIN, "a packet was lost");
            assert!(met.iter().all(|v| *v == met[0]), "a run saw old and new: {met:?}");
        };
        under_load(&chain, judge, |n| chain.array.swap(chain.all(n % 2)).unwrap());
    }
}

#[test]
fn slots_are_emptied_and_filled() {
    for direct in [true, false] {
        let chain = Chain::new(direct);
        // A packet may end where a slot is empty, and nowhere else.
        let judge = |end: usize, _: &[u8]| assert!(matches!(end, 3 | 20 | CHAIN), "ended at {end}");
        under_load(&chain, judge, |n| {
            let slots = [3usize, 20];
            let (slot, fill) = (slots[n / 2 % 2], n % 2 == 1);
            let program = &chain.programs[n / 4 % 2][slot];
            chain.array.update(slot as u32, fill.then_some(program)).unwrap();
        });
    }
}

#[test]
fn programs_come_and_go() {
    for direct in [true, false] {
        let chain = Chain::new(direct);
        let whole = |end: usize, _: &[u8]| assert_eq!(end, CHAIN, "a packet was lost");
        let before = chain.runtime.code_bytes();
        under_load(&chain, whole, |n| {
            // Nobody but the slot holds it, so the next one frees it.
            let fresh = program(&chain.runtime, &chain.array, 12, n % 2, direct);
            chain.array.update(11, Some(&fresh)).unwrap();
        });
        chain.array.update(11, Some(&chain.programs[0][11])).unwrap();
        if direct {
            assert!(support::code_shrinks_to(&chain.runtime, before), "programs leaked");
        } else {
            // Trees came on top, at most a few hundred bytes for each of the sites.
            chain.runtime.quiesce();
            assert!(chain.runtime.code_bytes() < before + (CHAIN + 1) * 1024, "programs or trees leaked");
        }
    }
}

//! What keys, static calls and dynamic calls cost, beside what one would use instead.
//!
//! `cargo bench -p relpoline`. Each routine makes a fixed number of calls or branches and reports the time of
//! one ([`PER_ROUND`] of them per iteration).

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use relpoline::{dynamic_call, likely, static_call, static_key, unlikely};
use static_keys::{define_static_key_false, static_branch_unlikely};
use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::time::{Duration, Instant};

const PER_ROUND: u64 = 1000;

static_key! {
    static OFF: bool = false;
    static ON: bool = true;
}
define_static_key_false!(THEIRS);
static FLAG: AtomicBool = AtomicBool::new(false);

#[inline(never)]
fn work(x: u64) -> u64 {
    black_box(x) + 1
}

#[cold]
#[inline(never)]
fn rare(x: u64) -> u64 {
    black_box(x) + 2
}

/// A round of `$body`, which is given a number and returns one.
macro_rules! round {
    ($x:ident => $body:expr) => {
        |bencher: &mut criterion::Bencher<'_>| {
            bencher.iter(|| {
                let mut $x = 0u64;
                for _ in 0..PER_ROUND {
                    $x = $body;
                }
                $x
            })
        }
    };
}

fn keys(c: &mut Criterion) {
    let mut group = c.benchmark_group("key");
    group.throughput(Throughput::Elements(PER_ROUND));
    group.bench_function("nothing", round!(x => black_box(x) + 1));
    group.bench_function("unlikely, off", round!(x => if unlikely!(OFF) { rare(x) } else { black_box(x) + 1 }));
    group.bench_function("likely, on", round!(x => if likely!(ON) { black_box(x) + 1 } else { rare(x) }));
    group.bench_function(
        "static-keys 0.8.2, off",
        round!(x => if static_branch_unlikely!(THEIRS) { rare(x) } else { black_box(x) + 1 }),
    );
    group.bench_function(
        "AtomicBool, off",
        round!(x => if FLAG.load(Ordering::Relaxed) { rare(x) } else { black_box(x) + 1 }),
    );
    group.finish();
}

static_call!(fn patched(x: u64) -> u64 = work);
static POINTER: AtomicPtr<()> = AtomicPtr::new(work as fn(u64) -> u64 as *mut ());
static ONCE: OnceLock<fn(u64) -> u64> = OnceLock::new();

#[inline(never)]
fn other(x: u64) -> u64 {
    black_box(x) + 1
}

fn static_calls(c: &mut Criterion) {
    let mut group = c.benchmark_group("static call");
    group.throughput(Throughput::Elements(PER_ROUND));
    group.bench_function("direct call", round!(x => work(x)));
    group.bench_function("static_call!, first target", round!(x => patched(x)));
    patched::update(other).expect("patched");
    group.bench_function("static_call!, after update", round!(x => patched(x)));
    group.bench_function(
        "AtomicPtr",
        round!(x => {
            // SAFETY: it holds a function of this type.
            let f: fn(u64) -> u64 = unsafe { std::mem::transmute(POINTER.load(Ordering::Relaxed)) };
            f(x)
        }),
    );
    let _ = ONCE.set(work);
    group.bench_function("OnceLock", round!(x => ONCE.get().map_or(0, |f| f(x))));
    group.finish();
}

#[inline(never)]
fn numbered<const N: u64>(x: u64) -> u64 {
    black_box(x) + N
}
const TARGETS: [fn(u64) -> u64; 8] = [
    numbered::<1>,
    numbered::<2>,
    numbered::<3>,
    numbered::<4>,
    numbered::<5>,
    numbered::<6>,
    numbered::<7>,
    numbered::<8>,
];

trait Step {
    fn step(&self, x: u64) -> u64;
}
struct Numbered<const N: u64>;
impl<const N: u64> Step for Numbered<N> {
    #[inline(never)]
    fn step(&self, x: u64) -> u64 {
        black_box(x) + N
    }
}
const OBJECTS: [&dyn Step; 8] = [
    &Numbered::<1>,
    &Numbered::<2>,
    &Numbered::<3>,
    &Numbered::<4>,
    &Numbered::<5>,
    &Numbered::<6>,
    &Numbered::<7>,
    &Numbered::<8>,
];

/// What an enum with as many variants would do.
#[inline(never)]
fn matched(variant: u8, x: u64) -> u64 {
    match variant {
        0 => numbered::<1>(x),
        1 => numbered::<2>(x),
        2 => numbered::<3>(x),
        3 => numbered::<4>(x),
        4 => numbered::<5>(x),
        5 => numbered::<6>(x),
        6 => numbered::<7>(x),
        _ => numbered::<8>(x),
    }
}

/// The order in which targets are called.
fn order(targets: usize, random: bool) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..4096).map(|i| if random { (next() >> 40) as usize % targets } else { i % targets } as u8).collect()
}

/// One pass over `order`; with `branches`, four data-dependent branches between two calls.
#[inline(always)]
fn pass(order: &[u8], branches: bool, call: impl Fn(usize, u64) -> u64) -> u64 {
    let mut x = 0;
    for (i, &n) in order.iter().enumerate() {
        if branches {
            for bit in 0..4 {
                if black_box(i) >> bit & 1 == 0 {
                    x = black_box(x) ^ 1;
                }
            }
        }
        x = call(usize::from(n), x);
    }
    x
}

fn dynamic_calls(c: &mut Criterion) {
    for (random, branches) in [(false, false), (false, true), (true, false)] {
        let shape = match (random, branches) {
            (true, _) => "random",
            (false, false) => "repeating",
            (false, true) => "repeating, with branches",
        };
        let mut group = c.benchmark_group(format!("dynamic call, {shape}"));
        for targets in [1, 2, 4, 8] {
            let order = order(targets, random);
            group.throughput(Throughput::Elements(order.len() as u64));
            if targets == 1 {
                group.bench_function(BenchmarkId::new("direct call", targets), |b| {
                    b.iter(|| pass(&order, branches, |_, x| numbered::<1>(x)));
                });
            }
            group.bench_function(BenchmarkId::new("function pointer", targets), |b| {
                let table = black_box(&TARGETS);
                b.iter(|| pass(&order, branches, |n, x| table[n](x)));
            });
            group.bench_function(BenchmarkId::new("dynamic_call!", targets), |b| {
                dynamic_call!(fn call(x: u64) -> u64);
                call::forget();
                let table = black_box(&TARGETS);
                b.iter(|| pass(&order, branches, |n, x| call(table[n], x)));
                if std::env::var_os("RELPOLINE_BENCH_STATS").is_some() {
                    eprintln!("{:?}", call::stats());
                }
            });
            group.bench_function(BenchmarkId::new("dyn Trait", targets), |b| {
                let table = black_box(&OBJECTS);
                b.iter(|| pass(&order, branches, |n, x| table[n].step(x)));
            });
            group.bench_function(BenchmarkId::new("enum match", targets), |b| {
                b.iter(|| pass(&order, branches, |n, x| matched(n as u8, x)));
            });
        }
        group.finish();
    }
}

#[path = "shared/many.rs"]
mod many;

fn toggles(c: &mut Criterion) {
    let mut group = c.benchmark_group("toggle");
    group.sample_size(20);
    for threads in [0, 8] {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for n in 0..threads {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        black_box(many::SITES.iter().skip(n).map(|site| site()).sum::<u32>());
                    }
                });
            }
            group.bench_function(BenchmarkId::new("100 sites on 100 pages, threads running", threads), |b| {
                b.iter_custom(|rounds| {
                    let start = Instant::now();
                    for _ in 0..rounds {
                        many::KEY.set(!many::KEY.is_enabled()).expect("toggle");
                    }
                    start.elapsed()
                });
            });
            stop.store(true, Ordering::Relaxed);
        });
    }
    assert!(many::KEY.sites().all == 0 || many::KEY.sites().all >= 100);
    group.finish();
}

fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(700))
        .sample_size(15)
}

criterion_group! {
    name = benches;
    config = quick();
    targets = keys, static_calls, dynamic_calls, toggles
}
criterion_main!(benches);

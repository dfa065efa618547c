//! The same comparisons as `library`, for machines that are not quiet.
//!
//! With `--features retpoline` the paused call is what a retpoline costs.
//!
//! All variants of a comparison run in turn, round after round, and the least time of each is printed: what
//! it costs when nothing else disturbs it. `cargo bench -p relpoline --bench rounds`; or only some of it: `-- keys calls`, of
//! toggles, keys, calls, dynamic, learning.

use relpoline::{dynamic_call, dynamic_method, likely, static_call, static_key, unlikely};
use static_keys::{define_static_key_false, static_branch_unlikely};
use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::time::Instant;

const ROUNDS: usize = 400;
const CALLS: usize = 4096;

type Variant<'a> = (&'static str, Box<dyn FnMut() + 'a>);

/// Runs all variants in turn and prints each one's least time per call.
fn compare(title: &str, variants: &mut [Variant<'_>]) {
    let mut least = vec![f64::INFINITY; variants.len()];
    for _ in 0..ROUNDS {
        for ((_, run), least) in variants.iter_mut().zip(&mut least) {
            // A round to get used to it.
            run();
            let start = Instant::now();
            run();
            *least = least.min(start.elapsed().as_secs_f64() * 1e9 / CALLS as f64);
        }
    }
    println!("\n{title}");
    for ((name, _), least) in variants.iter().zip(least) {
        println!("  {name:32} {least:6.2} ns");
    }
}

/// A loop of [`CALLS`] rounds of `$body`.
macro_rules! looped {
    ($x:ident => $body:expr) => {
        Box::new(|| {
            let mut $x = 0u64;
            for _ in 0..CALLS {
                $x = $body;
            }
            black_box($x);
        })
    };
}

static_key! {
    static OFF: bool = false;
    static ON: bool = true;
}
define_static_key_false!(THEIRS);
static FLAG: AtomicBool = AtomicBool::new(false);

#[cold]
#[inline(never)]
fn rare(x: u64) -> u64 {
    black_box(x) + 2
}

/// What compilers may not merge with the next round.
#[inline(always)]
fn ordinary(x: u64) -> u64 {
    black_box(());
    x.wrapping_mul(3) + 1
}

fn keys() {
    compare(
        "a branch in a loop of one multiplication",
        &mut [
            ("nothing", looped!(x => ordinary(x))),
            ("unlikely!, off", looped!(x => if unlikely!(OFF) { rare(x) } else { ordinary(x) })),
            ("likely!, on", looped!(x => if likely!(ON) { ordinary(x) } else { rare(x) })),
            ("likely!, off", looped!(x => if likely!(OFF) { rare(x) } else { ordinary(x) })),
            (
                "static-keys 0.8.2, off",
                looped!(x => if static_branch_unlikely!(THEIRS) { rare(x) } else { ordinary(x) }),
            ),
            ("AtomicBool", looped!(x => if FLAG.load(Ordering::Relaxed) { rare(x) } else { ordinary(x) })),
        ],
    );
}

#[inline(never)]
fn numbered<const N: u64>(x: u64) -> u64 {
    black_box(());
    x + N
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

static_call!(fn first_target(x: u64) -> u64 = numbered::<1>);
static_call!(fn updated(x: u64) -> u64 = numbered::<2>);
static_call!(inline fn inline_first(x: u64) -> u64 = numbered::<1>);
static_call!(inline fn inline_updated(x: u64) -> u64 = numbered::<2>);
static POINTER: AtomicPtr<()> = AtomicPtr::new(numbered::<1> as fn(u64) -> u64 as *mut ());
static ONCE: OnceLock<fn(u64) -> u64> = OnceLock::new();

fn static_calls() {
    updated::update(numbered::<1>).expect("patched");
    inline_updated::update(numbered::<1>).expect("patched");
    let _ = ONCE.set(numbered::<1>);
    compare(
        "a call of a function that adds",
        &mut [
            ("direct call", looped!(x => numbered::<1>(x))),
            ("static_call!, first target", looped!(x => first_target(x))),
            ("static_call!, updated", looped!(x => updated(x))),
            ("static_call!, inline, first target", looped!(x => inline_first(x))),
            ("static_call!, inline, updated", looped!(x => inline_updated(x))),
            (
                "AtomicPtr",
                looped!(x => {
                    // SAFETY: it holds a function of this type.
                    let f: fn(u64) -> u64 = unsafe { std::mem::transmute(POINTER.load(Ordering::Relaxed)) };
                    f(x)
                }),
            ),
            ("OnceLock", looped!(x => ONCE.get().map_or(0, |f| f(x)))),
        ],
    );
}

trait Step {
    fn step(&self, x: u64) -> u64;
}
struct Numbered<const N: u64>;
impl<const N: u64> Step for Numbered<N> {
    fn step(&self, x: u64) -> u64 {
        black_box(());
        x + N
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

#[inline(never)]
fn matched(variant: usize, x: u64) -> u64 {
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

fn order(targets: usize, random: bool) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..CALLS).map(|i| if random { (next() >> 40) as usize % targets } else { i % targets } as u8).collect()
}

/// One pass over `order`; with `branches`, branches of other kinds between two calls.
#[inline(always)]
fn pass(order: &[u8], branches: bool, call: impl Fn(usize, u64) -> u64) {
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
    black_box(x);
}

dynamic_call! {
    fn judged(x: u64) -> u64;
    fn pinned(x: u64) -> u64;
    fn paused(x: u64) -> u64;
    fn learning(x: u64) -> u64;
}
dynamic_method!(fn step_of(object: &dyn Step, x: u64) -> u64 = step);

fn dynamic_calls() {
    for (shape, random, branches) in
        [("in turn", false, false), ("in turn, with branches", false, true), ("in random order", true, false)]
    {
        for targets in [1, 2, 4, 8] {
            let order = order(targets, random);
            judged::forget();
            step_of::state().forget();
            pinned::pin(&TARGETS[..targets]);
            paused::pause();
            let table = black_box(&TARGETS);
            let objects = black_box(&OBJECTS);
            // Time to learn: windows, contest and settling.
            for _ in 0..50 {
                pass(&order, branches, |n, x| judged(table[n], x));
                pass(&order, branches, |n, x| step_of(objects[n], x));
            }
            compare(
                &format!("{targets} targets {shape}"),
                &mut [
                    ("direct call (of one)", Box::new(|| pass(&order, branches, |_, x| numbered::<1>(x)))),
                    ("function pointer", Box::new(|| pass(&order, branches, |n, x| table[n](x)))),
                    ("dynamic_call!", Box::new(|| pass(&order, branches, |n, x| judged(table[n], x)))),
                    ("dynamic_call!, pinned", Box::new(|| pass(&order, branches, |n, x| pinned(table[n], x)))),
                    ("dynamic_call!, paused", Box::new(|| pass(&order, branches, |n, x| paused(table[n], x)))),
                    ("dyn Trait", Box::new(|| pass(&order, branches, |n, x| objects[n].step(x)))),
                    ("dynamic_method!", Box::new(|| pass(&order, branches, |n, x| step_of(objects[n], x)))),
                    ("enum match", Box::new(|| pass(&order, branches, matched))),
                ],
            );
            println!("  ({:?}, method {:?})", judged::stats().state, step_of::state().stats().state);
        }
    }
}

/// What a call costs from the first one on: cold, learning, contest and all.
fn learning_calls() {
    let order = order(4, false);
    let table = black_box(&TARGETS);
    println!("\nlearning, 4 targets in turn: 16 passes of {CALLS} calls from the first");
    let timed = |call: &dyn Fn()| {
        let start = Instant::now();
        (0..16).for_each(|_| call());
        start.elapsed().as_secs_f64() * 1e9 / (16 * CALLS) as f64
    };
    let mut least = [f64::INFINITY; 2];
    for _ in 0..200 {
        learning::forget();
        least[0] = least[0].min(timed(&|| pass(&order, false, |n, x| table[n](x))));
        least[1] = least[1].min(timed(&|| pass(&order, false, |n, x| learning(table[n], x))));
    }
    println!("  {:32} {:6.2} ns\n  {:32} {:6.2} ns", "function pointer", least[0], "dynamic_call!, learning", least[1]);
}

#[path = "shared/many.rs"]
mod many;

/// What switching a key costs, while threads run through its sites.
fn toggles() {
    println!("\nswitching a key with 100 sites on 100 pages [µs]: least, median of 301");
    for threads in [0, 8] {
        let stop = AtomicBool::new(false);
        let mut took = std::thread::scope(|scope| {
            for n in 0..threads {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        black_box(many::SITES.iter().skip(n).map(|site| site()).sum::<u32>());
                    }
                });
            }
            let took: Vec<f64> = (0..301)
                .map(|_| {
                    let start = Instant::now();
                    many::KEY.set(!many::KEY.is_enabled()).expect("switched");
                    start.elapsed().as_secs_f64() * 1e6
                })
                .collect();
            stop.store(true, Ordering::Relaxed);
            took
        });
        took.sort_by(f64::total_cmp);
        println!("  {threads} threads running {:25.0} {:8.0}", took[0], took[took.len() / 2]);
    }
}

fn main() {
    let wanted: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let parts: [(&str, fn()); 5] = [
        ("toggles", toggles),
        ("keys", keys),
        ("calls", static_calls),
        ("dynamic", dynamic_calls),
        ("learning", learning_calls),
    ];
    for (_, part) in parts.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name)) {
        part();
    }
}

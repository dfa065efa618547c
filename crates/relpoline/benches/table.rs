//! The table of the crate's page: calls against the ways without this crate, alone in a loop, beside work, and in a
//! crowd of 1,000 sites.
//!
//! All variants of a comparison run in turn, round after round; what is printed is the median of each, the range of
//! the middle nine tenths, and the ratio to the first. `cargo bench -p relpoline --bench table`; `-- one several
//! crowd first` for some of it only. Without optimisation: `cargo bench -p relpoline --bench table --profile dev -- keys one`.

use relpoline::{dynamic_call, dynamic_method, likely, static_call, static_key, unlikely};
use relpoline_patch::code::{Draft, Entry};
use relpoline_patch::space::Space;
use static_keys::{define_static_key_false, static_branch_unlikely};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

const ROUNDS: usize = 300;
const CALLS: u64 = 10_000;
/// Sites of a crowd.
const CROWD: u64 = 1000;

type Variant<'a> = (&'static str, Box<dyn FnMut() -> u64 + 'a>);

fn compare(title: &str, calls: u64, variants: &mut [Variant<'_>]) {
    let mut samples = vec![Vec::new(); variants.len()];
    for round in 0..ROUNDS {
        for ((_, run), samples) in variants.iter_mut().zip(&mut samples) {
            // One to get used to it; and time to learn at first.
            for _ in 0..if round == 0 { 20 } else { 1 } {
                black_box(run());
            }
            let start = Instant::now();
            black_box(run());
            samples.push(start.elapsed().as_secs_f64() * 1e9 / calls as f64);
        }
    }
    samples.iter_mut().for_each(|samples| samples.sort_by(f64::total_cmp));
    let at = |samples: &[f64], share: usize| samples[(samples.len() - 1) * share / 100];
    println!("\n| {title} | ns | middle 90 % | ratio |\n|---|---|---|---|");
    let first = at(&samples[0], 50);
    for ((name, _), samples) in variants.iter().zip(&samples) {
        let median = at(samples, 50);
        println!("| {name} | {median:.2} | {:.2} to {:.2} | {:.2} |", at(samples, 5), at(samples, 95), median / first);
    }
}

/// A loop of [`CALLS`] rounds, each of which makes `$x` from the last `$x` and its own number `$n`.
macro_rules! looped {
    (($n:ident, $x:ident) => $body:expr) => {
        Box::new(move || {
            let mut $x = 1u64;
            for $n in 0..CALLS {
                $x = $body;
            }
            let _ = CALLS;
            $x
        })
    };
}

/// Work of some twenty cycles that no two rounds can share.
#[inline(always)]
fn work(x: u64) -> u64 {
    (0..4).fold(x, |x, _| black_box((x ^ (x >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}
#[inline(always)]
fn no_work(x: u64) -> u64 {
    x
}

#[inline(never)]
fn numbered<const N: u64>(x: u64) -> u64 {
    black_box(());
    x.wrapping_add(N)
}
type Function = fn(u64) -> u64;
const TARGETS: [Function; 8] = [
    numbered::<0>,
    numbered::<1>,
    numbered::<2>,
    numbered::<3>,
    numbered::<4>,
    numbered::<5>,
    numbered::<6>,
    numbered::<7>,
];

trait Step {
    fn step(&self, x: u64) -> u64;
}
struct Numbered<const N: u64>;
impl<const N: u64> Step for Numbered<N> {
    #[inline(never)]
    fn step(&self, x: u64) -> u64 {
        black_box(());
        x.wrapping_add(N)
    }
}
static OBJECTS: [&(dyn Step + Sync); 8] = [
    &Numbered::<0>,
    &Numbered::<1>,
    &Numbered::<2>,
    &Numbered::<3>,
    &Numbered::<4>,
    &Numbered::<5>,
    &Numbered::<6>,
    &Numbered::<7>,
];

static_key!(static OFF: bool = false; static ON: bool = true);
define_static_key_false!(THEIRS);
static FLAG: AtomicBool = AtomicBool::new(false);

static_call! {
    fn first_target(x: u64) -> u64 = numbered::<0>;
    fn updated(x: u64) -> u64 = numbered::<1>;
    inline fn inline_first(x: u64) -> u64 = numbered::<0>;
    extern "C" fn far(x: u64) -> u64 = near;
}
extern "C" fn near(x: u64) -> u64 {
    x
}
/// What that is updated to: the same as `numbered::<0>`, farther than a direct jump reaches.
fn lead_far() {
    let space = Arc::new(Space::create(4096).expect("code memory"));
    let mut draft = Draft::take(&space, 4).expect("room");
    draft.write(0, &[0x48, 0x8d, 0x07, 0xc3]); // lea (%rdi), %rax; ret
    // SAFETY: such a function.
    let entry = unsafe { Entry::<extern "C" fn(u64) -> u64>::new(&draft.publish(), 0) }.expect("code");
    assert!(entry.address().abs_diff(near as *const () as u64) > 1 << 31, "not far at all");
    far::update(entry.function()).expect("patched");
    // It lives for ever.
    std::mem::forget(entry);
}
/// What multiversion makes of a function: it is chosen by what the processor can do.
#[multiversion::multiversion(targets("x86_64+avx2", "x86_64+sse4.2"))]
fn versioned(x: u64) -> u64 {
    black_box(());
    x.wrapping_add(0)
}
static POINTER: AtomicPtr<()> = AtomicPtr::new(numbered::<0> as Function as *mut ());
static ONCE: OnceLock<Function> = OnceLock::new();

#[inline(always)]
fn loaded() -> Function {
    // SAFETY: it holds a function of this type.
    unsafe { std::mem::transmute(POINTER.load(Ordering::Relaxed)) }
}
#[inline(always)]
fn once() -> Function {
    *ONCE.get_or_init(|| numbered::<0>)
}

dynamic_call! {
    fn one_bare(x: u64) -> u64;
    fn one_working(x: u64) -> u64;
}
dynamic_method! {
    fn method_bare(object: &(dyn Step + Sync), x: u64) -> u64 = step;
    fn method_working(object: &(dyn Step + Sync), x: u64) -> u64 = step;
}

macro_rules! branches {
    ($title:literal, $work:ident) => {
        compare($title, CALLS, &mut [
            ("no branch", looped!((n, x) => $work(x ^ n))),
            ("`unlikely!`, off", looped!((n, x) => if unlikely!(OFF) { numbered::<3>(x) } else { $work(x ^ n) })),
            ("`likely!`, on", looped!((n, x) => if likely!(ON) { $work(x ^ n) } else { numbered::<3>(x) })),
            (
                "static-keys 0.8.2, off",
                looped!((n, x) => if static_branch_unlikely!(THEIRS) { numbered::<3>(x) } else { $work(x ^ n) }),
            ),
            (
                "`AtomicBool`",
                looped!((n, x) => if FLAG.load(Ordering::Relaxed) { numbered::<3>(x) } else { $work(x ^ n) }),
            ),
        ]);
    };
}

macro_rules! one {
    ($title:literal, $work:ident, $dynamic:ident, $method:ident) => {
        let (function, object) = (black_box(TARGETS)[0], black_box(OBJECTS)[0]);
        compare($title, CALLS, &mut [
            ("direct call", looped!((_n, x) => numbered::<0>($work(x)))),
            ("`static_call!`, first target", looped!((_n, x) => first_target($work(x)))),
            ("`static_call!`, updated", looped!((_n, x) => updated($work(x)))),
            ("`static_call!`, `inline`", looped!((_n, x) => inline_first($work(x)))),
            ("`static_call!`, farther than 2 GiB", looped!((_n, x) => far($work(x)))),
            ("`AtomicPtr`", looped!((_n, x) => loaded()($work(x)))),
            ("multiversion 0.8", looped!((_n, x) => versioned($work(x)))),
            ("`OnceLock`", looped!((_n, x) => once()($work(x)))),
            ("function pointer", looped!((_n, x) => black_box(function)($work(x)))),
            ("`dynamic_call!`", looped!((_n, x) => $dynamic(black_box(function), $work(x)))),
            ("`dyn`", looped!((_n, x) => black_box(object).step($work(x)))),
            ("`dynamic_method!`", looped!((_n, x) => $method(black_box(object), $work(x)))),
        ]);
        println!("({}; {})", $dynamic::stats(), $method::state().stats());
    };
}

fn order(targets: usize, random: bool) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as usize
    };
    (0..CALLS as usize).map(|n| (if random { next() % targets } else { n % targets }) as u8).collect()
}

macro_rules! several {
    ($title:expr, $targets:expr, $random:expr, $work:ident) => {{
        dynamic_call!(fn call(x: u64) -> u64);
        dynamic_method!(fn method(object: &(dyn Step + Sync), x: u64) -> u64 = step);
        let order = order($targets, $random);
        let (table, objects) = (black_box(&TARGETS), black_box(&OBJECTS));
        let at = |n: u64| usize::from(order[n as usize]);
        compare($title, CALLS, &mut [
            ("function pointer", looped!((n, x) => table[at(n)]($work(x)))),
            ("`dynamic_call!`", looped!((n, x) => call(table[at(n)], $work(x)))),
            ("`dyn`", looped!((n, x) => objects[at(n)].step($work(x)))),
            ("`dynamic_method!`", looped!((n, x) => method(objects[at(n)], $work(x)))),
        ]);
        println!("({}; {})", call::stats(), method::state().stats());
    }};
}

/// A thousand times the same, each with sites of its own.
macro_rules! thousand {
    (@ten [$($what:tt)*]) => {{
        $($what)*; $($what)*; $($what)*; $($what)*; $($what)*;
        $($what)*; $($what)*; $($what)*; $($what)*; $($what)*;
    }};
    ($($what:tt)*) => { thousand!(@ten [thousand!(@ten [thousand!(@ten [$($what)*])])]) };
}

/// One pass through a crowd: each site has a target of its own choice, which changes at every fourth pass.
macro_rules! crowd {
    ($name:ident, $n:ident, $x:ident => $body:expr) => {
        #[inline(never)]
        #[allow(unused_assignments)]
        fn $name(pass: usize, mut $x: u64) -> u64 {
            let mut at = 0usize;
            thousand!({
                let $n = (at.wrapping_mul(0x9e37_79b1) >> 7).wrapping_add(pass >> 2) & 3;
                at = at.wrapping_add(1);
                $x = $body;
            });
            $x
        }
    };
}
crowd!(crowd_direct, _n, x => numbered::<0>(x));
crowd!(crowd_static, _n, x => first_target(x));
crowd!(crowd_atomic, _n, x => loaded()(x));
crowd!(crowd_once, _n, x => once()(x));
crowd!(crowd_pointer, n, x => TABLE[n](x));
crowd!(crowd_dynamic, n, x => {
    dynamic_call!(fn call(x: u64) -> u64);
    call(TABLE[n], x)
});
static TABLE: [Function; 8] = TARGETS;

fn crowds() {
    let pass = std::cell::Cell::new(0);
    let next = || {
        pass.set(pass.get() + 1);
        pass.get()
    };
    compare(
        "1,000 sites, one function",
        CROWD,
        &mut [
            ("direct call", Box::new(|| crowd_direct(next(), 1))),
            ("`static_call!`", Box::new(|| crowd_static(next(), 1))),
            ("`AtomicPtr`", Box::new(|| crowd_atomic(next(), 1))),
            ("`OnceLock`", Box::new(|| crowd_once(next(), 1))),
        ],
    );
    println!("({:?})", first_target::state().callers());
    // Time to count, learn and compare: some ten thousand calls at each site, and few sites learn at a time.
    for _ in 0..200_000 {
        black_box(crowd_dynamic(next(), 1));
    }
    compare(
        "1,000 sites, four functions",
        CROWD,
        &mut [
            ("function pointer", Box::new(|| crowd_pointer(next(), 1))),
            ("`dynamic_call!`", Box::new(|| crowd_dynamic(next(), 1))),
        ],
    );
}

/// What calls cost from the first one on: cold, learning, contest and all.
fn first_calls() {
    dynamic_call!(fn learning(x: u64) -> u64);
    let order = order(4, false);
    let table = black_box(&TARGETS);
    println!("\n| the first 65,000 calls | ns | middle 90 % | ratio |\n|---|---|---|---|");
    let pass = |call: &dyn Fn(Function, u64) -> u64| {
        let start = Instant::now();
        for _ in 0..6 {
            black_box(order.iter().fold(1, |x, &n| call(table[usize::from(n)], x)));
        }
        start.elapsed().as_secs_f64() * 1e9 / (6 * order.len()) as f64
    };
    let mut samples = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        learning::forget();
        samples[0].push(pass(&|f, x| f(x)));
        samples[1].push(pass(&|f, x| learning(f, x)));
    }
    samples.iter_mut().for_each(|samples| samples.sort_by(f64::total_cmp));
    for (name, samples) in ["function pointer", "`dynamic_call!`"].iter().zip(&samples) {
        let at = |share: usize| samples[(samples.len() - 1) * share / 100];
        println!("| {name} | {:.2} | {:.2} to {:.2} | |", at(50), at(5), at(95));
    }
}

fn main() {
    updated::update(numbered::<0>).expect("patched");
    lead_far();
    let load = || std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load: {}", load().trim());
    let wanted: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|w| w == part);
    if is_wanted("keys") {
        branches!("a branch, bare", no_work);
        branches!("a branch, with work", work);
    }
    if is_wanted("one") {
        one!("one function, bare", no_work, one_bare, method_bare);
        one!("one function, with work", work, one_working, method_working);
    }
    if is_wanted("several") {
        several!("three in turn, bare", 3, false, no_work);
        several!("three in turn, with work", 3, false, work);
        several!("four at random, bare", 4, true, no_work);
        several!("eight at random, with work", 8, true, work);
    }
    if is_wanted("crowd") {
        crowds();
    }
    if is_wanted("first") {
        first_calls();
    }
    println!("\nload: {}", load().trim());
}

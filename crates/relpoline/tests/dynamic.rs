//! Dynamic calls, as a user sees them.

use relpoline::{State, dynamic_call};
use std::panic::{AssertUnwindSafe, catch_unwind};

const PATCHED: bool = cfg!(all(target_arch = "x86_64", target_os = "linux", not(feature = "no-patch"), not(miri)));

fn numbered<const N: u64>(x: u64, offset: &u64) -> u64 {
    N * 1000 + x + *offset
}
const TARGETS: [fn(u64, &u64) -> u64; 16] = [
    numbered::<0>,
    numbered::<1>,
    numbered::<2>,
    numbered::<3>,
    numbered::<4>,
    numbered::<5>,
    numbered::<6>,
    numbered::<7>,
    numbered::<8>,
    numbered::<9>,
    numbered::<10>,
    numbered::<11>,
    numbered::<12>,
    numbered::<13>,
    numbered::<14>,
    numbered::<15>,
];

/// Miri is a thousand times slower, and nothing is learned there.
const fn rounds(many: u64) -> u64 {
    if cfg!(miri) { many / 1000 + 1 } else { many }
}

/// Calls `targets` targets in turn, and checks each result.
macro_rules! exercise {
    ($call:ident, $targets:expr, $rounds:expr) => {
        for round in 0..rounds($rounds) {
            let n = round % $targets as u64;
            assert_eq!($call(TARGETS[n as usize], round, &1), n * 1000 + round + 1);
        }
    };
}

/// A call that is left alone is a plain one, without the way through the gate; and it learns again when it is told to.
#[test]
fn a_call_that_is_left_alone_is_a_plain_one() {
    dynamic_call!(fn rests(x: u64, offset: &u64) -> u64);
    let callers = || rests::state().callers();
    let use_it = || {
        exercise!(rests, 3, 50_000);
        // Another place where it is called.
        assert_eq!(rests(TARGETS[5], 2, &3), 5005);
    };
    let count = if PATCHED && !cfg!(feature = "retpoline") { 2 } else { 0 };
    rests::state().always_promote(true);
    for _ in 0..3 {
        use_it();
        assert_eq!((callers().all, callers().direct), (count, 0));
        let promoted = if PATCHED { State::Promoted } else { State::Plain };
        assert_eq!(rests::stats().state, promoted);
        rests::pause();
        assert_eq!((callers().all, callers().direct), (count, count));
        use_it();
        rests::resume();
        assert_eq!((callers().all, callers().direct), (count, 0));
    }
}

#[test]
fn a_call_learns_its_targets() {
    dynamic_call!(fn learns(x: u64, offset: &u64) -> u64);
    learns::state().always_promote(true);
    exercise!(learns, 1, 50_000);
    let stats = learns::stats();
    if PATCHED {
        assert_eq!(stats.state, State::Promoted, "{stats:?}");
        assert_eq!(stats.targets[0].address, TARGETS[0] as usize);
        let (address, line) = (stats.targets[0].address, stats.to_string());
        let shown = if cfg!(feature = "names") { "dynamic::numbered".into() } else { format!("{address:#x}") };
        assert!(line.starts_with(&format!("promoted; {shown} 100 %; 0 hits")), "{line}");
    } else {
        assert_eq!(stats.state, State::Plain);
    }
    for targets in [2, 4, 8, 16, 3] {
        exercise!(learns, targets, 50_000);
    }
    println!("{:?}", learns::stats());
}

#[test]
fn it_can_be_paused_pinned_and_reset() {
    dynamic_call!(fn controlled(x: u64, offset: &u64) -> u64);
    controlled::state().always_promote(true);
    exercise!(controlled, 2, 20_000);
    controlled::pause();
    exercise!(controlled, 2, 20_000);
    assert!(!PATCHED || controlled::stats().state == State::Paused);
    controlled::resume();
    exercise!(controlled, 2, 20_000);
    assert!(!PATCHED || controlled::stats().state == State::Promoted);
    assert_eq!(controlled::pin(&TARGETS[4..8]), PATCHED);
    exercise!(controlled, 16, 20_000);
    let stats = controlled::stats();
    assert!(!PATCHED || (stats.state == State::Pinned && stats.targets.len() == 4), "{stats:?}");
    controlled::count_calls(true);
    exercise!(controlled, 1, 100_000);
    assert!(!PATCHED || controlled::stats().hits > 50_000, "{:?}", controlled::stats());
    controlled::forget();
    exercise!(controlled, 1, 1000);
}

#[test]
fn every_register_carries_a_target() {
    dynamic_call! {
        fn none() -> usize;
        extern "C" fn one(a: u8) -> u64;
        fn two(a: u8, f: f64, b: &str) -> u64;
        fn four(a: &mut [u8], b: u128) -> u128;
        extern "C" fn five(a: u64, b: i32, c: *const u8, d: bool, e: u16, f: f32) -> f64;
    }
    extern "C" fn f1(a: u8) -> u64 {
        u64::from(a) + 1
    }
    fn f2(a: u8, f: f64, b: &str) -> u64 {
        u64::from(a) + f as u64 + b.len() as u64
    }
    fn f4(a: &mut [u8], b: u128) -> u128 {
        a[0] = 9;
        b << 1
    }
    extern "C" fn f5(a: u64, b: i32, c: *const u8, d: bool, e: u16, f: f32) -> f64 {
        (a as f64) + f64::from(b) + f64::from(u8::from(d)) + f64::from(e) + f64::from(f) + c.addr() as f64
    }
    for state in [none::state(), one::state(), two::state(), four::state(), five::state()] {
        state.always_promote(true);
    }
    for _ in 0..rounds(5000) {
        assert_eq!(none(|| 7), 7);
        assert_eq!(one(f1, 7), 8);
        assert_eq!(two(f2, 1, 2.0, "abc"), 6);
        let mut bytes = [1, 2];
        assert_eq!(four(f4, &mut bytes, 1 << 90), 1 << 91);
        assert_eq!(bytes, [9, 2]);
        assert_eq!(five(f5, 1, 2, std::ptr::without_provenance(3), true, 5, 0.5), 12.5);
    }
    if PATCHED {
        for stats in [none::stats(), one::stats(), two::stats(), four::stats(), five::stats()] {
            assert_eq!(stats.state, State::Promoted, "{stats:?}");
        }
    }
}

#[test]
fn callees_may_recurse_and_panic() {
    dynamic_call!(fn down(depth: u64) -> u64);
    fn even(depth: u64) -> u64 {
        if depth == 0 { 0 } else { 1 + down(odd, depth - 1) }
    }
    fn odd(depth: u64) -> u64 {
        if depth == 0 { panic!("bottom") } else { 1 + down(even, depth - 1) }
    }
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for _ in 0..rounds(200) {
        assert_eq!(down(even, 100), 100);
        assert!(catch_unwind(AssertUnwindSafe(|| down(even, 101))).is_err());
    }
    std::panic::set_hook(hook);
}

trait Step {
    fn before(&self) -> u64;
    fn step(&self, x: u64) -> u64;
    fn set(&mut self, to: u64);
}
struct Kept<const N: u64>(u64);
impl<const N: u64> Step for Kept<N> {
    fn before(&self) -> u64 {
        self.0 + 1_000_000
    }
    fn step(&self, x: u64) -> u64 {
        self.0 * 1000 + N * 100 + x
    }
    fn set(&mut self, to: u64) {
        self.0 = to + N;
    }
}

#[test]
fn methods_of_trait_objects_are_learned() {
    relpoline::dynamic_method! {
        fn step_of(object: &dyn Step, x: u64) -> u64 = step;
        fn before_of(object: &dyn Step) -> u64 = before;
    }
    relpoline::dynamic_method! {
        fn step_of_sent(object: &(dyn Step + Send), x: u64) -> u64 = step;
        fn set_of_static(object: &mut (dyn Step + Send + 'static), to: u64) = set;
    }
    relpoline::dynamic_method!(fn set_of(object: &mut dyn Step, to: u64) = set);
    step_of::state().always_promote(true);
    let mut objects: [Box<dyn Step>; 4] =
        [Box::new(Kept::<0>(1)), Box::new(Kept::<1>(2)), Box::new(Kept::<2>(3)), Box::new(Kept::<3>(4))];
    for round in 0..rounds(20_000) {
        let n = round % 4;
        let object = &mut *objects[n as usize];
        assert_eq!(step_of(object, 7), (n + 1) * 1000 + n * 100 + 7);
        assert_eq!(before_of(object), n + 1 + 1_000_000);
        set_of(object, 1);
        assert_eq!(before_of(object), n + 1 + 1_000_000);
    }
    let mut sent = Kept::<0>(1);
    set_of_static(&mut sent, 4);
    assert_eq!((before_of(&sent), step_of_sent(&sent, 7)), (4 + 1_000_000, 4007));
    let optimised = PATCHED && !cfg!(debug_assertions);
    assert!(!optimised || step_of::state().stats().state == State::Promoted, "{:?}", step_of::state());
}

#[test]
fn a_tree_and_the_plain_call_take_turns() {
    dynamic_call!(fn timed(x: u64, offset: &u64) -> u64);
    let mut seen = Vec::new();
    for _ in 0..rounds(300) {
        exercise!(timed, 3, 300);
        seen.push(timed::stats().state);
    }
    assert!(!PATCHED || seen.contains(&State::Timed), "{:?}", timed::stats());
    // In the end it may be timed again, where others use the processor too.
    let decided = seen.iter().any(|state| matches!(state, State::Promoted | State::Unpromoted));
    assert!(!PATCHED || decided, "{:?}", timed::stats());
}

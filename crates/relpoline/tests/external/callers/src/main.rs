//! Calls of static calls are direct calls of the target: the first and each later one, near and far, on every thread, in
//! children, and in a sandbox they are what they were.

use relpoline::{StaticCall, prepare_for_sandbox, static_call};
use std::ffi::{c_int, c_long};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

static_call! {
    fn sum(x: u64) -> u64 = numbered::<0>;
    /// With the same targets.
    fn other(x: u64) -> u64 = numbered::<0>;
    extern "C" fn absolute(x: c_long) -> c_long = near_absolute;
    inline fn inlined(x: u64) -> u64 = numbered::<0>;
}

#[inline(never)]
fn numbered<const N: u64>(x: u64) -> u64 {
    black_box(x) * 100 + N
}
const TARGETS: [fn(u64) -> u64; 12] = [
    numbered::<0>, numbered::<1>, numbered::<2>, numbered::<3>, numbered::<4>, numbered::<5>, numbered::<6>,
    numbered::<7>, numbered::<8>, numbered::<9>, numbered::<10>, numbered::<11>,
];
extern "C" fn near_absolute(x: c_long) -> c_long {
    black_box(x).abs()
}

unsafe extern "C" {
    /// libc's, which is far from a program that is not static.
    safe fn labs(x: c_long) -> c_long;
    fn fork() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
}

/// A call with something before and after it.
#[inline(never)]
fn called(x: u64) -> u64 {
    sum(x ^ 1) + other(x) * 1000
}
/// A function's last act.
#[inline(never)]
fn last(x: u64) -> u64 {
    sum(x + 1)
}
/// One of two, on a condition.
#[inline(never)]
fn conditional(x: u64) -> u64 {
    if x & 1 == 0 { sum(x) } else { x }
}
#[inline(never)]
fn far(x: c_long) -> c_long {
    absolute(x - 1) + 1
}
#[inline(never)]
fn branched(x: u64) -> u64 {
    inlined(x) + 1
}

fn are_direct(what: &str, call: &StaticCall, all: bool) {
    let callers = call.callers();
    println!("{what}: {callers:?} {:?}", call.form());
    assert!(callers.all > 0, "{what}: none was found");
    assert_eq!(callers.direct, if all { callers.all } else { 0 }, "{what}");
}

fn in_a_child(child: impl FnOnce() -> bool) {
    // SAFETY: there is one thread.
    let pid = unsafe { fork() };
    if pid == 0 {
        std::process::exit(i32::from(!child()));
    }
    let mut status = -1;
    // SAFETY: the status is writable.
    assert_eq!((unsafe { waitpid(pid, &raw mut status, 0) }, status), (pid, 0));
}

fn check(n: u64) {
    for x in [2, 3] {
        assert_eq!(called(x), (x ^ 1) * 100 + n + x * 100_000);
        assert_eq!(last(x), (x + 1) * 100 + n);
        assert_eq!(conditional(x), if x == 2 { 200 + n } else { 3 });
    }
}

fn main() {
    are_direct("first target", sum::state(), true);
    are_direct("first target of the other", other::state(), true);
    check(0);
    // More targets than a gate has slots, and back.
    for n in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 3, 0, 1] {
        sum::update(TARGETS[n as usize]).unwrap();
        check(n);
        are_direct("updated", sum::state(), true);
    }
    are_direct("first target of the other still", other::state(), true);
    // Where the other one is already.
    sum::update(TARGETS[4]).unwrap();
    other::update(TARGETS[4]).unwrap();
    are_direct("two at one target", sum::state(), true);
    are_direct("two at one target, the other", other::state(), true);
    assert_eq!(called(3), 204 + 304 * 1000);
    other::update(TARGETS[0]).unwrap();
    are_direct("the other, back", other::state(), true);
    sum::update(TARGETS[1]).unwrap();
    assert_eq!(far(-5), 7);
    are_direct("near", absolute::state(), true);
    absolute::update(labs).unwrap();
    assert_eq!(far(-5), 7);
    are_direct("far", absolute::state(), true);
    inlined::update(numbered::<7>).unwrap();
    assert_eq!(branched(1), 108);
    are_direct("behind a branch", inlined::state(), true);

    // Children change what is theirs, to what was known and to what was not.
    in_a_child(|| {
        let known = sum::update(numbered::<5>).is_ok() && last(0) == 105 && sum::state().callers().direct > 0;
        let new = absolute::update(near_absolute).is_ok() && far(-5) == 7;
        known && new && sum::reset().is_ok() && last(0) == 100
    });
    check(1);
    are_direct("after a child", sum::state(), true);

    // While threads run through them.
    static STOP: AtomicBool = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !STOP.load(Ordering::Relaxed) {
                    assert!(last(0) / 100 == 1 && (called(2) % 1000) / 100 == 3);
                }
            });
        }
        for n in (0..12).cycle().take(2000) {
            sum::update(TARGETS[n as usize]).unwrap();
            assert_eq!(last(0), 100 + n);
        }
        STOP.store(true, Ordering::Relaxed);
    });
    are_direct("under threads", sum::state(), true);

    prepare_for_sandbox().unwrap();
    are_direct("in a sandbox", sum::state(), false);
    for n in [1, 11, 0] {
        sum::update(TARGETS[n as usize]).unwrap();
        check(n);
    }
    println!("all right");
}

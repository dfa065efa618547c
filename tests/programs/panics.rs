//! A Rust program whose signal handler panics, at any instruction of calls through pointers: each panic is caught by who is meant
//! to, and every destructor on the way runs. (Checked with an engine only: a thunk of LLVM's cannot be unwound from everywhere.)

use std::hint::black_box;
use std::panic::{catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const LEVELS: u64 = 5;
const PANICS: u64 = 2000;

static IS_ARMED: AtomicBool = AtomicBool::new(false);
static DROPPED: AtomicU64 = AtomicU64::new(0);

struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

type Callee = fn(u64) -> u64;

#[inline(never)]
fn first(x: u64) -> u64 {
    x.wrapping_mul(3).wrapping_add(1)
}

#[inline(never)]
fn second(x: u64) -> u64 {
    x ^ 0x55
}

#[inline(never)]
fn third(x: u64) -> u64 {
    x.wrapping_add(7)
}

/// Has nothing to drop, and so may be left at any of its instructions.
#[inline(never)]
extern "C-unwind" fn spin(callees: &[Callee; 4]) -> u64 {
    let mut x = 1;
    IS_ARMED.store(true, Ordering::Relaxed);
    for n in 0..u64::MAX {
        let callee = black_box(callees)[(n >> 4 & 3) as usize];
        x = callee(x);
    }
    x
}

#[inline(never)]
fn climb(levels: u64, callees: &[Callee; 4]) -> u64 {
    let _guard = Guard;
    if levels > 1 { climb(levels - 1, callees) + 1 } else { spin(callees) + 1 }
}

extern "C-unwind" fn on_alarm(_: i32) {
    if IS_ARMED.swap(false, Ordering::Relaxed) {
        resume_unwind(Box::new("out of a handler"));
    }
}

#[repr(C)]
struct Action {
    handler: extern "C-unwind" fn(i32),
    mask: [u64; 16],
    flags: i32,
    restorer: usize,
}

#[repr(C)]
struct Timer {
    interval: [i64; 2],
    value: [i64; 2],
}

unsafe extern "C" {
    fn sigaction(signal: i32, action: *const Action, old: *mut Action) -> i32;
    fn setitimer(which: i32, timer: *const Timer, old: *mut Timer) -> i32;
}

const SIGALRM: i32 = 14;
/// A handler that is left by a panic does not give the mask back: it is not changed.
const SA_NODEFER: i32 = 0x4000_0000;

fn main() {
    let action = Action { handler: on_alarm, mask: [0; 16], flags: SA_NODEFER, restorer: 0 };
    let timer = Timer { interval: [0, 500], value: [0, 500] };
    // SAFETY: structures as libc has them. What the handler interrupts while it is armed holds no lock.
    let begun = unsafe {
        sigaction(SIGALRM, &action, std::ptr::null_mut()) | setitimer(0, &timer, std::ptr::null_mut())
    };
    assert_eq!(begun, 0);
    let callees: [Callee; 4] = black_box([first, second, third, first]);
    for n in 0..PANICS {
        let caught = catch_unwind(|| climb(LEVELS, &callees)).expect_err("it goes on for ever");
        assert_eq!(caught.downcast_ref(), Some(&"out of a handler"));
        assert_eq!(DROPPED.load(Ordering::Relaxed), (n + 1) * LEVELS, "panic {n}");
    }
    println!("{PANICS} panics, {} destructors", DROPPED.load(Ordering::Relaxed));
}

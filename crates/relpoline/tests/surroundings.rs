//! Forked children, signal handlers and sandboxes.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(miri), not(feature = "no-patch")))]

use relpoline::{State, dynamic_call, prepare_for_sandbox, static_call, static_key, unlikely};
use std::ffi::c_int;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

static_key!(static KEY: bool = false);
static_call! {
    fn current(x: u64) -> u64 = one;
    inline fn current_inline(x: u64) -> u64 = one;
}
dynamic_call! {
    fn apply(x: u64) -> u64;
    fn interrupted(x: u64) -> u64;
}

fn one(x: u64) -> u64 {
    x + 1
}
fn two(x: u64) -> u64 {
    x + 2
}

unsafe extern "C" {
    fn fork() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn setitimer(which: c_int, new: *const [i64; 4], old: *mut [i64; 4]) -> c_int;
    fn prctl(option: c_int, a: u64, b: u64, c: u64, d: u64) -> c_int;
}

/// Ends this thread's process by the one system call that strict mode allows for it.
fn exit(code: u64) -> ! {
    // SAFETY: exit(2) does not return; the process has one thread.
    unsafe { std::arch::asm!("syscall", in("rax") 60, in("rdi") code, options(noreturn)) }
}

/// Runs `child` in a forked child; returns how it ended: 0 if `child` returned true.
fn in_a_child(child: impl FnOnce() -> bool) -> c_int {
    // SAFETY: the child calls nothing that another thread could hold a lock of, but for the allocator, which glibc
    // makes usable in forked children.
    let pid = unsafe { fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        exit(u64::from(!child()));
    }
    let mut status = -1;
    // SAFETY: the status is writable.
    assert_eq!(unsafe { waitpid(pid, &raw mut status, 0) }, pid);
    status
}

/// What is seen with the key on, and calls updated, or not.
fn seen(changed: bool) -> bool {
    let expected = if changed { 7 } else { 6 };
    unlikely!(KEY) == changed
        && current(5) == expected
        && current_inline(5) == expected
        && (0..2000).all(|x| apply(one, x) == x + 1 && apply(two, x) == x + 2)
}

fn change(on: bool) -> bool {
    let target = if on { two } else { one };
    KEY.set(on).is_ok() && current::update(target).is_ok() && current_inline::update(target).is_ok()
}

/// Changes and learning before, in and after a fork, and in a sandbox.
#[test]
fn children_and_sandboxes() {
    let _alone = ALONE.lock();
    assert!(seen(false));
    // A child's changes are its own.
    assert_eq!(in_a_child(|| seen(false) && change(true) && seen(true)), 0);
    assert!(seen(false), "nothing changed here");
    // What was changed and learned before is kept, and the child goes on learning.
    assert!(change(true));
    apply::state().always_promote(true);
    assert!(seen(true) && seen(true) && apply::stats().state == State::Promoted);
    let learns = || {
        apply::forget();
        seen(true) && seen(true) && apply::stats().state == State::Promoted
    };
    assert_eq!(in_a_child(|| seen(true) && learns() && in_a_child(learns) == 0), 0);
    assert!(seen(true) && change(false) && seen(false));
    let keeps = || {
        apply::forget();
        seen(true) && seen(true) && apply::stats().state == State::Promoted && !apply::pin(&[one])
    };
    // In strict mode reading the clock kills, and so does every system call but read, write and exit.
    let sandboxed = || {
        let prepared = prepare_for_sandbox();
        // SAFETY: PR_SET_SECCOMP, SECCOMP_MODE_STRICT.
        prepared.is_ok()
            && unsafe { prctl(22, 1, 0, 0, 0) } == 0
            && seen(false)
            && change(true)
            && seen(true)
            && keeps()
    };
    assert_eq!(in_a_child(sandboxed), 0);
    assert!(seen(false));
}

/// One test at a time: one forks, the other is interrupted all the while.
static ALONE: Mutex<()> = Mutex::new(());

static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_alarm(_: c_int) {
    let n = HANDLED.fetch_add(1, Ordering::Relaxed);
    for x in 0..20 {
        // Other targets than the interrupted code's, so that both learn.
        let right = if n.is_multiple_of(2) { interrupted(one, x) == x + 1 } else { interrupted(two, x) == x + 2 };
        if !right {
            exit(99);
        }
    }
}

/// Handlers call what they interrupted, in whatever state it was.
#[test]
fn signal_handlers_may_call() {
    let _alone = ALONE.lock();
    fn three(x: u64) -> u64 {
        x + 3
    }
    let every = [0, 200, 0, 200];
    interrupted::state().always_promote(true);
    // SAFETY: the handler makes calls and nothing else; ITIMER_REAL.
    unsafe {
        assert_ne!(signal(14, on_alarm), usize::MAX);
        assert_eq!(setitimer(0, &raw const every, std::ptr::null_mut()), 0);
    }
    while HANDLED.load(Ordering::Relaxed) < 2000 {
        for x in 0..500 {
            assert_eq!(interrupted(three, x), x + 3);
        }
        if HANDLED.load(Ordering::Relaxed).is_multiple_of(64) {
            interrupted::forget();
        }
    }
    // SAFETY: stops the timer.
    unsafe { setitimer(0, &[0; 4], std::ptr::null_mut()) };
    println!("{} signals, {}", HANDLED.load(Ordering::Relaxed), interrupted::stats());
}

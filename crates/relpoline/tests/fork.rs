//! Forks while other threads change keys, static calls and dynamic calls; in handlers of forks; by raw clone and vfork.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(miri), not(feature = "no-patch")))]

use relpoline::{State, dynamic_call, dynamic_method, static_call, static_key, unlikely};
use std::ffi::{c_char, c_int, c_long, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};

static_key! {
    static BUSY: bool = false;
    static OWN: bool = false;
}
static_call! {
    fn busy_call(x: u64) -> u64 = one;
    fn own_call(x: u64) -> u64 = one;
    inline fn own_inline(x: u64) -> u64 = one;
}
dynamic_call! {
    fn busy_table(x: u64) -> u64;
    fn own_table(x: u64) -> u64;
}
trait Shape {
    fn area(&self, scale: u64) -> u64;
}
struct Square(u64);
impl Shape for Square {
    fn area(&self, scale: u64) -> u64 {
        self.0 * self.0 * scale
    }
}
dynamic_method!(fn area_of(shape: &dyn Shape, scale: u64) -> u64 = area);

fn one(x: u64) -> u64 {
    x + 1
}
fn two(x: u64) -> u64 {
    x + 2
}

unsafe extern "C" {
    fn fork() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn alarm(seconds: u32) -> u32;
    fn _exit(code: c_int) -> !;
    fn getpid() -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn clone(
        act: extern "C" fn(*mut c_void) -> c_int,
        stack: *mut c_void,
        flags: c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn readlink(path: *const c_char, buffer: *mut u8, size: usize) -> isize;
    fn execv(path: *const c_char, arguments: *const *const c_char) -> c_int;
    fn pthread_atfork(before: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) -> c_int;
}

/// Children that fork while another test's threads change something are that test's business.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a child ends that was made by `make`, and has 20 s for `act`: 0 if that returned true.
fn child(make: impl FnOnce() -> c_long, act: impl FnOnce() -> bool) -> c_int {
    let pid = make();
    assert!(pid >= 0, "a child");
    if pid == 0 {
        // SAFETY: ends this process, at last by a signal.
        unsafe {
            alarm(20);
            let code = if catch_unwind(AssertUnwindSafe(act)).unwrap_or(false) { 0 } else { 1 };
            _exit(code)
        }
    }
    let mut status = -1;
    // SAFETY: the status is writable.
    assert_eq!(c_long::from(unsafe { waitpid(pid as c_int, &raw mut status, 0) }), pid);
    status
}

fn by_fork() -> c_long {
    // SAFETY: children call what this library says may be called there.
    c_long::from(unsafe { fork() })
}

/// No handler of `fork` runs.
fn by_clone() -> c_long {
    const SYS_CLONE: c_long = 56;
    const SIGCHLD: c_long = 17;
    // SAFETY: as fork, but for libc's own handlers; the child allocates nothing.
    unsafe { syscall(SYS_CLONE, SIGCHLD, 0, 0, 0, 0) }
}

/// Changes everything there is to change, and looks whether it shows.
fn everything_changes() -> bool {
    let seen = |on: bool, by: u64| {
        unlikely!(OWN) == on && own_call(5) == 5 + by && own_inline(5) == 5 + by && own_table(two, 5) == 7
    };
    let changed = |on: bool| {
        let target = if on { two } else { one };
        OWN.set(on).is_ok() && own_call::update(target).is_ok() && own_inline::update(target).is_ok()
    };
    changed(true) && seen(true, 2) && changed(false) && seen(false, 1)
}

fn tables_change() -> bool {
    own_table::pin(&[one, two])
        && (0..100).all(|x| own_table(one, x) == x + 1 && own_table(two, x) == x + 2)
        && own_table::stats().state == State::Pinned
        && {
            own_table::forget();
            own_table::state().always_promote(true);
            (0..4000).all(|x| own_table(one, x) == x + 1 && own_table(two, x) == x + 2)
        }
        // Whether it is promoted is a matter of the budget, which the others spend.
        && own_table::stats().state != State::Plain
}

/// Runs `act` while two threads change everything else.
fn while_others_change(act: impl FnOnce()) {
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    let begun = Barrier::new(4);
    let going = || !STOP.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            begun.wait();
            for n in (0u64..).take_while(|_| going()) {
                BUSY.set(n.is_multiple_of(2)).unwrap();
                busy_call::update(if n.is_multiple_of(2) { one } else { two }).unwrap();
            }
        });
        scope.spawn(|| {
            begun.wait();
            while going() {
                busy_table::pin(&[one, two]);
                busy_table::forget();
            }
        });
        scope.spawn(|| {
            begun.wait();
            area_of::state().always_promote(true);
            while going() {
                for x in 0..500 {
                    assert_eq!(busy_table(one, x) + busy_table(two, x), 2 * x + 3);
                    assert_eq!(area_of(&Square(x), 2), 2 * x * x);
                }
                area_of::state().forget();
            }
        });
        begun.wait();
        let outcome = catch_unwind(AssertUnwindSafe(act));
        STOP.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

/// Descriptors of this process' parent's memory.
fn foreign_memory() -> usize {
    let of = |entry: &std::fs::DirEntry| std::fs::read_link(entry.path()).is_ok_and(|to| to.ends_with("mem"));
    std::fs::read_dir("/proc/self/fd").map_or(0, |all| all.flatten().filter(of).count())
}

#[test]
fn no_child_waits_for_a_thread_of_its_parent() {
    let _alone = alone();
    while_others_change(|| {
        for _ in 0..200 {
            let act = || {
                assert!(everything_changes(), "keys and calls");
                assert!(tables_change(), "{}", own_table::stats());
                foreign_memory() == 0
            };
            assert_eq!(child(by_fork, act), 0);
        }
    });
    assert!(everything_changes() && tables_change());
}

#[test]
fn children_of_children_are_free_too() {
    let _alone = alone();
    while_others_change(|| {
        for _ in 0..30 {
            let grandchild = || everything_changes() && tables_change();
            let act = || child(by_fork, grandchild) == 0 && everything_changes() && child(by_fork, grandchild) == 0;
            assert_eq!(child(by_fork, act), 0);
        }
    });
}

/// Nothing is half-way in a child that no handler was told of: what its parent's threads were changing follows in
/// the child as soon as something is changed there.
#[test]
fn a_cloned_child_mends_what_is_torn() {
    let _alone = alone();
    while_others_change(|| {
        for _ in 0..200 {
            let act = || {
                let busy = || unlikely!(BUSY) == BUSY.is_enabled() && busy_call(5) == busy_call::target()(5);
                everything_changes() && busy() && everything_changes()
            };
            assert_eq!(child(by_clone, act), 0);
        }
    });
}

/// Whether a descriptor below 64 is one of another process' memory. Allocates nothing.
fn has_foreign_memory() -> bool {
    (3..64_u8).any(|number| {
        let mut path = *b"/proc/self/fd/00\0";
        path[14] = if number < 10 { b'0' + number } else { b'0' + number / 10 };
        path[15] = if number < 10 { 0 } else { b'0' + number % 10 };
        let mut name = [0; 64];
        // SAFETY: the path ends with a zero, and the buffer has so many bytes.
        let length = unsafe { readlink(path.as_ptr().cast(), name.as_mut_ptr(), name.len()) };
        usize::try_from(length).is_ok_and(|length| name[..length].ends_with(b"/mem"))
    })
}

/// A raw clone waits for nobody: its child has a descriptor of its parent's memory when a thread of the parent is changing
/// something at that moment. That ends when the child executes another program.
#[test]
fn what_a_cloned_child_inherits_ends_with_exec() {
    const INHERITED: c_int = 42 << 8;
    let _alone = alone();
    let script = c"for f in /proc/self/fd/*; do case $(readlink $f) in */mem) exit 3;; esac; done; exit 42";
    let arguments = [c"sh".as_ptr(), c"-c".as_ptr(), script.as_ptr(), std::ptr::null()];
    let mut inherited = 0;
    while_others_change(|| {
        for _ in 0..300 {
            let act = || {
                // SAFETY: what is passed are C strings, with a null behind the last.
                !has_foreign_memory() || unsafe { execv(c"/bin/sh".as_ptr(), arguments.as_ptr()) } == 0
            };
            let status = child(by_clone, act);
            assert!(matches!(status, 0 | INHERITED), "{status:#x}");
            inherited += u32::from(status == INHERITED);
        }
    });
    println!("{inherited} of 300 children had a descriptor of their parent's memory until they called exec");
}

static CHILD: AtomicU32 = AtomicU32::new(0);

/// Changes in our memory and with our thread's name, until it is killed.
extern "C" fn changes_for_ever(_: *mut c_void) -> c_int {
    // SAFETY: has no arguments.
    CHILD.store(unsafe { getpid() } as u32, Ordering::Release);
    loop {
        let _ = OWN.set(!OWN.is_enabled());
    }
}

extern "C" fn changes_once(_: *mut c_void) -> c_int {
    c_int::from(!everything_changes())
}

/// As posix_spawn does: on a stack of its own, while this thread stands still.
fn by_vfork(act: extern "C" fn(*mut c_void) -> c_int) -> c_long {
    /// `CLONE_VM | CLONE_VFORK | SIGCHLD`.
    const FLAGS: c_int = 0x100 | 0x4000 | 17;
    let mut stack = vec![0u128; 1 << 14];
    // SAFETY: the stack lives until the child has ended.
    c_long::from(unsafe { clone(act, stack.as_mut_ptr_range().end.cast(), FLAGS, std::ptr::null_mut()) })
}

/// Children that share our memory take the lock as our threads do; what one leaves that was killed is mended, by the
/// thread that made it and by others.
#[test]
fn a_vfork_child_that_is_killed_leaves_no_lock() {
    let _alone = alone();
    while_others_change(|| assert_eq!(child(|| by_vfork(changes_once), || true), 0));
    for round in 0..30 {
        CHILD.store(0, Ordering::Release);
        std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                while CHILD.load(Ordering::Acquire) == 0 {
                    std::thread::yield_now();
                }
                std::thread::sleep(std::time::Duration::from_micros(500 + round * 10));
                // SAFETY: our child, which ends in no other way.
                assert_eq!(unsafe { kill(CHILD.load(Ordering::Acquire) as c_int, 9) }, 0);
            });
            assert_eq!(child(|| by_vfork(changes_for_ever), || true), 9);
            killer.join().unwrap();
            // Not the thread whose name the child had.
            scope.spawn(|| assert!(everything_changes() && tables_change()));
        });
        assert!(everything_changes());
    }
}

static HANDLED: AtomicU32 = AtomicU32::new(0);
static FORKS_INSIDE: AtomicBool = AtomicBool::new(false);
/// A lock of somebody's library, which takes it over a fork, and has it while it changes something.
static FOREIGN: AtomicBool = AtomicBool::new(false);
static TAKES_FOREIGN: AtomicBool = AtomicBool::new(false);

fn take_foreign() {
    while FOREIGN.swap(true, Ordering::Acquire) {
        std::thread::yield_now();
    }
}

extern "C" fn before() {
    if TAKES_FOREIGN.load(Ordering::Relaxed) {
        take_foreign();
    }
    if FORKS_INSIDE.swap(false, Ordering::Relaxed) {
        assert_eq!(child(by_fork, || everything_changes() && tables_change()), 0);
        FORKS_INSIDE.store(true, Ordering::Relaxed);
    }
    HANDLED.fetch_add(u32::from(everything_changes() && tables_change()), Ordering::Relaxed);
}

extern "C" fn after() {
    HANDLED.fetch_add(u32::from(everything_changes() && tables_change()), Ordering::Relaxed);
    if TAKES_FOREIGN.load(Ordering::Relaxed) {
        FOREIGN.store(false, Ordering::Release);
    }
}

/// Before the library's own, so that they run within it.
#[used]
#[unsafe(link_section = ".init_array.00001")]
static EARLY: extern "C" fn() = early;

static LISTENING: AtomicBool = AtomicBool::new(false);

extern "C" fn early() {
    extern "C" fn early_before() {
        if LISTENING.load(Ordering::Relaxed) {
            before();
        }
    }
    extern "C" fn early_after() {
        if LISTENING.load(Ordering::Relaxed) {
            after();
        }
    }
    // SAFETY: functions of the program.
    unsafe { pthread_atfork(early_before, early_after, early_after) };
}

/// Handlers of a fork may change things, and fork themselves.
#[test]
fn handlers_of_forks_may_change_and_fork() {
    let _alone = alone();
    LISTENING.store(true, Ordering::Relaxed);
    for forks in [false, true] {
        FORKS_INSIDE.store(forks, Ordering::Relaxed);
        while_others_change(|| {
            for _ in 0..20 {
                HANDLED.store(0, Ordering::Relaxed);
                let act = || HANDLED.load(Ordering::Relaxed) >= 2 && everything_changes() && tables_change();
                assert_eq!(child(by_fork, act), 0);
                assert!(HANDLED.load(Ordering::Relaxed) >= 2 && everything_changes());
            }
        });
    }
    FORKS_INSIDE.store(false, Ordering::Relaxed);
    LISTENING.store(false, Ordering::Relaxed);
}

/// A thread that has a lock that a handler wants, and wants to change something, which the fork holds up.
#[test]
fn a_fork_and_a_thread_do_not_wait_for_each_other() {
    let _alone = alone();
    LISTENING.store(true, Ordering::Relaxed);
    TAKES_FOREIGN.store(true, Ordering::Relaxed);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                take_foreign();
                BUSY.set(!BUSY.is_enabled()).unwrap();
                busy_table::pin(&[one]);
                FOREIGN.store(false, Ordering::Release);
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        });
        for _ in 0..20 {
            assert_eq!(child(by_fork, || everything_changes() && unlikely!(BUSY) == BUSY.is_enabled()), 0);
        }
        stop.store(true, Ordering::Relaxed);
    });
    TAKES_FOREIGN.store(false, Ordering::Relaxed);
    LISTENING.store(false, Ordering::Relaxed);
    assert!(everything_changes());
}

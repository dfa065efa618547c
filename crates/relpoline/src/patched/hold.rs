//! The one lock under which anything is changed.
//!
//! It knows its holder, by the thread pointer, which is the same in a forked child. So it can be held over a
//! `fork` ([`super::fork`]): whoever changes something in a handler of that fork (`pthread_atfork`), on
//! either side, goes on within; and a child finds the lock free, or held for the fork that made it, whatever
//! its parent's threads were doing.
//!
//! No holder is interrupted by a signal handler, which might fork, change something itself, or leave by
//! longjmp; and none allocates. Holders that vanish all the same are noticed: a child made by vfork that was
//! killed (it shares our memory, and our thread's name), and, in children made by raw clone, threads of the
//! parent. What they left half-way is *torn*: whoever takes the lock next mends it.

use super::{learn, wiped};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use relpoline_text::{mask, sync};
use rustix::process::{Pid, WaitId, WaitIdOptions};

/// 0 while it is free; else the holder's thread id (in a sandbox, where that cannot be asked for, its thread
/// pointer).
static OWNER: AtomicU64 = AtomicU64::new(0);
/// The holder's thread pointer, while it is known; cleared before the lock changes hands.
static NAME: AtomicU64 = AtomicU64::new(0);
/// The holder's thread pointer, while it holds the lock for a fork.
static FORKER: AtomicU64 = AtomicU64::new(0);
/// A holder vanished in the middle of a change.
static TORN: AtomicBool = AtomicBool::new(false);
/// Forks that wait for one of the two locks, and take precedence: a thread that changes something again and
/// again would hold them up for ever.
static FORKS: AtomicU32 = AtomicU32::new(0);
/// Threads that wait for the lock, and who had it last, by its thread pointer: a thread that changes
/// something again and again lets others come in between.
static WAITING: AtomicU32 = AtomicU32::new(0);
static LAST: AtomicU64 = AtomicU64::new(0);
/// Sleeps by which the last holder lets others come first.
const POLITE: u32 = 4;
/// By what it was taken for a fork.
static FORK: AtomicU64 = AtomicU64::new(0);
/// Turns that a waiter yields, before it sleeps.
const YIELDS: u32 = 1000;
/// Sleeps of 100 µs (longer on a busy machine) after which a waiter looks whether the holder is there.
const SLEEPS: u32 = 100;
/// Turns after which a waiter does not wait for a fork any more.
const PATIENCE: u32 = YIELDS + 2000;

/// Does something under the lock, and is told whether something is torn.
pub fn locked<R>(act: impl FnOnce(bool) -> R) -> R {
    if learn::is_sealed() { within(act) } else { mask::held_back(|| within(act)) }
}

fn within<R>(act: impl FnOnce(bool) -> R) -> R {
    settle();
    if is_held_for_fork() {
        return act(false);
    }
    let (mark, torn) = take(false);
    let _held = Held(mark);
    act(torn)
}

/// What is torn could not be mended now.
pub fn still_torn() {
    TORN.store(true, Ordering::Relaxed);
}

struct Held(u64);

impl Drop for Held {
    fn drop(&mut self) {
        free(self.0);
    }
}

/// Frees the lock, unless somebody has taken it away.
fn free(mark: u64) {
    if OWNER.load(Ordering::Relaxed) == mark {
        NAME.store(0, Ordering::Relaxed);
        FORKER.store(0, Ordering::Relaxed);
        let _ = OWNER.compare_exchange(mark, 0, Ordering::Release, Ordering::Relaxed);
    }
}

/// Whether this thread holds the lock for a fork.
pub fn is_held_for_fork() -> bool {
    FORKER.load(Ordering::Acquire) == sync::thread()
}

/// Whether this thread is in the middle of a change: a fault's handler forks.
pub fn is_held() -> bool {
    NAME.load(Ordering::Acquire) == sync::thread()
}

/// Takes the lock for a fork, and does what is left to be done before it.
pub fn take_for_fork(rest: impl FnOnce()) {
    FORKS.fetch_add(1, Ordering::Relaxed);
    let (mark, torn) = take(true);
    FORK.store(mark, Ordering::Relaxed);
    if torn {
        still_torn();
    }
    rest();
    FORKS.fetch_sub(1, Ordering::Relaxed);
}

/// Gives it back, on either side of the fork.
pub fn free_after_fork() {
    free(FORK.load(Ordering::Relaxed));
}

/// Whether who has waited for `turns` lets forks go first.
pub fn lets_forks_pass(turns: u32) -> bool {
    turns < YIELDS && FORKS.load(Ordering::Relaxed) != 0
}

/// The first who comes in a child frees a lock that somebody holds who is not there.
pub fn settle() {
    // The broken variant that the tests must catch: a child waits for threads of its parent.
    if cfg!(relpoline_broken = "child-waits") {
        return;
    }
    let inherit = || {
        FORKS.store(0, Ordering::Relaxed);
        WAITING.store(0, Ordering::Relaxed);
        if OWNER.load(Ordering::Relaxed) != 0 && !is_held_for_fork() {
            free(OWNER.load(Ordering::Relaxed));
            still_torn();
        }
    };
    while !wiped::CHANGES.settle(inherit) {
        core::hint::spin_loop();
    }
}

/// Waits for the lock; by what it is held now, and whether something is torn.
fn take(for_fork: bool) -> (u64, bool) {
    let me = sync::thread();
    let sealed = learn::is_sealed();
    let mark = if sealed { me } else { rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned().into() };
    let mut turns = 0;
    while !for_fork && lets_forks_pass(turns) {
        turns += 1;
        pause(turns);
    }
    let mut polite = 0;
    while !for_fork && !sealed && polite < POLITE && LAST.load(Ordering::Relaxed) == me && is_waited_for() {
        polite += 1;
        pause(YIELDS);
    }
    let mut waits = false;
    while let Err(seen) = OWNER.compare_exchange(0, mark, Ordering::Acquire, Ordering::Acquire) {
        // One's own name: somebody held it who had it too, and is gone (vfork), or this thread itself, which
        // a fault's handler led away.
        let is_left = is_held() || turns > YIELDS && turns.is_multiple_of(SLEEPS) && has_left(seen, turns);
        if is_left {
            NAME.store(0, Ordering::Relaxed);
            FORKER.store(0, Ordering::Relaxed);
            if OWNER.compare_exchange(seen, mark, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                still_torn();
                break;
            }
        }
        if !core::mem::replace(&mut waits, true) {
            WAITING.fetch_add(1, Ordering::Relaxed);
        }
        turns += 1;
        pause(turns);
    }
    if waits {
        // In a child that was forked meanwhile nobody waits.
        let _ = WAITING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| waiting.checked_sub(1));
    }
    LAST.store(me, Ordering::Relaxed);
    NAME.store(me, Ordering::Relaxed);
    if for_fork {
        FORKER.store(me, Ordering::Release);
    }
    (mark, TORN.swap(false, Ordering::Relaxed))
}

fn is_waited_for() -> bool {
    WAITING.load(Ordering::Relaxed) != 0
}

/// Whether the holder is gone, or forks and may be waiting for this very thread: a handler of that fork may
/// take a lock that this thread has. Then the fork goes on without the lock, and its child mends.
fn has_left(seen: u64, turns: u32) -> bool {
    if FORKER.load(Ordering::Relaxed) != 0 {
        return turns > PATIENCE;
    }
    let Some(holder) = i32::try_from(seen).ok().and_then(Pid::from_raw) else { return false };
    // One that has ended and was not waited for is there still; whoever waits for it is not disturbed.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(rustix::process::waitid(WaitId::Pid(holder), options), Ok(Some(_)))
        || rustix::process::test_kill_process(holder) == Err(rustix::io::Errno::SRCH)
}

fn pause(turns: u32) {
    if learn::is_sealed() {
        core::hint::spin_loop();
    } else if turns < YIELDS {
        std::thread::yield_now();
    } else {
        // Whoever holds it may be of lower priority.
        std::thread::sleep(core::time::Duration::from_micros(100));
    }
}

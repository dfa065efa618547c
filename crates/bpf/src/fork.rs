//! What all runtimes of a process share, around `fork`.
//!
//! That is two locks (counters, the learner) and threads' slots of per-CPU maps; what waits to be freed, and
//! the marks of threads that are in the middle of runs, are [`relpoline_patch::fork`]'s. The child has one
//! thread; the others left all of it as it was. So the locks are taken before, and given back on either side,
//! and the child forgets those threads. Then a runtime that it makes is as good as its parent's, whatever its
//! parent's threads were doing. Runtimes that it inherits have locks of their own: see [`Runtime`].
//!
//! Children made by raw `clone` run no handlers. If their parent had threads they cannot use this crate, nor
//! any other that allocates: the allocator's own locks are mended by the same handlers.
//!
//! [`Runtime`]: crate::Runtime

use crate::{hits, learn, slot};
use std::cell::RefCell;
use std::ffi::c_int;
use std::sync::MutexGuard;
use std::sync::TryLockError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn pthread_atfork(before: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) -> c_int;
}

/// How long a fork waits for a lock. Its holder does not wait for anything, so this is long, unless it is the
/// thread that forks: in a handler of a signal.
const PATIENCE: Duration = Duration::from_secs(1);

/// Both; each is missing if it could not be had.
struct Held {
    learning: Option<MutexGuard<'static, learn::Shared>>,
    counters: Option<MutexGuard<'static, hits::All>>,
}

thread_local! {
    /// The locks, and how many forks, one in a handler of the other, hold them.
    static HELD: RefCell<(Option<Held>, u32)> = const { RefCell::new((None, 0)) };
}

/// Sets it up, once. The broken variant that the tests must catch does not.
pub fn prepare() {
    static DONE: AtomicBool = AtomicBool::new(false);
    // First: what is retired under the learner's lock waits for the queue, which is therefore to be taken
    // after it.
    relpoline_patch::fork::prepare();
    if !DONE.swap(true, Ordering::Relaxed) && !cfg!(relpoline_broken = "child-waits") {
        // SAFETY: the three are functions of this module. Where there is no memory for them, children may
        // have to wait.
        unsafe { pthread_atfork(before, after, child) };
    }
}

/// Tries until the time is over: whoever waits for ever for a lock of its own thread's would harm its
/// program.
fn take<T>(hold: fn() -> std::sync::TryLockResult<MutexGuard<'static, T>>) -> Option<MutexGuard<'static, T>> {
    let begun = Instant::now();
    loop {
        match hold() {
            Ok(held) => return Some(held),
            Err(TryLockError::Poisoned(held)) => return Some(held.into_inner()),
            Err(TryLockError::WouldBlock) if begun.elapsed() > PATIENCE => return None,
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
}

extern "C" fn before() {
    let _ = HELD.try_with(|cell| {
        let Ok(mut held) = cell.try_borrow_mut() else { return };
        held.1 += 1;
        if held.1 == 1 {
            held.0 = Some(Held { learning: take(learn::hold), counters: take(hits::hold) });
        }
    });
}

/// What the outermost fork held.
fn give_back() -> Option<Held> {
    let given = HELD.try_with(|cell| {
        let mut held = cell.try_borrow_mut().ok()?;
        held.1 = held.1.saturating_sub(1);
        if held.1 == 0 { held.0.take() } else { None }
    });
    given.ok().flatten()
}

extern "C" fn after() {
    drop(give_back());
}

extern "C" fn child() {
    let Some(Held { learning, counters }) = give_back() else { return };
    if let Some(mut shared) = learning {
        learn::settle(&mut shared);
    }
    slot::settle();
    drop(counters);
}

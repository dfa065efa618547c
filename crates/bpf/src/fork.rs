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
use relpoline_patch::fork::{Held, lock};
use std::ffi::c_int;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};

unsafe extern "C" {
    fn pthread_atfork(before: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) -> c_int;
}

/// Both; each is missing if it could not be had.
struct Locks {
    learning: Option<MutexGuard<'static, learn::Shared>>,
    counters: Option<MutexGuard<'static, hits::All>>,
}

thread_local! {
    static HELD: Held<Locks> = const { Held::nothing() };
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

extern "C" fn before() {
    let both = || Some(Locks { learning: lock(learn::hold), counters: lock(hits::hold) });
    let _ = HELD.try_with(|held| held.take(both));
}

fn give_back() -> Option<Locks> {
    HELD.try_with(Held::give_back).ok().flatten()
}

extern "C" fn after() {
    drop(give_back());
}

extern "C" fn child() {
    let Some(Locks { learning, counters }) = give_back() else { return };
    if let Some(mut shared) = learning {
        learn::settle(&mut shared);
    }
    slot::settle();
    drop(counters);
}

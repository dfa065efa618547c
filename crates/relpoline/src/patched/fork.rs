//! What this library does around `fork`.
//!
//! Both locks are taken before, and given back on either side: so a child never finds a change half-way,
//! waits for no thread of its parent, and inherits no descriptor of its parent's memory (`/proc/self/mem` is
//! open during changes only). Children made by raw clone, where no handler runs, are noticed by the page of
//! [`super::wiped`], and mend what is torn.

use super::{hold, learn, wiped};
use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

unsafe extern "C" {
    fn pthread_atfork(before: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) -> c_int;
}

/// Forks within handlers of the fork for which the lock is held.
static DEPTH: AtomicU32 = AtomicU32::new(0);

/// Sets it up, once. glibc forgets the handlers when this module is unloaded.
pub fn prepare() {
    static DONE: AtomicBool = AtomicBool::new(false);
    let _ = wiped::prepare();
    if !DONE.swap(true, Ordering::Relaxed) && !cfg!(relpoline_broken = "child-waits") {
        // SAFETY: the three are functions of this module. Where there is no memory for them the page has to
        // do.
        unsafe { pthread_atfork(before, after, child) };
    }
}

extern "C" fn before() {
    hold::settle();
    if hold::is_held_for_fork() {
        DEPTH.fetch_add(1, Ordering::Relaxed);
    } else if !hold::is_held() {
        hold::take_for_fork(learn::hold);
        DEPTH.store(0, Ordering::Relaxed);
    }
}

extern "C" fn after() {
    if !hold::is_held_for_fork() {
        // Somebody did not want to wait for so long.
        learn::let_go();
    } else if DEPTH.load(Ordering::Relaxed) > 0 {
        DEPTH.fetch_sub(1, Ordering::Relaxed);
    } else {
        learn::let_go();
        hold::free_after_fork();
    }
}

extern "C" fn child() {
    hold::settle();
    learn::settle();
    after();
}

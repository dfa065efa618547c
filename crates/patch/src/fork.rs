//! What waits to be freed, around `fork`.
//!
//! The queue is held before, and given back on either side; the child forgets threads that it does not have
//! ([`crate::reclaim`]). Children made by raw `clone` run no handlers. If their parent had threads they
//! cannot use this crate, nor any other that allocates: the allocator's own locks are mended by the same
//! handlers.

use crate::reclaim::{self, Waiting};
use core::ffi::c_int;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{MutexGuard, TryLockError, TryLockResult};
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn pthread_atfork(before: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) -> c_int;
}

/// How long a fork waits for a lock. Its holder does not wait for anything, so this is long, unless it is the
/// thread that forks: in a handler of a signal.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a thread holds while it forks, and how many forks, one in a handler of the other, hold it: the
/// eBPF runtime has locks of its own, held likewise.
#[doc(hidden)]
#[derive(Debug)]
pub struct Held<T>(RefCell<(Option<T>, u32)>);

impl<T> Held<T> {
    /// Nothing.
    #[must_use]
    pub const fn nothing() -> Held<T> {
        Held(RefCell::new((None, 0)))
    }

    /// The outermost fork takes it.
    pub fn take(&self, take: impl FnOnce() -> Option<T>) {
        let Ok(mut held) = self.0.try_borrow_mut() else { return };
        held.1 += 1;
        if held.1 == 1 {
            held.0 = take();
        }
    }

    /// What the outermost fork held.
    pub fn give_back(&self) -> Option<T> {
        let mut held = self.0.try_borrow_mut().ok()?;
        held.1 = held.1.saturating_sub(1);
        if held.1 == 0 { held.0.take() } else { None }
    }
}

/// Takes a lock, or gives up when the time is over: whoever waits for ever for a lock of its own thread's
/// would harm its program.
#[doc(hidden)]
pub fn lock<T>(hold: fn() -> TryLockResult<MutexGuard<'static, T>>) -> Option<MutexGuard<'static, T>> {
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

thread_local! {
    /// The queue.
    static HELD: Held<Waiting> = const { Held::nothing() };
}

/// Sets it up, once; whoever makes a [`Space`](crate::space::Space) has done so. A crate with locks of its
/// own, under which it retires things, and handlers of its own that take those, calls this before it
/// registers them: so they are taken first.
pub fn prepare() {
    static DONE: AtomicBool = AtomicBool::new(false);
    // The broken variant that the tests must catch does not.
    if !DONE.swap(true, Ordering::Relaxed) && !cfg!(relpoline_broken = "child-waits") {
        // SAFETY: the three are functions of this module. Where there is no memory for them, children may
        // have to wait.
        unsafe { pthread_atfork(before, after, child) };
    }
}

extern "C" fn before() {
    let _ = HELD.try_with(|held| held.take(|| lock(reclaim::hold)));
}

fn give_back() -> Option<Waiting> {
    HELD.try_with(Held::give_back).ok().flatten()
}

extern "C" fn after() {
    drop(give_back());
}

extern "C" fn child() {
    if let Some(mut waiting) = give_back() {
        reclaim::settle(&mut waiting);
    }
}

//! Freeing what running code may still use: one grace period after it was unpublished.
//!
//! All of a process share one [`Domain`] and one queue: who runs code is inside a [`Section`], who takes some
//! away gives it to [`retire`]. Whoever changes anything looks whether earlier things are due, without
//! waiting; so the queue is short unless some section lasts long.
//!
//! Around `fork` the queue is held, and the child forgets its parent's other threads: they do not exist
//! there.

use crate::grace::{Domain, Reader};
use std::any::Any;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockResult};

static DOMAIN: Domain = Domain::new();
static QUEUE: Mutex<Vec<(u64, Box<dyn Any + Send>)>> = Mutex::new(Vec::new());
/// Whether so much is waiting that ends of runs look after it too: learning retires trees without anybody
/// loading or updating anything.
static CROWDED: AtomicBool = AtomicBool::new(false);
/// So much.
const CROWD: usize = 64;

/// The calling thread's mark, given back when the thread ends.
struct Mark(&'static Reader);

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

thread_local! {
    static MARK: Mark = Mark(take_reader());
    /// Sections of a thread that has no mark any more.
    static ENDING: Cell<u32> = const { Cell::new(0) };
}

fn take_reader() -> &'static Reader {
    DOMAIN.take_idle().unwrap_or_else(|| {
        let reader: &'static Reader = Box::leak(Box::default());
        DOMAIN.register(reader);
        reader
    })
}

/// A read section: until it is dropped, nothing retired after its beginning is freed. Two plain stores where
/// `membarrier` is to be had; they nest.
#[derive(Debug)]
pub struct Section {
    reader: &'static Reader,
    outermost: bool,
    /// The reader is this section's, not its thread's.
    lent: bool,
    /// Belongs to its thread.
    _thread: std::marker::PhantomData<*const ()>,
}

impl Section {
    /// Begins one; sections of a thread nest.
    #[inline]
    #[must_use]
    pub fn enter() -> Section {
        let (reader, lent) = match MARK.try_with(|mark| mark.0) {
            Ok(reader) => (reader, false),
            // In destructors of a thread that ends.
            Err(_) => (take_reader(), true),
        };
        let outermost = !reader.is_inside();
        if outermost {
            reader.enter(&DOMAIN);
        }
        ENDING.set(ENDING.get() + u32::from(lent));
        Section { reader, outermost, lent, _thread: std::marker::PhantomData }
    }
}

impl Drop for Section {
    #[inline]
    fn drop(&mut self) {
        if self.outermost {
            self.reader.leave();
        }
        if self.lent {
            ENDING.set(ENDING.get() - 1);
            self.reader.give_back();
        }
    }
}

/// Whether the calling thread is inside a section, where waiting would be for ever.
#[must_use]
pub fn is_inside() -> bool {
    MARK.try_with(|mark| mark.0.is_inside()).unwrap_or(ENDING.get() != 0)
}

/// Waits until every section that somebody is in has ended. Frees nothing: locks may be held. Not to be
/// called inside one.
pub fn wait() {
    DOMAIN.wait();
}

/// Frees `thing` one grace period from now, when somebody calls [`reap`].
pub fn retire<T: Any + Send>(thing: Box<T>) {
    let ticket = DOMAIN.begin();
    let mut queue = lock();
    queue.push((ticket, thing));
    if queue.len() >= CROWD {
        CROWDED.store(true, Ordering::Relaxed);
    }
}

/// As [`reap`], when much is waiting. For the ends of sections, where nobody else may look after it.
#[inline]
pub fn reap_if_crowded() {
    if CROWDED.load(Ordering::Relaxed) && !is_inside() {
        reap();
    }
}

/// Frees what is due. Dropping things takes all kinds of locks, so none may be held.
pub fn reap() {
    let due: Vec<_> = {
        let mut queue = lock();
        CROWDED.store(false, Ordering::Relaxed);
        queue.extract_if(.., |(ticket, _)| DOMAIN.has_passed(*ticket)).collect()
    };
    drop(due);
}

fn lock() -> Waiting {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What waits, and nobody else may touch.
pub(crate) type Waiting = MutexGuard<'static, Vec<(u64, Box<dyn Any + Send>)>>;

/// What waits, for [`crate::fork`] to hold.
pub(crate) fn hold() -> TryLockResult<Waiting> {
    QUEUE.try_lock()
}

/// In a forked child: the parent's other threads, which may have been in the middle of sections, are not
/// waited for; and what waited to be freed is the parent's.
pub(crate) fn settle(waiting: &mut Waiting) {
    std::mem::forget(std::mem::take(&mut **waiting));
    CROWDED.store(false, Ordering::Relaxed);
    DOMAIN.keep_only(MARK.try_with(|mark| mark.0).ok());
}

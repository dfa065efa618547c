//! A process in which there is nothing to promote, so far.
//!
//! Most programs that the engine gets into by way of a shell have no retpolines, and shall not pay for it. So
//! the objects of a program are looked through for thunks before anything else is made: no statistics, no
//! tables, no arenas. When none has any, the engine sleeps: it hears of the loader, of sandboxes and of
//! programs that are started, and looks at each library that comes. With the first thunk everything is made,
//! and threads may run by then. What they run has no thunks, so only the library that is just being loaded is
//! changed.

use crate::clean::List;
use crate::discover;
use crate::loader;
use crate::memory::Reader;
use crate::object::{Link, Object};
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use relpoline_core::arch::thunk;

/// Objects that are remembered. A program with more is started for.
const MOST: usize = 512;

/// Objects without thunks that are mapped: what is added to the addresses in their files, and where their
/// dynamic sections are, by which the loader's list tells them apart.
struct Clean(UnsafeCell<Remembered>);

/// The count comes first, so that a program with few objects touches one page.
#[repr(C)]
struct Remembered {
    count: usize,
    objects: [(u64, u64); MOST],
}

// SAFETY: used by the constructor, and then by the thread that holds the loader's lock.
unsafe impl Sync for Clean {}

static CLEAN: Clean = Clean(UnsafeCell::new(Remembered { count: 0, objects: [(0, 0); MOST] }));

static DORMANT: AtomicBool = AtomicBool::new(false);
/// It was detached in its sleep.
static LEFT: AtomicBool = AtomicBool::new(false);
/// The process in which the engine is being started late, or 0.
static STARTING: AtomicU32 = AtomicU32::new(0);

/// Nothing is there to be promoted.
pub fn fall_asleep() {
    DORMANT.store(true, Ordering::Release);
}

/// Whether the engine sleeps until there is something to promote.
pub fn is_asleep() -> bool {
    DORMANT.load(Ordering::Acquire)
}

/// Ends the sleep.
///
/// # Safety
/// As for [`finds_thunks`].
pub unsafe fn wake() {
    DORMANT.store(false, Ordering::Release);
    // SAFETY: says the caller.
    unsafe { (*CLEAN.0.get()).count = 0 };
}

/// Ends the sleep for good: the engine is being detached. Whether there is nothing of it, or was not before.
/// Whoever starts the engine looks once more whether it sleeps, after saying that he does.
pub fn leave() -> bool {
    if DORMANT.swap(false, Ordering::SeqCst) {
        LEFT.store(true, Ordering::SeqCst);
    }
    LEFT.load(Ordering::SeqCst)
}

/// Notes that the engine is being started, or is no more, late in process `pid`.
pub fn starting(pid: u32) {
    STARTING.store(pid, Ordering::SeqCst);
}

/// Whether another thread of process `pid` starts the engine.
pub fn is_starting(pid: impl FnOnce() -> u32) -> bool {
    let starting = STARTING.load(Ordering::SeqCst);
    starting != 0 && starting == pid()
}

/// Notes that an object has no thunks.
///
/// # Safety
/// As for [`finds_thunks`].
pub unsafe fn note_clean(base: u64, dynamic: u64) {
    // SAFETY: says the caller.
    let clean = unsafe { &mut *CLEAN.0.get() };
    if let Some(slot) = clean.objects.get_mut(clean.count) {
        *slot = (base, dynamic);
        clean.count += 1;
    }
}

/// Whether any object has thunks. Those that have none are not looked at again while they are mapped.
/// `memory` opens what headers are read by.
///
/// # Safety
/// To be called by the constructor, or by the thread that holds the loader's lock.
pub unsafe fn finds_thunks(memory: fn() -> Reader) -> bool {
    // SAFETY: says the caller.
    let clean = unsafe { &mut *CLEAN.0.get() };
    let mut found = false;
    let mut list = List::new();
    // Those that are still there move to the front; what was never seen again goes.
    let mut kept = 0;
    loader::each(&mut |link| {
        let is_it = |known: &(u64, u64)| *known == (link.base, link.dynamic);
        let known = clean.objects[kept..clean.count].iter().position(is_it).map(|known| kept + known);
        let place = match known {
            Some(known) => known,
            None if found => return,
            None => {
                found = clean.count == MOST || has_thunks(link, &mut list, memory);
                if found {
                    return;
                }
                clean.objects[clean.count] = (link.base, link.dynamic);
                clean.count += 1;
                clean.count - 1
            }
        };
        clean.objects.swap(kept, place);
        kept += 1;
    });
    clean.count = kept;
    found
}

/// Whether an object was found to have no thunks, and its text may be running.
///
/// # Safety
/// As for [`finds_thunks`].
#[must_use]
pub unsafe fn is_clean(object: &Object<'_>) -> bool {
    // SAFETY: says the caller.
    let clean = unsafe { &*CLEAN.0.get() };
    clean.objects[..clean.count].contains(&(object.base, object.dynamic()))
}

fn has_thunks(link: &Link, list: &mut List, memory: fn() -> Reader) -> bool {
    // SAFETY: the loader's names are C strings, or null.
    let name = if link.name == 0 { &[] } else { unsafe { CStr::from_ptr(link.name as *const c_char) }.to_bytes() };
    if discover::is_kernels(name) {
        return false;
    }
    let file = list.identify(if link.is_executable { b"/proc/self/exe" } else { name });
    if file.is_some_and(|file| list.has(file)) {
        return false;
    }
    // SAFETY: in the loader's list, which does not change.
    let object = unsafe { Object::of(link, &memory()) };
    let has_thunk = |text| thunk::find(object.segment_bytes(text)).any(|(_, thunk)| thunk.shape.takes_sites());
    let found = object.texts().any(has_thunk);
    if let Some(file) = file.filter(|_| !found) {
        list.add(file);
    }
    found
}

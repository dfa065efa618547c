//! The page that the kernel wipes on fork, by which children are noticed: see [`relpoline_learn::epoch`].
//!
//! Where the kernel has no such page (before Linux 4.14) only children of `fork` are noticed, by
//! [`super::fork`], and nothing is learned.

use core::ffi::c_void;
use core::sync::atomic::{AtomicPtr, Ordering};
use relpoline_learn::epoch::Epoch;
use rustix::mm::{Advice, MapFlags, ProtFlags};

const PAGE_BYTES: usize = 4096;

/// A word for each lock.
type Page = [Epoch; 2];

static PAGE: AtomicPtr<Page> = AtomicPtr::new(core::ptr::null_mut());

/// One lock's word.
#[derive(Clone, Copy)]
pub struct Word(usize);

/// Of the lock on changes.
pub const CHANGES: Word = Word(0);
/// Of the learner's lock.
pub const LEARNING: Word = Word(1);

fn page() -> Option<&'static Page> {
    // SAFETY: a page that `prepare` mapped; `give_back`'s caller vouches that nobody uses it any more.
    unsafe { PAGE.load(Ordering::Acquire).as_ref() }
}

/// Sets the page up, unless it is; `None` when the kernel has no such thing.
pub fn prepare() -> Option<()> {
    if page().is_some() {
        return Some(());
    }
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh page of our own, which nobody knows before it is published.
    unsafe {
        let new =
            rustix::mm::mmap_anonymous(core::ptr::null_mut::<c_void>(), PAGE_BYTES, prot, MapFlags::PRIVATE).ok()?;
        let wiped = rustix::mm::madvise(new, PAGE_BYTES, Advice::LinuxWipeOnFork);
        let words: &Page = &*new.cast();
        words.iter().for_each(Epoch::mark);
        let null = core::ptr::null_mut();
        if wiped.is_err() || PAGE.compare_exchange(null, new.cast(), Ordering::AcqRel, Ordering::Acquire).is_err() {
            let _ = rustix::mm::munmap(new, PAGE_BYTES);
        }
    }
    page().map(|_| ())
}

/// Unmaps the page.
///
/// # Safety
/// Nobody may use it meanwhile.
pub unsafe fn give_back() {
    let page = PAGE.swap(core::ptr::null_mut(), Ordering::AcqRel);
    if !page.is_null() {
        // SAFETY: mapped by `prepare`, and nobody's any more, says the caller.
        let _ = unsafe { rustix::mm::munmap(page.cast(), PAGE_BYTES) };
    }
}

impl Word {
    fn epoch(self) -> Option<&'static Epoch> {
        page()?.get(self.0)
    }

    /// Lets the first to come in a new process do what has to be done there. False while another thread does.
    pub fn settle(self, inherit: impl FnOnce()) -> bool {
        self.epoch().is_none_or(|epoch| epoch.settle(inherit))
    }

    /// Whether nothing is left to be noticed about this process.
    pub fn is_settled(self) -> bool {
        self.epoch().is_none_or(Epoch::is_settled)
    }
}

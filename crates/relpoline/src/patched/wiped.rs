//! Noticing that this is a forked child, whoever made it and how.
//!
//! The kernel wipes a page on fork (`MADV_WIPEONFORK`, which sees raw clone too, and rightly not vfork): who finds a word of
//! it wiped is the first to learn in a new process. Where the kernel has no such page (before Linux 4.14) only children
//! of `fork` are noticed, by [`super::fork`], and nothing is learned.

use core::ffi::c_void;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use rustix::mm::{Advice, MapFlags, ProtFlags};

const PAGE_BYTES: usize = 4096;
const WIPED: u64 = 0;
const SETTLING: u64 = 1;
const SETTLED: u64 = 2;

/// A word for each lock.
type Page = [AtomicU64; 2];

static PAGE: AtomicPtr<Page> = AtomicPtr::new(core::ptr::null_mut());

/// One lock's word.
#[derive(Clone, Copy)]
pub struct Epoch(usize);

/// Of the lock on changes.
pub const CHANGES: Epoch = Epoch(0);
/// Of the learner's lock.
pub const LEARNING: Epoch = Epoch(1);

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
        words.iter().for_each(|word| word.store(SETTLED, Ordering::Relaxed));
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

impl Epoch {
    fn word(self) -> Option<&'static AtomicU64> {
        page()?.get(self.0)
    }

    /// Lets the first to come in a new process do what has to be done there. False while another thread does.
    pub fn settle(self, inherit: impl FnOnce()) -> bool {
        let Some(word) = self.word() else { return true };
        match word.load(Ordering::Acquire) {
            SETTLED => true,
            WIPED if word.compare_exchange(WIPED, SETTLING, Ordering::AcqRel, Ordering::Acquire).is_ok() => {
                inherit();
                word.store(SETTLED, Ordering::Release);
                true
            }
            _ => false,
        }
    }

    /// Whether nothing is left to be noticed about this process.
    pub fn is_settled(self) -> bool {
        self.word().is_none_or(|word| word.load(Ordering::Acquire) == SETTLED)
    }
}

//! Whether something was made by this process, or inherited by a forked child.
//!
//! A child shares its parent's code memory, which the parent goes on changing, and lacks the writable
//! mapping. So it must neither change that code nor run it. It finds out by a page that the kernel wipes on
//! fork, which, unlike a comparison of process ids, costs one load and sees children made by raw `clone` too.

use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::sync::atomic::{AtomicU64, Ordering};

const PAGE: usize = 4096;

/// A page that is 1 in the process that made it, and 0 in its children.
#[derive(Debug)]
pub struct Birthmark {
    /// 0 where the kernel has no such pages (before Linux 4.14): then children are not noticed.
    page: usize,
}

impl Birthmark {
    /// Marks this process.
    #[must_use]
    pub fn new() -> Birthmark {
        Birthmark { page: map().unwrap_or(0) }
    }

    /// Whether this is another process.
    #[inline]
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        // SAFETY: the page lives as long as `self`.
        self.page != 0 && unsafe { &*(self.page as *const AtomicU64) }.load(Ordering::Relaxed) == 0
    }
}

fn map() -> Option<usize> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh page of our own.
    unsafe {
        let page = rustix::mm::mmap_anonymous(std::ptr::null_mut(), PAGE, prot, MapFlags::PRIVATE).ok()?;
        if rustix::mm::madvise(page, PAGE, Advice::LinuxWipeOnFork).is_err() {
            let _ = rustix::mm::munmap(page, PAGE);
            return None;
        }
        (*page.cast::<AtomicU64>()).store(1, Ordering::Relaxed);
        Some(page as usize)
    }
}

impl Default for Birthmark {
    fn default() -> Birthmark {
        Birthmark::new()
    }
}

impl Drop for Birthmark {
    fn drop(&mut self) {
        if self.page != 0 {
            // SAFETY: ours, and nobody looks any more.
            let _ = unsafe { rustix::mm::munmap(self.page as *mut _, PAGE) };
        }
    }
}

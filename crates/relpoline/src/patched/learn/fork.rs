//! Noticing that this is a forked child.
//!
//! A child goes on executing its parent's arena pages, whose writable alias it does not have, so that it must
//! not touch them. The kernel wipes a page on fork (`MADV_WIPEONFORK`, which sees raw clone too, and rightly
//! not vfork): who finds it wiped is the first to learn in a new process. A child that shows some interest in
//! learning gets arenas of its own; one that may not have them goes on with what its parent knew.

use super::{Learner, Shared};
use core::ffi::c_void;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use rustix::mm::{Advice, MapFlags, ProtFlags};

const WIPED: u64 = 0;
const SETTLING: u64 = 1;
const SETTLED: u64 = 2;
/// Slow paths before a child gets arenas of its own: one that calls exec at once never does.
const PATIENCE: u32 = 16;

static EPOCH: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());

/// Sets the page up; `None` when the kernel has no such thing.
pub fn prepare() -> Option<()> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh page of our own.
    unsafe {
        let page = rustix::mm::mmap_anonymous(core::ptr::null_mut::<c_void>(), 4096, prot, MapFlags::PRIVATE).ok()?;
        rustix::mm::madvise(page, 4096, Advice::LinuxWipeOnFork).ok()?;
        (*page.cast::<AtomicU64>()).store(SETTLED, Ordering::Release);
        EPOCH.store(page.cast(), Ordering::Release);
    }
    Some(())
}

/// Notices that this is a new process. False while another thread is busy with it.
pub fn settle_epoch(shared: &Shared) -> bool {
    // SAFETY: the page is never unmapped.
    let Some(epoch) = (unsafe { EPOCH.load(Ordering::Acquire).as_ref() }) else { return false };
    match epoch.load(Ordering::Acquire) {
        SETTLED => true,
        WIPED if epoch.compare_exchange(WIPED, SETTLING, Ordering::AcqRel, Ordering::Acquire).is_ok() => {
            // Whoever held the lock at the fork does not exist here.
            shared.lock.reset();
            if !super::is_sealed() {
                shared.lock.settle();
            }
            // SAFETY: nobody else gets past the epoch before it is settled.
            let learner = unsafe { &mut *shared.learner.get() };
            learner.inherited = true;
            learner.entries = 0;
            epoch.store(SETTLED, Ordering::Release);
            true
        }
        _ => false,
    }
}

/// Whether nothing is left to be noticed about this process.
pub fn is_settled() -> bool {
    // SAFETY: the page is never unmapped.
    unsafe { EPOCH.load(Ordering::Acquire).as_ref() }.is_some_and(|epoch| epoch.load(Ordering::Acquire) == SETTLED)
}

/// Whether a child is interested enough by now.
pub fn is_patient(learner: &mut Learner) -> bool {
    learner.entries += 1;
    learner.entries < PATIENCE
}

/// Gives a forked child arenas of its own, or freezes its learner.
pub fn become_own(learner: &mut Learner) {
    let own = learner.arenas.iter_mut().all(|group| {
        // SAFETY: in the child, under the lock, before anything was written.
        unsafe { group.arena.privatise() }.is_ok()
    });
    learner.inherited = false;
    learner.frozen = !own;
}

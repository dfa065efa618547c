//! Where learning sites record their calls: address space for [`relpoline_learn::rings`].
//!
//! It is reserved when the first site is made, and stays: a thread that is late in a recording stub still
//! writes where it may.

use rustix::mm::{MapFlags, ProtFlags};
use std::sync::atomic::{AtomicU64, Ordering};

/// As many sites can learn at a time as these have rings.
pub type Rings = relpoline_learn::rings::Rings<1>;

/// Where it begins; `None` when the kernel refuses it. Not a `OnceLock`: a forked child would wait for the
/// thread of its parent that was at it.
fn reserved() -> Option<u64> {
    static RESERVED: AtomicU64 = AtomicU64::new(0);
    const REFUSED: u64 = 1;
    let known = RESERVED.load(Ordering::Acquire);
    let known = if known == 0 {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: fresh memory, at an address of the kernel's choice.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), Rings::BYTES, prot, flags) };
        let ours = start.map_or(REFUSED, |start| start as u64);
        RESERVED.compare_exchange(0, ours, Ordering::AcqRel, Ordering::Acquire).map_or_else(
            |theirs| {
                if ours != REFUSED {
                    // SAFETY: ours, and nobody knows it.
                    let _ = unsafe { rustix::mm::munmap(ours as *mut _, Rings::BYTES) };
                }
                theirs
            },
            |_| ours,
        )
    } else {
        known
    };
    (known != REFUSED).then_some(known)
}

/// All rings, none of which is lent.
///
/// # Safety
/// To be asked for once: a second pool would lend the same memory.
pub unsafe fn all() -> Option<Rings> {
    // SAFETY: fresh memory of that size, which is never unmapped, and used for nothing else, says the caller.
    reserved().map(|start| unsafe { Rings::at(start) })
}

/// Where the cursors of sites point that do not learn.
pub fn nobodys() -> u64 {
    reserved().map_or(0, Rings::nobodys_in)
}

//! Where learning sites record their calls: address space for [`relpoline_learn::rings`].
//!
//! It is reserved when the first site is made, and stays: a thread that is late in a recording stub still
//! writes where it may.

use rustix::mm::{MapFlags, ProtFlags};
use std::sync::OnceLock;

/// As many sites can learn at a time as these have rings.
pub type Rings = relpoline_learn::rings::Rings<1>;

/// Where it begins; `None` when the kernel refuses it.
fn reserved() -> Option<u64> {
    static RESERVED: OnceLock<Option<u64>> = OnceLock::new();
    *RESERVED.get_or_init(|| {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: fresh memory, at an address of the kernel's choice.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), Rings::BYTES, prot, flags) };
        start.ok().map(|start| start as u64)
    })
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

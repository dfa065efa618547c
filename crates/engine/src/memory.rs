//! Private memory of the engine's own: reserved address space that is populated page by page as it is used.

use core::ffi::c_void;
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Reserves `bytes` of zeroes at an address of the kernel's choice; `None` when it is refused.
///
/// Huge pages are declined: tables are sparse, and zeroing two megabytes for a few records would be the
/// largest part of a short program's start.
#[must_use]
pub fn reserve(bytes: usize) -> Option<*mut u8> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a fresh mapping; the advice concerns it alone, and a kernel without huge pages refuses it.
    unsafe {
        let start = rustix::mm::mmap_anonymous(core::ptr::null_mut::<c_void>(), bytes, prot, flags).ok()?;
        let _ = rustix::mm::madvise(start, bytes, Advice::LinuxNoHugepage);
        Some(start.cast())
    }
}

//! Memory in which learning tables record their calls: see [`relpoline_learn::rings`].

use core::ffi::c_void;
use rustix::mm::{MapFlags, ProtFlags};

/// As many tables can learn at a time as these have rings.
pub type Rings = relpoline_learn::rings::Rings<1>;

/// Address space for them.
pub struct Reserved(u64);

impl Reserved {
    /// Reserves it; `None` when the kernel refuses it.
    pub fn new() -> Option<Reserved> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe { rustix::mm::mmap_anonymous(core::ptr::null_mut::<c_void>(), Rings::BYTES, prot, flags) };
        start.ok().map(|start| Reserved(start as u64))
    }

    /// The rings in it.
    ///
    /// # Safety
    /// To be asked for once; no ring may be used after [`Reserved::unmap`].
    pub unsafe fn rings(&self) -> Rings {
        // SAFETY: fresh memory of that size, used for nothing else, says the caller.
        unsafe { Rings::at(self.0) }
    }

    /// Gives the address space back.
    ///
    /// # Safety
    /// No recording stub may be executed any more.
    pub unsafe fn unmap(self) {
        // SAFETY: reserved by `new`, and nobody's any more, says the caller.
        let _ = unsafe { rustix::mm::munmap(self.0 as *mut c_void, Rings::BYTES) };
    }
}

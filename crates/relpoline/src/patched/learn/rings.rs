//! Where learning tables record their calls.
//!
//! A ring is 64 KiB of address space, aligned to its size, because a recording stub's cursor wraps in 16
//! bits. The first is nobody's: every table's cursor points there while it does not learn, so that a thread
//! that is late in a recording stub, or a forked child whose parent began to learn, writes where it may.

use core::ffi::c_void;
use core::sync::atomic::AtomicU64;
use relpoline_text::stub::RING_BITS;
use rustix::mm::{MapFlags, ProtFlags};

const RING_BYTES: usize = 1 << RING_BITS;
/// Rings there are: tables that can learn at one time, and nobody's.
const RINGS: usize = 32;
/// One more, to align them.
const RESERVED: usize = (RINGS + 1) * RING_BYTES;
/// All but nobody's.
const ALL: u32 = !1;

/// A pool of rings.
pub struct Rings {
    /// Where the reservation begins; rings begin at the next multiple of their size.
    reserved: u64,
    start: u64,
    free: u32,
}

impl Rings {
    /// Reserves the address space; `None` when the kernel refuses it.
    pub fn reserve() -> Option<Rings> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe { rustix::mm::mmap_anonymous(core::ptr::null_mut::<c_void>(), RESERVED, prot, flags) };
        let reserved = start.ok()? as u64;
        Some(Rings { reserved, start: reserved.next_multiple_of(RING_BYTES as u64), free: ALL })
    }

    /// Gives the address space back.
    ///
    /// # Safety
    /// No recording stub may be executed any more.
    pub unsafe fn unmap(self) {
        // SAFETY: reserved by `reserve`, and nobody's any more, says the caller.
        let _ = unsafe { rustix::mm::munmap(self.reserved as *mut c_void, RESERVED) };
    }

    /// Takes all rings back.
    pub fn take_all_back(&mut self) {
        self.free = ALL;
    }

    /// Lends a ring.
    pub fn lend(&mut self) -> Option<u16> {
        let ring = self.free.trailing_zeros();
        self.free &= self.free.checked_sub(1)?;
        Some(ring as u16)
    }

    /// Takes a ring back.
    pub fn give_back(&mut self, ring: u16) {
        self.free |= 1 << (ring % RINGS as u16);
    }

    /// Address of a ring's first record.
    pub fn address(&self, ring: u16) -> u64 {
        self.start + u64::from(ring) * RING_BYTES as u64
    }

    /// Nobody's ring.
    pub fn idle(&self) -> u64 {
        self.start
    }

    /// The first `count` records of a ring, which threads may still be writing.
    pub fn records(&self, ring: u16, count: usize) -> &'static [AtomicU64] {
        let count = count.min(RING_BYTES / 8);
        // SAFETY: inside the reservation, which stays; aligned; any value is a valid record.
        unsafe { core::slice::from_raw_parts(self.address(ring) as *const AtomicU64, count) }
    }
}

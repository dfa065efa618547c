//! The rings into which learning sites record their calls.
//!
//! A ring is 64 KiB of address space, aligned to its size, because a recording stub's cursor wraps in 16
//! bits; only the part that is used is ever touched. Rings are lent to a site while it learns. A thread that
//! was preempted inside a recording stub may still write one record into a ring that was lent on: the policy
//! therefore never believes a target that was seen only once.

use crate::memory;
use relpoline_text::stub::RING_BITS;

/// Bytes of a ring.
pub const RING_BYTES: usize = 1 << RING_BITS;
/// Rings there are: sites that can learn at one time.
pub const RINGS: usize = 256;

/// A pool of rings.
pub struct Rings {
    start: u64,
    free: [u64; RINGS / 64],
}

impl Rings {
    /// A pool without rings, for a static.
    #[must_use]
    pub const fn none() -> Rings {
        Rings { start: 0, free: [0; RINGS / 64] }
    }

    /// Reserves the address space; `None` when the kernel refuses it.
    #[must_use]
    pub fn reserve() -> Option<Rings> {
        // One more for the alignment, and one for nobody.
        let bytes = (RINGS + 2) * RING_BYTES;
        let start = memory::reserve(bytes)? as u64;
        let start = start.next_multiple_of(RING_BYTES as u64);
        Some(Rings { start, free: [u64::MAX; RINGS / 64] })
    }

    /// Lends a ring; the lowest free one, whose memory has been touched before if any has.
    pub fn lend(&mut self) -> Option<u16> {
        let index = self.free.iter().position(|&word| word != 0)?;
        let bit = self.free[index].trailing_zeros();
        self.free[index] &= !(1 << bit);
        Some((index * 64) as u16 + bit as u16)
    }

    /// Takes a ring back.
    pub fn give_back(&mut self, ring: u16) {
        if let Some(word) = self.free.get_mut(usize::from(ring) / 64) {
            *word |= 1 << (ring % 64);
        }
    }

    /// Frees every ring that is not among those `in_use`.
    pub fn recount(&mut self, in_use: impl Iterator<Item = u16>) {
        self.free = [u64::MAX; RINGS / 64];
        for ring in in_use {
            if let Some(word) = self.free.get_mut(usize::from(ring) / 64) {
                *word &= !(1 << (ring % 64));
            }
        }
    }

    /// A ring that is lent to nobody: sites that do not learn have their cursors there. A forked child may run
    /// into a recording stub that its parent has published since, before it gets gates of its own.
    #[must_use]
    pub fn nobodys(&self) -> u64 {
        self.address(RINGS as u16)
    }

    /// Address of a ring's first record.
    #[must_use]
    pub fn address(&self, ring: u16) -> u64 {
        self.start + u64::from(ring) * RING_BYTES as u64
    }

    /// The first `count` records of a ring.
    #[must_use]
    pub fn records(&self, ring: u16, count: usize) -> &[u64] {
        let count = count.min(RING_BYTES / 8);
        // SAFETY: inside the reservation, aligned. Recording stubs of other threads may still write: a record
        // is advice, any value of it is handled.
        unsafe { core::slice::from_raw_parts(self.address(ring) as *const u64, count) }
    }
}

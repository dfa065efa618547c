//! Where learning sites record their calls.
//!
//! A ring is 64 KiB of address space, aligned to its size, because a recording stub's cursor wraps in 16
//! bits; only what is used is ever touched, and the last page. Rings are lent to a site while it learns. One
//! is *nobody's*: cursors of sites that do not learn point there. So a thread that is late in a recording
//! stub, or a forked child whose parent began to learn, writes where it may.
//!
//! A late thread may still write one record into a ring that was lent on: the policy never believes a target
//! that was seen only once. It may also put a cursor back to where it was when it read it, in another ring
//! perhaps. That is noticed ([`Rings::recorded`]), and the window begins anew.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use relpoline_text::broken;
use relpoline_text::stub::RING_BITS;

/// Bytes of a ring.
pub const RING_BYTES: usize = 1 << RING_BITS;
const RECORDS: usize = RING_BYTES / 8;
const WORD: usize = u64::BITS as usize;

/// A pool of 64 × `WORDS` rings, and nobody's.
#[derive(Debug)]
pub struct Rings<const WORDS: usize> {
    /// Where the first ring begins; 0 while there is none.
    start: u64,
    /// A bit for each ring that is not lent.
    free: [u64; WORDS],
}

impl<const WORDS: usize> Rings<WORDS> {
    /// Bytes of address space that [`Rings::at`] wants: one ring more than there are is nobody's, and another
    /// one aligns them.
    pub const BYTES: usize = (WORDS * WORD + 2) * RING_BYTES;

    /// A pool without rings.
    #[must_use]
    pub const fn none() -> Rings<WORDS> {
        Rings { start: 0, free: [0; WORDS] }
    }

    /// Rings in the memory from `reserved` on.
    ///
    /// # Safety
    /// [`Rings::BYTES`] from there on are readable and writable memory of zeroes, used for nothing else, for
    /// as long as the pool or a recording stub is used.
    #[must_use]
    pub const unsafe fn at(reserved: u64) -> Rings<WORDS> {
        Rings { start: reserved.next_multiple_of(RING_BYTES as u64), free: [u64::MAX; WORDS] }
    }

    /// Lends a ring, and marks it empty: the lowest free one, whose memory has been touched before if any
    /// has. `None` when all are lent.
    pub fn lend(&mut self) -> Option<u16> {
        let index = self.free.iter().position(|&word| word != 0)?;
        let bit = self.free[index].trailing_zeros() as usize;
        self.free[index] &= !(1 << bit);
        let ring = (index * WORD + bit) as u16;
        if let Some(last) = self.records(ring, RECORDS).last() {
            last.store(0, Relaxed);
        }
        Some(ring)
    }

    /// Takes a ring back.
    pub fn give_back(&mut self, ring: u16) {
        if let Some(word) = self.free.get_mut(usize::from(ring) / WORD) {
            *word |= 1 << (usize::from(ring) % WORD);
        }
    }

    /// Frees every ring that is not among those `in_use`.
    pub fn recount(&mut self, in_use: impl Iterator<Item = u16>) {
        self.free = if self.start == 0 { [0; WORDS] } else { [u64::MAX; WORDS] };
        for ring in in_use {
            if let Some(word) = self.free.get_mut(usize::from(ring) / WORD) {
                *word &= !(1 << (usize::from(ring) % WORD));
            }
        }
    }

    /// How many rings are lent.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.free.iter().map(|word| word.count_zeros() as usize).sum()
    }

    /// Address of a ring's first record, where the cursor of a site that begins to learn points.
    #[must_use]
    pub const fn address(&self, ring: u16) -> u64 {
        self.start + ring as u64 * RING_BYTES as u64
    }

    /// Address of nobody's ring.
    #[must_use]
    pub const fn nobodys(&self) -> u64 {
        self.address((WORDS * WORD) as u16)
    }

    /// Likewise, of a pool in the memory from `reserved` on.
    #[must_use]
    pub const fn nobodys_in(reserved: u64) -> u64 {
        reserved.next_multiple_of(RING_BYTES as u64) + (WORDS * WORD * RING_BYTES) as u64
    }

    /// How many records lie in `ring`, by where its borrower's cursor points. `None` when that is another
    /// ring: a late thread has put the cursor back.
    #[must_use]
    pub fn recorded(&self, ring: u16, cursor: u64) -> Option<usize> {
        let within = cursor.wrapping_sub(self.address(ring));
        if within >= RING_BYTES as u64 && !broken!("cursor-trusted") {
            return None;
        }
        match (within as usize % RING_BYTES) / 8 {
            // At its beginning it has not moved, or has gone round.
            0 if self.has_gone_round(ring) => Some(RECORDS),
            count => Some(count),
        }
    }

    /// Whether its last record was written since it was lent. No record is 0: nobody calls address 0 and
    /// lives. (The first one would not do: it is written before the cursor moves on.)
    fn has_gone_round(&self, ring: u16) -> bool {
        // The broken variant that the tests must catch: a thread that comes late, to a window that has just
        // begun, has it judged by what earlier borrowers left.
        broken!("empty-reads-full") || self.records(ring, RECORDS).last().is_some_and(|last| last.load(Relaxed) != 0)
    }

    /// The first `count` records of a ring, which threads may still be writing.
    #[must_use]
    pub fn records(&self, ring: u16, count: usize) -> &[AtomicU64] {
        if self.start == 0 || usize::from(ring) > WORDS * WORD {
            return &[];
        }
        // SAFETY: inside the memory that the caller of `at` vouches for, aligned; any value is a valid
        // record.
        unsafe { core::slice::from_raw_parts(self.address(ring) as *const AtomicU64, count.min(RECORDS)) }
    }
}

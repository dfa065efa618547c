//! Where learning sites record their calls.
//!
//! A recording stub's cursor wraps in 16 bits, so a ring is 64 KiB, aligned to its size. Rings are made when they are
//! needed and never freed: a thread that is late in a recording stub still writes where it may. One is nobody's: there
//! the cursors of sites point that have never learned.

use relpoline_text::stub::RING_BITS;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

const RECORDS: usize = 1 << (RING_BITS - 3);
/// Sites that can learn at a time.
const MOST: usize = 32;

/// A ring.
#[repr(C, align(65536))]
pub struct Ring([AtomicU64; RECORDS]);

impl Ring {
    fn leak() -> &'static Ring {
        let layout = std::alloc::Layout::new::<Ring>();
        // SAFETY: the layout is not empty; zeroes are valid records; it is never freed.
        unsafe {
            let ring = std::alloc::alloc_zeroed(layout).cast::<Ring>();
            ring.as_ref().unwrap_or_else(|| std::alloc::handle_alloc_error(layout))
        }
    }

    /// Address of its first record.
    pub fn address(&self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// Its first `count` records, which threads may still be writing.
    pub fn records(&self, count: usize) -> &[AtomicU64] {
        &self.0[..count.min(RECORDS)]
    }
}

/// Nobody's ring.
pub fn idle() -> &'static Ring {
    static IDLE: OnceLock<&'static Ring> = OnceLock::new();
    IDLE.get_or_init(Ring::leak)
}

/// The pool.
pub struct Rings {
    free: Vec<&'static Ring>,
    made: usize,
}

impl Rings {
    /// An empty pool.
    pub const fn new() -> Rings {
        Rings { free: Vec::new(), made: 0 }
    }

    /// Lends a ring; `None` when all are lent.
    pub fn lend(&mut self) -> Option<&'static Ring> {
        if let Some(ring) = self.free.pop() {
            return Some(ring);
        }
        (self.made < MOST).then(|| {
            self.made += 1;
            Ring::leak()
        })
    }

    /// Takes a ring back.
    pub fn give_back(&mut self, ring: &'static Ring) {
        self.free.push(ring);
    }
}

//! Noticing that this is a forked child, whoever made it and how.
//!
//! The kernel wipes a page on fork (`MADV_WIPEONFORK`, which sees raw clone too, and rightly not vfork). Who
//! finds its word wiped is the first in a new process to do what has to be done there.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use relpoline_text::broken;
use relpoline_text::sync::AtomicU64;

const WIPED: u64 = 0;
const SETTLING: u64 = 1;
const SETTLED: u64 = 2;

/// A word in a page that is wiped on fork.
#[repr(transparent)]
#[derive(Debug)]
pub struct Epoch(AtomicU64);

impl Epoch {
    /// Of a process in which nothing is left to be noticed; how the word is to begin in a fresh page.
    #[must_use]
    pub const fn settled() -> Epoch {
        Epoch(AtomicU64::new(SETTLED))
    }

    /// Marks the process that it is called in.
    pub fn mark(&self) {
        // Pairs with the loads of whoever was told of the page.
        self.0.store(SETTLED, Release);
    }

    /// Lets the first who comes in a new process do what has to be done there. False while another thread
    /// does.
    pub fn settle(&self, inherit: impl FnOnce()) -> bool {
        // Pairs with the store below: what was done is seen.
        match self.0.load(Acquire) {
            SETTLED => true,
            WIPED if self.0.compare_exchange(WIPED, SETTLING, AcqRel, Acquire).is_ok() => {
                // The broken variant that the model must catch: others go on before it is done.
                if broken!("settled-too-soon") {
                    self.0.store(SETTLED, Release);
                }
                inherit();
                self.0.store(SETTLED, Release);
                true
            }
            _ => false,
        }
    }

    /// Whether nothing is left to be noticed about this process.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.0.load(Acquire) == SETTLED
    }
}

// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a change of live text costs on this machine.
//!
//! The kernel interrupts every processor three times for each batch of changes, and waits for the slowest. So
//! it depends on how many there are, and on whether they are a hypervisor's. It is measured whenever text is
//! changed, and the policy pays for learning and promoting with it.

/// Cycles, as long as nothing was measured.
pub const FIRST: u32 = 60_000;
/// Batches of more changes than this are not looked at: there they share the interrupts, and what is promoted
/// later comes by ones and twos.
const FEW: u64 = 8;
/// Weight of what was measured last: 1/this.
const WEIGHT: u64 = 8;
/// Nothing counts for more than this many times what was known before: the thread may have waited for a lock
/// or a processor.
const BOUND: u64 = 4;

/// The price of a change.
#[derive(Clone, Copy, Debug)]
pub struct Price(u32);

impl Price {
    /// Before anything was measured.
    #[must_use]
    pub const fn new() -> Price {
        Price(FIRST)
    }

    /// Cycles for a change.
    #[must_use]
    pub const fn cycles(self) -> u32 {
        self.0
    }

    /// A batch of `made` changes took `cycles`.
    #[must_use]
    pub fn measured(self, cycles: u64, made: u64) -> Price {
        if made == 0 || made > FEW {
            return self;
        }
        let known = u64::from(self.0);
        // Not clamp: it can panic.
        let each = (cycles / made).min(BOUND * known);
        Price(u32::try_from((each + (WEIGHT - 1) * known) / WEIGHT).unwrap_or(u32::MAX).max(1))
    }
}

impl Default for Price {
    fn default() -> Price {
        Price::new()
    }
}

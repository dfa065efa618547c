//! Going round the sites, a few at a time.

/// Sites that one slow path looks at.
const STEPS: u32 = 16;

/// Where the round goes on.
#[derive(Debug, Default)]
pub struct Round {
    next: u32,
}

impl Round {
    /// One that begins.
    #[must_use]
    pub const fn new() -> Round {
        Round { next: 0 }
    }

    /// The next of `count` sites for which `is_wanted`, within a few steps.
    pub fn find(&mut self, count: u32, mut is_wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        for _ in 0..STEPS.min(count) {
            self.next = (self.next + 1) % count;
            if is_wanted(self.next) {
                return Some(self.next);
            }
        }
        None
    }
}
